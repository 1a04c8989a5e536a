// Joining values of the threads that work on one row together: their group is a warp or a whole block.
//
// A launch with blockDim (32, rows) has a warp for each row, one with (threads, 1) a block. The order of joins depends on nothing but the size of the
// group.
#pragma once

#include <algorithm>
#include <cstring>

#include "sscc_rt/cuda_walk.cuh"

namespace sscc::rt {

inline constexpr int warp = 32;

template <class T>
__device__ T from_lane_below(const T& value, int distance) {
  static_assert(sizeof(T) % 4 == 0 && std::is_trivially_copyable_v<T>);
  int words[sizeof(T) / 4];
  memcpy(words, &value, sizeof value);
#pragma unroll
  for (int& word : words) word = __shfl_down_sync(0xffffffffu, word, distance);
  T result;
  memcpy(&result, words, sizeof result);
  return result;
}

// combine(a, b) of all threads' values, for lane 0.
template <class T, class Combine>
__device__ T joined_in_warp(T value, const Combine& combine) {
#pragma unroll
  for (int distance = warp / 2; distance > 0; distance /= 2) value = combine(value, from_lane_below(value, distance));
  return value;
}

// combine(a, b) of the values of a group, for all its threads. Called by all threads of a block.
template <class T, class Combine>
__device__ T joined_in_group(T value, const Combine& combine) {
  __shared__ T values[warp];  // of a block's warps, each of which is a group or a part of the block's one
  const int lane = threadIdx.x % warp, warps = blockDim.x / warp;
  const int place = warps == 1 ? threadIdx.y : threadIdx.x / warp;
  value = joined_in_warp(value, combine);
  if (lane == 0) values[place] = value;
  __syncthreads();
  T result = values[warps == 1 ? place : 0];
  for (int w = 1; w < warps; ++w) result = combine(result, values[w]);
  __syncthreads();  // before the next call writes
  return result;
}

// body(offsets) for elements begin, begin + step, ... below end. Along a single stride, several elements' loads are under way at once.
template <int operands, class Body>
__device__ void for_elements(const StridedWalk<operands>& walk, uint32_t begin, uint32_t end, uint32_t step, const Body& body) {
  if (walk.rank == 1) {
#pragma unroll 4
    for (uint32_t i = begin; i < end; i += step) {
      int64_t at[operands];
#pragma unroll
      for (int o = 0; o < operands; ++o) at[o] = i * walk.strides[o][0];
      body(at);
    }
  } else {
#pragma unroll 1
    for (uint32_t i = begin; i < end; i += step) {
      int64_t at[operands] = {};
      walk.advance(i, at);
      body(at);
    }
  }
}

struct Add {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

// How rows are given to threads: `length` elements each.
struct RowLaunch {
  dim3 grid, block;
  RowLaunch(int64_t rows, int64_t length) {
    const bool is_short = length <= 1024;
    block = is_short ? dim3(warp, 8) : dim3(threads_per_block, 1);
    grid = dim3(static_cast<unsigned>((rows + block.y - 1) / block.y));
  }
};
__device__ inline uint32_t row_of_group() { return blockIdx.x * blockDim.y + threadIdx.y; }

// Sums over rows, a thread for each column: blocks of (warp, column_lanes) threads.
inline constexpr int column_lanes = 8;

// Where few blocks would join many elements each, the elements are cut into slices, whose partial results a second kernel joins in order.
struct Slices {
  uint32_t length;  // elements
  unsigned count;
  // `blocks`: that make all results of a slice. There are at most 2048 blocks where there is more than one slice.
  Slices(int64_t elements, int64_t shortest, int64_t blocks) {
    constexpr int64_t wanted_blocks = 1024;
    const int64_t most = std::clamp<int64_t>(elements / shortest, 1, (wanted_blocks + blocks - 1) / blocks);
    length = static_cast<uint32_t>((elements + most - 1) / most);
    count = static_cast<unsigned>((elements + length - 1) / length);
  }
};

}  // namespace sscc::rt
