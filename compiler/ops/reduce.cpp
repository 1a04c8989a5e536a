// Reductions: `d* r*+ -> d*`, joined by sum, max, min or log-sum-exp. A mean is a sum with scale 1/n of the whole length, so that pieces add up.
#include <algorithm>

#include "compiler/ops/ops.h"
#include "compiler/ops/rule_builder.h"

namespace sscc {
namespace {

bool is_reduced(const ReduceAttributes& a, size_t d) { return std::find(a.dims.begin(), a.dims.end(), static_cast<int>(d)) != a.dims.end(); }

// "r0" or "d1": the axis of input dimension d. Kept dimensions are numbered by the output's.
std::string axis_name(const ReduceAttributes& a, size_t d) {
  size_t reduced = 0, kept = 0;
  for (size_t i = 0; i < d; ++i) (is_reduced(a, i) ? reduced : kept) += 1;
  if (is_reduced(a, d)) return "r" + std::to_string(reduced);
  return "d" + std::to_string(a.keep_dims ? d : kept);
}

Rule rule(const Module& module, const Op& op) {
  const auto& a = std::get<ReduceAttributes>(op.attributes);
  RuleBuilder r(module, op);
  size_t kept = 0;
  for (size_t d = 0; d < r.shape(0).size(); ++d) {
    const bool reduced = is_reduced(a, d);
    const int axis = r.axis(axis_name(a, d), r.shape(0)[d], reduced ? Mark::sum : Mark::plain);
    r.at(axis, 0, d);
    if (!reduced) r.at(axis, 1, a.keep_dims ? d : kept++);
  }
  return r.take();
}

// Input dimension d of the forward operator as axis "d<d>" of an operator over the input's shape.
std::map<std::string, int> input_axes(const Op& op, const ReduceAttributes& a, const Shape& shape) {
  std::map<std::string, int> axes;
  for (size_t d = 0; d < shape.size(); ++d)
    for (size_t i = 0; i < op.rule.axes.size(); ++i)
      if (op.rule.axes[i].name == axis_name(a, d)) axes["d" + std::to_string(d)] = static_cast<int>(i);
  return axes;
}

// A value of the output's shape with the reduced dimensions as 1, so that it broadcasts against the input.
TensorId kept(Module& module, const Op& op, const ReduceAttributes& a, TensorId value, Builder& b) {
  const Shape from = module.tensors[op.inputs[0]].shape;
  Shape shape = from;
  for (int d : a.dims) shape[static_cast<size_t>(d)] = 1;
  if (a.keep_dims || module.tensors[value].shape == shape) return value;
  return b.forward_axes(input_axes(op, a, from)).reshape(value, shape);
}

bool gradient(Module& module, OpId id, llvm::ArrayRef<TensorId> output_gradients, llvm::ArrayRef<TensorId> input_gradients, Builder& b) {
  const Op op = module.ops[id];
  const auto a = std::get<ReduceAttributes>(op.attributes);
  const TensorId x = op.inputs[0], dx = input_gradients[0];
  if (!dx.valid()) return true;
  const Shape shape = module.tensors[x].shape;
  const auto axes = input_axes(op, a, shape);
  TensorId dy = output_gradients[0];
  if (a.join == Join::sum) {
    if (a.scale != 1) dy = b.pointwise(Scalar::scale_shift, {dy}, a.scale, 0);
    dy = kept(module, op, a, dy, b);
    if (module.tensors[dy].shape == shape)
      b.into(dx).forward_axes(axes).pointwise(Scalar::identity, {dy});
    else
      b.into(dx).forward_axes(axes).expand(dy, shape);
    return true;
  }
  if (a.join == Join::logsumexp) {  // dy exp(x - lse)
    const TensorId lse = kept(module, op, a, op.outputs[0], b);
    dy = kept(module, op, a, dy, b);
    const TensorId share = b.forward_axes(axes).pointwise(Scalar::exp_sub, {x, lse});
    b.into(dx).forward_axes(axes).pointwise(Scalar::mul, {share, dy});
    return true;
  }
  // max, min: to the positions that equal the result (all of them, where several do).
  const TensorId best = kept(module, op, a, op.outputs[0], b);
  dy = kept(module, op, a, dy, b);
  const TensorId at = b.forward_axes(axes).pointwise(Scalar::equal, {x, best});
  const TensorId weight = b.forward_axes(axes).pointwise(Scalar::identity, {at}, 0, 0, module.tensors[x].dtype);
  b.into(dx).forward_axes(axes).pointwise(Scalar::mul, {weight, dy});
  return true;
}

int64_t flops(const Module& module, const Op& op) { return elements(module.tensors[op.inputs[0]].shape); }

}  // namespace

extern const OpDefinition reduce_definition;
const OpDefinition reduce_definition = {Kind::reduce, "reduce", false, rule, gradient, nullptr, flops};

}  // namespace sscc
