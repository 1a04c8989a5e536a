// Operators that move data only: reshape, transpose, slice, split, concat, pad, expand.
#include <algorithm>
#include <numeric>

#include "compiler/ops/ops.h"
#include "compiler/ops/rule_builder.h"
#include "compiler/support/check.h"

namespace sscc {
namespace {

// -- reshape: dimensions grouped by equal products from the left; inside a group, axes between the boundaries that both sides know ------------------

Rule reshape_rule(const Module& module, const Op& op) {
  RuleBuilder r(module, op);
  const Shape &in = r.shape(0), &out = r.shape(1);
  size_t i = 0, j = 0;
  while (true) {
    while (i < in.size() && in[i] == 1) ++i;
    while (j < out.size() && out[j] == 1) ++j;
    if (i == in.size() || j == out.size()) break;
    // The group: input dims [i, i_end), output dims [j, j_end) of equal product.
    size_t i_end = i + 1, j_end = j + 1;
    int64_t left = in[i], right = out[j];
    while (left != right) {
      if (left < right)
        left *= in[i_end++];
      else
        right *= out[j_end++];
    }
    // Boundaries as strides from the right end of the group.
    std::vector<int64_t> of_in = {left}, of_out = {left};
    for (size_t d = i; d < i_end; ++d) of_in.push_back(of_in.back() / in[d]);
    for (size_t d = j; d < j_end; ++d) of_out.push_back(of_out.back() / out[d]);
    std::vector<int64_t> all(of_in);
    all.insert(all.end(), of_out.begin(), of_out.end());
    std::sort(all.begin(), all.end(), std::greater<>());
    all.erase(std::unique(all.begin(), all.end()), all.end());
    for (size_t k = 0; k + 1 < all.size(); ++k)
      if (all[k] % all[k + 1] != 0) all = {left, 1};  // boundaries that do not nest: one fused axis
    int factor = 0;                                   // of the output dimension, outermost first
    for (size_t k = 0; k + 1 < all.size(); ++k) {
      const int64_t high = all[k], low = all[k + 1];
      size_t di = i, dj = j;
      while (of_in[di - i + 1] > low) ++di;
      while (of_out[dj - j + 1] > low) ++dj;
      const bool fused = of_in[di - i] < high || of_out[dj - j] < high;  // spans several dimensions of a side
      // Named by the dimension of the output whose factor it is.
      const bool whole = out[dj] == high / low;
      factor = of_out[dj - j] == high ? 0 : factor + 1;
      const int axis = r.axis(whole || fused ? "d" + std::to_string(dj) : "d" + std::to_string(dj) + "." + std::to_string(factor), high / low,
                              fused ? Mark::frozen : Mark::plain);
      if (fused) continue;
      r.at(axis, 0, di, low / of_in[di - i + 1]);
      r.at(axis, 1, dj, low / of_out[dj - j + 1]);
    }
    i = i_end;
    j = j_end;
  }
  return r.take();
}

// Axes of a backward operator by position: axis k of its rule is axis order[k] of the forward operator.
bool reshape_gradient(Module& module, OpId id, llvm::ArrayRef<TensorId> output_gradients, llvm::ArrayRef<TensorId> input_gradients, Builder& b) {
  if (!input_gradients[0].valid()) return true;
  const Op op = module.ops[id];
  b.into(input_gradients[0]).reshape(output_gradients[0], module.tensors[op.inputs[0]].shape);
  Rule& rule = module.ops[b.last()].rule;  // the same groups, hence the same axes in the same order
  SSCC_CHECK(rule.axes.size() == op.rule.axes.size(), "a reshape and its inverse have the same axes");
  for (size_t a = 0; a < rule.axes.size(); ++a) rule.axes[a].forward_axis = static_cast<int>(a);
  return true;
}

// -- transpose ------------------------------------------------------------------------------------------------------------------------------------

Rule transpose_rule(const Module& module, const Op& op) {
  const auto& a = std::get<TransposeAttributes>(op.attributes);
  RuleBuilder r(module, op);
  for (size_t d = 0; d < a.permutation.size(); ++d) {
    const int axis = r.axis("d" + std::to_string(d), r.shape(1)[d]);
    r.at(axis, 0, static_cast<size_t>(a.permutation[d]));
    r.at(axis, 1, d);
  }
  return r.take();
}

bool transpose_gradient(Module& module, OpId id, llvm::ArrayRef<TensorId> output_gradients, llvm::ArrayRef<TensorId> input_gradients, Builder& b) {
  if (!input_gradients[0].valid()) return true;
  const Op op = module.ops[id];
  const auto& permutation = std::get<TransposeAttributes>(op.attributes).permutation;
  llvm::SmallVector<int, 5> inverse(permutation.size());
  std::map<std::string, int> axes;
  for (size_t d = 0; d < permutation.size(); ++d) inverse[static_cast<size_t>(permutation[d])] = static_cast<int>(d);
  for (size_t a = 0; a < op.rule.axes.size(); ++a) {
    const size_t d = static_cast<size_t>(std::stoi(op.rule.axes[a].name.substr(1)));
    axes["d" + std::to_string(permutation[d])] = static_cast<int>(a);
  }
  b.into(input_gradients[0]).forward_axes(axes).transpose(output_gradients[0], inverse);
  return true;
}

// -- slice, split, concat, pad: `(n| g) -> (l| g)` with g the greatest common divisor of all lengths and offsets ----------------------------------

// One dimension that is taken apart or put together: operand `whole` holds all of it, the `parts` lie in it one behind the other (or at `starts`).
void add_segments(RuleBuilder& r, size_t d, int whole, llvm::ArrayRef<int> parts, llvm::ArrayRef<int64_t> starts) {
  int64_t g = r.shape(whole)[d];
  for (int part : parts) g = std::gcd(g, r.shape(part)[d]);
  for (int64_t start : starts) g = std::gcd(g, start);
  const std::string name = "d" + std::to_string(d);
  const int inner = r.axis(name, g);
  auto segment = [&](int index, const std::string& suffix) {
    const int64_t outer = r.shape(index)[d] / g;
    r.at(inner, index, d, 1);
    if (outer > 1) r.at(r.axis(name + suffix, outer, Mark::segment), index, d, g);
  };
  segment(whole, ".whole");
  for (size_t i = 0; i < parts.size(); ++i) segment(parts[i], ".part" + std::to_string(i));
}

void add_plain(RuleBuilder& r, size_t d, int operands) {
  const int axis = r.axis("d" + std::to_string(d), r.shape(0)[d]);
  for (int i = 0; i < operands; ++i) r.at(axis, i, d);
}

// A slice, or with the operands exchanged a pad.
Rule strided_rule(const Module& module, const Op& op, int whole, int part) {
  const auto& a = std::get<SliceAttributes>(op.attributes);
  RuleBuilder r(module, op);
  for (size_t d = 0; d < a.starts.size(); ++d) {
    if (r.shape(0)[d] == r.shape(1)[d] && a.steps[d] == 1) {
      add_plain(r, d, 2);
    } else if (a.steps[d] == 1) {
      add_segments(r, d, whole, {part}, {a.starts[d]});
    } else {
      r.at(r.axis("d" + std::to_string(d) + ".whole", r.shape(whole)[d], Mark::segment), whole, d);
      r.at(r.axis("d" + std::to_string(d) + ".part0", r.shape(part)[d], Mark::segment), part, d);
    }
  }
  return r.take();
}
Rule slice_rule(const Module& module, const Op& op) { return strided_rule(module, op, 0, 1); }
Rule pad_rule(const Module& module, const Op& op) { return strided_rule(module, op, 1, 0); }

bool slice_gradient(Module& module, OpId id, llvm::ArrayRef<TensorId> output_gradients, llvm::ArrayRef<TensorId> input_gradients, Builder& b) {
  if (!input_gradients[0].valid()) return true;
  const Op op = module.ops[id];
  const auto a = std::get<SliceAttributes>(op.attributes);
  b.into(input_gradients[0]).pad(output_gradients[0], module.tensors[op.inputs[0]].shape, a.starts, a.steps);
  return true;
}
bool pad_gradient(Module& module, OpId id, llvm::ArrayRef<TensorId> output_gradients, llvm::ArrayRef<TensorId> input_gradients, Builder& b) {
  if (!input_gradients[0].valid()) return true;
  const Op op = module.ops[id];
  const auto a = std::get<SliceAttributes>(op.attributes);
  b.into(input_gradients[0]).slice(output_gradients[0], a.starts, module.tensors[op.inputs[0]].shape, a.steps);
  return true;
}

Rule apart_rule(const Module& module, const Op& op, int whole, llvm::ArrayRef<int> parts) {
  const size_t dim = static_cast<size_t>(std::get<DimAttributes>(op.attributes).dim);
  RuleBuilder r(module, op);
  const int operands = static_cast<int>(op.inputs.size() + op.outputs.size());
  for (size_t d = 0; d < r.shape(0).size(); ++d) {
    if (d == dim)
      add_segments(r, d, whole, parts, {});
    else
      add_plain(r, d, operands);
  }
  return r.take();
}
Rule split_rule(const Module& module, const Op& op) {
  llvm::SmallVector<int, 4> parts;
  for (size_t i = 0; i < op.outputs.size(); ++i) parts.push_back(1 + static_cast<int>(i));
  return apart_rule(module, op, 0, parts);
}
Rule concat_rule(const Module& module, const Op& op) {
  llvm::SmallVector<int, 4> parts;
  for (size_t i = 0; i < op.inputs.size(); ++i) parts.push_back(static_cast<int>(i));
  return apart_rule(module, op, static_cast<int>(op.inputs.size()), parts);
}

bool split_gradient(Module& module, OpId id, llvm::ArrayRef<TensorId> output_gradients, llvm::ArrayRef<TensorId> input_gradients, Builder& b) {
  if (!input_gradients[0].valid()) return true;
  const Op op = module.ops[id];
  TensorId any;
  for (TensorId gradient : output_gradients)
    if (gradient.valid()) any = gradient;
  llvm::SmallVector<TensorId, 4> parts;
  for (size_t i = 0; i < op.outputs.size(); ++i) {
    if (output_gradients[i].valid()) {
      parts.push_back(output_gradients[i]);
    } else {  // nobody reads this output: zeros of its shape
      const Shape shape = module.tensors[op.outputs[i]].shape;
      TensorId zero = b.pointwise(Scalar::scale_shift, {op.outputs[i]}, 0, 0);
      parts.push_back(zero);
    }
  }
  b.into(input_gradients[0]).concat(parts, std::get<DimAttributes>(op.attributes).dim);
  return true;
}

bool concat_gradient(Module& module, OpId id, llvm::ArrayRef<TensorId> output_gradients, llvm::ArrayRef<TensorId> input_gradients, Builder& b) {
  const Op op = module.ops[id];
  const int dim = std::get<DimAttributes>(op.attributes).dim;
  int64_t start = 0;
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    const Shape shape = module.tensors[op.inputs[i]].shape;
    Shape starts(shape.size(), 0);
    starts[static_cast<size_t>(dim)] = start;
    start += shape[static_cast<size_t>(dim)];
    if (input_gradients[i].valid()) b.into(input_gradients[i]).slice(output_gradients[0], starts, shape, Shape(shape.size(), 1));
  }
  return true;
}

// -- expand: axes of the output; the input has those along which it is not broadcast --------------------------------------------------------------

Rule expand_rule(const Module& module, const Op& op) {
  RuleBuilder r(module, op);
  const Shape &in = r.shape(0), &out = r.shape(1);
  for (size_t d = 0; d < out.size(); ++d) {
    const int axis = r.axis("d" + std::to_string(d), out[d]);
    r.at(axis, 1, d);
    if (d + in.size() >= out.size()) r.at(axis, 0, d + in.size() - out.size());
  }
  return r.take();
}

bool expand_gradient(Module& module, OpId id, llvm::ArrayRef<TensorId> output_gradients, llvm::ArrayRef<TensorId> input_gradients, Builder& b) {
  if (!input_gradients[0].valid()) return true;
  const Op op = module.ops[id];
  const Shape in = module.tensors[op.inputs[0]].shape, out = module.tensors[op.outputs[0]].shape;
  auto forward_axis = [&](size_t d) {
    for (size_t a = 0; a < op.rule.axes.size(); ++a)
      if (op.rule.axes[a].name == "d" + std::to_string(d)) return static_cast<int>(a);
    return -1;
  };
  llvm::SmallVector<int, 5> reduced;
  std::map<std::string, int> axes, kept_axes;
  size_t kept = 0;
  for (size_t d = 0; d < out.size(); ++d) {
    const bool missing = d + in.size() < out.size();
    if (missing || in[d + in.size() - out.size()] != out[d]) {
      axes["r" + std::to_string(reduced.size())] = forward_axis(d);
      reduced.push_back(static_cast<int>(d));
    } else {
      axes["d" + std::to_string(kept++)] = forward_axis(d);
      kept_axes["d" + std::to_string(d + in.size() - out.size())] = forward_axis(d);
    }
  }
  Shape after;
  for (size_t d = 0; d < out.size(); ++d)
    if (std::find(reduced.begin(), reduced.end(), static_cast<int>(d)) == reduced.end()) after.push_back(out[d]);
  if (after == in) {
    b.into(input_gradients[0]).forward_axes(axes).reduce(output_gradients[0], reduced, false, Join::sum);
  } else {
    const TensorId sum = b.forward_axes(axes).reduce(output_gradients[0], reduced, false, Join::sum);
    b.into(input_gradients[0]).forward_axes(kept_axes).reshape(sum, in);
  }
  return true;
}

}  // namespace

#define SSCC_LAYOUT(name)                      \
  extern const OpDefinition name##_definition; \
  const OpDefinition name##_definition = {Kind::name, #name, true, name##_rule, name##_gradient, nullptr, no_flops};
SSCC_LAYOUT(reshape)
SSCC_LAYOUT(transpose)
SSCC_LAYOUT(slice)
SSCC_LAYOUT(split)
SSCC_LAYOUT(concat)
SSCC_LAYOUT(pad)
SSCC_LAYOUT(expand)
#undef SSCC_LAYOUT

}  // namespace sscc
