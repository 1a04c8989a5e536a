// Which operators a selector finds. A gradient operator has its forward operator's name and, where it has none of its own, roles and layer.
#include <algorithm>

#include "compiler/plan/names.h"
#include "compiler/support/strings.h"

namespace sscc {

namespace {

using Range = std::optional<std::pair<int64_t, int64_t>>;

bool in_range(const Range& range, int64_t value) { return !range || (range->first <= value && value <= range->second); }

const Op* forward_of(const Module& module, const Op& op) { return op.forward.valid() ? &module.ops[op.forward] : nullptr; }

bool has_name(const Op& op, const std::string& glob) {
  return glob_match(glob, op.name) || std::any_of(op.absorbed.begin(), op.absorbed.end(), [&](const std::string& n) { return glob_match(glob, n); });
}

bool has_role(const Op& op, const std::string& role) { return std::find(op.roles.begin(), op.roles.end(), role) != op.roles.end(); }

// Whether a tensor is a parameter, or one that layout operators alone made (a transposed weight).
bool is_parameter_or_layout_of_one(const Module& module, TensorId id) {
  while (id.valid() && module.tensors[id].role != Role::parameter) {
    const Tensor& tensor = module.tensors[id];
    if (tensor.producers.size() != 1) return false;
    const Op& producer = module.ops[tensor.producers.front()];
    if (!producer.is_layout || producer.phase != Phase::forward || producer.inputs.empty()) return false;
    id = producer.inputs.front();
  }
  return id.valid();
}

// The weight-gradient part of backward: what ends in the gradient of a parameter, and nothing that another gradient needs.
bool makes_weight_gradient(const Module& module, const Op& op) {
  return std::any_of(op.outputs.begin(), op.outputs.end(), [&](TensorId id) {
    TensorId of = module.tensors[id].gradient_of;
    return of.valid() && is_parameter_or_layout_of_one(module, of);
  });
}

bool touches(const Module& module, llvm::ArrayRef<TensorId> tensors, const std::string& glob) {
  return std::any_of(tensors.begin(), tensors.end(), [&](TensorId id) { return has_name(module, id, glob); });
}

}  // namespace

bool in_phase(const Module& module, const Op& op, const std::string& phase) {
  if (phase == "forward") return op.phase == Phase::forward;
  if (phase == "update") return op.phase == Phase::update;
  if (op.phase != Phase::backward) return false;
  return phase == "backward" || (phase == "wgrad") == makes_weight_gradient(module, op);
}

bool has_name(const Module& module, TensorId id, const std::string& glob) {
  const Tensor& tensor = module.tensors[id];
  if (glob_match(glob, module.tensors[in_first_variant(module, id)].name)) return true;
  return tensor.micro_batch_of.valid() && glob_match(glob, module.tensors[tensor.micro_batch_of].name);
}

bool Selector::matches(const Module& module, const Op& op) const {
  auto matched = [&](const Selector& each) { return each.matches(module, op); };
  if (std::any_of(none_of.begin(), none_of.end(), matched)) return false;
  if (!any_of.empty()) return std::any_of(any_of.begin(), any_of.end(), matched);

  const Op* forward = forward_of(module, op);
  if (name && !has_name(op, *name) && !(forward && has_name(*forward, *name))) return false;
  if (type && op.type != *type) return false;
  if (role && !has_role(op, *role) && !(forward && has_role(*forward, *role))) return false;
  if (layer && !in_range(layer, op.layer >= 0 || !forward ? op.layer : forward->layer)) return false;
  if (phase && !in_phase(module, op, *phase)) return false;
  if (reads && !touches(module, op.inputs, *reads)) return false;
  if (writes && !touches(module, op.outputs, *writes)) return false;
  return in_range(stage, op.stage);
}

std::vector<OpId> Selector::select(const Module& module) const {
  std::vector<OpId> result;
  for (OpId id : module.order)
    if (matches(module, module.ops[id])) result.push_back(id);
  return result;
}

std::string nearest_names(const Module& module, const Selector& selector) {
  for (const Selector& each : selector.any_of)
    if (std::string advice = nearest_names(module, each); !advice.empty()) return advice;
  std::vector<std::string> names, types, tensors;
  for (OpId id : module.order) {
    const Op& op = module.ops[id];
    names.push_back(op.name);
    names.insert(names.end(), op.absorbed.begin(), op.absorbed.end());
    types.push_back(op.type);
  }
  for (const Tensor& tensor : module.tensors) tensors.push_back(tensor.name);
  std::string advice;
  if (selector.name) advice = did_you_mean(*selector.name, names);
  if (advice.empty() && selector.type) advice = did_you_mean(*selector.type, types);
  if (advice.empty() && selector.reads) advice = did_you_mean(*selector.reads, tensors);
  if (advice.empty() && selector.writes) advice = did_you_mean(*selector.writes, tensors);
  return advice;
}

}  // namespace sscc
