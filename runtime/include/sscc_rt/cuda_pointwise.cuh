// Fused pointwise functions on the GPU, called as pointwise_loop.h is: one pass over memory, a thread for a few elements. Operands that lie densely
// along rows are loaded and stored 16 bytes at a time; one that is repeated along rows is loaded once.
//
// `function` is a class with a SSCC_HOST_DEVICE operator(), or a lambda that is marked so (nvcc --extended-lambda --expt-relaxed-constexpr). It gets
// bf16 and f16 elements as float: Types<bf16>(), Types<bf16, float>() has the form [] SSCC_HOST_DEVICE(float& out, float in0, float in1).
#pragma once

#include <algorithm>
#include <initializer_list>
#include <span>
#include <utility>

#include "sscc_rt/cuda_launch.cuh"
#include "sscc_rt/cuda_walk.cuh"
#include "sscc_rt/scalar_functions.h"

namespace sscc::rt {
namespace pointwise_detail {

template <int operands>
struct Arguments {
  StridedWalk<operands> walk;
  void* memory[operands];
  uint32_t repeated = 0;  // bit o: operand o has one element for a pack
  bool accumulate = false;
};

// A pack of each type, told apart by number.
template <size_t index, class T>
struct Slot {
  T value;
};
template <class Indices, class... T>
struct Slots;
template <size_t... I, class... T>
struct Slots<std::index_sequence<I...>, T...> : Slot<I, T>... {};
template <size_t index, class T>
__device__ T& at_slot(Slot<index, T>& slot) {
  return slot.value;
}

template <class T, int n>
__device__ Pack<Arithmetic<T>, n> load(const void* memory, int64_t at, bool is_repeated) {
  const T* from = static_cast<const T*>(memory) + at;
  Pack<Arithmetic<T>, n> result;
  if (is_repeated) {
    const auto value = static_cast<Arithmetic<T>>(*from);
#pragma unroll
    for (int i = 0; i < n; ++i) result.values[i] = value;
  } else {
    const auto stored = *reinterpret_cast<const Pack<T, n>*>(from);
#pragma unroll
    for (int i = 0; i < n; ++i) result.values[i] = static_cast<Arithmetic<T>>(stored.values[i]);
  }
  return result;
}

template <class T, int n>
__device__ void store(void* memory, int64_t at, const Pack<Arithmetic<T>, n>& values, bool accumulate) {
  auto* to = reinterpret_cast<Pack<T, n>*>(static_cast<T*>(memory) + at);
  Pack<T, n> result;
  if (accumulate) {
    const Pack<T, n> old = *to;
#pragma unroll
    for (int i = 0; i < n; ++i) result.values[i] = static_cast<T>(static_cast<Arithmetic<T>>(old.values[i]) + values.values[i]);
  } else {
#pragma unroll
    for (int i = 0; i < n; ++i) result.values[i] = static_cast<T>(values.values[i]);
  }
  *to = result;
}

template <int n, class... Out, class... In, class Function, int operands, size_t... O, size_t... I>
__device__ void run(Types<Out...>, Types<In...>, const Arguments<operands>& arguments, const Function& function, std::index_sequence<O...>,
                    std::index_sequence<I...>) {
  constexpr int first_in = sizeof...(Out);
  const uint32_t element = blockIdx.x * threads_per_block + threadIdx.x;
  if (element >= arguments.walk.count) return;
  int64_t at[operands] = {};
  arguments.walk.advance(element, at);
  Slots<std::index_sequence<I...>, Pack<Arithmetic<In>, n>...> in;
  Slots<std::index_sequence<O...>, Pack<Arithmetic<Out>, n>...> out;
  ((at_slot<I>(in) = load<In, n>(arguments.memory[first_in + I], at[first_in + I], arguments.repeated >> (first_in + I) & 1)), ...);
#pragma unroll
  for (int i = 0; i < n; ++i) function(at_slot<O>(out).values[i]..., at_slot<I>(in).values[i]...);
  (store<Out, n>(arguments.memory[O], at[O], at_slot<O>(out), arguments.accumulate), ...);
}

template <int n, class Outs, class Ins, class OutIndices, class InIndices, int operands, class Function>
__global__ void __launch_bounds__(threads_per_block) kernel(const __grid_constant__ Arguments<operands> arguments, const Function function) {
  run<n>(Outs(), Ins(), arguments, function, OutIndices(), InIndices());
}

template <class... T>
constexpr int largest_of(Types<T...>) {
  return static_cast<int>(std::max({sizeof(T)...}));
}

}  // namespace pointwise_detail

// Calls function(out&..., in...) for every element of outs[0]; inputs broadcast against it. `accumulate` adds to what the outputs hold. An output may
// be the very same view as an input.
template <class... Out, class... In, class Function>
void pointwise_loop(Types<Out...>, Types<In...>, std::span<const Tensor> outs, std::span<const Tensor> ins, bool accumulate,
                    const Function& function) {
  namespace detail = pointwise_detail;
  constexpr int out_count = sizeof...(Out), operands = sizeof...(Out) + sizeof...(In);
  static_assert(operands <= max_operands);
  const Tensor& result = outs[0];
  const int64_t* strides[operands];
  int64_t broadcast[sizeof...(In) + 1][max_rank];  // one more: there may be no input
  void* memory[operands];
  for (int i = 0; i < out_count; ++i) {
    strides[i] = outs[static_cast<size_t>(i)].strides;
    memory[i] = outs[static_cast<size_t>(i)].data;
  }
  for (int i = out_count; i < operands; ++i) {
    const Tensor& in = ins[static_cast<size_t>(i - out_count)];
    std::copy_n(BroadcastStrides(in, result).values, max_rank, broadcast[i - out_count]);
    strides[i] = broadcast[i - out_count];
    memory[i] = in.data;
  }
  const StridedLoop whole = StridedLoop::make(std::span(result.dims, static_cast<size_t>(result.rank)), strides);

  constexpr int element_bytes[] = {static_cast<int>(sizeof(Out))..., static_cast<int>(sizeof(In))...};
  constexpr int pack = std::min(8, 16 / detail::largest_of(Types<Out..., In...>()));
  constexpr uint32_t all_inputs = ((uint32_t{1} << operands) - 1) & ~((uint32_t{1} << out_count) - 1);
  for_each_piece(whole, [&](const StridedLoop& loop, const StridedLoop::Offsets& base) {
    detail::Arguments<operands> arguments;
    arguments.accumulate = accumulate;
    for (int o = 0; o < operands; ++o) {
      arguments.memory[o] = static_cast<std::byte*>(memory[o]) + base[static_cast<size_t>(o)] * element_bytes[o];
      if (loop.row_stride(o) == 0) arguments.repeated |= uint32_t{1} << o;
    }
    const auto run_in_packs = [&]<int n>(std::integral_constant<int, n>) {
      arguments.walk = StridedWalk<operands>(n == 1 ? loop : in_packs(loop, n));
      launch(detail::kernel<n, Types<Out...>, Types<In...>, std::index_sequence_for<Out...>, std::index_sequence_for<In...>, operands, Function>,
             blocks_for(arguments.walk.count), threads_per_block, 0, arguments, function);
    };
    if (has_whole_packs(loop, arguments.memory, element_bytes, all_inputs, pack))
      run_in_packs(std::integral_constant<int, pack>());
    else
      run_in_packs(std::integral_constant<int, 1>());
  });
}
template <class... Out, class... In, class Function>
void pointwise_loop(Types<Out...> out_types, Types<In...> in_types, std::initializer_list<Tensor> outs, std::initializer_list<Tensor> ins,
                    bool accumulate, const Function& function) {
  pointwise_loop(out_types, in_types, std::span(outs.begin(), outs.size()), std::span(ins.begin(), ins.size()), accumulate, function);
}

}  // namespace sscc::rt
