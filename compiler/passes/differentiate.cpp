// The training step: loss, backward operators, gradient norm, clipping, one update for each trainable parameter, new values of state. Nothing is
// divided yet.
//
// Gradients come by one sweep from the loss to the parameters. The gradient of a tensor that several operators read has one addend from each: it is
// one tensor with several producers, never an Add. Softmax cross entropy is differentiated as a group (cross_entropy.cpp).
#include <algorithm>
#include <cstring>
#include <set>

#include "compiler/ops/ops.h"
#include "compiler/passes/passes.h"
#include "compiler/support/check.h"
#include "compiler/support/strings.h"

namespace sscc {
namespace {

class Differentiation {
 public:
  Differentiation(Module& module, const Recipe& recipe, Diagnostics& diagnostics) : module_(module), recipe_(recipe), diagnostics_(diagnostics) {
    for (int64_t t = 0; t < module.tensors.size(); ++t) by_name_[module.tensors[TensorId(t)].name] = TensorId(t);
  }

  void run() {
    choose_parameters();
    append_loss();
    if (diagnostics_.has_errors()) return;
    mark_needed();
    sweep();
    if (diagnostics_.has_errors()) return;
    append_updates();
    append_states();
  }

 private:
  Tensor& tensor(TensorId id) { return module_.tensors[id]; }

  TensorId find(const std::string& name, const std::string& what) {
    auto it = by_name_.find(name);
    if (it != by_name_.end()) return it->second;
    std::vector<std::string> names;
    for (const auto& [each, id] : by_name_) names.push_back(each);
    diagnostics_.error(Code::unknown_tensor, recipe_.loss.where, "the recipe's " + what + " " + quoted(name) + " is no tensor of the model",
                       did_you_mean(name, names));
    return TensorId();
  }

  // -- what is trained ----------------------------------------------------------------------------------------------------------------------------

  void choose_parameters() {
    const std::set<std::string> constants(recipe_.constants.begin(), recipe_.constants.end());
    for (int64_t t = 0; t < module_.tensors.size(); ++t) {
      Tensor& each = module_.tensors[TensorId(t)];
      if (constants.contains(each.name) && each.weight) each.role = Role::constant;
    }
    if (recipe_.parameters)
      choose_named();
    else
      for (int64_t t = 0; t < module_.tensors.size(); ++t) {
        Tensor& each = module_.tensors[TensorId(t)];
        each.trainable = each.role == Role::parameter && rt::is_float(each.dtype) && !each.shape.empty() && !each.next_version_of.valid();
      }
    for (const Recipe::State& state : recipe_.states) tensor(by_name_.at(state.initializer)).trainable = false;
    for (const Tensor& each : module_.tensors)
      if (each.trainable && rt::is_small(each.dtype))
        diagnostics_.error(Code::unsupported, recipe_.loss.where,
                           "training " + quoted(each.name) + ", which is " + rt::name_of(each.dtype) + ", is not supported by this version of sscc",
                           "export it as float32 (the plan's precision makes activations small), or leave it as it is by \"constants\"");
  }

  void choose_named() {
    for (const std::string& name : *recipe_.parameters) {
      const TensorId id = find(name, "parameter");
      if (!id.valid()) continue;
      if (!tensor(id).weight || !rt::is_float(tensor(id).dtype)) {
        diagnostics_.error(Code::recipe_does_not_fit, recipe_.loss.where,
                           "the recipe's parameter " + quoted(name) + " is no floating-point initializer of the model");
        continue;
      }
      tensor(id).role = Role::parameter;
      tensor(id).trainable = true;
    }
  }

  // -- the loss -----------------------------------------------------------------------------------------------------------------------------------

  Builder loss_builder() {
    return Builder(module_,
                   {"loss", recipe_.loss.kind == Recipe::Loss::Kind::mse ? "MeanSquaredError" : "SoftmaxCrossEntropyLoss", Phase::forward, OpId()});
  }

  void append_loss() {
    const size_t before = module_.order.size();
    append_loss_operators();
    for (size_t i = before; i < module_.order.size(); ++i) module_.ops[module_.order[i]].roles = {"loss"};
  }

  void append_loss_operators() {
    switch (recipe_.loss.kind) {
      case Recipe::Loss::Kind::graph_output: {
        const TensorId loss = find(recipe_.loss.output, "loss output");
        if (!loss.valid()) return;
        if (elements(tensor(loss).shape) != 1 || !rt::is_float(tensor(loss).dtype)) {
          diagnostics_.error(Code::recipe_does_not_fit, recipe_.loss.where,
                             "the loss " + quoted(recipe_.loss.output) + " has shape [" + to_string(tensor(loss).shape) + "], not a single number");
          return;
        }
        module_.loss = loss;
        return;
      }
      case Recipe::Loss::Kind::softmax_cross_entropy: return append_cross_entropy();
      case Recipe::Loss::Kind::mse: return append_mse();
    }
  }

  // A label of the recipe becomes a tensor; one that is a graph input already stays that.
  TensorId label(const std::string& name, DType type, const Shape& shape) {
    if (auto it = by_name_.find(name); it != by_name_.end()) return it->second;
    for (const Recipe::Label& declared : recipe_.labels) {
      if (declared.name != name) continue;
      if (declared.shape != shape)
        diagnostics_.error(Code::recipe_does_not_fit, recipe_.loss.where,
                           "label " + quoted(name) + " has shape [" + to_string(declared.shape) + "], the loss needs [" + to_string(shape) + "]");
      type = declared.dtype;
    }
    Tensor t;
    t.name = name;
    t.dtype = type;
    t.shape = shape;
    t.role = Role::label;
    const TensorId id = module_.tensors.add(std::move(t));
    by_name_[name] = id;
    module_.labels.push_back(id);
    return id;
  }

  void append_cross_entropy() {
    const TensorId logits = find(recipe_.loss.logits, "logits");
    if (!logits.valid()) return;
    const int dim = recipe_.loss.class_axis;
    if (dim < 0 || dim >= static_cast<int>(tensor(logits).shape.size())) {
      diagnostics_.error(Code::recipe_does_not_fit, recipe_.loss.where,
                         "class_axis " + std::to_string(dim) + " does not fit the logits [" + to_string(tensor(logits).shape) + "]");
      return;
    }
    Shape shape = tensor(logits).shape;
    shape.erase(shape.begin() + dim);
    const TensorId labels = label(recipe_.loss.labels, DType::i64, shape);
    if (diagnostics_.has_errors()) return;
    Builder b = loss_builder();
    module_.loss = softmax_cross_entropy(module_, b, logits, labels, dim, recipe_.loss.ignore_index, "loss");
  }

  void append_mse() {
    const TensorId prediction = find(recipe_.loss.prediction, "prediction");
    if (!prediction.valid()) return;
    const TensorId target = label(recipe_.loss.target, tensor(prediction).dtype, tensor(prediction).shape);
    if (diagnostics_.has_errors()) return;
    Builder b = loss_builder();
    const TensorId difference = b.pointwise(Scalar::sub, {prediction, target});
    const TensorId squared = b.pointwise(Scalar::square, {difference});
    llvm::SmallVector<int, 5> all;
    for (size_t d = 0; d < tensor(squared).shape.size(); ++d) all.push_back(static_cast<int>(d));
    const double count = static_cast<double>(elements(tensor(squared).shape));
    module_.loss = b.named("loss").reduce(squared, all, false, Join::sum, 1 / count);
  }

  // -- backward -----------------------------------------------------------------------------------------------------------------------------------

  // Tensors that a trainable parameter reaches.
  void mark_needed() {
    needed_.assign(static_cast<size_t>(module_.tensors.size()), 0);
    for (int64_t t = 0; t < module_.tensors.size(); ++t) needed_[static_cast<size_t>(t)] = module_.tensors[TensorId(t)].trainable;
    for (OpId id : module_.order) {
      const Op& op = module_.ops[id];
      if (op.type == "StopGradient") continue;
      bool any = false;
      for (TensorId input : op.inputs) any |= input.valid() && needed_[static_cast<size_t>(input.index)];
      for (TensorId output : op.outputs)
        if (any && output.valid() && rt::is_float(tensor(output).dtype)) needed_[static_cast<size_t>(output.index)] = 1;
    }
  }
  bool needed(TensorId id) const { return id.valid() && static_cast<size_t>(id.index) < needed_.size() && needed_[static_cast<size_t>(id.index)]; }

  TensorId gradient_of(TensorId id) {
    if (auto it = gradients_.find(id); it != gradients_.end()) return it->second;
    Tensor t;
    t.name = "grad(" + tensor(id).name + ")";
    t.dtype = tensor(id).dtype;
    t.shape = tensor(id).shape;
    t.role = Role::gradient;
    t.gradient_of = id;
    return gradients_[id] = module_.tensors.add(std::move(t));
  }
  TensorId known_gradient(TensorId id) const {
    if (id == module_.loss) return seed_;
    auto it = gradients_.find(id);
    return it != gradients_.end() && !module_.tensors[it->second].producers.empty() ? it->second : TensorId();
  }

  void sweep() {
    if (!needed(module_.loss)) {
      diagnostics_.error(Code::recipe_does_not_fit, recipe_.loss.where, "the loss depends on no trainable parameter");
      return;
    }
    const std::vector<OpId> forward = module_.order;
    seed();
    for (auto it = forward.rbegin(); it != forward.rend(); ++it) {
      const Op op = module_.ops[*it];
      if (op.type == "StopGradient" || done_.contains(*it)) continue;
      llvm::SmallVector<TensorId, 4> output_gradients, input_gradients;
      bool any_output = false, any_input = false;
      for (TensorId output : op.outputs) {
        output_gradients.push_back(output.valid() ? known_gradient(output) : TensorId());
        any_output |= output_gradients.back().valid();
      }
      if (!any_output) continue;
      if (is_token_loss(op)) {
        differentiate_cross_entropy(op, output_gradients[0]);
        continue;
      }
      for (size_t i = 0; i < op.inputs.size(); ++i) {
        const bool differentiable = needed(op.inputs[i]);
        input_gradients.push_back(differentiable ? gradient_of(op.inputs[i]) : TensorId());
        any_input |= differentiable;
      }
      if (!any_input) continue;
      Builder b(module_, {op.name, op.type, Phase::backward, *it});
      if (!definition(op.kind).gradient(module_, *it, output_gradients, input_gradients, b))
        diagnostics_.error(Code::no_gradient, recipe_.loss.where,
                           "operator " + op.type + " has no gradient, and the loss depends on trainable parameters through it",
                           "freeze what is upstream of it, or stop the gradient with StopGradient of domain ai.sscc", op.name);
    }
  }

  // The gradient of the loss is the constant 1.
  void seed() {
    Tensor one;
    one.name = "grad(" + tensor(module_.loss).name + ")";
    one.dtype = tensor(module_.loss).dtype;
    one.shape = tensor(module_.loss).shape;
    one.role = Role::constant;
    std::string bytes(rt::size_of(one.dtype), '\0');
    if (one.dtype == DType::f64) {
      const double value = 1;
      std::memcpy(bytes.data(), &value, sizeof value);
    } else {
      const float value = 1;
      std::memcpy(bytes.data(), &value, sizeof value);
    }
    const int64_t length = static_cast<int64_t>(bytes.size());
    one.weight = Weight{"", 0, length, std::make_shared<const std::string>(std::move(bytes))};
    seed_ = module_.tensors.add(std::move(one));
  }

  static bool is_token_loss(const Op& op) {
    const auto* a = std::get_if<PointwiseAttributes>(&op.attributes);
    return a && a->function == Scalar::token_loss;
  }

  // token_loss(lse, pick(logits, labels), labels) with lse = logsumexp(logits): one operator gives the gradient of the logits.
  void differentiate_cross_entropy(const Op& op, TensorId dtoken) {
    const OpId lse = tensor(op.inputs[0]).producers[0], pick = tensor(op.inputs[1]).producers[0];
    const TensorId logits = module_.ops[pick].inputs[0];
    done_.insert(lse);
    done_.insert(pick);
    if (!needed(logits)) return;
    const auto a = std::get<ClassAttributes>(module_.ops[pick].attributes);
    Builder b(module_, {op.name, op.type, Phase::backward, pick});  // the axes are those of pick: d0 .. and the class v
    b.into(gradient_of(logits)).cross_entropy_grad(logits, op.inputs[0], op.inputs[2], dtoken, a.dim, a.ignore_index);
  }

  // -- updates ------------------------------------------------------------------------------------------------------------------------------------

  void append_updates() {
    std::vector<TensorId> parameters;
    for (int64_t t = 0; t < module_.tensors.size(); ++t)
      if (module_.tensors[TensorId(t)].trainable) parameters.push_back(TensorId(t));
    Tensor squared;
    squared.name = "grad_norm_squared";
    squared.role = Role::gradient;
    const bool is_double = std::any_of(parameters.begin(), parameters.end(), [&](TensorId p) { return tensor(p).dtype == DType::f64; });
    const DType norm_type = squared.dtype = is_double ? DType::f64 : DType::f32;
    const TensorId norm_squared = module_.tensors.add(std::move(squared));
    std::set<std::string> no_decay(recipe_.no_weight_decay.begin(), recipe_.no_weight_decay.end());
    std::erase_if(parameters, [&](TensorId p) { return !known_gradient(p).valid(); });  // the loss does not depend on it: it stays as it is
    for (TensorId p : parameters) {
      TensorId g = known_gradient(p);
      Builder b(module_, {"grad_norm", "GradientNorm", Phase::update, OpId()});
      if (tensor(g).dtype != norm_type) g = b.pointwise(Scalar::identity, {g}, 0, 0, norm_type);
      std::string labels;
      for (size_t d = 0; d < tensor(p).shape.size(); ++d) labels += static_cast<char>('a' + d);
      b.into(norm_squared).contract(g, labels, g, labels, "");
    }
    Builder b(module_, {"grad_norm", "GradientNorm", Phase::update, OpId()});
    module_.grad_norm = b.named("grad_norm").pointwise(Scalar::sqrt, {norm_squared});
    TensorId clip;
    if (recipe_.clip_grad_norm) {  // min(1, c / (n + 1e-6))
      const TensorId shifted = b.pointwise(Scalar::scale_shift, {module_.grad_norm}, 1, 1e-6);
      const TensorId inverse = b.pointwise(Scalar::reciprocal, {shifted});
      const TensorId scaled = b.pointwise(Scalar::scale_shift, {inverse}, *recipe_.clip_grad_norm, 0);
      clip = b.named("clip_factor").pointwise(Scalar::clip, {scaled}, 0, 1);
    }
    const auto readers = module_.consumers();
    const auto decays = [&](TensorId p) { return !no_decay.contains(tensor(p).name); };
    std::stable_partition(parameters.begin(), parameters.end(), decays);  // updates by one rule follow one another: they can be one call
    for (TensorId p : parameters) {
      rt::UpdateRule rule = recipe_.optimizer;
      if (!decays(p)) rule.weight_decay = 0;
      const int moments = rule.optimizer == rt::Optimizer::sgd ? (rule.momentum != 0 ? 1 : 0) : 2;
      llvm::SmallVector<TensorId, 2> state;
      for (int m = 1; m <= moments; ++m) {
        Tensor t;
        t.name = tensor(p).name + ".moment" + std::to_string(m);
        t.dtype = tensor(p).dtype;
        t.shape = tensor(p).shape;
        t.role = Role::state;
        state.push_back(module_.tensors.add(std::move(t)));
      }
      Builder(module_, {tensor(p).name, "Update", Phase::update, OpId()}).update(p, known_gradient(p), state, clip, rule);
      module_.ops[module_.order.back()].layer = layer_of(readers[static_cast<size_t>(p.index)]);
    }
  }

  // Is a tensor what another one that lives over steps is, in a layout of its own? It may then lie where that does.
  bool is_layout_of_stored(TensorId id) {
    for (;;) {
      if (tensor(id).producers.empty()) return true;
      const Op& made = module_.ops[tensor(id).producers[0]];
      const auto* function = std::get_if<PointwiseAttributes>(&made.attributes);
      if (!definition(made.kind).is_layout && !(function && function->function == Scalar::identity)) return false;
      id = made.inputs[0];
    }
  }

  // What the forward pass has made of its state takes the state's place when the step is over. What it has not made, but found in a parameter or in
  // state, is put aside before updates change those.
  void append_states() {
    for (const Recipe::State& state : recipe_.states) {
      const TensorId old = by_name_.at(state.initializer);
      TensorId made = by_name_.at(state.updated_by);
      if (is_layout_of_stored(made)) {
        const OpId reader = tensor(made).producers[0];
        const size_t before = module_.order.size();
        made = Builder(module_, {state.initializer, "Identity", Phase::forward, OpId()}).pointwise(Scalar::scale_shift, {made}, 1, 0);
        const OpId aside = module_.order.back();
        module_.order.resize(before);
        module_.order.insert(std::next(llvm::find(module_.order, reader)), aside);
      }
      Tensor next = tensor(old);
      next.name = "next(" + next.name + ")";
      next.weight.reset();
      next.next_version_of = old;
      const TensorId id = module_.tensors.add(std::move(next));
      Builder(module_, {state.initializer, "Identity", Phase::update, OpId()}).into(id).pointwise(Scalar::identity, {made});
    }
  }

  // That of all forward operators among them; -1 where they are of several.
  int layer_of(llvm::ArrayRef<OpId> ops) const {
    std::set<int> layers;
    for (const OpId id : ops)
      if (module_.ops[id].phase == Phase::forward) layers.insert(module_.ops[id].layer);
    return layers.size() == 1 ? *layers.begin() : -1;
  }

  Module& module_;
  const Recipe& recipe_;
  Diagnostics& diagnostics_;
  std::map<std::string, TensorId> by_name_;
  std::vector<char> needed_;
  std::map<TensorId, TensorId> gradients_;
  std::set<OpId> done_;
  TensorId seed_;
};

}  // namespace

void differentiate(Module& module, const Recipe& recipe, Diagnostics& diagnostics) {
  if (recipe.present) Differentiation(module, recipe, diagnostics).run();
}

}  // namespace sscc
