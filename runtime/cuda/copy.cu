// Copies move elements as words of their size, or of up to 16 bytes where all rows allow it. Where the source is dense along another dimension than
// the destination, tiles are turned in shared memory, so that both are accessed along rows.
#include <algorithm>
#include <bit>

#include "dispatch.cuh"
#include "sscc_rt/cuda_launch.cuh"
#include "sscc_rt/cuda_pointwise.cuh"
#include "sscc_rt/kernels.h"
#include "words.cuh"

namespace sscc::rt {
namespace {

template <class Word>
__global__ void __launch_bounds__(threads_per_block) copy_kernel(const __grid_constant__ StridedWalk<2> walk, Word* to, const Word* from) {
  const uint32_t element = blockIdx.x * threads_per_block + threadIdx.x;
  if (element >= walk.count) return;
  int64_t at[2] = {};
  walk.advance(element, at);
  to[at[0]] = from[at[1]];
}

template <class Word>
__global__ void __launch_bounds__(threads_per_block) fill_kernel(const __grid_constant__ StridedWalk<1> walk, Word* to, Word value) {
  const uint32_t element = blockIdx.x * threads_per_block + threadIdx.x;
  if (element >= walk.count) return;
  int64_t at[1] = {};
  walk.advance(element, at);
  to[at[0]] = value;
}

// -- turning tiles --------------------------------------------------------------------------------------------------------------------------------

constexpr int tile = 32, tile_rows = 8;

// A matrix of rows x columns: `to` steps by 1 along a row, `from` by 1 along a column. The walk goes over what lies around it.
struct Turn {
  StridedWalk<2> around;
  int64_t rows = 0, columns = 0, to_row = 0, from_column = 0;
  uint32_t row_tiles = 0, column_tiles = 0;
};

template <class Word>
__global__ void __launch_bounds__(tile* tile_rows) turn_kernel(const __grid_constant__ Turn turn, Word* to, const Word* from) {
  __shared__ Word tiles[tile][tile + 1];
  const uint32_t tiles_each = turn.row_tiles * turn.column_tiles;
  const uint32_t matrix = blockIdx.x / tiles_each, rest = blockIdx.x - matrix * tiles_each;
  const int64_t row = int64_t{rest / turn.column_tiles} * tile, column = int64_t{rest % turn.column_tiles} * tile;
  int64_t at[2] = {};
  turn.around.advance(matrix, at);
  for (int i = threadIdx.y; i < tile; i += tile_rows) {
    const int64_t r = row + threadIdx.x, c = column + i;
    if (r < turn.rows && c < turn.columns) tiles[i][threadIdx.x] = from[at[1] + r + c * turn.from_column];
  }
  __syncthreads();
  for (int i = threadIdx.y; i < tile; i += tile_rows) {
    const int64_t r = row + i, c = column + threadIdx.x;
    if (r < turn.rows && c < turn.columns) to[at[0] + r * turn.to_row + c] = tiles[threadIdx.x][i];
  }
}

// Whether the loop (operands: to, from) is one; then `turn` is set.
bool is_turn(const StridedLoop& loop, Turn& turn) {
  const int last = loop.rank - 1;
  if (loop.row_stride(0) != 1 || loop.row_stride(1) == 1 || loop.row_length() < tile / 2) return false;
  int across = -1;
  for (int d = 0; d < last; ++d)
    if (loop.strides[1][d] == 1 && loop.dims[d] >= tile / 2) across = d;
  if (across < 0) return false;
  turn.rows = loop.dims[across];
  turn.columns = loop.row_length();
  turn.to_row = loop.strides[0][across];
  turn.from_column = loop.row_stride(1);
  const int64_t row_tiles = (turn.rows + tile - 1) / tile, column_tiles = (turn.columns + tile - 1) / tile;
  StridedLoop around = loop;
  around.dims[across] = around.dims[last] = 1;
  if (row_tiles * column_tiles * around.rows() >= largest_walk) return false;
  turn.row_tiles = static_cast<uint32_t>(row_tiles);
  turn.column_tiles = static_cast<uint32_t>(column_tiles);
  turn.around = StridedWalk<2>(around);
  return true;
}

// -- copies ---------------------------------------------------------------------------------------------------------------------------------------

StridedLoop loop_over(const Tensor& out, const Tensor& in) {
  const int64_t* strides[] = {out.strides, in.strides};
  return StridedLoop::make(std::span(out.dims, static_cast<size_t>(out.rank)), strides);
}

void copy_words(const Tensor& out, const Tensor& in) {
  const int bytes = static_cast<int>(size_of(out.dtype));
  const StridedLoop whole = loop_over(out, in);
  if (whole.rank == 1 && whole.row_stride(0) == 1 && whole.row_stride(1) == 1) {
    check(cudaMemcpyAsync(out.data, in.data, static_cast<size_t>(whole.row_length() * bytes), cudaMemcpyDefault, compute_stream()),
          "copy");  // one of the two may be the host's
    return;
  }
  Turn turn;
  if (is_turn(whole, turn)) {
    for_word_of(bytes, [&](auto word) {
      using Word = decltype(word);
      launch(turn_kernel<Word>, turn.around.count * turn.row_tiles * turn.column_tiles, dim3(tile, tile_rows), 0, turn, static_cast<Word*>(out.data),
             static_cast<const Word*>(in.data));
    });
    return;
  }
  for_each_piece(whole, [&](const StridedLoop& loop, const StridedLoop::Offsets& base) {
    void* memory[] = {static_cast<std::byte*>(out.data) + base[0] * bytes, static_cast<std::byte*>(in.data) + base[1] * bytes};
    const WideLoop wide = widened(loop, memory, bytes, 0b11);
    const StridedWalk<2> walk(wide.loop);
    for_word_of(wide.word_bytes, [&](auto word) {
      using Word = decltype(word);
      launch(copy_kernel<Word>, blocks_for(walk.count), threads_per_block, 0, walk, static_cast<Word*>(memory[0]),
             static_cast<const Word*>(memory[1]));
    });
  });
}

struct Same {
  template <class T>
  SSCC_HOST_DEVICE void operator()(T& to, T value) const {
    to = value;
  }
};

// -- fill -----------------------------------------------------------------------------------------------------------------------------------------

template <class T>
uint64_t bits_of(T value) {
  if constexpr (sizeof(T) == 1)
    return std::bit_cast<uint8_t>(value);
  else if constexpr (sizeof(T) == 2)
    return std::bit_cast<uint16_t>(value);
  else if constexpr (sizeof(T) == 4)
    return std::bit_cast<uint32_t>(value);
  else
    return std::bit_cast<uint64_t>(value);
}

// `value` as an element, again and again to 8 bytes.
uint64_t pattern_of(DType type, double value) {
  uint64_t bits = 0;
  if (type == DType::bf16)
    bits = static_cast<__nv_bfloat16_raw>(__double2bfloat16(value)).x;
  else if (type == DType::f16)
    bits = static_cast<__half_raw>(__double2half(value)).x;
  else
    for_any_type("fill", type, [&](auto t) { bits = bits_of(static_cast<decltype(t)>(value)); });
  for (size_t bytes = size_of(type); bytes < sizeof bits; bytes *= 2) bits |= bits << (8 * bytes);
  return bits;
}

template <class Word>
Word word_of(uint64_t pattern) {
  if constexpr (sizeof(Word) == 16) {
    const auto low = static_cast<uint32_t>(pattern), high = static_cast<uint32_t>(pattern >> 32);
    return Word{low, high, low, high};
  } else {
    return static_cast<Word>(pattern);
  }
}

}  // namespace

void copy(const Tensor& out, const Tensor& in, bool accumulate) {
  if (out.elements() == 0) return;
  if (out.dtype != in.dtype) {  // floats: one of the two is small
    const bool narrows = is_small(out.dtype);
    expect_type("copy", DType::f32, {narrows ? in : out});
    for_small_float("copy", narrows ? out.dtype : in.dtype, [&](auto t) {
      using T = decltype(t);
      if (narrows)
        pointwise_loop(Types<T>(), Types<float>(), {out}, {in}, accumulate, Same());
      else
        pointwise_loop(Types<float>(), Types<T>(), {out}, {in}, accumulate, Same());
    });
    return;
  }
  if (!accumulate) return copy_words(out, in);
  for_device_number_type("copy", out.dtype, [&](auto t) {
    using T = decltype(t);
    pointwise_loop(Types<T>(), Types<T>(), {out}, {in}, true, Same());
  });
}

void fill(const Tensor& out, double value) {
  const uint64_t pattern = pattern_of(out.dtype, value);
  const int bytes = static_cast<int>(size_of(out.dtype));
  const int64_t* strides[] = {out.strides};
  const StridedLoop whole = StridedLoop::make(std::span(out.dims, static_cast<size_t>(out.rank)), strides);
  if (pattern == 0 && whole.rank == 1 && whole.row_stride(0) == 1) {
    check(cudaMemsetAsync(out.data, 0, static_cast<size_t>(whole.row_length() * bytes), compute_stream()), "fill on the device");
    return;
  }
  for_each_piece(whole, [&](const StridedLoop& loop, const StridedLoop::Offsets& base) {
    void* memory[] = {static_cast<std::byte*>(out.data) + base[0] * bytes};
    const WideLoop wide = widened(loop, memory, bytes, 0b1);
    const StridedWalk<1> walk(wide.loop);
    for_word_of(wide.word_bytes, [&](auto word) {
      using Word = decltype(word);
      launch(fill_kernel<Word>, blocks_for(walk.count), threads_per_block, 0, walk, static_cast<Word*>(memory[0]), word_of<Word>(pattern));
    });
  });
}

void pad(const Tensor& out, const Tensor& in, const int64_t* starts, const int64_t* steps, bool accumulate) {
  if (!accumulate) fill(out, 0);
  Tensor inner = out;
  int64_t offset = 0;
  for (int d = 0; d < out.rank; ++d) {
    offset += starts[d] * out.strides[d];
    inner.dims[d] = in.dims[d];
    inner.strides[d] = steps[d] * out.strides[d];
  }
  inner.data = static_cast<std::byte*>(out.data) + offset * static_cast<int64_t>(size_of(out.dtype));
  copy(inner, in, accumulate);
}

}  // namespace sscc::rt
