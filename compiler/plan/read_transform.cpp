// transform: which axis or operators, divided how. A rule has one of four forms, known by its keys: `axis` + `split`, `ops` + `dim` + `split`,
// `ops` + `recompute`, or `parameters` | `gradients` | `state` + `store`.
#include <algorithm>

#include "compiler/plan/plan_reader.h"
#include "compiler/support/strings.h"

namespace sscc {

namespace {

const char* const split_forms = "a mesh axis, a list of mesh axes, {\"time\": n}, {\"over\": AXIS, \"sizes\": [..]} or a list of these";

}  // namespace

void PlanReader::read_transform(const JsonValue& value) {
  if (!expect_array(value, "a list of rules")) return;
  for (const JsonValue& rule : value.items) read_transform_rule(rule);
}

void PlanReader::read_transform_rule(const JsonValue& value) {
  if (!expect_object(value, language::transform_rule, "a rule: an object with 'axis' or 'ops'")) return;
  rule_holds_ = read_when(value);
  TransformRule rule;
  rule.where = at(value);
  int errors_before = static_cast<int>(diagnostics_.all().size());
  if (value.find("axis")) {
    read_axis_rule(value, rule);
  } else if (value.find("store") || value.find("parameters") || value.find("gradients") || value.find("state")) {
    read_store_rule(value);
  } else if (value.find("recompute")) {
    check_recompute_rule(value);
  } else if (value.find("ops")) {
    read_operator_rule(value, rule);
  } else {
    expect_key(value, "axis", "a rule has 'axis' and 'split', or 'ops', 'dim' and 'split'");
  }
  bool good = static_cast<int>(diagnostics_.all().size()) == errors_before;
  if (good && rule_holds_ && (rule.axis || rule.ops)) result_.plan.transform.push_back(std::move(rule));
  rule_holds_ = true;
}

void PlanReader::read_axis_rule(const JsonValue& value, TransformRule& rule) {
  refuse_other_keys(value, language::transform_rule, "'axis'", {"axis", "split", "within", "optional", "when"});
  if (const JsonValue* optional = value.find("optional")) rule.optional = expect_boolean(*optional).value_or(false);
  rule.axis = read_axis(*value.find("axis"));
  if (rule.axis && !rule.optional) check_axis(*rule.axis);
  if (const JsonValue* split = expect_key(value, "split", std::string("it is ") + split_forms)) rule.splits = read_splits(*split);
  if (const JsonValue* within = value.find("within")) {
    rule.within = read_selector(*within);
    if (rule.within && !rule.optional) check_rule_selector(*rule.within);
  }
}

void PlanReader::read_operator_rule(const JsonValue& value, TransformRule& rule) {
  refuse_other_keys(value, language::transform_rule, "'ops'", {"ops", "dim", "split", "when"});
  rule.ops = read_selector(*value.find("ops"));
  if (rule.ops) check_rule_selector(*rule.ops);
  if (const JsonValue* split = expect_key(value, "split", std::string("it is ") + split_forms)) rule.splits = read_splits(*split);
  const JsonValue* dim = expect_key(value, "dim", "the number of a dimension of output 0, or the name of an axis");
  if (!dim) return;
  const std::string expected = "the number of a dimension of output 0, negative from the end, or the name of an axis";
  if (dim->is(Kind::string) && !dim->string.empty())
    rule.dim = dim->string;
  else if (auto number = expect_integer(*dim, -rt::max_rank, rt::max_rank - 1, expected))
    rule.dim = *number;
}

void PlanReader::check_recompute_rule(const JsonValue& value) {
  refuse_other_keys(value, language::transform_rule, "'recompute'", {"ops", "recompute", "when"});
  if (const JsonValue* ops = expect_key(value, "ops"))
    if (auto selector = read_selector(*ops)) check_rule_selector(*selector);
  const JsonValue& recompute = *value.find("recompute");
  if (!recompute.is(Kind::boolean) && !recompute.is(Kind::string)) wrong_type(recompute, "true, or the name of a group");
  if (rule_holds_ && !(recompute.is(Kind::boolean) && !recompute.boolean)) refuse(Feature::recompute, at_key(value, "recompute"));
}

void PlanReader::read_store_rule(const JsonValue& value) {
  refuse_other_keys(value, language::transform_rule, "'store'", {"parameters", "gradients", "state", "store", "when"});
  const size_t errors_before = diagnostics_.all().size();
  StoreRule rule;
  rule.where = at(value);
  int named = 0;
  using What = StoreRule::What;
  for (const auto& [key, what] : {std::pair("parameters", What::parameters), {"gradients", What::gradients}, {"state", What::state}}) {
    const JsonValue* globs = value.find(key);
    if (!globs) continue;
    if (++named == 2)
      error(Code::unknown_key, at_key(value, key), "a rule with 'store' moves one of 'parameters', 'gradients' and 'state'",
            "write one rule for each");
    rule.what = what;
    if (globs->is(Kind::array))
      rule.names = expect_strings(*globs, "a list of globs on parameter names");
    else if (auto glob = expect_string(*globs, "a glob on parameter names, or a list of them"))
      rule.names = {*glob};
    check_parameter_globs(*globs, rule.names);
  }
  if (named == 0) expect_key(value, "parameters", "or 'gradients' or 'state': globs on the names of parameters");
  const JsonValue* store = expect_key(value, "store", "{\"split\": AXIS}, a place or \"host\"");
  if (!store) return;
  if (const JsonValue* split = store->find("split")) {
    expect_object(*store, language::store);
    const auto axes = split->is(Kind::string) || split->is(Kind::array) ? read_mesh_axes(*split) : std::nullopt;
    if (axes)
      rule.mesh_axes = axes->mesh_axes;
    else if (!split->is(Kind::string) && !split->is(Kind::array))
      wrong_type(*split, "a mesh axis, or a list of them");
    if (const JsonValue* dim = store->find("dim")) rule.dim = expect_integer(*dim, -rt::max_rank, rt::max_rank - 1, "the number of a dimension");
    if (rule.dim) check_dimension(*store->find("dim"), rule);
    if (const JsonValue* gather = store->find("gather")) {
      rule.gather_once = gather->is(Kind::string) && gather->string == "step";
      if (!gather->is(Kind::string) || (gather->string != "use" && gather->string != "step")) wrong_type(*gather, "\"use\" or \"step\"");
    }
  } else {
    rule.place = read_place(*store);
  }
  if (rule_holds_ && diagnostics_.all().size() == errors_before) result_.plan.stores.push_back(std::move(rule));
}

// Globs of which one matches no parameter.
void PlanReader::check_parameter_globs(const JsonValue& where, const std::vector<std::string>& globs) {
  std::vector<std::string> names;
  for (const Tensor& tensor : module_.tensors)
    if (tensor.role == Role::parameter) names.push_back(tensor.name);
  for (const std::string& glob : globs)
    if (std::none_of(names.begin(), names.end(), [&](const std::string& name) { return glob_match(glob, name); }))
      error(Code::no_match, at(where), quoted(glob) + " matches no parameter", did_you_mean(glob, names));
}

// Every parameter of the rule has this dimension.
void PlanReader::check_dimension(const JsonValue& where, const StoreRule& rule) {
  for (const Tensor& tensor : module_.tensors) {
    const auto rank = static_cast<int64_t>(tensor.shape.size());
    const bool named = std::any_of(rule.names.begin(), rule.names.end(), [&](const std::string& glob) { return glob_match(glob, tensor.name); });
    if (tensor.role != Role::parameter || !named || (*rule.dim < rank && *rule.dim >= -rank)) continue;
    error(Code::cannot_split, at(where), "parameter " + quoted(tensor.name) + " has " + std::to_string(rank) + " dimensions", "leave 'dim' out");
    return;
  }
}

// -- splits ---------------------------------------------------------------------------------------------------------------------------------------

std::vector<SplitOver> PlanReader::read_splits(const JsonValue& value) {
  std::vector<SplitOver> splits;
  auto add = [&](std::optional<SplitOver> split) {
    if (split) splits.push_back(std::move(*split));
  };
  bool is_text = std::all_of(value.items.begin(), value.items.end(), [](const JsonValue& item) { return item.is(Kind::string); });
  if (value.is(Kind::array) && value.items.empty()) {
    wrong_type(value, split_forms);
  } else if (value.is(Kind::array) && !is_text) {
    for (const JsonValue& item : value.items) add(read_split(item));
  } else {
    add(read_split(value));
  }

  std::set<std::string> seen;
  for (const SplitOver& split : splits)
    for (const std::string& axis : split.mesh_axes)
      if (!seen.insert(axis).second)
        error(Code::wrong_type, split.where, "the mesh axis " + quoted(axis) + " stands twice in one split", "a mesh axis divides an operator once");
  drop_splits_into_one(splits);
  return splits;
}

std::optional<SplitOver> PlanReader::read_split(const JsonValue& value) {
  if (value.is(Kind::object)) {
    if (value.find("over")) return read_split_over(value);
    return read_split_time(value);
  }
  if (value.is(Kind::string) || (value.is(Kind::array) && !value.items.empty())) return read_mesh_axes(value);
  wrong_type(value, split_forms);
  return {};
}

std::optional<SplitOver> PlanReader::read_mesh_axes(const JsonValue& value) {
  SplitOver split;
  split.where = at(value);
  if (value.is(Kind::string)) {
    auto axis = read_mesh_axis(value);
    if (!axis) return {};
    split.mesh_axes.push_back(*axis);
    return split;
  }
  for (const JsonValue& item : value.items)
    if (auto axis = read_mesh_axis(item)) split.mesh_axes.push_back(*axis);
  if (split.mesh_axes.size() != value.items.size()) return {};
  return split;
}

std::optional<SplitOver> PlanReader::read_split_time(const JsonValue& value) {
  expect_object(value, language::split_time);
  const JsonValue* time = expect_key(value, "time", std::string("a split is ") + split_forms);
  if (!time) return {};
  SplitOver split;
  split.where = at(value);
  split.is_time = true;
  if (time->is(Kind::array)) {
    auto lengths = expect_integers(*time, 1, INT32_MAX, "a list of lengths, each at least 1");
    if (!lengths) return {};
    split.sizes = *lengths;
    split.pieces = static_cast<int64_t>(lengths->size());
  } else {
    auto pieces = expect_integer(*time, 1, INT32_MAX, "a number of pieces of at least 1, or a list of lengths");
    if (!pieces) return {};
    split.pieces = *pieces;
  }
  if (const JsonValue* rotate = value.find("rotate")) {
    auto axis = read_mesh_axis(*rotate);
    if (!axis) return {};
    split.rotate = *axis;
  }
  return split;
}

std::optional<SplitOver> PlanReader::read_split_over(const JsonValue& value) {
  expect_object(value, language::split_over);
  SplitOver split;
  split.where = at(value);
  auto axis = read_mesh_axis(*value.find("over"));
  const JsonValue* sizes = value.find("sizes");
  const JsonValue* deal = value.find("deal");
  if (sizes && deal) {
    error(Code::unknown_key, at_key(value, "deal"), "a split has 'sizes' or 'deal', not both");
    return {};
  }
  if (!sizes && !deal) {
    expect_key(value, "sizes", "or 'deal'; for even pieces the name of the mesh axis is enough");
    return {};
  }
  if (!axis) return {};
  split.mesh_axes.push_back(*axis);
  int64_t length = length_of(*axis);
  std::string pieces = " over mesh axis " + quoted(*axis) + " of length " + std::to_string(length);
  if (sizes) {
    auto proportions = expect_integers(*sizes, 1, INT32_MAX, "a list of proportions, integers of at least 1");
    if (!proportions) return {};
    split.sizes = *proportions;
    if (static_cast<int64_t>(proportions->size()) != length)
      error(Code::wrong_type, at(*sizes), std::to_string(proportions->size()) + " sizes" + pieces, "give one size for each piece");
  } else {
    auto pieces_of_chunks =
        expect_integers(*deal, 0, std::max<int64_t>(length, 1) - 1, "a list of numbers of pieces, each below " + std::to_string(length));
    if (!pieces_of_chunks) return {};
    split.deal = *pieces_of_chunks;
    for (int64_t piece = 0; piece < length; ++piece)
      if (std::find(split.deal.begin(), split.deal.end(), piece) == split.deal.end()) {
        error(Code::wrong_type, at(*deal), "piece " + std::to_string(piece) + pieces + " is dealt no chunk", "name every piece at least once");
        break;
      }
  }
  return split;
}

void PlanReader::drop_splits_into_one(std::vector<SplitOver>& splits) {
  for (SplitOver& split : splits) std::erase_if(split.mesh_axes, [&](const std::string& axis) { return length_of(axis) == 1; });
  std::erase_if(splits, [](const SplitOver& split) { return split.is_time ? split.pieces == 1 : split.mesh_axes.empty(); });
}

std::optional<std::string> PlanReader::read_mesh_axis(const JsonValue& value) {
  auto name = expect_string(value, "the name of a mesh axis");
  if (!name || !mesh_readable_ || result_.plan.mesh.find(*name) >= 0 || other_mesh_axes_.count(*name)) return name;
  std::vector<std::string> names;
  for (const MeshAxis& axis : result_.plan.mesh.axes) names.push_back(axis.name);
  std::string advice = did_you_mean(*name, names);
  if (advice.empty()) advice = names.empty() ? "the plan has no 'mesh'" : "its axes are " + join(names, ", ");
  error(Code::unknown_mesh_axis, at(value), "the mesh has no axis " + quoted(*name), advice);
  return {};
}

int64_t PlanReader::length_of(const std::string& mesh_axis) const {
  int index = result_.plan.mesh.find(mesh_axis);
  if (index >= 0) return result_.plan.mesh.axes[static_cast<size_t>(index)].length;
  auto other = other_mesh_axes_.find(mesh_axis);
  return other == other_mesh_axes_.end() ? 1 : other->second;
}

}  // namespace sscc
