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

constexpr auto large_operand = ConvolutionOperand::large, small_operand = ConvolutionOperand::small, weight_operand = ConvolutionOperand::weight;
constexpr ConvolutionOperand all_operands[] = {large_operand, small_operand, weight_operand};

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

// Nothing where oneDNN does not take such strides.
memory::desc described(const Convolution& convolution, ConvolutionOperand which) {
  const Tensor& view = convolution[which];
  memory::dims dims, strides;
  const auto append = [&](int64_t length, int64_t stride) {
    dims.push_back(length);
    strides.push_back(stride);
  };
  if (which == weight_operand && convolution.groups > 1) append(convolution.groups, convolution.m * view.strides[0]);
  append(which == weight_operand ? convolution.m : view.dims[0], view.strides[0]);
  for (int d = 1; d < view.rank; ++d)
    if (d == 1 || d >= view.rank - convolution.space) append(view.dims[d], view.strides[d]);
  // A dimension of one position has any stride: here one beyond all others, so that none seem to overlap.
  int64_t beyond = 1;
  for (size_t d = 0; d < dims.size(); ++d) {
    if (dims[d] > 1 && strides[d] <= 0) return {};
    if (dims[d] > 1) beyond = std::max(beyond, dims[d] * strides[d]);
  }
  for (size_t d = 0; d < dims.size(); ++d)
    if (dims[d] == 1) strides[d] = beyond;
  return memory::desc(dims, memory::data_type::f32, strides, true);
}

// -- plans ----------------------------------------------------------------------------------------------------------------------------------------

struct Operand {
  memory::desc given, wanted;
  dnnl::reorder move;  // to where it is wanted, of the result from there; nothing: it is there
};

struct Plan {
  dnnl::primitive primitive;  // nothing: oneDNN does not take it
  memory::desc scratchpad;
  Operand operands[3];

  Operand& operator[](ConvolutionOperand which) { return operands[static_cast<size_t>(which)]; }
  const Operand& operator[](ConvolutionOperand which) const { return operands[static_cast<size_t>(which)]; }
};

// Everything that a plan depends on.
std::vector<int64_t> key_of(const Convolution& convolution, bool accumulate) {
  std::vector<int64_t> key{static_cast<int64_t>(convolution.result), convolution.space, convolution.groups, accumulate};
  for (const ConvolutionOperand o : all_operands) {
    const Tensor& view = convolution[o];
    key.insert(key.end(), view.dims, view.dims + view.rank);
    key.insert(key.end(), view.strides, view.strides + view.rank);
  }
  for (const WindowAxis& axis : convolution.axes) key.insert(key.end(), {axis.kernel, axis.stride, axis.dilation, axis.pad});
  return key;
}

Plan make_plan(const Convolution& convolution, bool accumulate) {
  Plan plan, none;
  memory::desc any[3];
  for (const ConvolutionOperand o : all_operands) {
    plan[o].given = described(convolution, o);
    if (plan[o].given.is_zero()) return none;
    any[static_cast<size_t>(o)] = memory::desc(plan[o].given.dims(), memory::data_type::f32, memory::format_tag::any);
  }
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
  const auto direct = dnnl::algorithm::convolution_direct;
  const auto take = [&](const auto& chosen, const memory::desc& large_desc, const memory::desc& small_desc, const memory::desc& weight_desc) {
    plan[large_operand].wanted = large_desc;
    plan[small_operand].wanted = small_desc;
    plan[weight_operand].wanted = weight_desc;
    plan.scratchpad = chosen.scratchpad_desc();
  };
  using Forward = dnnl::convolution_forward;
  const Forward::primitive_desc forward(Forward::desc(dnnl::prop_kind::forward_training, direct, large, weight, small, stride, dilation, pad, behind),
                                        attributes, processor(), true);
  if (!forward) return none;
  switch (convolution.result) {
    case small_operand: {
      take(forward, forward.src_desc(), forward.dst_desc(), forward.weights_desc());
      plan.primitive = Forward(forward);
      break;
    }
    case large_operand: {
      using Backward = dnnl::convolution_backward_data;
      const Backward::primitive_desc chosen(Backward::desc(direct, large, weight, small, stride, dilation, pad, behind), attributes, processor(),
                                            forward, true);
      if (!chosen) return none;
      take(chosen, chosen.diff_src_desc(), chosen.diff_dst_desc(), chosen.weights_desc());
      plan.primitive = Backward(chosen);
      break;
    }
    case weight_operand: {
      using Backward = dnnl::convolution_backward_weights;
      const Backward::primitive_desc chosen(Backward::desc(direct, large, weight, small, stride, dilation, pad, behind), attributes, processor(),
                                            forward, true);
      if (!chosen) return none;
      take(chosen, chosen.src_desc(), chosen.diff_dst_desc(), chosen.diff_weights_desc());
      plan.primitive = Backward(chosen);
      break;
    }
  }

  for (const ConvolutionOperand o : all_operands) {
    const bool is_result = o == convolution.result, adds = is_result && accumulate;
    Operand& operand = plan[o];
    if (operand.given == operand.wanted && !adds) continue;
    dnnl::primitive_attr with_sum;
    dnnl::post_ops sum;
    sum.append_sum();
    if (adds) with_sum.set_post_ops(sum);
    const dnnl::reorder::primitive_desc move(processor(), is_result ? operand.wanted : operand.given, processor(),
                                             is_result ? operand.given : operand.wanted, with_sum, true);
    if (!move) return none;
    operand.move = dnnl::reorder(move);
  }
  return plan;
}

// Kept for the life of the process: a program has few convolutions, and calls them again and again. Ranks may be threads.
const Plan& plan_of(const Convolution& convolution, bool accumulate) {
  static std::mutex mutex;
  static std::map<std::vector<int64_t>, Plan> plans;
  const std::lock_guard lock(mutex);
  const std::vector<int64_t> key = key_of(convolution, accumulate);
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
