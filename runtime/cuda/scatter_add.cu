// The gradient of gather: each row of `out` becomes the sum of the rows of dy that came from it, in the order of the indices, as on the processor.
//
// Pairs (position in out, number of the index) are sorted by position; the sort is stable, so that rows of one position stay in order. Whoever finds
// the first pair of a position adds up its rows:
//
//   indices 7 2 7    ->    (7 0) (2 1) (7 2)    ->    (2 1) (7 0) (7 2)    ->    out[2] += dy[1];  out[7] += dy[0] + dy[2]
//
// Nothing is added by two threads, so results repeat bit by bit. Scratch memory holds the pairs of `chunk` indices; more are taken a chunk after the
// other.
#include <algorithm>
#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "device.h"
#include "dispatch.cuh"
#include "indices.cuh"
#include "sscc_rt/cuda_launch.cuh"
#include "sscc_rt/kernels.h"

namespace sscc::rt {
namespace {

constexpr int64_t chunk = int64_t{1} << 20;

// Pairs before and after the sort, then what the sort needs itself.
struct Scratch {
  uint32_t *positions, *numbers, *sorted_positions, *sorted_numbers;
  void* rest;
  size_t rest_bytes;
  explicit Scratch(std::byte* memory) {
    auto* words = reinterpret_cast<uint32_t*>(memory);
    positions = words;
    numbers = words + chunk;
    sorted_positions = words + 2 * chunk;
    sorted_numbers = words + 3 * chunk;
    rest = words + 4 * chunk;
    rest_bytes = scratch_bytes - 4 * chunk * sizeof(uint32_t);
  }
};

// An index that is elsewhere gets the position after the last one.
__global__ void __launch_bounds__(threads_per_block)
    positions_kernel(const __grid_constant__ StridedWalk<2> walk, Indices indices, IndexedDimension dimension, uint32_t first, uint32_t count,
                     uint32_t* positions, uint32_t* numbers) {
  const uint32_t i = blockIdx.x * threads_per_block + threadIdx.x;
  if (i >= count) return;
  int64_t at[2] = {};
  walk.advance(first + i, at);
  const int64_t position = dimension.position(indices[at[1]]);
  positions[i] = static_cast<uint32_t>(position < 0 ? dimension.piece : position);
  numbers[i] = first + i;
}

// Out: T, or float where T is a small float.
template <class T, class Out>
struct Rows {
  StridedWalk<2> indices;   // dy, indices
  StridedWalk<2> elements;  // dy, out: of one index
  Out* out;
  const T* dy;
  int64_t position_stride;  // of out
  const uint32_t *positions, *numbers;
  uint32_t count, piece;
};

template <class T, class Out>
__global__ void __launch_bounds__(threads_per_block) rows_kernel(const __grid_constant__ Rows<T, Out> a) {
  const uint32_t first = blockIdx.x, position = a.positions[first];
  if (position >= a.piece || (first > 0 && a.positions[first - 1] == position)) return;
  uint32_t end = first + 1, beyond = a.count;  // pairs before `end` have this position, pairs from `beyond` on have not
  while (end < beyond) {
    const uint32_t middle = end + (beyond - end) / 2;
    if (a.positions[middle] == position)
      end = middle + 1;
    else
      beyond = middle;
  }
  for (uint32_t e = blockIdx.y * threads_per_block + threadIdx.x; e < a.elements.count; e += gridDim.y * threads_per_block) {
    int64_t at[2] = {};
    a.elements.advance(e, at);
    Out& to = a.out[at[1] + position * a.position_stride];
    auto sum = static_cast<Arithmetic<T>>(to);
#pragma unroll 8
    for (uint32_t i = first; i < end; ++i) {
      int64_t row[2] = {};
      a.indices.advance(a.numbers[i], row);
      sum += static_cast<Arithmetic<T>>(a.dy[at[0] + row[0]]);
    }
    to = static_cast<Out>(sum);
  }
}

uint32_t count_of(const StridedLoop& loop) {
  const int64_t count = loop.rows() * loop.row_length();
  if (count >= largest_walk) throw std::logic_error("scatter_add: 2^31 indices or elements of a row, or more");
  return static_cast<uint32_t>(count);
}

// Over the dims of dy that are those of the indices.
StridedLoop loop_over_indices(const Tensor& dy, const Tensor& indices, int dim) {
  const int64_t* strides[] = {dy.strides + dim, indices.strides};
  return StridedLoop::make(std::span(indices.dims, static_cast<size_t>(indices.rank)), strides);
}
// Over the others.
StridedLoop loop_over_elements(const Tensor& dy, const Tensor& out, int dim, int index_rank) {
  int64_t dims[max_rank], dy_strides[max_rank], out_strides[max_rank];
  size_t rank = 0;
  for (int d = 0; d < out.rank; ++d) {
    if (d == dim) continue;
    dims[rank] = out.dims[d];
    out_strides[rank] = out.strides[d];
    dy_strides[rank++] = dy.strides[d < dim ? d : d + index_rank - 1];
  }
  const int64_t* strides[] = {dy_strides, out_strides};
  return StridedLoop::make(std::span(dims, rank), strides);
}

}  // namespace

void scatter_add(const Tensor& out, const Tensor& indices, const Tensor& dy, int dim, int64_t index_offset, int64_t length, bool accumulate) {
  expect_type("scatter_add", out.dtype == dy.dtype ? dy.dtype : arithmetic_type(dy.dtype), {out});
  if (!accumulate) fill(out, 0);
  if (dy.elements() == 0) return;
  const StridedLoop index_loop = loop_over_indices(dy, indices, dim), element_loop = loop_over_elements(dy, out, dim, indices.rank);
  const int64_t count = count_of(index_loop), elements = count_of(element_loop);
  const IndexedDimension dimension{index_offset, out.dims[dim], length, device().wrong};
  if (dimension.piece >= largest_walk) throw std::logic_error("scatter_add: a dimension of 2^31 positions or more");
  const StridedWalk<2> index_walk(index_loop);
  Scratch scratch(device().scratch);
  const int bits = std::bit_width(static_cast<uint32_t>(dimension.piece));

  for (int64_t first = 0; first < count; first += chunk) {
    const auto n = static_cast<uint32_t>(std::min(chunk, count - first));
    launch(positions_kernel, blocks_for(n), threads_per_block, 0, index_walk, Indices("scatter_add", indices), dimension,
           static_cast<uint32_t>(first), n, scratch.positions, scratch.numbers);
    size_t bytes = scratch.rest_bytes;
    check(cub::DeviceRadixSort::SortPairs(scratch.rest, bytes, scratch.positions, scratch.sorted_positions, scratch.numbers, scratch.sorted_numbers,
                                          static_cast<int>(n), 0, bits, compute_stream()),
          "sort the indices of scatter_add");
    for_device_number_type("scatter_add", dy.dtype, [&](auto t) {
      using T = decltype(t);
      const auto add_rows = [&](auto* to) {
        using Out = std::remove_reference_t<decltype(*to)>;
        const Rows<T, Out> rows{index_walk,
                                StridedWalk<2>(element_loop),
                                to,
                                static_cast<const T*>(dy.data),
                                out.strides[dim],
                                scratch.sorted_positions,
                                scratch.sorted_numbers,
                                n,
                                static_cast<uint32_t>(dimension.piece)};
        const unsigned columns = std::min(blocks_for(elements), 65535u);
        launch(rows_kernel<T, Out>, dim3(n, columns), threads_per_block, 0, rows);
      };
      if (out.dtype == dy.dtype)
        add_rows(static_cast<T*>(out.data));
      else
        add_rows(static_cast<Arithmetic<T>*>(out.data));
    });
  }
}

}  // namespace sscc::rt
