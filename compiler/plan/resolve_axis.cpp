#include <algorithm>

#include "compiler/plan/names.h"
#include "compiler/support/strings.h"

namespace sscc {

namespace {

// Tensors by index that an axis can name.
std::vector<char> nameable_tensors(const Module& module) {
  std::vector<char> alive(static_cast<size_t>(module.tensors.size()), 0);
  auto mark = [&](llvm::ArrayRef<TensorId> ids) {
    for (TensorId id : ids) alive[static_cast<size_t>(id.index)] = 1;
  };
  mark(module.inputs);
  mark(module.labels);
  mark(module.outputs);
  for (OpId id : module.order) {
    mark(module.ops[id].inputs);
    mark(module.ops[id].outputs);
  }
  for (int64_t i = 0; i < module.tensors.size(); ++i) {
    const Tensor& tensor = module.tensors[TensorId(i)];
    if (tensor.role == Role::gradient || tensor.next_version_of.valid()) alive[static_cast<size_t>(i)] = 0;
  }
  return alive;
}

bool has_name(const Op& op, const std::string& glob) {
  return glob_match(glob, op.name) || std::any_of(op.absorbed.begin(), op.absorbed.end(), [&](const std::string& n) { return glob_match(glob, n); });
}

// The tensors that the name finds, whatever their shape.
std::vector<TensorId> named_tensors(const Module& module, const AxisName& axis) {
  std::vector<char> alive = nameable_tensors(module);
  std::vector<char> found(alive.size(), 0);
  for (OpId id : module.order) {
    const Op& op = module.ops[id];
    bool matches = axis.of ? axis.of->matches(module, op) : op.phase == Phase::forward && has_name(op, axis.tensor_glob);
    auto output = static_cast<size_t>(axis.of ? axis.output : 0);
    if (matches && output < op.outputs.size()) found[static_cast<size_t>(op.outputs[output].index)] = 1;
  }
  std::vector<TensorId> result;
  for (int64_t i = 0; i < module.tensors.size(); ++i) {
    auto index = static_cast<size_t>(i);
    if (!axis.of && !found[index]) found[index] = alive[index] && glob_match(axis.tensor_glob, module.tensors[TensorId(i)].name);
    if (found[index] && alive[index]) result.push_back(TensorId(i));
  }
  return result;
}

// The dimension counted from 0, -1 if the shape has none.
int dimension_of(const Shape& shape, int dim) {
  auto rank = static_cast<int>(shape.size());
  if (dim < 0) dim += rank;
  return dim >= 0 && dim < rank ? dim : -1;
}

}  // namespace

std::vector<std::pair<TensorId, int>> resolve_axis(const Module& module, const AxisName& axis) {
  std::vector<std::pair<TensorId, int>> result;
  for (TensorId id : named_tensors(module, axis)) {
    const Shape& shape = module.tensors[id].shape;
    int dim = dimension_of(shape, axis.dim);
    if (dim >= 0 && shape[static_cast<size_t>(dim)] != 1) result.emplace_back(id, dim);
  }
  return result;
}

NoMatch explain_no_match(const Module& module, const AxisName& axis) {
  std::vector<TensorId> tensors = named_tensors(module, axis);
  for (TensorId id : tensors) {
    const Tensor& tensor = module.tensors[id];
    if (dimension_of(tensor.shape, axis.dim) >= 0) return {"dimension has length 1: " + quoted(tensor.name) + " is " + to_string(tensor.shape), ""};
  }
  if (!tensors.empty()) {
    const Tensor& tensor = module.tensors[tensors.front()];
    std::string shape = tensor.shape.empty() ? "a scalar" : to_string(tensor.shape);
    return {"no such dimension: " + quoted(tensor.name) + " is " + shape, ""};
  }
  if (axis.of) return {"the selector finds no operator with this output", nearest_names(module, *axis.of)};

  std::vector<char> alive = nameable_tensors(module);
  std::vector<std::string> names;
  for (int64_t i = 0; i < module.tensors.size(); ++i)
    if (alive[static_cast<size_t>(i)]) names.push_back(module.tensors[TensorId(i)].name);
  for (OpId id : module.order) names.push_back(module.ops[id].name);
  return {"no tensor or operator has this name", did_you_mean(axis.tensor_glob, names)};
}

}  // namespace sscc
