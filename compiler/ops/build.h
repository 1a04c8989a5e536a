// Building operators: the one way in which importers, gradients and decompositions add operators to a module. Each function infers the
// result's shape and type, makes the output tensor, attaches the kind's axis rule and appends the operator to the module's order.
//
// Axis names are contract (PLAN_LANGUAGE section 2, `dim`): contractions made from MatMul and Gemm have m n k and leading b0 b1 ..., Einsum its
// letters, gather v, reductions d0.. and r0.., everything else d0 d1 ... of output 0.
#pragma once

#include <string>

#include "compiler/ir/module.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {

// What a new operator inherits: its name, ONNX type, phase and (for gradients) forward operator.
struct Origin {
  std::string name;
  std::string type;
  Phase phase = Phase::forward;
  OpId forward;
};

class Builder {
 public:
  Builder(Module& module, Origin origin) : module_(module), origin_(std::move(origin)) {}

  // The name of the next result; default: a unique name made from the origin's.
  Builder& named(std::string tensor_name);
  // Write the next result as one more addend of an existing tensor (a gradient with several contributions).
  Builder& into(TensorId tensor);
  // The same for an operator with two results; an invalid one becomes a new tensor.
  Builder& into_pair(TensorId first, TensorId second);
  // Backward: forward axis of each axis of the next operator, by axis name ("m" -> index in the forward rule). Where not set, an axis takes
  // the forward axis of the same name, if there is one.
  Builder& forward_axes(std::map<std::string, int> by_name);

  TensorId pointwise(Scalar function, llvm::ArrayRef<TensorId> inputs, double alpha = 0, double beta = 0, std::optional<DType> dtype = {});
  TensorId contract(TensorId lhs, std::string lhs_labels, TensorId rhs, std::string rhs_labels, std::string out_labels, double scale = 1);
  TensorId reduce(TensorId in, llvm::ArrayRef<int> dims, bool keep_dims, Join join, double scale = 1);
  TensorId reshape(TensorId in, Shape shape);
  TensorId transpose(TensorId in, llvm::ArrayRef<int> permutation);
  TensorId slice(TensorId in, Shape starts, Shape lengths, Shape steps);
  llvm::SmallVector<TensorId, 4> split(TensorId in, int dim, llvm::ArrayRef<int64_t> lengths);
  TensorId concat(llvm::ArrayRef<TensorId> inputs, int dim);
  TensorId pad(TensorId in, Shape shape, Shape starts, Shape steps);
  TensorId expand(TensorId in, Shape shape);
  TensorId gather(TensorId data, TensorId indices, int dim);
  TensorId scatter_add(TensorId indices, TensorId dy, int dim, Shape shape);
  TensorId softmax(TensorId in, int dim);
  TensorId softmax_grad(TensorId y, TensorId dy, int dim);
  struct Norm {
    TensorId y, rstd, mean;  // mean is invalid where the norm is not centred
  };
  // scale and bias may be invalid; a bias comes with a scale.
  Norm norm(TensorId x, TensorId scale, TensorId bias, const NormAttributes& how);
  TensorId norm_grad(TensorId dy, TensorId x, TensorId rstd, TensorId mean, TensorId scale, NormAttributes how);
  std::pair<TensorId, TensorId> norm_grad_scale(TensorId dy, TensorId x, TensorId rstd, TensorId mean, bool has_bias, NormAttributes how);
  // With the shape of the result: it does not follow from those of the operands.
  TensorId convolve(TensorId large, TensorId weight, const Shape& small, const rt::Window& window);
  TensorId convolve_transposed(TensorId small, TensorId weight, const Shape& large, const rt::Window& window);
  TensorId convolve_grad_weight(TensorId large, TensorId small, const Shape& weight, const rt::Window& window);
  struct MaxPool {
    TensorId small, taps;
  };
  MaxPool max_pool(TensorId large, const Shape& small, const rt::Window& window);
  TensorId max_pool_grad(TensorId small, TensorId taps, const Shape& large, const rt::Window& window);
  TensorId sum_pool(TensorId large, const Shape& small, const rt::Window& window, double scale);
  TensorId sum_pool_grad(TensorId small, const Shape& large, const rt::Window& window, double scale);
  TensorId pick(TensorId logits, TensorId labels, int dim, int64_t ignore_index);
  TensorId cross_entropy_grad(TensorId logits, TensorId lse, TensorId labels, TensorId dloss, int dim, int64_t ignore_index);
  TensorId update(TensorId parameter, TensorId gradient, llvm::ArrayRef<TensorId> moments, TensorId clip, const rt::UpdateRule& rule);
  // The operator added last.
  OpId last() const { return last_; }

 private:
  TensorId result(Shape shape, DType dtype, Join join = Join::sum);
  OpId add(Kind kind, Attributes attributes, llvm::ArrayRef<TensorId> inputs, llvm::ArrayRef<TensorId> outputs);

  Module& module_;
  Origin origin_;
  OpId last_;
  std::string name_;
  llvm::SmallVector<TensorId, 2> into_;  // of the next results, in order
  std::map<std::string, int> forward_axes_;
};

// The operators that `add` adds stand before this one.
template <class Add>
void insert_before(Module& module, OpId before, const Add& add) {
  const size_t old = module.order.size();
  add();
  const std::vector<OpId> added(module.order.begin() + static_cast<std::ptrdiff_t>(old), module.order.end());
  module.order.resize(old);
  module.order.insert(llvm::find(module.order, before), added.begin(), added.end());
}

// The mean over all positions whose label is not ignored of -log softmax(logits)[label], `dim` the class dimension: log-sum-exp, the label's logit,
// their difference, a sum and a count (a constant where nothing is ignored). INT64_MIN: nothing is ignored. `name`: of the result.
TensorId softmax_cross_entropy(Module& module, Builder& builder, TensorId logits, TensorId labels, int dim, int64_t ignore_index,
                               const std::string& name, bool mean = true);

}  // namespace sscc
