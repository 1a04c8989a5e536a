// Softmax and its gradient. The normalised axis is `%`: divided, the operator becomes a log-sum-exp that is joined and a pointwise operator.
#include "compiler/ops/ops.h"
#include "compiler/ops/rule_builder.h"

namespace sscc {
namespace {

Rule rule(const Module& module, const Op& op) {
  const size_t dim = static_cast<size_t>(std::get<DimAttributes>(op.attributes).dim);
  RuleBuilder r(module, op);
  for (size_t d = 0; d < r.shape(0).size(); ++d) {
    const int axis = r.axis("d" + std::to_string(d), r.shape(0)[d], d == dim ? Mark::decomposed : Mark::plain);
    for (int i = 0; i <= r.inputs(); ++i) r.at(axis, i, d);
  }
  return r.take();
}

bool gradient(Module& module, OpId id, llvm::ArrayRef<TensorId> output_gradients, llvm::ArrayRef<TensorId> input_gradients, Builder& b) {
  if (!input_gradients[0].valid()) return true;
  const Op op = module.ops[id];
  b.into(input_gradients[0]).softmax_grad(op.outputs[0], output_gradients[0], std::get<DimAttributes>(op.attributes).dim);
  return true;
}

// Axis number by name.
std::map<std::string, int> by_name(const Op& op) {
  std::map<std::string, int> axes;
  for (size_t a = 0; a < op.rule.axes.size(); ++a) axes[op.rule.axes[a].name] = static_cast<int>(a);
  return axes;
}

// reduce's names for the axes of an operator over d0 d1 ..: the reduced dimension is r0.
std::map<std::string, int> reduce_names(std::map<std::string, int> axes, int dim) {
  const std::string name = "d" + std::to_string(dim);
  if (axes.contains(name)) axes["r0"] = axes[name];
  axes.erase(name);
  return axes;
}

// y = exp(x - lse(x))
void decompose(Module&, const Op& op, Builder& b) {
  const int dim = std::get<DimAttributes>(op.attributes).dim;
  const auto axes = by_name(op);
  const TensorId lse = b.forward_axes(reduce_names(axes, dim)).reduce(op.inputs[0], {dim}, true, Join::logsumexp);
  b.into(op.outputs[0]).forward_axes(axes).pointwise(Scalar::exp_sub, {op.inputs[0], lse});
}

// dx = y (dy - sum y dy)
void decompose_grad(Module&, const Op& op, Builder& b) {
  const int dim = std::get<DimAttributes>(op.attributes).dim;
  const auto axes = by_name(op);
  const TensorId product = b.forward_axes(axes).pointwise(Scalar::mul, {op.inputs[0], op.inputs[1]});
  const TensorId sum = b.forward_axes(reduce_names(axes, dim)).reduce(product, {dim}, true, Join::sum);
  const TensorId centred = b.forward_axes(axes).pointwise(Scalar::sub, {op.inputs[1], sum});
  b.into(op.outputs[0]).forward_axes(axes).pointwise(Scalar::mul, {op.inputs[0], centred});
}

int64_t flops(const Module& module, const Op& op) { return 5 * elements(module.tensors[op.outputs[0]].shape); }

}  // namespace

extern const OpDefinition softmax_definition, softmax_grad_definition;
const OpDefinition softmax_definition = {Kind::softmax, "softmax", false, rule, gradient, decompose, flops};
const OpDefinition softmax_grad_definition = {Kind::softmax_grad, "softmax_grad", false, rule, no_gradient, decompose_grad, flops};

}  // namespace sscc
