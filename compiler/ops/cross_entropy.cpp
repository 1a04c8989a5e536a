// The two parts of softmax cross entropy that know labels: the logit of the label (a masked sum over the classes), and the gradient of the whole
// group
//   lse = logsumexp(logits); picked = pick(logits, labels); token = token_loss(lse, picked, labels)
// with respect to the logits, (softmax - one hot) dtoken, in which classes are independent of each other.
#include "compiler/ops/ops.h"
#include "compiler/ops/rule_builder.h"

namespace sscc {
namespace {

// `full`: operands with the class dimension; `others`: without it.
Rule class_rule(const Module& module, const Op& op, llvm::ArrayRef<int> full, llvm::ArrayRef<int> others, Mark of_class) {
  const size_t dim = static_cast<size_t>(std::get<ClassAttributes>(op.attributes).dim);
  RuleBuilder r(module, op);
  const Shape& shape = r.shape(full[0]);
  for (size_t d = 0; d < shape.size(); ++d) {
    const int axis = r.axis(d == dim ? "v" : "d" + std::to_string(d < dim ? d : d - 1), shape[d], d == dim ? of_class : Mark::plain);
    for (int i : full) r.at(axis, i, d);
    if (d != dim)
      for (int i : others) r.at(axis, i, d < dim ? d : d - 1);
  }
  return r.take();
}

Rule pick_rule(const Module& module, const Op& op) { return class_rule(module, op, {0}, {1, 2}, Mark::sum); }
Rule grad_rule(const Module& module, const Op& op) { return class_rule(module, op, {0, 4}, {1, 2, 3}, Mark::plain); }

int64_t flops(const Module& module, const Op& op) { return 4 * elements(module.tensors[op.inputs[0]].shape); }

}  // namespace

extern const OpDefinition pick_definition, cross_entropy_grad_definition;
const OpDefinition pick_definition = {Kind::pick, "pick", false, pick_rule, no_gradient, nullptr, no_flops};
const OpDefinition cross_entropy_grad_definition = {Kind::cross_entropy_grad, "cross_entropy_grad", false, grad_rule, no_gradient, nullptr, flops};

TensorId softmax_cross_entropy(Module& module, Builder& b, TensorId logits, TensorId labels, int dim, int64_t ignore_index, const std::string& name,
                               bool mean) {
  const DType type = module.tensors[logits].dtype;
  const TensorId lse = b.reduce(logits, {dim}, false, Join::logsumexp);
  const TensorId picked = b.pick(logits, labels, dim, ignore_index);
  const TensorId token = b.pointwise(Scalar::token_loss, {lse, picked, labels}, static_cast<double>(ignore_index));
  llvm::SmallVector<int, 4> all;
  for (size_t d = 0; d < module.tensors[token].shape.size(); ++d) all.push_back(static_cast<int>(d));
  if (!mean) return b.named(name).reduce(token, all, false, Join::sum);
  if (ignore_index == INT64_MIN)
    return b.named(name).reduce(token, all, false, Join::sum, 1.0 / static_cast<double>(elements(module.tensors[labels].shape)));
  const TensorId counts = b.pointwise(Scalar::not_equal_scalar, {labels}, static_cast<double>(ignore_index));
  const TensorId ones = b.pointwise(Scalar::identity, {counts}, 0, 0, type);
  const TensorId count = b.reduce(ones, all, false, Join::sum);
  const TensorId total = b.reduce(token, all, false, Join::sum);
  return b.named(name).pointwise(Scalar::div, {total, count});
}

}  // namespace sscc
