// oneDNN gets pieces of the batch, cut by shapes alone, and one thread for each: what it computes does not depend on how many there are. Its primitives
// choose how operands lie in memory; they are brought there and back, weights once for all pieces. Gradients of weights are summed up piece by piece.
#include "convolution_library.h"

#include <omp.h>

#include <dnnl.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "sscc_rt/strided_loop.h"

namespace sscc::rt {
namespace {

using dnnl::memory;

const dnnl::engine& processor() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// -- how a convolution is put ---------------------------------------------------------------------------------------------------------------------

// What no window sees is left out of `large`. False if windows see nothing.
bool crop(Convolution& convolution) {
  for (int d = 0; d < max_space; ++d) {
    WindowAxis& axis = convolution.axes[d];
    const int64_t begin = std::max<int64_t>(0, -axis.pad), end = std::min(axis.large, axis.seen() - axis.pad);
    if (begin >= end) return false;
    convolution.large.data = static_cast<float*>(convolution.large.data) + begin * convolution.large.strides[2 + d];
    convolution.large.dims[2 + d] = axis.large = end - begin;
    axis.pad += begin;
  }
  return true;
}

// A divisor of the batch.
int64_t pieces_of(const Convolution& convolution) {
  constexpr int64_t grain = int64_t{1} << 24;  // multiplications
  int64_t most = 64;
  if (convolution.result == weight_operand) {
    // Partial sums take memory, and time for each of their elements.
    constexpr int64_t elements = int64_t{1} << 24, multiplications = 512;
    const int64_t weights = convolution.weight.elements();
    most = std::min({int64_t{16}, elements / weights, convolution.work() / (weights * multiplications)});
  }
  int64_t pieces = std::clamp<int64_t>(std::min(convolution.work() / grain, most), 1, convolution.batch);
  while (convolution.batch % pieces != 0) --pieces;
  return pieces;
}

Convolution first_piece(Convolution convolution, int64_t pieces) {
  convolution.batch /= pieces;
  convolution.large.dims[0] = convolution.small.dims[0] = convolution.batch;
  return convolution;
}

constexpr auto type = memory::data_type::f32;

// visit(length, stride) for the dimensions that oneDNN sees: weights have their groups as one.
template <class Visit>
void for_each_dimension(const Convolution& convolution, ConvolutionOperand which, const Visit& visit) {
  const Tensor& view = convolution[which];
  const bool has_groups = which == weight_operand && convolution.groups > 1;
  if (has_groups) visit(convolution.groups, convolution.m * view.strides[0]);
  visit(has_groups ? convolution.m : view.dims[0], view.strides[0]);
  visit(view.dims[1], view.strides[1]);
  for (int d = view.rank - convolution.space; d < view.rank; ++d) visit(view.dims[d], view.strides[d]);
}

memory::dims dims_of(const Convolution& convolution, ConvolutionOperand which) {
  memory::dims dims;
  for_each_dimension(convolution, which, [&](int64_t length, int64_t) { dims.push_back(length); });
  return dims;
}

// Nothing where oneDNN does not take such strides.
memory::desc described(const Convolution& convolution, ConvolutionOperand which) {
  // A dimension of one position has any stride: here one beyond all others, so that none seem to overlap.
  int64_t beyond = 1;
  bool is_taken = true;
  for_each_dimension(convolution, which, [&](int64_t length, int64_t stride) {
    if (length == 1) return;
    is_taken = is_taken && stride > 0;
    beyond = std::max(beyond, length * stride);
  });
  memory::dims strides;
  for_each_dimension(convolution, which, [&](int64_t length, int64_t stride) { strides.push_back(length == 1 ? beyond : stride); });
  return is_taken ? memory::desc(dims_of(convolution, which), type, strides, true) : memory::desc();
}

// -- plans ----------------------------------------------------------------------------------------------------------------------------------------

struct Operand {
  memory::desc given, wanted;
  dnnl::reorder move;  // nothing: it is where it is wanted
};

struct Plan {
  dnnl::primitive primitive;  // nothing: oneDNN does not take it
  memory::desc scratchpad;
  Operand operands[3];

  Operand& operator[](ConvolutionOperand which) { return operands[static_cast<size_t>(which)]; }
  const Operand& operator[](ConvolutionOperand which) const { return operands[static_cast<size_t>(which)]; }
};

// What oneDNN has for an operation; nothing: it has not. `of`: of a gradient, the operation that it is of.
template <class Primitive, class... Arguments>
typename Primitive::primitive_desc ask(const dnnl::primitive_attr& attributes, const Arguments&... arguments) {
#if DNNL_VERSION_MAJOR >= 3
  return {processor(), arguments..., attributes, true};
#else
  return {typename Primitive::desc(arguments...), attributes, processor(), true};
#endif
}
template <class Primitive, class Of, class... Arguments>
typename Primitive::primitive_desc ask_of(const Of& of, const dnnl::primitive_attr& attributes, const Arguments&... arguments) {
#if DNNL_VERSION_MAJOR >= 3
  return {processor(), arguments..., of, attributes, true};
#else
  return {typename Primitive::desc(arguments...), attributes, processor(), of, true};
#endif
}

// The primitive, and how it wants its operands, which lie as it likes. False: there is none.
bool choose(Plan& plan, const Convolution& convolution) {
  memory::desc any[3];
  for (const ConvolutionOperand o : all_operands) any[static_cast<size_t>(o)] = memory::desc(dims_of(convolution, o), type, memory::format_tag::any);
  const auto& [large, small, weight] = any;
  memory::dims stride, dilation, pad, behind;
  for (int d = max_space - convolution.space; d < max_space; ++d) {
    const WindowAxis& axis = convolution.axes[d];
    stride.push_back(axis.stride);
    dilation.push_back(axis.dilation - 1);
    pad.push_back(axis.pad);
    behind.push_back(axis.seen() - axis.pad - axis.large);
  }
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const auto take = [&](const auto& chosen, const memory::desc& large_desc, const memory::desc& small_desc, const memory::desc& weight_desc) {
    plan[large_operand].wanted = large_desc;
    plan[small_operand].wanted = small_desc;
    plan[weight_operand].wanted = weight_desc;
    plan.scratchpad = chosen.scratchpad_desc();
  };

  using Forward = dnnl::convolution_forward;
  using LargeGradient = dnnl::convolution_backward_data;
  using WeightGradient = dnnl::convolution_backward_weights;
  const auto direct = dnnl::algorithm::convolution_direct;
  const auto forward = ask<Forward>(attributes, dnnl::prop_kind::forward_training, direct, large, weight, small, stride, dilation, pad, behind);
  if (!forward) return false;
  if (convolution.result == small_operand) {
    take(forward, forward.src_desc(), forward.dst_desc(), forward.weights_desc());
    plan.primitive = Forward(forward);
  } else if (convolution.result == large_operand) {
    const auto backward = ask_of<LargeGradient>(forward, attributes, direct, large, weight, small, stride, dilation, pad, behind);
    if (!backward) return false;
    take(backward, backward.diff_src_desc(), backward.diff_dst_desc(), backward.weights_desc());
    plan.primitive = LargeGradient(backward);
  } else {
    const auto backward = ask_of<WeightGradient>(forward, attributes, direct, large, weight, small, stride, dilation, pad, behind);
    if (!backward) return false;
    take(backward, backward.src_desc(), backward.diff_dst_desc(), backward.diff_weights_desc());
    plan.primitive = WeightGradient(backward);
  }
  return true;
}

// What brings an input to where it is wanted, or the result from there. False: oneDNN cannot.
bool prepare_move(Operand& operand, bool is_result, bool adds) {
  if (operand.given == operand.wanted && !adds) return true;
  dnnl::primitive_attr attributes;
  dnnl::post_ops sum;
  sum.append_sum();
  if (adds) attributes.set_post_ops(sum);
  const memory::desc &from = is_result ? operand.wanted : operand.given, &to = is_result ? operand.given : operand.wanted;
  const dnnl::reorder::primitive_desc move(processor(), from, processor(), to, attributes, true);
  if (move) operand.move = dnnl::reorder(move);
  return static_cast<bool>(move);
}

// Empty where oneDNN does not take the convolution, whether it says so or throws.
Plan make_plan(const Convolution& convolution, bool accumulate) try {
  Plan plan;
  bool exists = true;
  for (const ConvolutionOperand o : all_operands) {
    plan[o].given = described(convolution, o);
    exists = exists && !plan[o].given.is_zero();
  }
  exists = exists && choose(plan, convolution);
  for (const ConvolutionOperand o : all_operands) {
    const bool is_result = o == convolution.result;
    exists = exists && prepare_move(plan[o], is_result, is_result && accumulate);
  }
  return exists ? plan : Plan();
} catch (const dnnl::error&) { return {}; }

// Kept for the life of the process: a program has few convolutions, and calls them again and again. Ranks may be threads.
const Plan& plan_of(const Convolution& convolution, bool accumulate) {
  static std::mutex mutex;
  static std::map<std::vector<int64_t>, Plan> plans;
  const std::lock_guard lock(mutex);
  std::vector<int64_t> key = convolution.key();
  key.push_back(accumulate);
  auto found = plans.find(key);
  if (found == plans.end()) found = plans.emplace(key, make_plan(convolution, accumulate)).first;
  return found->second;
}

// -- a call ---------------------------------------------------------------------------------------------------------------------------------------

memory in_place(const Operand& operand, void* data) { return memory(operand.given, processor(), data); }
memory elsewhere(const memory::desc& description) { return memory(description, processor()); }

// An operand as the primitive reads it.
memory taken(const Operand& operand, void* data, dnnl::stream& stream) {
  memory given = in_place(operand, data);
  if (!operand.move) return given;
  memory wanted = elsewhere(operand.wanted);
  operand.move.execute(stream, given, wanted);
  return wanted;
}

// `weight`: as the primitive reads it, unless it is the result.
void run(const Plan& plan, ConvolutionOperand result, void* const (&data)[3], const memory& weight, dnnl::stream& stream) {
  memory operands[3];
  for (const ConvolutionOperand o : all_operands) {
    const auto i = static_cast<size_t>(o);
    if (o == result)
      operands[i] = plan[o].move ? elsewhere(plan[o].wanted) : in_place(plan[o], data[i]);
    else
      operands[i] = o == weight_operand ? weight : taken(plan[o], data[i], stream);
  }
  plan.primitive.execute(stream, {{result == large_operand ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, operands[0]},
                                  {result == small_operand ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, operands[1]},
                                  {result == weight_operand ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, operands[2]},
                                  {DNNL_ARG_SCRATCHPAD, elsewhere(plan.scratchpad)}});
  if (!plan[result].move) return;
  memory out = in_place(plan[result], data[static_cast<size_t>(result)]);
  plan[result].move.execute(stream, operands[static_cast<size_t>(result)], out);
}

// [pieces, weight's dims], dense.
struct PartialSums {
  std::unique_ptr<float[]> memory;
  Tensor tensor;

  PartialSums(const Tensor& weight, int64_t pieces) : tensor(weight) {
    tensor.rank = weight.rank + 1;
    tensor.dims[0] = pieces;
    std::copy_n(weight.dims, weight.rank, tensor.dims + 1);
    int64_t stride = 1;
    for (int d = tensor.rank; d-- > 0; stride *= tensor.dims[d]) tensor.strides[d] = stride;
    memory = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(stride));
    tensor.data = memory.get();
  }
};

}  // namespace

bool convolve_by_library(const Convolution& given, bool accumulate) {
  omp_set_num_threads(1);  // each time: what is set within a parallel region is forgotten behind it
  Convolution convolution = given;
  if (!crop(convolution)) return false;
  const ConvolutionOperand result = convolution.result;
  const int64_t pieces = pieces_of(convolution);
  Convolution piece = first_piece(convolution, pieces);
  std::optional<PartialSums> partial;
  if (result == weight_operand && pieces > 1) {
    partial.emplace(convolution.weight, pieces);
    piece.weight.data = partial->tensor.data;
    std::copy_n(partial->tensor.strides + 1, piece.weight.rank, piece.weight.strides);
  }
  const Plan& plan = plan_of(piece, accumulate && !partial);
  if (!plan.primitive) return false;

  const bool is_cropped = convolution.large.elements() != given.large.elements();
  if (result == large_operand && is_cropped && !accumulate) fill(given.large, 0);
  dnnl::stream stream(processor());
  const memory weight = result == weight_operand ? memory() : taken(plan[weight_operand], convolution.weight.data, stream);
  parallel_ranges(pieces, 1, [&](int64_t begin, int64_t end) {
    dnnl::stream own(processor());
    for (int64_t i = begin; i < end; ++i) {
      const auto at = [&](const Tensor& view, int64_t step) -> void* { return static_cast<float*>(view.data) + i * step; };
      void* const data[] = {at(piece.large, piece.batch * piece.large.strides[0]), at(piece.small, piece.batch * piece.small.strides[0]),
                            at(piece.weight, partial ? partial->tensor.strides[0] : 0)};
      run(plan, result, data, weight, own);
    }
  });
  if (partial) reduce(convolution.weight, partial->tensor, 1, Join::sum, 1, accumulate);
  return true;
}

}  // namespace sscc::rt
