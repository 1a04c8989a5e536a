// Norms and their gradients: layer, instance, batch, group and root-mean-square norms differ by the dimensions that are normalised (`over`) and those
// that scale and bias have (`along`). Normalised axes are `%`, the others plain; in the gradients of scale and bias those are `+` that they have not.
//   y = (x - mean) rstd scale + bias,   rstd = 1 / sqrt(var + epsilon)
//   dx = rstd (g - mean(g) - xhat mean(g xhat)),   g = dy scale, xhat = (x - mean) rstd
// What is not centred has neither mean: var is mean(x^2), and dx has no mean(g).
//
//   layer norm      d0 d1%, d1%, d1% -> d0 d1%            instance norm   d0 d1 d2%, d1, d1 -> d0 d1 d2%
//   batch norm      d0% d1 d2%, d1, d1 -> d0% d1 d2%
#include "compiler/ops/ops.h"
#include "compiler/ops/rule_builder.h"

namespace sscc {
namespace {

const NormAttributes& how(const Op& op) { return std::get<NormAttributes>(op.attributes); }
TensorId input(const Op& op, size_t index) { return index < op.inputs.size() ? op.inputs[index] : TensorId(); }
// Behind rstd and mean.
size_t place_of_scale(const Op& norm_grad) { return how(norm_grad).centred ? 4 : 3; }

// Operands, by number, with all dimensions, with those that are kept, with those of scale and bias.
struct OperandsByDims {
  llvm::SmallVector<int, 3> full, kept, along;
};
template <class MarkOf>
Rule norm_rule(const Module& module, const Op& op, const OperandsByDims& operands, const MarkOf& mark_of) {
  RuleBuilder r(module, op);
  const Shape& shape = r.shape(operands.full[0]);
  size_t kept = 0, along = 0;
  for (size_t d = 0; d < shape.size(); ++d) {
    const int axis = r.axis("d" + std::to_string(d), shape[d], mark_of(d));
    for (int i : operands.full) r.at(axis, i, d);
    if (!has_dim(how(op).over, d)) {
      for (int i : operands.kept) r.at(axis, i, kept);
      ++kept;
    }
    if (has_dim(how(op).along, d)) {
      for (int i : operands.along) r.at(axis, i, along);
      ++along;
    }
  }
  return r.take();
}

Rule rule(const Module& module, const Op& op) {
  const int n = static_cast<int>(op.inputs.size()), end = n + static_cast<int>(op.outputs.size());
  OperandsByDims operands = {{0, n}, {}, {}};
  for (int i = 1; i < n; ++i) operands.along.push_back(i);
  for (int i = n + 1; i < end; ++i) operands.kept.push_back(i);
  return norm_rule(module, op, operands, [&](size_t d) { return has_dim(how(op).over, d) ? Mark::decomposed : Mark::plain; });
}
Rule grad_rule(const Module& module, const Op& op) {
  const int n = static_cast<int>(op.inputs.size()), scale = static_cast<int>(place_of_scale(op));
  OperandsByDims operands = {{0, 1, n}, {}, {}};
  for (int i = 2; i < n; ++i) (i < scale ? operands.kept : operands.along).push_back(i);
  return norm_rule(module, op, operands, [&](size_t d) { return has_dim(how(op).over, d) ? Mark::decomposed : Mark::plain; });
}
Rule grad_scale_rule(const Module& module, const Op& op) {
  const int n = static_cast<int>(op.inputs.size()), end = n + static_cast<int>(op.outputs.size());
  OperandsByDims operands = {{0, 1}, {}, {}};
  for (int i = 2; i < n; ++i) operands.kept.push_back(i);
  for (int i = n; i < end; ++i) operands.along.push_back(i);
  return norm_rule(module, op, operands, [&](size_t d) { return has_dim(how(op).along, d) ? Mark::plain : Mark::sum; });
}

bool gradient(Module& module, OpId id, llvm::ArrayRef<TensorId> output_gradients, llvm::ArrayRef<TensorId> input_gradients, Builder& b) {
  if (llvm::any_of(output_gradients.drop_front(), [](TensorId of_statistic) { return of_statistic.valid(); })) return false;
  const Op op = module.ops[id];
  const TensorId dy = output_gradients[0], x = op.inputs[0], rstd = op.outputs[1], mean = how(op).centred ? op.outputs[2] : TensorId();
  if (input_gradients[0].valid()) b.into(input_gradients[0]).norm_grad(dy, x, rstd, mean, input(op, 1), how(op));
  const auto wanted = [&](size_t i) { return i < input_gradients.size() ? input_gradients[i] : TensorId(); };
  const TensorId dscale = wanted(1), dbias = wanted(2);
  if (dscale.valid() || dbias.valid()) b.into_pair(dscale, dbias).norm_grad_scale(dy, x, rstd, mean, op.inputs.size() > 2, how(op));
  return true;
}

// -- decomposed forms -----------------------------------------------------------------------------------------------------------------------------

// The operators that a decomposed norm is made of, by what they iterate over.
class Pieces {
 public:
  Pieces(Module& module, const Op& op, TensorId x, Builder& b) : module_(module), b_(b), how_(how(op)), shape_(module.tensors[x].shape) {
    for (size_t a = 0; a < op.rule.axes.size(); ++a) axes_[std::stoi(op.rule.axes[a].name.substr(1))] = static_cast<int>(a);
    for (const int64_t length : lengths_in(how_.over, shape_)) count_ *= length;
  }

  // Small floats are computed as floats until they are written.
  TensorId pointwise(Scalar function, llvm::ArrayRef<TensorId> inputs, double alpha = 0, double beta = 0) {
    return full().pointwise(function, inputs, alpha, beta, rt::arithmetic_type(module_.tensors[inputs[0]].dtype));
  }
  // Sum over the normalised dimensions times 1/n, kept as 1s.
  TensorId mean(TensorId x) {
    const llvm::SmallVector<int, 4> dims = dims_in(how_.over);
    const auto name = [&](int d) {
      const auto* reduced = llvm::find(dims, d);
      return reduced == dims.end() ? "d" + std::to_string(d) : "r" + std::to_string(reduced - dims.begin());
    };
    return b_.forward_axes(names(name)).reduce(x, dims, true, Join::sum, 1.0 / static_cast<double>(count_));
  }
  // What has the dimensions of the mask, with the others as 1s.
  TensorId stretched(TensorId some, DimMask mask) {
    Shape shape = shape_;
    for (size_t d = 0; d < shape.size(); ++d)
      if (!has_dim(mask, d)) shape[d] = 1;
    return full().reshape(some, shape);
  }
  TensorId kept(TensorId statistic) { return stretched(statistic, ~how_.over); }
  // Scale or bias, to be broadcast against x.
  TensorId along(TensorId weight) {
    const size_t rank = shape_.size(), own = module_.tensors[weight].shape.size();
    return how_.along == dims_between(rank - own, rank) ? weight : stretched(weight, how_.along);
  }
  // A statistic, its 1s taken out: what `result` is.
  void give(TensorId statistic, TensorId result) {
    std::map<std::string, int> axes;
    int own = 0;
    for (size_t d = 0; d < shape_.size(); ++d) {
      if (has_dim(how_.over, d)) continue;
      if (const auto axis = axes_.find(static_cast<int>(d)); axis != axes_.end()) axes["d" + std::to_string(own)] = axis->second;
      ++own;
    }
    b_.forward_axes(std::move(axes)).into(result).reshape(statistic, lengths_in(~how_.over, shape_));
  }

 private:
  Builder& full() {
    return b_.forward_axes(names([](int d) { return "d" + std::to_string(d); }));
  }
  // The axes by the name that each has in an operator; dimensions of length 1 have none.
  template <class NameOf>
  std::map<std::string, int> names(const NameOf& name_of) const {
    std::map<std::string, int> names;
    for (const auto& [d, axis] : axes_) names[name_of(d)] = axis;
    return names;
  }

  Module& module_;
  Builder& b_;
  const NormAttributes how_;
  const Shape shape_;
  std::map<int, int> axes_;  // by dimension
  int64_t count_ = 1;
};

void decompose(Module& module, const Op& op, Builder& b) {
  const TensorId x = op.inputs[0], scale = input(op, 1), bias = input(op, 2), y = op.outputs[0];
  Pieces p(module, op, x, b);
  const TensorId mean = how(op).centred ? p.mean(x) : TensorId();
  const TensorId centred = mean.valid() ? p.pointwise(Scalar::sub, {x, mean}) : x;
  const TensorId squared = p.pointwise(Scalar::square, {centred});
  const TensorId variance = p.mean(squared);
  const TensorId shifted = p.pointwise(Scalar::scale_shift, {variance}, 1, how(op).epsilon);
  const TensorId rstd = p.pointwise(Scalar::rsqrt, {shifted});
  p.give(rstd, op.outputs[1]);
  if (mean.valid()) p.give(mean, op.outputs[2]);
  const TensorId gamma = scale.valid() ? p.along(scale) : TensorId(), beta = bias.valid() ? p.along(bias) : TensorId();
  if (!gamma.valid()) b.into(y);
  const TensorId normal = p.pointwise(Scalar::mul, {centred, rstd});
  if (!gamma.valid()) return;
  if (!beta.valid()) b.into(y);
  const TensorId scaled = p.pointwise(Scalar::mul, {normal, gamma});
  if (!beta.valid()) return;
  b.into(y);
  p.pointwise(Scalar::add, {scaled, beta});
}

void decompose_grad(Module& module, const Op& op, Builder& b) {
  const TensorId dy = op.inputs[0], x = op.inputs[1], scale = input(op, place_of_scale(op));
  Pieces p(module, op, x, b);
  const bool is_centred = how(op).centred;
  const TensorId mean = is_centred ? p.kept(op.inputs[3]) : TensorId(), rstd = p.kept(op.inputs[2]);
  const TensorId centred = is_centred ? p.pointwise(Scalar::sub, {x, mean}) : x;
  const TensorId normal = p.pointwise(Scalar::mul, {centred, rstd});
  const TensorId gamma = scale.valid() ? p.along(scale) : TensorId();
  const TensorId g = gamma.valid() ? p.pointwise(Scalar::mul, {dy, gamma}) : dy;
  const TensorId mean_g = is_centred ? p.mean(g) : TensorId();
  const TensorId product = p.pointwise(Scalar::mul, {g, normal});
  const TensorId mean_product = p.mean(product);
  const TensorId along = p.pointwise(Scalar::mul, {normal, mean_product});
  const TensorId first = is_centred ? p.pointwise(Scalar::sub, {g, mean_g}) : g;
  const TensorId second = p.pointwise(Scalar::sub, {first, along});
  b.into(op.outputs[0]);
  p.pointwise(Scalar::mul, {second, rstd});
}

int64_t flops(const Module& module, const Op& op) { return 8 * elements(module.tensors[op.inputs[0]].shape); }

}  // namespace

extern const OpDefinition norm_definition, norm_grad_definition, norm_grad_scale_definition;
const OpDefinition norm_definition = {Kind::norm, "norm", false, rule, gradient, decompose, flops};
const OpDefinition norm_grad_definition = {Kind::norm_grad, "norm_grad", false, grad_rule, no_gradient, decompose_grad, flops};
const OpDefinition norm_grad_scale_definition = {Kind::norm_grad_scale, "norm_grad_scale", false, grad_scale_rule, no_gradient, nullptr, flops};

}  // namespace sscc
