// A tile of a product of matrices that a block of 16 x 16 threads makes through shared memory, by cores: for operands that lie in no order that a
// library takes. Each thread has every 16th row and column of the tile.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace sscc::rt {

constexpr int tile_side = 64;          // of a tile of the result
constexpr int tile_depth = 16;         // of a sum at a time
constexpr int tile_threads_side = 16;  // threads of a block along a side
constexpr int tile_threads = tile_threads_side * tile_threads_side;
constexpr int tile_each = tile_side / tile_threads_side;

// Row and column of the tile that this thread loads; it stays in them.
__device__ inline uint32_t loaded_in_tile() { return threadIdx.x % tile_side; }
// The i-th row, and column, of the tile that this thread makes.
__device__ inline uint32_t row_in_tile(int i) { return threadIdx.x / tile_threads_side + tile_threads_side * static_cast<uint32_t>(i); }
__device__ inline uint32_t column_in_tile(int j) { return threadIdx.x % tile_threads_side + tile_threads_side * static_cast<uint32_t>(j); }

// sums[i][j] += over k below `count` of left(its ith row, k) right(k, its jth column). load(k, l, r): puts there the factors of what this thread loads;
// they are 0 before. All threads of the block call it.
template <class Real, class Load>
__device__ void add_products(uint32_t count, const Load& load, Real (&sums)[tile_each][tile_each]) {
  __shared__ Real left[tile_depth][tile_side], right[tile_depth][tile_side];
  const uint32_t loaded = loaded_in_tile(), first = threadIdx.x / tile_side;
  constexpr uint32_t step = tile_threads / tile_side;
  for (uint32_t k = 0; k < count; k += tile_depth) {
#pragma unroll 1
    for (uint32_t d = first; d < tile_depth; d += step) {
      Real l = 0, r = 0;
      if (k + d < count) load(k + d, l, r);
      left[d][loaded] = l;
      right[d][loaded] = r;
    }
    __syncthreads();
#pragma unroll 4
    for (int d = 0; d < tile_depth; ++d) {
#pragma unroll
      for (int i = 0; i < tile_each; ++i) {
#pragma unroll
        for (int j = 0; j < tile_each; ++j) sums[i][j] += left[d][row_in_tile(i)] * right[d][column_in_tile(j)];
      }
    }
    __syncthreads();
  }
}

}  // namespace sscc::rt
