// Reductions. If the joined elements of a result lie together, a warp or a block makes it; if the results' elements lie together, each thread joins
// for one of them, so that a warp reads rows. Where there are few results, each is made in slices by several groups, whose partial results lie in
// scratch memory until a second kernel joins them in order. How many slices depends on shapes alone.
//
// Sums are kept in double (f32, f64), float (bf16, f16) or int64_t. What is joined of bf16 or f16 is written as that, or as float.
#include <algorithm>
#include <limits>

#include "../kernels/reduction.h"
#include "device.h"
#include "dispatch.cuh"
#include "group.cuh"
#include "joins.cuh"
#include "sscc_rt/cuda_launch.cuh"
#include "sscc_rt/kernels.h"
#include "sscc_rt/scalar_functions.h"

namespace sscc::rt {
namespace {

// -- joins: a state, how a value enters it, how two become one, what is written -------------------------------------------------------------------

template <class T>
struct SumJoin {
  using State = Sum<T>;
  double scale;
  __device__ State identity() const { return 0; }
  __device__ State enter(State state, T value) const { return state + static_cast<State>(value); }
  __device__ State operator()(State a, State b) const { return a + b; }
  __device__ Arithmetic<T> finish(State state) const {
    return static_cast<Arithmetic<T>>(scale == 1 ? static_cast<double>(state) : static_cast<double>(state) * scale);
  }
  __device__ Arithmetic<T> add(Arithmetic<T> old, Arithmetic<T> value) const { return old + value; }
};

template <class T>
struct ExtremeJoin {
  using State = Arithmetic<T>;
  bool is_max;
  double scale;
  static constexpr State low() {
    if constexpr (std::numeric_limits<State>::has_infinity)
      return -std::numeric_limits<State>::infinity();
    else
      return std::numeric_limits<State>::lowest();
  }
  static constexpr State high() {
    if constexpr (std::numeric_limits<State>::has_infinity)
      return std::numeric_limits<State>::infinity();
    else
      return std::numeric_limits<State>::max();
  }
  __device__ State identity() const { return is_max ? low() : high(); }
  __device__ State enter(State state, T value) const { return (*this)(state, static_cast<State>(value)); }
  __device__ State operator()(State a, State b) const { return is_max ? scalar::max<State>(a, b) : scalar::min<State>(a, b); }
  __device__ State finish(State state) const { return scale == 1 ? state : static_cast<State>(static_cast<double>(state) * scale); }
  __device__ State add(State old, State value) const { return (*this)(old, value); }
};

// -- kernels --------------------------------------------------------------------------------------------------------------------------------------

template <class T, class Rule>
struct Arguments {
  StridedWalk<2> kept;     // out, in
  StridedWalk<1> reduced;  // in
  void* out;
  const T* in;
  Rule rule;
  bool accumulate;
  bool widens;  // T is a small float, and `out` float
  // Result r of slice s is partial[s * results + r]; null: there is one slice, and its results are written to `out`.
  typename Rule::State* partial;
  uint32_t slice_length;  // reduced elements
};

template <class T, class Rule>
__device__ void write(const Arguments<T, Rule>& a, int64_t at, typename Rule::State state) {
  const Arithmetic<T> value = a.rule.finish(state);
  const auto put = [&](auto& to) {
    to = static_cast<std::remove_reference_t<decltype(to)>>(a.accumulate ? a.rule.add(static_cast<Arithmetic<T>>(to), value) : value);
  };
  if (is_small_float<T> && a.widens)
    put(static_cast<Arithmetic<T>*>(a.out)[at]);
  else
    put(static_cast<T*>(a.out)[at]);
}

template <class T, class Rule>
__device__ void write_slice(const Arguments<T, Rule>& a, uint32_t result, int64_t at, typename Rule::State state) {
  if (a.partial)
    a.partial[int64_t{blockIdx.y} * a.kept.count + result] = state;
  else
    write(a, at, state);
}

template <class T, class Rule>
__device__ typename Rule::State joined(const Arguments<T, Rule>& a, const T* from, uint32_t begin, uint32_t end, uint32_t step) {
  typename Rule::State state = a.rule.identity();
  if (a.reduced.rank == 1) {
    // Several loads are under way before the first value is needed.
    constexpr uint32_t ahead = 4;
    const int64_t stride = a.reduced.strides[0][0];
    for (; begin + (ahead - 1) * step < end; begin += ahead * step) {
      T values[ahead];
#pragma unroll
      for (uint32_t j = 0; j < ahead; ++j) values[j] = from[(begin + j * step) * stride];
#pragma unroll
      for (uint32_t j = 0; j < ahead; ++j) state = a.rule.enter(state, values[j]);
    }
  }
#pragma unroll 1
  for (; begin < end; begin += step) {
    int64_t at[1] = {};
    a.reduced.advance(begin, at);
    state = a.rule.enter(state, from[at[0]]);
  }
  return state;
}

// A group for each result of a slice.
template <class T, class Rule>
__global__ void __launch_bounds__(threads_per_block) rows_kernel(const __grid_constant__ Arguments<T, Rule> a) {
  const uint32_t result = row_of_group();
  const uint32_t begin = blockIdx.y * a.slice_length, end = min(begin + a.slice_length, a.reduced.count);
  int64_t at[2] = {};
  a.kept.advance(min(result, a.kept.count - 1), at);  // groups beyond the last join, too: a block meets at barriers
  const auto state = joined_in_group(joined(a, a.in + at[1], begin + threadIdx.x, end, blockDim.x), a.rule);
  if (threadIdx.x == 0 && result < a.kept.count) write_slice(a, result, at[0], state);
}

// A thread for each result of a slice and each `column_lanes`th of its elements.
template <class T, class Rule>
__global__ void __launch_bounds__(warp* column_lanes) columns_kernel(const __grid_constant__ Arguments<T, Rule> a) {
  __shared__ typename Rule::State states[column_lanes][warp];
  const uint32_t result = blockIdx.x * warp + threadIdx.x;
  const uint32_t begin = blockIdx.y * a.slice_length, end = min(begin + a.slice_length, a.reduced.count);
  int64_t at[2] = {};
  a.kept.advance(min(result, a.kept.count - 1), at);
  states[threadIdx.y][threadIdx.x] = joined(a, a.in + at[1], begin + threadIdx.y, end, column_lanes);
  __syncthreads();
  if (threadIdx.y != 0 || result >= a.kept.count) return;
  auto state = states[0][threadIdx.x];
  for (int lane = 1; lane < column_lanes; ++lane) state = a.rule(state, states[lane][threadIdx.x]);
  write_slice(a, result, at[0], state);
}

template <class T, class Rule>
__global__ void __launch_bounds__(threads_per_block) slices_kernel(const __grid_constant__ Arguments<T, Rule> a, uint32_t slices) {
  const uint32_t result = blockIdx.x * threads_per_block + threadIdx.x;
  if (result >= a.kept.count) return;
  auto state = a.partial[result];
  for (uint32_t s = 1; s < slices; ++s) state = a.rule(state, a.partial[int64_t{s} * a.kept.count + result]);
  int64_t at[2] = {};
  a.kept.advance(result, at);
  write(a, at[0], state);
}

// -- launches -------------------------------------------------------------------------------------------------------------------------------------

template <class T, class Rule>
void reduce_piece(Arguments<T, Rule>& a, bool by_columns) {
  const int64_t results = a.kept.count, length = a.reduced.count;
  const int64_t blocks = by_columns ? (results + warp - 1) / warp : results;
  const Slices slices(length, by_columns ? 32 * column_lanes : 16 * threads_per_block, blocks);
  a.slice_length = slices.length;
  a.partial = slices.count > 1 ? reinterpret_cast<typename Rule::State*>(device().scratch) : nullptr;
  if (by_columns) {
    launch(columns_kernel<T, Rule>, dim3(static_cast<unsigned>(blocks), slices.count), dim3(warp, column_lanes), 0, a);
  } else {
    const RowLaunch rows(results, a.slice_length);
    launch(rows_kernel<T, Rule>, dim3(rows.grid.x, slices.count), rows.block, 0, a);
  }
  if (slices.count > 1) launch(slices_kernel<T, Rule>, blocks_for(results), threads_per_block, 0, a, slices.count);
}

template <class T, class Rule>
void reduce_with(const Tensor& out, const Tensor& in, const Reduction& plan, const Rule& rule, bool accumulate) {
  const bool by_columns = plan.kept.row_stride(1) == 1 && plan.kept.row_length() > 1 && plan.reduced.row_stride(0) != 1;
  for_each_piece(plan.reduced, [&](const StridedLoop& reduced, const StridedLoop::Offsets& reduced_base) {
    for_each_piece(plan.kept, [&](const StridedLoop& kept, const StridedLoop::Offsets& kept_base) {
      Arguments<T, Rule> arguments{StridedWalk<2>(kept),
                                   StridedWalk<1>(reduced),
                                   static_cast<std::byte*>(out.data) + kept_base[0] * static_cast<int64_t>(size_of(out.dtype)),
                                   static_cast<const T*>(in.data) + kept_base[1] + reduced_base[0],
                                   rule,
                                   accumulate,
                                   out.dtype != in.dtype,
                                   nullptr,
                                   0};
      reduce_piece(arguments, by_columns);
    });
    accumulate = true;  // what is more than one piece is joined with the first
  });
}

}  // namespace

void reduce(const Tensor& out, const Tensor& in, uint32_t reduced, Join join, double scale, bool accumulate) {
  expect_type("reduce", out.dtype == in.dtype ? in.dtype : arithmetic_type(in.dtype), {out});
  const Reduction plan = reduction_of(out, in, reduced);
  const bool joins_nothing = plan.reduced.rows() * plan.reduced.row_length() == 0;
  if (joins_nothing) {
    if (join != Join::sum && !is_float(out.dtype)) throw std::logic_error("reduce: nothing to join");
    constexpr double infinity = std::numeric_limits<double>::infinity();
    if (!accumulate) fill(out, join == Join::sum ? 0 : join == Join::min ? infinity : -infinity);
    return;
  }
  if (join == Join::logsumexp) {
    for_any_float_type("reduce", in.dtype, [&](auto t) {
      using T = decltype(t);
      reduce_with<T>(out, in, plan, LogSumExpJoin<T>(), accumulate);
    });
    return;
  }
  for_device_number_type("reduce", in.dtype, [&](auto t) {
    using T = decltype(t);
    if (join == Join::sum)
      reduce_with<T>(out, in, plan, SumJoin<T>{scale}, accumulate);
    else
      reduce_with<T>(out, in, plan, ExtremeJoin<T>{join == Join::max, scale}, accumulate);
  });
}

}  // namespace sscc::rt
