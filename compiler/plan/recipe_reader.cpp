#include "compiler/plan/recipe_reader.h"

#include <algorithm>
#include <array>
#include <limits>

#include "compiler/support/check.h"
#include "compiler/support/strings.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

DType data_type(const std::string& name) {
  static const std::array<DType, 9> types = {DType::f32, DType::f64, DType::f16, DType::bf16, DType::i64,
                                             DType::i32, DType::i8,  DType::u8,  DType::b1};
  const std::vector<std::string>& names = language::data_types.words;
  auto index = static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin());
  SSCC_CHECK(names.size() == types.size() && index < types.size(), "the names of data types and the types are in the same order");
  return types[index];
}

}  // namespace

RecipeReader::RecipeReader(const JsonDocument& document, const Module& module, Diagnostics& diagnostics)
    : Reader(document, diagnostics), module_(module) {
  for (int64_t i = 0; i < module.tensors.size(); ++i) by_name_.emplace(module.tensors[TensorId(i)].name, TensorId(i));
}

TensorId RecipeReader::find_tensor(const std::string& name) const {
  auto found = by_name_.find(name);
  return found == by_name_.end() ? TensorId() : found->second;
}

Recipe RecipeReader::read(const JsonValue& value) {
  Recipe recipe;
  recipe.file = document_.file();
  recipe.text = document_.text().substr(value.begin, value.end - value.begin);
  if (!expect_object(value, language::recipe, "a training recipe: an object with 'loss' and 'optimizer'")) return recipe;
  recipe.present = true;
  if (const JsonValue* labels = value.find("labels")) read_labels(*labels, recipe);
  if (const JsonValue* loss = expect_key(value, "loss", "kinds of loss: " + join(language::loss_kinds.words, ", "))) read_loss(*loss, recipe);
  if (const JsonValue* optimizer = expect_key(value, "optimizer", "kinds of optimizer: " + join(language::optimizer_kinds.words, ", ")))
    read_optimizer(*optimizer, recipe);
  const JsonValue* clip = value.find("clip_grad_norm");
  if (clip && !clip->is(Kind::null)) {
    auto norm = expect_number(*clip, std::numeric_limits<double>::min(), infinity, "a number above 0, or null");
    if (norm) recipe.clip_grad_norm = *norm;
  }
  read_tensor_names(value, recipe);
  read_states(value, recipe);
  check_recycle(value);
  check_descriptive_keys(value);
  return recipe;
}

// -- loss -----------------------------------------------------------------------------------------------------------------------------------------

void RecipeReader::read_loss(const JsonValue& value, Recipe& recipe) {
  const JsonValue* kind_value = value.find("kind");
  if (!value.is(Kind::object)) return wrong_type(value, "an object with 'kind'");
  if (!kind_value) {
    expect_key(value, "kind", "one of " + join(language::loss_kinds.words, ", "));
    return;
  }
  auto kind = expect_word(*kind_value, language::loss_kinds);
  if (!kind) return;

  Recipe::Loss& loss = recipe.loss;
  loss.where = at(value);
  if (const JsonValue* reduction = value.find("reduction"))
    if (!reduction->is(Kind::string) || reduction->string != "mean") wrong_type(*reduction, "\"mean\"");
  if (*kind == "graph_output") {
    loss.kind = Recipe::Loss::Kind::graph_output;
    expect_object(value, language::loss_graph_output);
    loss.output = read_tensor_name(value, "output");
  } else if (*kind == "mse") {
    loss.kind = Recipe::Loss::Kind::mse;
    expect_object(value, language::loss_mse);
    loss.prediction = read_tensor_name(value, "prediction");
    if (const JsonValue* target = expect_key(value, "target")) loss.target = expect_string(*target).value_or("");
  } else {
    loss.kind = Recipe::Loss::Kind::softmax_cross_entropy;
    expect_object(value, language::loss_softmax_cross_entropy);
    read_cross_entropy(value, loss);
  }

  const std::string& label = loss.kind == Recipe::Loss::Kind::mse ? loss.target : loss.labels;
  auto described = std::any_of(recipe.labels.begin(), recipe.labels.end(), [&](const Recipe::Label& l) { return l.name == label; });
  if (!label.empty() && !recipe.labels.empty() && !described) {
    const char* key = loss.kind == Recipe::Loss::Kind::mse ? "target" : "labels";
    std::vector<std::string> names;
    for (const Recipe::Label& each : recipe.labels) names.push_back(each.name);
    error(Code::recipe_does_not_fit, at(*value.find(key)), quoted(label) + " is not among the recipe's 'labels'", "they are " + join(names, ", "));
  }
}

void RecipeReader::read_cross_entropy(const JsonValue& value, Recipe::Loss& loss) {
  loss.logits = read_tensor_name(value, "logits");
  if (const JsonValue* labels = expect_key(value, "labels")) loss.labels = expect_string(*labels).value_or("");
  const JsonValue* ignore = value.find("ignore_index");
  if (ignore && !ignore->is(Kind::null)) {
    auto index = expect_integer(*ignore, INT64_MIN + 1, INT64_MAX, "an integer, or null");
    if (index) loss.ignore_index = *index;
  }
  const JsonValue* class_axis = value.find("class_axis");
  if (class_axis)
    if (auto dim = expect_integer(*class_axis, -rt::max_rank, rt::max_rank - 1, "the number of a dimension of the logits"))
      loss.class_axis = static_cast<int>(*dim);
  TensorId logits = find_tensor(loss.logits);
  if (!logits.valid()) return;
  const Shape& shape = module_.tensors[logits].shape;
  auto rank = static_cast<int>(shape.size());
  if (loss.class_axis < 0) loss.class_axis += rank;
  if (loss.class_axis >= 0 && loss.class_axis < rank) return;
  error(Code::recipe_does_not_fit, at(class_axis ? *class_axis : value),
        "the class axis is no dimension of " + quoted(loss.logits) + ", which has " + std::to_string(rank) + " dimensions", "set 'class_axis'");
}

// -- optimizer ------------------------------------------------------------------------------------------------------------------------------------

double RecipeReader::read_option(const JsonValue& object, const char* key, double standard, double highest) {
  const JsonValue* value = object.find(key);
  if (!value) return standard;
  std::string expected = highest == 1 ? "a number of at least 0 and below 1" : "a number of at least 0";
  return expect_number(*value, 0, highest, expected).value_or(standard);
}

void RecipeReader::read_optimizer(const JsonValue& value, Recipe& recipe) {
  if (!value.is(Kind::object)) return wrong_type(value, "an object with 'kind'");
  const JsonValue* kind_value = expect_key(value, "kind", "one of " + join(language::optimizer_kinds.words, ", "));
  if (!kind_value) return;
  auto kind = expect_word(*kind_value, language::optimizer_kinds);
  if (!kind) return;

  rt::UpdateRule& rule = recipe.optimizer;
  bool is_sgd = *kind == "sgd";
  expect_object(value, is_sgd ? language::optimizer_sgd : language::optimizer_adam);
  rule.optimizer = is_sgd ? rt::Optimizer::sgd : *kind == "adam" ? rt::Optimizer::adam : rt::Optimizer::adamw;
  if (expect_key(value, "lr")) rule.lr = read_option(value, "lr", 0, infinity);
  // Defaults are those of torch.optim.
  if (is_sgd) {
    rule.momentum = read_option(value, "momentum", 0, infinity);
  } else {
    rule.beta1 = read_option(value, "beta1", 0.9, 1);
    rule.beta2 = read_option(value, "beta2", 0.999, 1);
    rule.eps = read_option(value, "eps", 1e-8, infinity);
  }
  rule.weight_decay = read_option(value, "weight_decay", *kind == "adamw" ? 0.01 : 0, infinity);
  if (const JsonValue* names = value.find("no_weight_decay")) recipe.no_weight_decay = read_initializers(*names);
}

// -- tensors --------------------------------------------------------------------------------------------------------------------------------------

std::string RecipeReader::read_tensor_name(const JsonValue& object, const char* key) {
  const JsonValue* value = expect_key(object, key);
  if (!value) return "";
  auto name = expect_string(*value, "the name of a tensor");
  if (!name) return "";
  if (find_tensor(*name).valid()) return *name;
  std::vector<std::string> outputs, others;
  for (TensorId output : module_.outputs) outputs.push_back(module_.tensors[output].name);
  for (const Tensor& tensor : module_.tensors) others.push_back(tensor.name);
  std::string advice = did_you_mean(*name, others);
  error(Code::unknown_tensor, at(*value), "the model has no tensor " + quoted(*name),
        (advice.empty() ? "" : advice + " ") + "its outputs are " + join(outputs, ", "));
  return *name;
}

std::vector<std::string> RecipeReader::read_initializers(const JsonValue& value) {
  std::vector<std::string> result;
  if (!expect_array(value, "a list of names of initializers")) return result;
  for (const JsonValue& item : value.items) {
    auto name = expect_string(item, "the name of an initializer");
    if (!name) continue;
    TensorId tensor = find_tensor(*name);
    if (tensor.valid() && module_.tensors[tensor].weight) {
      result.push_back(*name);
      continue;
    }
    std::vector<std::string> initializers;
    for (const Tensor& each : module_.tensors)
      if (each.weight) initializers.push_back(each.name);
    error(Code::unknown_tensor, at(item), "the model has no initializer " + quoted(*name), did_you_mean(*name, initializers));
  }
  return result;
}

void RecipeReader::read_tensor_names(const JsonValue& value, Recipe& recipe) {
  if (const JsonValue* parameters = value.find("parameters"); parameters && !parameters->is(Kind::null))
    recipe.parameters = read_initializers(*parameters);
  if (const JsonValue* constants = value.find("constants")) recipe.constants = read_initializers(*constants);
  if (!recipe.parameters) return;
  const JsonValue& constants = value.find("constants") ? *value.find("constants") : value;
  for (const std::string& name : recipe.constants)
    if (std::find(recipe.parameters->begin(), recipe.parameters->end(), name) != recipe.parameters->end())
      error(Code::recipe_does_not_fit, at(constants), quoted(name) + " stands in 'parameters' and in 'constants'", "remove it from one of the two");
}

std::optional<Shape> RecipeReader::read_shape(const JsonValue& value) {
  if (!expect_array(value, "a shape: a list of lengths")) return {};
  Shape shape;
  for (const JsonValue& item : value.items) {
    auto length = expect_integer(item, 1, INT32_MAX, "a length of at least 1");
    if (!length) return {};
    shape.push_back(*length);
  }
  if (shape.size() <= rt::max_rank) return shape;
  wrong_type(value, "at most " + std::to_string(rt::max_rank) + " dimensions");
  return {};
}

std::optional<Recipe::Label> RecipeReader::read_tensor(const JsonValue& value) {
  if (!expect_object(value, language::tensor_description, "an object with 'name', 'dtype' and 'shape'")) return {};
  const JsonValue* name = expect_key(value, "name");
  const JsonValue* dtype = expect_key(value, "dtype");
  const JsonValue* shape = expect_key(value, "shape");
  const JsonValue* batch_axis = value.find("batch_axis");
  const JsonValue* file = value.find("file");
  if (batch_axis && !batch_axis->is(Kind::null)) expect_integer(*batch_axis, -rt::max_rank, rt::max_rank - 1, "the number of a dimension, or null");
  if (file && !file->is(Kind::null)) expect_string(*file, "the name of a file, or null");
  if (!name || !dtype || !shape) return {};
  auto name_text = expect_string(*name);
  auto type = expect_word(*dtype, language::data_types);
  auto lengths = read_shape(*shape);
  if (!name_text || !type || !lengths) return {};
  return Recipe::Label{*name_text, data_type(*type), *lengths};
}

void RecipeReader::read_labels(const JsonValue& value, Recipe& recipe) {
  if (!expect_array(value, "a list of labels")) return;
  for (const JsonValue& item : value.items)
    if (auto label = read_tensor(item)) recipe.labels.push_back(*label);
}

// -- state ----------------------------------------------------------------------------------------------------------------------------------------

void RecipeReader::read_states(const JsonValue& recipe, Recipe& result) {
  const JsonValue* states = recipe.find("state");
  if (!states || !expect_array(*states, "a list of objects with 'initializer' and 'updated_by'")) return;
  for (const JsonValue& entry : states->items)
    if (auto state = read_state(entry, result)) result.states.push_back(std::move(*state));
}

std::optional<Recipe::State> RecipeReader::read_state(const JsonValue& entry, const Recipe& recipe) {
  if (!expect_object(entry, language::state_entry, "an object with 'initializer' and 'updated_by'")) return {};
  const Recipe::State state = {read_tensor_name(entry, "initializer"), read_tensor_name(entry, "updated_by")};
  const TensorId initializer = find_tensor(state.initializer), updated_by = find_tensor(state.updated_by);
  if (!initializer.valid() || !updated_by.valid()) return {};
  const Tensor &old = module_.tensors[initializer], &next = module_.tensors[updated_by];
  const auto refused = [&](const char* key, const std::string& message, const std::string& advice) {
    error(Code::recipe_does_not_fit, at(*entry.find(key)), message, advice);
    return std::nullopt;
  };
  if (!old.weight) return refused("initializer", quoted(old.name) + " is no initializer of the model", "state begins as an initializer");
  if (next.producers.empty() && next.role == Role::activation)
    return refused("updated_by", quoted(next.name) + " is within what is one operator here (LayerNormalization, RMSNormalization, Gelu)",
                   "make it an output of the graph");
  if (next.producers.empty()) return refused("updated_by", "the model does not compute " + quoted(next.name), "name a result of an operator");
  if (recipe.parameters && llvm::is_contained(*recipe.parameters, old.name))
    return refused("initializer", quoted(old.name) + " stands in 'parameters' and in 'state'", "remove it from one of the two");
  if (llvm::is_contained(recipe.constants, old.name))
    return refused("initializer", quoted(old.name) + " stands in 'constants' and in 'state'", "remove it from one of the two");
  if (llvm::any_of(recipe.states, [&](const Recipe::State& other) { return other.initializer == old.name; }))
    return refused("initializer", quoted(old.name) + " stands in 'state' twice", "remove one of the two");
  if (old.role == Role::constant) {  // its value may have become part of operators
    refuse(Feature::discrete_state, at(*entry.find("initializer")));
    return {};
  }
  const auto form_of = [](const Tensor& tensor) { return std::string(rt::name_of(tensor.dtype)) + "[" + to_string(tensor.shape) + "]"; };
  if (form_of(old) != form_of(next))
    return refused("updated_by", quoted(next.name) + " is " + form_of(next) + ", and " + quoted(old.name) + " is " + form_of(old),
                   "a state and its next value are alike");
  return state;
}

// -- what is checked and then refused, or only described ------------------------------------------------------------------------------------------

void RecipeReader::check_recycle(const JsonValue& value) {
  const JsonValue* recycle = value.find("recycle");
  if (!recycle || recycle->is(Kind::null) || !expect_object(*recycle, language::recycle, "an object with 'iterations' and 'feedback', or null"))
    return;
  if (const JsonValue* iterations = expect_key(*recycle, "iterations")) expect_integer(*iterations, 1, INT32_MAX, "an integer of at least 1");
  if (const JsonValue* initial = recycle->find("initial"))
    if (!initial->is(Kind::string) || initial->string != "zeros") wrong_type(*initial, "\"zeros\"");
  if (const JsonValue* gradient = recycle->find("gradient")) expect_string(*gradient);
  const JsonValue* feedback = expect_key(*recycle, "feedback");
  if (feedback && expect_array(*feedback, "a list of objects with 'output' and 'input'")) {
    for (const JsonValue& entry : feedback->items) {
      if (!expect_object(entry, language::feedback)) continue;
      read_tensor_name(entry, "output");
      read_tensor_name(entry, "input");
      if (const JsonValue* shape = entry.find("shape")) read_shape(*shape);
    }
  }
  refuse(Feature::recycle, at_key(value, "recycle"));
}

void RecipeReader::check_descriptive_keys(const JsonValue& value) {
  for (const char* key : {"name", "summary", "model"})
    if (const JsonValue* text = value.find(key)) expect_string(*text);
  for (const char* key : {"opset", "steps"})
    if (const JsonValue* number = value.find(key)) expect_integer(*number, 1, INT32_MAX, "an integer of at least 1");
  for (const char* key : {"inputs", "outputs"}) {
    const JsonValue* tensors = value.find(key);
    if (!tensors || !expect_array(*tensors, "a list of tensors")) continue;
    for (const JsonValue& item : tensors->items) read_tensor(item);
  }
  for (const char* key : {"zero_gradient", "notes"})
    if (const JsonValue* texts = value.find(key)) expect_strings(*texts, "a list of strings");
  if (const JsonValue* separable = value.find("batch_separable")) expect_boolean(*separable);
  const JsonValue* tolerances = value.find("tolerances");
  if (!tolerances) return;
  if (!tolerances->is(Kind::object)) return wrong_type(*tolerances, "an object of numbers");
  for (const JsonValue& item : tolerances->items) expect_number(item, 0, infinity, "a number of at least 0");
}

}  // namespace sscc
