// Selectors and axis names, and whether the model has what they name. What exists only after the backward pass was made (gradients,
// updates, stages) is left to the passes.
#include <algorithm>
#include <charconv>

#include "compiler/plan/names.h"
#include "compiler/plan/plan_reader.h"
#include "compiler/support/strings.h"

namespace sscc {

namespace {

const char* const selector_forms = "a selector: a glob on operator names, an object or a list";

// The whole of `text` as a decimal number.
template <class Number>
bool parse_number(std::string_view text, Number& number) {
  auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  return failure == std::errc() && end == text.data() + text.size();
}

bool is_about_gradients(const std::optional<std::string>& tensor_glob) { return tensor_glob && tensor_glob->rfind("grad(", 0) == 0; }

bool names_a_label(const Recipe& recipe, const std::string& glob) {
  for (const Recipe::Label& label : recipe.labels)
    if (glob_match(glob, label.name)) return true;
  const Recipe::Loss& loss = recipe.loss;
  return (!loss.labels.empty() && glob_match(glob, loss.labels)) || (!loss.target.empty() && glob_match(glob, loss.target));
}

// Whether operators that differentiate adds (gradients, the loss, updates) or what assign decides could make the selector match.
bool depends_on_later_passes(const Module& module, const Recipe& recipe, const Selector& selector) {
  auto later = [&](const Selector& each) { return depends_on_later_passes(module, recipe, each); };
  if (std::any_of(selector.any_of.begin(), selector.any_of.end(), later)) return true;
  if (selector.phase || selector.stage || selector.micro_batch || selector.pass || selector.piece) return true;
  if (!recipe.present) return false;
  if (is_about_gradients(selector.reads) || is_about_gradients(selector.writes)) return true;
  if (selector.reads && names_a_label(recipe, *selector.reads)) return true;
  if (selector.role == "loss" || selector.type == "Update" || selector.type == "SoftmaxCrossEntropyLoss" || selector.type == "MeanSquaredError")
    return true;
  if (!selector.name) return false;
  if (glob_match(*selector.name, "loss")) return true;
  return std::any_of(module.tensors.begin(), module.tensors.end(),
                     [&](const Tensor& t) { return t.role == Role::parameter && glob_match(*selector.name, t.name); });
}

// Does it, or a part of it, name some of the runs, or of the pieces, of operators?
bool names_runs(const Selector& selector) {
  const bool names_pass = selector.pass && *selector.pass != std::pair<int64_t, int64_t>{0, 0};  // without recycling, there is one
  return selector.micro_batch || names_pass || selector.piece || std::any_of(selector.any_of.begin(), selector.any_of.end(), names_runs) ||
         std::any_of(selector.none_of.begin(), selector.none_of.end(), names_runs);
}

}  // namespace

// -- selectors ------------------------------------------------------------------------------------------------------------------------------------

std::optional<Selector> PlanReader::read_selector(const JsonValue& value) {
  Selector selector;
  selector.where = at(value);
  selector.text = value.is(Kind::string) ? quoted(value.string) : value.dump();
  if (value.is(Kind::string)) {
    selector.name = value.string;
    return selector;
  }
  if (value.is(Kind::object)) return read_selector_object(value);
  if (!value.is(Kind::array) || value.items.empty()) {
    wrong_type(value, selector_forms);
    return {};
  }
  for (const JsonValue& item : value.items)
    if (auto member = read_selector(item)) selector.any_of.push_back(std::move(*member));
  if (selector.any_of.size() != value.items.size()) return {};
  return selector;
}

std::optional<Selector> PlanReader::read_selector_object(const JsonValue& value) {
  if (!expect_object(value, language::selector, selector_forms)) return {};
  Selector selector;
  selector.where = at(value);
  selector.text = value.dump();
  bool good = true;
  auto read = [&](const char* key, auto& into, auto&& read_value) {
    const JsonValue* item = value.find(key);
    if (!item) return;
    into = read_value(*item);
    good = good && into.has_value();
  };
  auto text = [&](const JsonValue& v) { return expect_string(v); };
  auto range = [&](const JsonValue& v) { return read_range(v); };
  read("name", selector.name, text);
  read("type", selector.type, text);
  read("role", selector.role, [&](const JsonValue& v) { return expect_word(v, language::roles); });
  read("layer", selector.layer, range);
  read("phase", selector.phase, [&](const JsonValue& v) { return expect_word(v, language::phases); });
  read("reads", selector.reads, text);
  read("writes", selector.writes, text);
  read("stage", selector.stage, range);
  read("micro_batch", selector.micro_batch, range);
  read("pass", selector.pass, range);
  read("piece", selector.piece, range);
  if (const JsonValue* excluded = value.find("not")) {
    auto inner = read_selector(*excluded);
    good = good && inner.has_value();
    if (inner) selector.none_of.push_back(std::move(*inner));
  }
  if (!good) return {};
  return selector;
}

std::optional<std::pair<int64_t, int64_t>> PlanReader::read_range(const JsonValue& value) {
  if (value.is(Kind::integer) && value.integer >= 0) return std::pair{value.integer, value.integer};
  if (value.is(Kind::string)) {
    std::string_view text = value.string;
    size_t dots = text.find("..");
    std::string_view first = text.substr(0, dots), last = dots == std::string_view::npos ? first : text.substr(dots + 2);
    int64_t begin = 0, end = 0;
    if (parse_number(first, begin) && parse_number(last, end) && 0 <= begin && begin <= end) return std::pair{begin, end};
  }
  wrong_type(value, "a number of at least 0, or a range like \"0..3\" (both ends included)");
  return {};
}

void PlanReader::check_rule_selector(const Selector& selector) {
  if (rule_holds_ && names_runs(selector))
    error(Code::unsupported, selector.where, "'micro_batch', 'pass' and 'piece' of a selector are not supported by this version of sscc here",
          "select whole operators; in 'before', {\"micro_batch\": ..} stands in the selector itself, not in a part of it");
  check_selector(selector);
}

void PlanReader::check_selector(const Selector& selector) {
  if (!rule_holds_ || depends_on_later_passes(module_, result_.recipe, selector) || !selector.select(module_).empty()) return;
  error(Code::no_match, selector.where, "the selector " + selector.text + " matches no operator of the model", nearest_names(module_, selector));
}

// -- axes -----------------------------------------------------------------------------------------------------------------------------------------

std::optional<AxisName> PlanReader::read_axis(const JsonValue& value) {
  if (value.is(Kind::object)) return read_axis_of(value);
  if (!value.is(Kind::string)) {
    wrong_type(value, "an axis: \"TENSOR:DIM\", \"TENSOR:DIM.FACTOR\" or {\"of\": SELECTOR, \"dim\": DIM}");
    return {};
  }
  return value.string.rfind('@', 0) == 0 ? read_named_axis(value) : read_axis_text(value);
}

std::optional<AxisName> PlanReader::read_axis_text(const JsonValue& value) {
  AxisName axis;
  axis.where = at(value);
  axis.text = value.string;
  std::string_view text = value.string;
  size_t colon = text.rfind(':');  // names of tensors may hold colons, dimensions none
  bool good = colon != std::string_view::npos && colon > 0;
  if (good) {
    axis.tensor_glob = text.substr(0, colon);
    std::string_view dim = text.substr(colon + 1);
    size_t dot = dim.find('.');
    if (dot != std::string_view::npos) {
      int factor = 0;
      good = parse_number(dim.substr(dot + 1), factor) && factor >= 0;
      axis.factor = factor;
    }
    good = parse_number(dim.substr(0, dot), axis.dim) && good;
  }
  if (good) return axis;
  wrong_type(value, "\"TENSOR:DIM\" or \"TENSOR:DIM.FACTOR\" with numbers for DIM and FACTOR", "\"" + value.string + ":0\" is its first dimension");
  return {};
}

std::optional<AxisName> PlanReader::read_named_axis(const JsonValue& value) {
  const std::vector<std::string>& names = language::axis_names.words;
  bool known = std::find(names.begin(), names.end(), value.string) != names.end();
  const std::string space = "@space.";
  int index = 0;
  if (value.string.rfind(space, 0) == 0) known = parse_number(std::string_view(value.string).substr(space.size()), index) && index >= 0;
  if (!known) {
    std::string near = did_you_mean(value.string, names);
    error(Code::wrong_type, at(value), quoted(value.string) + " is no name of an axis",
          (near.empty() ? "" : near + " ") + "one of " + join(names, ", "));
    return {};
  }
  if (rule_holds_) refuse(Feature::named_axis, at(value), value.string);
  AxisName axis;
  axis.where = at(value);
  axis.text = axis.well_known = value.string;
  return axis;
}

std::optional<AxisName> PlanReader::read_axis_of(const JsonValue& value) {
  expect_object(value, language::axis_of);
  AxisName axis;
  axis.where = at(value);
  axis.text = value.dump();
  const JsonValue* of = expect_key(value, "of");
  const JsonValue* dim = expect_key(value, "dim");
  bool good = of && dim;
  if (of) axis.of = read_selector(*of);
  if (dim) {
    auto number = expect_integer(*dim, -rt::max_rank, rt::max_rank - 1, "the number of a dimension, negative from the end");
    good = good && number;
    axis.dim = static_cast<int>(number.value_or(0));
  }
  if (const JsonValue* output = value.find("output")) {
    auto number = expect_integer(*output, 0, INT32_MAX, "the number of an output");
    good = good && number;
    axis.output = static_cast<int>(number.value_or(0));
  }
  if (!good || !axis.of) return {};
  return axis;
}

void PlanReader::check_axis(const AxisName& axis) {
  if (!rule_holds_ || !axis.well_known.empty() || !resolve_axis(module_, axis).empty()) return;
  // Labels become tensors when the loss is made.
  if (axis.of ? depends_on_later_passes(module_, result_.recipe, *axis.of) : names_a_label(result_.recipe, axis.tensor_glob)) return;
  NoMatch why = explain_no_match(module_, axis);
  std::string text = axis.of ? axis.text : quoted(axis.text);
  error(Code::no_match, axis.where, "the axis " + text + " matches nothing: " + why.reason, why.advice);
}

}  // namespace sscc
