#include "compiler/ops/build.h"

#include <algorithm>
#include <set>

#include "compiler/ops/ops.h"
#include "compiler/support/check.h"

namespace sscc {

Builder& Builder::named(std::string tensor_name) {
  name_ = std::move(tensor_name);
  return *this;
}
Builder& Builder::into(TensorId tensor) {
  into_ = {tensor};
  return *this;
}
Builder& Builder::into_pair(TensorId first, TensorId second) {
  into_ = {first, second};
  return *this;
}
Builder& Builder::forward_axes(std::map<std::string, int> by_name) {
  forward_axes_ = std::move(by_name);
  return *this;
}

// The next result: an existing tensor to add to, or a new one under the given or a unique derived name.
TensorId Builder::result(Shape shape, DType dtype, Join join) {
  if (!into_.empty()) {
    const TensorId existing = into_.front();
    into_.erase(into_.begin());
    if (existing.valid()) {
      SSCC_CHECK(module_.tensors[existing].shape == shape, "an addend of " + module_.tensors[existing].name + " has shape " + to_string(shape));
      return existing;
    }
  }
  Tensor tensor;
  tensor.name = name_.empty() ? origin_.name + (origin_.phase == Phase::backward ? ":grad:" : ":") + std::to_string(module_.tensors.size())
                              : std::exchange(name_, "");
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  tensor.role = origin_.phase == Phase::backward ? Role::gradient : Role::activation;
  tensor.join = join;
  return module_.tensors.add(std::move(tensor));
}

OpId Builder::add(Kind kind, Attributes attributes, llvm::ArrayRef<TensorId> inputs, llvm::ArrayRef<TensorId> outputs) {
  Op op;
  op.name = origin_.name;
  op.type = origin_.type;
  op.phase = origin_.phase;
  op.forward = origin_.forward;
  op.kind = kind;
  op.attributes = std::move(attributes);
  op.inputs.assign(inputs.begin(), inputs.end());
  op.outputs.assign(outputs.begin(), outputs.end());
  op.is_layout = definition(kind).is_layout;
  if (!origin_.name.empty()) op.absorbed = {origin_.name};
  last_ = module_.add_op(std::move(op));
  attach_rule(module_, last_);
  const std::map<std::string, int> given = std::exchange(forward_axes_, {});
  Op& added = module_.ops[last_];
  if (!added.forward.valid()) return last_;
  const Rule& forward = module_.ops[added.forward].rule;
  for (Axis& axis : added.rule.axes) {
    if (auto it = given.find(axis.name); it != given.end()) {
      axis.forward_axis = it->second;
    } else if (given.empty()) {
      for (size_t a = 0; a < forward.axes.size(); ++a)
        if (forward.axes[a].name == axis.name && forward.axes[a].length == axis.length) axis.forward_axis = static_cast<int>(a);
    }
  }
  return last_;
}

// -- kinds ----------------------------------------------------------------------------------------------------------------------------------------

namespace {

// Right-aligned broadcast of shapes.
Shape broadcast_shape(const Module& module, llvm::ArrayRef<TensorId> inputs) {
  Shape shape;
  for (TensorId id : inputs) {
    const Shape& other = module.tensors[id].shape;
    if (other.size() > shape.size()) shape.insert(shape.begin(), other.size() - shape.size(), 1);
    for (size_t d = 0; d < other.size(); ++d) {
      int64_t& mine = shape[shape.size() - other.size() + d];
      SSCC_CHECK(mine == other[d] || mine == 1 || other[d] == 1, "shapes that broadcast: " + to_string(shape) + " and " + to_string(other));
      mine = mine == 1 ? other[d] : mine;
    }
  }
  return shape;
}

bool is_comparison(Scalar f) {
  switch (f) {
    case Scalar::equal:
    case Scalar::less:
    case Scalar::less_equal:
    case Scalar::greater:
    case Scalar::greater_equal:
    case Scalar::logical_and:
    case Scalar::logical_or:
    case Scalar::logical_not:
    case Scalar::equal_scalar:
    case Scalar::not_equal_scalar: return true;
    default: return false;
  }
}

}  // namespace

TensorId Builder::pointwise(Scalar function, llvm::ArrayRef<TensorId> inputs, double alpha, double beta, std::optional<DType> dtype) {
  const TensorId typed = function == Scalar::where ? inputs[1] : inputs[0];
  const DType type = dtype ? *dtype : is_comparison(function) ? DType::b1 : module_.tensors[typed].dtype;
  const TensorId out = result(broadcast_shape(module_, inputs), type);
  add(Kind::pointwise, PointwiseAttributes{function, alpha, beta}, inputs, {out});
  return out;
}

TensorId Builder::contract(TensorId lhs, std::string lhs_labels, TensorId rhs, std::string rhs_labels, std::string out_labels, double scale) {
  Shape shape;
  for (char label : out_labels) {
    const size_t l = lhs_labels.find(label), r = rhs_labels.find(label);
    SSCC_CHECK(l != std::string::npos || r != std::string::npos, "a label of the result stands in an operand");
    shape.push_back(l != std::string::npos ? module_.tensors[lhs].shape[l] : module_.tensors[rhs].shape[r]);
  }
  const TensorId out = result(std::move(shape), module_.tensors[lhs].dtype);
  add(Kind::contract, ContractAttributes{std::move(lhs_labels), std::move(rhs_labels), std::move(out_labels), scale}, {lhs, rhs}, {out});
  return out;
}

TensorId Builder::reduce(TensorId in, llvm::ArrayRef<int> dims, bool keep_dims, Join join, double scale) {
  ReduceAttributes attributes;
  attributes.dims.assign(dims.begin(), dims.end());
  std::sort(attributes.dims.begin(), attributes.dims.end());
  attributes.keep_dims = keep_dims;
  attributes.join = join;
  attributes.scale = scale;
  Shape shape;
  const Shape& from = module_.tensors[in].shape;
  for (size_t d = 0; d < from.size(); ++d) {
    const bool reduced = std::find(dims.begin(), dims.end(), static_cast<int>(d)) != dims.end();
    if (!reduced)
      shape.push_back(from[d]);
    else if (keep_dims)
      shape.push_back(1);
  }
  const TensorId out = result(std::move(shape), rt::arithmetic_type(module_.tensors[in].dtype), join);
  add(Kind::reduce, std::move(attributes), {in}, {out});
  return out;
}

TensorId Builder::reshape(TensorId in, Shape shape) {
  SSCC_CHECK(elements(shape) == elements(module_.tensors[in].shape), "a reshape keeps the number of elements");
  const TensorId out = result(std::move(shape), module_.tensors[in].dtype);
  add(Kind::reshape, NoAttributes{}, {in}, {out});
  return out;
}

TensorId Builder::transpose(TensorId in, llvm::ArrayRef<int> permutation) {
  Shape shape;
  for (int p : permutation) shape.push_back(module_.tensors[in].shape[static_cast<size_t>(p)]);
  const TensorId out = result(std::move(shape), module_.tensors[in].dtype);
  TransposeAttributes attributes;
  attributes.permutation.assign(permutation.begin(), permutation.end());
  add(Kind::transpose, std::move(attributes), {in}, {out});
  return out;
}

TensorId Builder::slice(TensorId in, Shape starts, Shape lengths, Shape steps) {
  const TensorId out = result(std::move(lengths), module_.tensors[in].dtype);
  add(Kind::slice, SliceAttributes{std::move(starts), std::move(steps)}, {in}, {out});
  return out;
}

llvm::SmallVector<TensorId, 4> Builder::split(TensorId in, int dim, llvm::ArrayRef<int64_t> lengths) {
  llvm::SmallVector<TensorId, 4> outs;
  const std::string base = std::exchange(name_, "");
  for (size_t i = 0; i < lengths.size(); ++i) {
    Shape shape = module_.tensors[in].shape;
    shape[static_cast<size_t>(dim)] = lengths[i];
    if (!base.empty()) name_ = base + ":" + std::to_string(i);
    outs.push_back(result(std::move(shape), module_.tensors[in].dtype));
  }
  add(Kind::split, DimAttributes{dim}, {in}, outs);
  return outs;
}

TensorId Builder::concat(llvm::ArrayRef<TensorId> inputs, int dim) {
  Shape shape = module_.tensors[inputs[0]].shape;
  shape[static_cast<size_t>(dim)] = 0;
  for (TensorId id : inputs) shape[static_cast<size_t>(dim)] += module_.tensors[id].shape[static_cast<size_t>(dim)];
  const TensorId out = result(std::move(shape), module_.tensors[inputs[0]].dtype);
  add(Kind::concat, DimAttributes{dim}, inputs, {out});
  return out;
}

TensorId Builder::pad(TensorId in, Shape shape, Shape starts, Shape steps) {
  const TensorId out = result(std::move(shape), module_.tensors[in].dtype);
  add(Kind::pad, SliceAttributes{std::move(starts), std::move(steps)}, {in}, {out});
  return out;
}

TensorId Builder::expand(TensorId in, Shape shape) {
  const TensorId out = result(std::move(shape), module_.tensors[in].dtype);
  add(Kind::expand, NoAttributes{}, {in}, {out});
  return out;
}

TensorId Builder::gather(TensorId data, TensorId indices, int dim) {
  const Shape& from = module_.tensors[data].shape;
  const Shape& index = module_.tensors[indices].shape;
  Shape shape(from.begin(), from.begin() + dim);
  shape.append(index.begin(), index.end());
  shape.append(from.begin() + dim + 1, from.end());
  const TensorId out = result(std::move(shape), module_.tensors[data].dtype);
  add(Kind::gather, DimAttributes{dim}, {data, indices}, {out});
  return out;
}

TensorId Builder::scatter_add(TensorId indices, TensorId dy, int dim, Shape shape) {
  const TensorId out = result(std::move(shape), module_.tensors[dy].dtype);
  add(Kind::scatter_add, DimAttributes{dim}, {indices, dy}, {out});
  return out;
}

TensorId Builder::softmax(TensorId in, int dim) {
  const TensorId out = result(module_.tensors[in].shape, module_.tensors[in].dtype);
  add(Kind::softmax, DimAttributes{dim}, {in}, {out});
  return out;
}

TensorId Builder::softmax_grad(TensorId y, TensorId dy, int dim) {
  const TensorId out = result(module_.tensors[y].shape, module_.tensors[y].dtype);
  add(Kind::softmax_grad, DimAttributes{dim}, {y, dy}, {out});
  return out;
}

Builder::Norm Builder::norm(TensorId x, TensorId scale, TensorId bias, const NormAttributes& how) {
  const Shape shape = module_.tensors[x].shape, kept = lengths_in(~how.over, shape);
  const DType type = module_.tensors[x].dtype;
  Norm norm;
  norm.y = result(shape, type);
  norm.rstd = result(kept, rt::arithmetic_type(type));
  llvm::SmallVector<TensorId, 3> inputs = {x}, outputs = {norm.y, norm.rstd};
  if (how.centred) outputs.push_back(norm.mean = result(kept, rt::arithmetic_type(type)));
  for (const TensorId weight : {scale, bias})
    if (weight.valid()) inputs.push_back(weight);
  add(Kind::norm, how, inputs, outputs);
  return norm;
}

TensorId Builder::norm_grad(TensorId dy, TensorId x, TensorId rstd, TensorId mean, TensorId scale, NormAttributes how) {
  const TensorId out = result(module_.tensors[x].shape, module_.tensors[x].dtype);
  how.epsilon = 0;  // rstd has it
  llvm::SmallVector<TensorId, 5> inputs = {dy, x, rstd};
  for (const TensorId more : {mean, scale})
    if (more.valid()) inputs.push_back(more);
  add(Kind::norm_grad, how, inputs, {out});
  return out;
}

std::pair<TensorId, TensorId> Builder::norm_grad_scale(TensorId dy, TensorId x, TensorId rstd, TensorId mean, bool has_bias, NormAttributes how) {
  const Shape shape = lengths_in(how.along, module_.tensors[x].shape);
  const DType type = rt::arithmetic_type(module_.tensors[x].dtype);
  how.epsilon = 0;
  llvm::SmallVector<TensorId, 4> inputs = {dy, x, rstd};
  if (mean.valid()) inputs.push_back(mean);
  llvm::SmallVector<TensorId, 2> outputs = {result(shape, type)};
  if (has_bias) outputs.push_back(result(shape, type));
  add(Kind::norm_grad_scale, how, inputs, outputs);
  return {outputs[0], has_bias ? outputs[1] : TensorId()};
}

TensorId Builder::convolve(TensorId large, TensorId weight, const Shape& small, const rt::Window& window) {
  const TensorId out = result(small, module_.tensors[large].dtype);
  add(Kind::convolve, WindowAttributes{window}, {large, weight}, {out});
  return out;
}

TensorId Builder::convolve_transposed(TensorId small, TensorId weight, const Shape& large, const rt::Window& window) {
  const TensorId out = result(large, module_.tensors[small].dtype);
  add(Kind::convolve_transposed, WindowAttributes{window}, {small, weight}, {out});
  return out;
}

TensorId Builder::convolve_grad_weight(TensorId large, TensorId small, const Shape& weight, const rt::Window& window) {
  const TensorId out = result(weight, module_.tensors[large].dtype);
  add(Kind::convolve_grad_weight, WindowAttributes{window}, {large, small}, {out});
  return out;
}

Builder::MaxPool Builder::max_pool(TensorId large, const Shape& small, const rt::Window& window) {
  const TensorId out = result(small, module_.tensors[large].dtype);
  const TensorId taps = result(small, DType::u8);
  add(Kind::max_pool, WindowAttributes{window}, {large}, {out, taps});
  return {out, taps};
}

TensorId Builder::max_pool_grad(TensorId small, TensorId taps, const Shape& large, const rt::Window& window) {
  const TensorId out = result(large, module_.tensors[small].dtype);
  add(Kind::max_pool_grad, WindowAttributes{window}, {small, taps}, {out});
  return out;
}

TensorId Builder::sum_pool(TensorId large, const Shape& small, const rt::Window& window, double scale) {
  const TensorId out = result(small, module_.tensors[large].dtype);
  add(Kind::sum_pool, WindowAttributes{window, scale}, {large}, {out});
  return out;
}

TensorId Builder::sum_pool_grad(TensorId small, const Shape& large, const rt::Window& window, double scale) {
  const TensorId out = result(large, module_.tensors[small].dtype);
  add(Kind::sum_pool_grad, WindowAttributes{window, scale}, {small}, {out});
  return out;
}

TensorId Builder::pick(TensorId logits, TensorId labels, int dim, int64_t ignore_index) {
  const TensorId out = result(module_.tensors[labels].shape, module_.tensors[logits].dtype);
  add(Kind::pick, ClassAttributes{dim, ignore_index}, {logits, labels}, {out});
  return out;
}

TensorId Builder::cross_entropy_grad(TensorId logits, TensorId lse, TensorId labels, TensorId dloss, int dim, int64_t ignore_index) {
  const TensorId out = result(module_.tensors[logits].shape, module_.tensors[logits].dtype);
  add(Kind::cross_entropy_grad, ClassAttributes{dim, ignore_index}, {logits, lse, labels, dloss}, {out});
  return out;
}

TensorId Builder::update(TensorId parameter, TensorId gradient, llvm::ArrayRef<TensorId> moments, TensorId clip, const rt::UpdateRule& rule) {
  llvm::SmallVector<TensorId, 5> inputs = {parameter, gradient};
  inputs.append(moments.begin(), moments.end());
  if (clip.valid()) inputs.push_back(clip);
  llvm::SmallVector<TensorId, 3> outputs;
  auto next = [&](TensorId old) {
    Tensor tensor = module_.tensors[old];
    tensor.name = "next(" + tensor.name + ")";
    tensor.weight.reset();
    tensor.trainable = false;
    tensor.producers.clear();
    tensor.next_version_of = old;
    outputs.push_back(module_.tensors.add(std::move(tensor)));
  };
  next(parameter);
  for (TensorId moment : moments) next(moment);
  add(Kind::update, UpdateAttributes{rule}, inputs, outputs);
  return outputs[0];
}

}  // namespace sscc
