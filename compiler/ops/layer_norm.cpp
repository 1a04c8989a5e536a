// LayerNormalization and its gradients. Leading axes are plain (summed in the gradients of scale and bias), normalised ones `%`.
//   y = (x - mean) rstd scale + bias,   rstd = 1 / sqrt(var + epsilon)
//   dx = rstd (g - mean(g) - xhat mean(g xhat)),   g = dy scale, xhat = (x - mean) rstd
#include <numeric>

#include "compiler/ops/ops.h"
#include "compiler/ops/rule_builder.h"

namespace sscc {
namespace {

int first_dim(const Op& op) { return std::get<NormAttributes>(op.attributes).first_dim; }

// Operands with all dimensions, with the leading ones only, with the normalised ones only.
Rule norm_rule(const Module& module, const Op& op, llvm::ArrayRef<int> full, llvm::ArrayRef<int> leading, llvm::ArrayRef<int> normalised,
               Mark of_leading, Mark of_normalised) {
  RuleBuilder r(module, op);
  const Shape& shape = r.shape(full[0]);
  const size_t first = static_cast<size_t>(first_dim(op));
  for (size_t d = 0; d < shape.size(); ++d) {
    const int axis = r.axis("d" + std::to_string(d), shape[d], d < first ? of_leading : of_normalised);
    for (int i : full) r.at(axis, i, d);
    if (d < first)
      for (int i : leading) r.at(axis, i, d);
    else
      for (int i : normalised) r.at(axis, i, d - first);
  }
  return r.take();
}

Rule rule(const Module& module, const Op& op) {
  const int n = static_cast<int>(op.inputs.size());
  llvm::SmallVector<int, 2> normalised = {1};
  if (n > 2) normalised.push_back(2);
  return norm_rule(module, op, {0, n}, {n + 1, n + 2}, normalised, Mark::plain, Mark::decomposed);
}
Rule grad_rule(const Module& module, const Op& op) { return norm_rule(module, op, {0, 1, 5}, {3, 4}, {2}, Mark::plain, Mark::decomposed); }
Rule grad_scale_rule(const Module& module, const Op& op) { return norm_rule(module, op, {0, 1}, {2, 3}, {4, 5}, Mark::sum, Mark::plain); }

bool gradient(Module& module, OpId id, llvm::ArrayRef<TensorId> output_gradients, llvm::ArrayRef<TensorId> input_gradients, Builder& b) {
  if (output_gradients.size() > 1 && (output_gradients[1].valid() || output_gradients[2].valid())) return false;
  const Op op = module.ops[id];
  const TensorId dy = output_gradients[0], mean = op.outputs[1], rstd = op.outputs[2];
  if (input_gradients[0].valid()) b.into(input_gradients[0]).layer_norm_grad(dy, op.inputs[0], op.inputs[1], mean, rstd, first_dim(op));
  const TensorId dscale = input_gradients[1], dbias = input_gradients.size() > 2 ? input_gradients[2] : TensorId();
  if (dscale.valid() || dbias.valid()) b.into_pair(dscale, dbias).layer_norm_grad_scale(dy, op.inputs[0], mean, rstd, first_dim(op));
  (void)module;
  return true;
}

std::map<std::string, int> by_name(const Op& op) {
  std::map<std::string, int> axes;
  for (size_t a = 0; a < op.rule.axes.size(); ++a) axes[op.rule.axes[a].name] = static_cast<int>(a);
  return axes;
}

// The operators that a decomposed norm is made of, by what they iterate over.
class Pieces {
 public:
  Pieces(Module& module, const Op& op, const Shape& shape, Builder& b)
      : module_(module), b_(b), axes_(by_name(op)), first_(first_dim(op)), rank_(static_cast<int>(shape.size())) {
    for (int d = first_; d < rank_; ++d) {
      dims_.push_back(d);
      count_ *= shape[static_cast<size_t>(d)];
    }
    kept_shape_.append(shape.begin(), shape.begin() + first_);
    kept_shape_.append(static_cast<size_t>(rank_ - first_), 1);
  }

  Builder& full() { return b_.forward_axes(axes_); }
  // Sum over the normalised dimensions times 1/n, kept as 1s.
  TensorId mean(TensorId x) {
    std::map<std::string, int> axes;
    for (const auto& [name, axis] : axes_) {
      const int d = std::stoi(name.substr(1));
      axes[d < first_ ? name : "r" + std::to_string(d - first_)] = axis;
    }
    return b_.forward_axes(axes).reduce(x, dims_, true, Join::sum, 1.0 / static_cast<double>(count_));
  }
  // [leading] -> [leading, 1 ..] and back.
  TensorId kept(TensorId leading) { return b_.forward_axes(leading_axes()).reshape(leading, kept_shape_); }
  Builder& leading() { return b_.forward_axes(leading_axes()); }
  Shape leading_shape() const { return Shape(kept_shape_.begin(), kept_shape_.begin() + first_); }

 private:
  std::map<std::string, int> leading_axes() const {
    std::map<std::string, int> axes;
    for (const auto& [name, axis] : axes_)
      if (std::stoi(name.substr(1)) < first_) axes[name] = axis;
    return axes;
  }
  [[maybe_unused]] Module& module_;
  Builder& b_;
  std::map<std::string, int> axes_;
  int first_, rank_;
  llvm::SmallVector<int, 4> dims_;
  int64_t count_ = 1;
  Shape kept_shape_;
};

void decompose(Module& module, const Op& op, Builder& b) {
  const TensorId x = op.inputs[0];
  Pieces p(module, op, module.tensors[x].shape, b);
  const TensorId mean = p.mean(x);
  const DType type = rt::arithmetic_type(module.tensors[x].dtype);  // squares of f16 would be infinite
  const TensorId centred = p.full().pointwise(Scalar::sub, {x, mean}, 0, 0, type);
  const TensorId squared = p.full().pointwise(Scalar::square, {centred});
  const TensorId variance = p.mean(squared);
  const TensorId shifted = p.leading().pointwise(Scalar::scale_shift, {variance}, 1, std::get<NormAttributes>(op.attributes).epsilon);
  const TensorId rstd = p.leading().pointwise(Scalar::rsqrt, {shifted});
  b.into(op.outputs[1]);
  p.leading().reshape(mean, p.leading_shape());
  b.into(op.outputs[2]);
  p.leading().reshape(rstd, p.leading_shape());
  const TensorId normal = p.full().pointwise(Scalar::mul, {centred, rstd});
  if (op.inputs.size() > 2) {
    const TensorId scaled = p.full().pointwise(Scalar::mul, {normal, op.inputs[1]});
    b.into(op.outputs[0]);
    p.full().pointwise(Scalar::add, {scaled, op.inputs[2]});
  } else {
    b.into(op.outputs[0]);
    p.full().pointwise(Scalar::mul, {normal, op.inputs[1]});
  }
}

void decompose_grad(Module& module, const Op& op, Builder& b) {
  const TensorId dy = op.inputs[0], x = op.inputs[1], scale = op.inputs[2];
  Pieces p(module, op, module.tensors[x].shape, b);
  const TensorId mean = p.kept(op.inputs[3]), rstd = p.kept(op.inputs[4]);
  const DType type = rt::arithmetic_type(module.tensors[x].dtype);
  const TensorId centred = p.full().pointwise(Scalar::sub, {x, mean}, 0, 0, type);
  const TensorId normal = p.full().pointwise(Scalar::mul, {centred, rstd});
  const TensorId g = p.full().pointwise(Scalar::mul, {dy, scale}, 0, 0, type);
  const TensorId mean_g = p.mean(g);
  const TensorId product = p.full().pointwise(Scalar::mul, {g, normal});
  const TensorId mean_product = p.mean(product);
  const TensorId along = p.full().pointwise(Scalar::mul, {normal, mean_product});
  const TensorId first = p.full().pointwise(Scalar::sub, {g, mean_g});
  const TensorId second = p.full().pointwise(Scalar::sub, {first, along});
  b.into(op.outputs[0]);
  p.full().pointwise(Scalar::mul, {second, rstd});
}

int64_t flops(const Module& module, const Op& op) { return 8 * elements(module.tensors[op.inputs[0]].shape); }

}  // namespace

extern const OpDefinition layer_norm_definition, layer_norm_grad_definition, layer_norm_grad_scale_definition;
const OpDefinition layer_norm_definition = {Kind::layer_norm, "layer_norm", false, rule, gradient, decompose, flops};
const OpDefinition layer_norm_grad_definition = {Kind::layer_norm_grad, "layer_norm_grad", false, grad_rule, no_gradient, decompose_grad, flops};
const OpDefinition layer_norm_grad_scale_definition = {
    Kind::layer_norm_grad_scale, "layer_norm_grad_scale", false, grad_scale_rule, no_gradient, nullptr, flops};

}  // namespace sscc
