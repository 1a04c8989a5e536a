// Attention by tensor cores, for bf16 and f16 (the scheme of FlashAttention-2).
//
// A block keeps a tile of rows in shared memory and meets one tile of columns after the other; while it works on one, the next is copied. A warp owns
// 16 rows (or twice 16), and has their part of the tile of scores in registers: as results of one product they are held just as the next one wants its
// left operand, so scores never leave the registers.
//
//                  rows, kept      columns, in turn     scores            results
//   forward        q               k, v                 q k^T             out += weights v
//   dq             q, dout         k, v                 q k^T, dout v^T   dq += ds k
//   dk, dv         k, v            q, dout              k q^T, v dout^T   dv += weights^T dout, dk += ds^T q
//
// In shared memory a row of `depth` elements is depth / 8 pieces of 16 bytes; piece p of row r lies at p ^ (r % 8), so that 8 rows of one piece, which
// ldmatrix reads at once, lie in different banks. q.k and v are filled with zeros up to `depth`.
#include "attention.cuh"
#include "device.h"
#include "group.cuh"
#include "sscc_rt/cuda_launch.cuh"
#include "tensor_core.cuh"

namespace sscc::rt {
namespace {

constexpr int warps = attention_threads / warp;
constexpr int piece = 8;  // elements of 16 bytes
constexpr float log2_of_e = 1.44269504f, infinity = std::numeric_limits<float>::infinity();

// -- tiles in shared memory -----------------------------------------------------------------------------------------------------------------------

template <int depth, class T>
__device__ T* piece_of(T* tile, int row, int number) {
  return tile + row * depth + ((number ^ (row % 8)) * piece);
}

// Rows [first, first + rows) of an operand, zeros beyond `count` rows and `width` columns.
template <int depth, int rows, class T, int operands>
__device__ void copy_rows(T* tile, const T* from, const StridedWalk<operands>& walk, int operand, uint32_t first, uint32_t width) {
  constexpr int pieces = depth / piece;
  static_assert(rows * pieces % attention_threads == 0);
#pragma unroll 4
  for (int i = threadIdx.x; i < rows * pieces; i += attention_threads) {
    const int row = i / pieces, number = i % pieces;
    const bool is_there = first + row < walk.count && static_cast<uint32_t>(number * piece) < width;
    const T* source = is_there ? from + offset_of(walk, first + row, operand) + number * piece : from;
    copy_async(piece_of<depth>(tile, row, number), source, is_there);
  }
}

// c[m][n] (16 x 8 each) += rows [first + 16 m, ...) of `left` times rows [8 n, ...) of `right`, transposed.
template <int depth, int parts, int columns, class T>
__device__ void multiply_by_rows(float (&c)[parts][columns / 8][4], T* left, int first, T* right) {
  const int lane = threadIdx.x % warp;
#pragma unroll
  for (int k = 0; k < depth / 16; ++k) {
    uint32_t a[parts][4];
#pragma unroll
    for (int m = 0; m < parts; ++m) load_matrices<false>(a[m], piece_of<depth>(left, first + 16 * m + lane % 16, 2 * k + lane / 16));
#pragma unroll
    for (int n = 0; n < columns / 16; ++n) {
      uint32_t b[4];
      load_matrices<false>(b, piece_of<depth>(right, 16 * n + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
#pragma unroll
      for (int m = 0; m < parts; ++m) {
        multiply_accumulate<T>(c[m][2 * n], a[m], b[0], b[1]);
        multiply_accumulate<T>(c[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// What multiply_by_rows gave, as the left operand of the next product: [k] is 16 columns.
template <int parts, int columns>
struct Weights {
  uint32_t a[parts][columns / 16][4];
  // Of the 16 x 8 results n of part m.
  template <class T>
  __device__ void set(int m, int n, const float (&c)[4]) {
    a[m][n / 2][n % 2 * 2] = packed<T>(c[0], c[1]);
    a[m][n / 2][n % 2 * 2 + 1] = packed<T>(c[2], c[3]);
  }
};

// c[m][n] += weights times columns [first_column + 8 n, ...) of `right`.
template <int depth, int parts, int columns, int width, class T>
__device__ void multiply_by_columns(float (&c)[parts][width / 8][4], const Weights<parts, columns>& weights, T* right, int first_column) {
  const int lane = threadIdx.x % warp;
#pragma unroll
  for (int k = 0; k < columns / 16; ++k) {
#pragma unroll
    for (int n = 0; n < width / 16; ++n) {
      uint32_t b[4];
      load_matrices<true>(b, piece_of<depth>(right, 16 * k + lane % 16, first_column / piece + 2 * n + lane / 16));
#pragma unroll
      for (int m = 0; m < parts; ++m) {
        multiply_accumulate<T>(c[m][2 * n], weights.a[m][k], b[0], b[1]);
        multiply_accumulate<T>(c[m][2 * n + 1], weights.a[m][k], b[2], b[3]);
      }
    }
  }
}

// -- masks ----------------------------------------------------------------------------------------------------------------------------------------

// Where a thread's scores lie: part m, 16 x 8 results n, i-th of four.
struct Positions {
  uint32_t first_row, first_column;
  __device__ uint32_t row(int m, int i) const { return first_row + 16 * m + 8 * (i / 2); }
  __device__ uint32_t column(int n, int i) const { return first_column + 8 * n + i % 2; }
};
template <int columns>
__device__ constexpr int number_of(int m, int n, int i) {
  return (m * columns / 8 + n) * 4 + i;
}

// Adds the mask to scores, or replaces them; of which ones bit number_of(m, n, i) is set in the result. Rows and columns: queries and keys or, `of_keys`,
// keys and queries.
template <bool of_keys, int parts, int columns, class T>
__device__ uint64_t apply_mask(float (&s)[parts][columns / 8][4], const MaskOfBatch<T>& mask, const Positions& at) {
  const AttentionArguments<T>& a = mask.a;
  const auto row_offset = [&](uint32_t row) { return of_keys ? offset_of(a.keys, row, AtKey::mask) : offset_of(a.queries, row, AtQuery::mask); };
  const auto column_offset = [&](uint32_t column) {
    return of_keys ? offset_of(a.queries, column, AtQuery::mask) : offset_of(a.keys, column, AtKey::mask);
  };
  const uint32_t row_count = of_keys ? a.keys.count : a.queries.count, column_count = of_keys ? a.queries.count : a.keys.count;
  if (mask.replaces()) {
    static_assert(number_of<columns>(parts, 0, 0) <= 64);
    uint64_t replaced = 0;
#pragma unroll 1
    for (int m = 0; m < parts; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const uint32_t row = at.row(m, 2 * h);
        if (row >= row_count) continue;
        const int64_t offset = row_offset(row);
#pragma unroll 1
        for (int n = 0; n < columns / 8; ++n) {
#pragma unroll
          for (int i = 2 * h; i < 2 * h + 2; ++i) {
            const uint32_t column = at.column(n, i);
            if (column < column_count && mask.is_replaced(offset + column_offset(column))) replaced |= uint64_t{1} << number_of<columns>(m, n, i);
          }
        }
      }
    }
#pragma unroll
    for (int m = 0; m < parts; ++m) {
#pragma unroll
      for (int n = 0; n < columns / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (replaced >> number_of<columns>(m, n, i) & 1) s[m][n][i] = mask.value;
      }
    }
    return replaced;
  }
#pragma unroll
  for (int m = 0; m < parts; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint32_t row = at.row(m, 2 * h);
      if (row >= row_count) continue;
      const int64_t offset = row_offset(row);
#pragma unroll
      for (int n = 0; n < columns / 8; ++n) {
#pragma unroll
        for (int i = 2 * h; i < 2 * h + 2; ++i) {
          const uint32_t column = at.column(n, i);
          if (column < column_count) s[m][n][i] += mask.added(offset + column_offset(column));
        }
      }
    }
  }
  return 0;
}

// visit(score) for all scores of a thread.
template <int parts, int columns, class Visit>
__device__ void for_scores(float (&s)[parts][columns / 8][4], const Visit& visit) {
#pragma unroll
  for (int m = 0; m < parts; ++m) {
#pragma unroll
    for (int n = 0; n < columns / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) visit(s[m][n][i], m, n, i);
    }
  }
}

// scale q.k becomes what softmax reads.
template <bool of_keys, int parts, int columns, class T>
__device__ uint64_t score(float (&s)[parts][columns / 8][4], const MaskOfBatch<T>& mask, bool has_effect, const Positions& at) {
  const AttentionArguments<T>& a = mask.a;
  for_scores<parts, columns>(s, [&](float& x, int, int, int) { x *= a.scale; });
  const uint64_t replaced = has_effect ? apply_mask<of_keys, parts, columns>(s, mask, at) : 0;
  if (a.low > -infinity || a.high < infinity) for_scores<parts, columns>(s, [&](float& x, int, int, int) { x = mask.bounded(x); });
  return replaced;
}

// -- what the four lanes of a row know together ---------------------------------------------------------------------------------------------------

__device__ float largest_of_row(float value) {
  value = max(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return max(value, __shfl_xor_sync(0xffffffffu, value, 2));
}
__device__ float sum_of_row(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

// -- tiles in turn --------------------------------------------------------------------------------------------------------------------------------

// Calls work(tile, stage) for tiles of [0, count) that are wanted(tile), in order; copy(tile, stage) has brought it there. Stages are 0 and 1. Called
// by all threads of a block, which all want the same.
template <class Wanted, class Copy, class Work>
__device__ void for_tiles(uint32_t count, const Wanted& wanted, const Copy& copy, const Work& work) {
  const auto next = [&](uint32_t tile) {
    while (tile < count && !wanted(tile)) ++tile;
    return tile;
  };
  uint32_t tile = next(0);
  int stage = 0;
  if (tile < count) copy(tile, stage);
  commit_copies();
#pragma unroll 1
  while (tile < count) {
    const uint32_t following = next(tile + 1);
    if (following < count) copy(following, stage ^ 1);
    commit_copies();
    wait_for_copies<1>();
    __syncthreads();
    work(tile, stage);
    __syncthreads();  // before its place is used again
    tile = following;
    stage ^= 1;
  }
}

// -- forward --------------------------------------------------------------------------------------------------------------------------------------

// `parts` times 16 rows a warp; tiles of `columns` keys.
template <class T, int depth, int columns, int parts>
__global__ void __launch_bounds__(attention_threads) forward_kernel(const __grid_constant__ AttentionArguments<T> a) {
  constexpr int rows = 16 * parts * warps;
  T* const q = dynamic_shared_memory<T>();
  T* const k = q + rows * depth;
  T* const v = k + 2 * columns * depth;

  // With causal masks the last tiles of queries have the most to do: they begin.
  const uint32_t row_tiles = (a.queries.count + rows - 1) / rows, b = blockIdx.x / row_tiles;
  const uint32_t first_row = (row_tiles - 1 - blockIdx.x % row_tiles) * rows;
  const MaskOfBatch<T> mask(a, b);
  const T *k_of_batch = a.at(AtBatch::k, b), *v_of_batch = a.at(AtBatch::v, b);
  const int lane = threadIdx.x % warp, first_of_warp = threadIdx.x / warp * 16 * parts;

  const uint32_t thread_row = first_row + first_of_warp + lane / 4;
  float largest[parts][2], total[parts][2] = {}, sums[parts][depth / 8][4] = {};
#pragma unroll
  for (int m = 0; m < parts; ++m) largest[m][0] = largest[m][1] = -infinity;

  // What the mask says of a tile of keys, for all rows of the block.
  const auto known_of = [&](uint32_t tile) {
    MaskTile<float> known = mask.tile(first_row / mask_tile, tile * columns / mask_tile);
    if (rows > mask_tile && first_row / mask_tile + 1 < a.query_tiles) {
      const MaskTile<float> below = mask.tile(first_row / mask_tile + 1, tile * columns / mask_tile);
      known.highest = max(known.highest, below.highest);
      known.has_effect |= below.has_effect;
    }
    return known;
  };
  const auto copy = [&](uint32_t tile, int stage) {
    copy_rows<depth, columns>(k + stage * columns * depth, k_of_batch, a.keys, AtKey::k, tile * columns, a.summed.count);
    copy_rows<depth, columns>(v + stage * columns * depth, v_of_batch, a.keys, AtKey::v, tile * columns, a.values.count);
  };
  const auto work = [&](uint32_t tile, int stage) {
    float s[parts][columns / 8][4] = {};
    multiply_by_rows<depth, parts, columns>(s, q, first_of_warp, k + stage * columns * depth);
    const Positions at{thread_row, tile * columns + lane % 4 * 2};
    score<false, parts, columns>(s, mask, known_of(tile).has_effect, at);
    if ((tile + 1) * columns > a.keys.count) {
      for_scores<parts, columns>(s, [&](float& x, int, int n, int i) {
        if (at.column(n, i) >= a.keys.count) x = -infinity;
      });
    }
    Weights<parts, columns> weights;
#pragma unroll
    for (int m = 0; m < parts; ++m) {
      float now[2] = {largest[m][0], largest[m][1]};
#pragma unroll
      for (int n = 0; n < columns / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) now[i / 2] = max(now[i / 2], s[m][n][i]);
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        now[h] = largest_of_row(now[h]);
        const float subtracted = now[h] == -infinity ? 0 : now[h];  // so far all scores are -infinity: weights are 0
        const float factor = exp2_approximate((largest[m][h] - subtracted) * log2_of_e);
        largest[m][h] = now[h];
        float sum = 0;
#pragma unroll
        for (int n = 0; n < columns / 8; ++n) {
#pragma unroll
          for (int i = 2 * h; i < 2 * h + 2; ++i) sum += s[m][n][i] = exp2_approximate((s[m][n][i] - subtracted) * log2_of_e);
        }
        total[m][h] = total[m][h] * factor + sum;
#pragma unroll
        for (int n = 0; n < depth / 8; ++n) {
          sums[m][n][2 * h] *= factor;
          sums[m][n][2 * h + 1] *= factor;
        }
      }
#pragma unroll
      for (int n = 0; n < columns / 8; ++n) weights.template set<T>(m, n, s[m][n]);
    }
    multiply_by_columns<depth, parts, columns, depth>(sums, weights, v + stage * columns * depth, 0);
  };

  copy_rows<depth, rows>(q, a.at(AtBatch::q, b), a.queries, AtQuery::q, first_row, a.summed.count);
  const uint32_t tiles = (a.keys.count + columns - 1) / columns;
  // Tiles that are masked as a whole come last, when it is known whether they can be left out.
  bool has_late = false;
  float lowest = infinity;
#pragma unroll 1
  for (bool late = false;; late = true) {
    for_tiles(
        tiles,
        [&](uint32_t tile) {
          const float highest = known_of(tile).highest;
          if (highest == infinity) return !late;
          has_late |= highest > -infinity;
          return late && highest > -infinity && !are_zero(highest, lowest);
        },
        copy, work);
    if (late || !has_late) break;
#pragma unroll
    for (int m = 0; m < parts; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h)
        if (thread_row + 16 * m + 8 * h < a.queries.count) lowest = min(lowest, largest[m][h]);
    }
    lowest = joined_in_group(lowest, Smallest());
  }
  wait_for_copies<0>();

  T* const out = a.at(AtBatch::out, b);
#pragma unroll
  for (int m = 0; m < parts; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float all = sum_of_row(total[m][h]), factor = 1 / all;  // of a row of -infinity: 0 * infinity
      const uint32_t row = thread_row + 16 * m + 8 * h;
      if (row >= a.queries.count) continue;
      if (a.log_sums && lane % 4 == 0)
        a.log_sums[offset_of(a.batch, b, AtBatch::sums) + offset_of(a.queries, row, AtQuery::sums)] = largest[m][h] + logf(all);
      T* const to = out + offset_of(a.queries, row, AtQuery::out) + lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < depth / 8; ++n) {
        if (static_cast<uint32_t>(8 * n) < a.values.count)
          *reinterpret_cast<uint32_t*>(to + 8 * n) = packed<T>(sums[m][n][2 * h] * factor, sums[m][n][2 * h + 1] * factor);
      }
    }
  }
}

// -- backward -------------------------------------------------------------------------------------------------------------------------------------

// Rows are queries (dq) or keys (dk, dv), 16 a warp. A block makes `width` columns of the gradients, the blocks of blockIdx.y the others.
template <class T, int depth, int columns, int width, bool of_keys>
__global__ void __launch_bounds__(attention_threads) backward_kernel(const __grid_constant__ AttentionArguments<T> a) {
  constexpr int rows = 16 * warps;
  static_assert(rows == mask_tile && mask_tile % columns == 0);
  T* const first_kept = dynamic_shared_memory<T>();  // q or k
  T* const second_kept = first_kept + rows * depth;  // dout or v
  T* const first_met = second_kept + rows * depth;   // k or q
  T* const second_met = first_met + 2 * columns * depth;
  __shared__ float log_sums_met[columns], delta_met[columns], factor_met[columns];  // of queries, where they are columns

  const uint32_t row_tiles = of_keys ? a.key_tiles : a.query_tiles, b = blockIdx.x / row_tiles;
  // The first tiles of keys and the last ones of queries have the most to do under a causal mask.
  const uint32_t row_tile = of_keys ? blockIdx.x % row_tiles : row_tiles - 1 - blockIdx.x % row_tiles, first_row = row_tile * rows;
  const uint32_t row_count = of_keys ? a.keys.count : a.queries.count, column_count = of_keys ? a.queries.count : a.keys.count;
  const int first_column = static_cast<int>(blockIdx.y) * width;  // of the gradients
  const MaskOfBatch<T> mask(a, b);
  const int lane = threadIdx.x % warp, first_of_warp = threadIdx.x / warp * 16;
  const T *q = a.at(AtBatch::q, b), *k = a.at(AtBatch::k, b), *v = a.at(AtBatch::v, b), *dout = a.at(AtBatch::dout, b);
  const float* log_sums = a.log_sums + offset_of(a.batch, b, AtBatch::sums);
  const int64_t first_query = int64_t{b} * a.queries.count;  // of delta and factor

  const uint32_t thread_row = first_row + first_of_warp + lane / 4;
  float log_sum[2] = {infinity, infinity}, delta[2] = {}, total[2] = {};  // where rows are queries
  if constexpr (!of_keys) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint32_t row = thread_row + 8 * h;
      if (row >= row_count) continue;
      log_sum[h] = log_sums[offset_of(a.queries, row, AtQuery::sums)];
      delta[h] = a.delta[first_query + row];
    }
  }
  float first_sums[1][width / 8][4] = {};                 // of dq or dk
  float second_sums[1][of_keys ? width / 8 : 1][4] = {};  // of dv

  const auto known_of = [&](uint32_t tile) {
    const uint32_t other = tile * columns / mask_tile;
    return of_keys ? mask.tile(other, row_tile) : mask.tile(row_tile, other);
  };
  const auto copy = [&](uint32_t tile, int stage) {
    T *const first = first_met + stage * columns * depth, *const second = second_met + stage * columns * depth;
    if constexpr (of_keys) {
      copy_rows<depth, columns>(first, q, a.queries, AtQuery::q, tile * columns, a.summed.count);
      copy_rows<depth, columns>(second, dout, a.queries, AtQuery::dout, tile * columns, a.values.count);
    } else {
      copy_rows<depth, columns>(first, k, a.keys, AtKey::k, tile * columns, a.summed.count);
      copy_rows<depth, columns>(second, v, a.keys, AtKey::v, tile * columns, a.values.count);
    }
  };
  const auto work = [&](uint32_t tile, int stage) {
    T *const first = first_met + stage * columns * depth, *const second = second_met + stage * columns * depth;
    if constexpr (of_keys) {
      if (threadIdx.x < columns) {
        const uint32_t query = tile * columns + threadIdx.x;
        const bool is_there = query < a.queries.count;
        log_sums_met[threadIdx.x] = is_there ? log_sums[offset_of(a.queries, query, AtQuery::sums)] : infinity;
        delta_met[threadIdx.x] = is_there ? a.delta[first_query + query] : 0;
        factor_met[threadIdx.x] = is_there ? a.factor[first_query + query] : 0;
      }
      __syncthreads();
    }
    float s[1][columns / 8][4] = {}, dp[1][columns / 8][4] = {};
    multiply_by_rows<depth, 1, columns>(s, first_kept, first_of_warp, first);
    multiply_by_rows<depth, 1, columns>(dp, second_kept, first_of_warp, second);
    const Positions at{thread_row, tile * columns + lane % 4 * 2};
    const uint64_t replaced = score<of_keys, 1, columns>(s, mask, known_of(tile).has_effect, at);
    Weights<1, columns> weights, ds;
#pragma unroll
    for (int n = 0; n < columns / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = 8 * n + lane % 4 * 2 + i % 2;
        float weight = exp2_approximate((s[0][n][i] - (of_keys ? log_sums_met[column] : log_sum[i / 2])) * log2_of_e);
        const bool is_beyond = !of_keys && at.column(n, i) >= a.keys.count;
        if (of_keys) weight *= factor_met[column];
        if (is_beyond) weight = 0;
        if (!of_keys) total[i / 2] += weight;
        s[0][n][i] = weight;
        const float slope = weight * (dp[0][n][i] - (of_keys ? delta_met[column] : delta[i / 2]));
        dp[0][n][i] = is_beyond || (replaced >> number_of<columns>(0, n, i) & 1) ? 0 : slope;
      }
      weights.template set<T>(0, n, s[0][n]);
      ds.template set<T>(0, n, dp[0][n]);
    }
    multiply_by_columns<depth, 1, columns, width>(first_sums, ds, first, first_column);
    if constexpr (of_keys) multiply_by_columns<depth, 1, columns, width>(second_sums, weights, second, first_column);
  };

  if constexpr (of_keys) {
    copy_rows<depth, rows>(first_kept, k, a.keys, AtKey::k, first_row, a.summed.count);
    copy_rows<depth, rows>(second_kept, v, a.keys, AtKey::v, first_row, a.values.count);
  } else {
    copy_rows<depth, rows>(first_kept, q, a.queries, AtQuery::q, first_row, a.summed.count);
    copy_rows<depth, rows>(second_kept, dout, a.queries, AtQuery::dout, first_row, a.values.count);
  }
  const float* lowest = a.lowest + int64_t{b} * a.query_tiles;
  for_tiles((column_count + columns - 1) / columns,
            [&](uint32_t tile) { return !are_zero(known_of(tile).highest, lowest[of_keys ? tile * columns / mask_tile : row_tile]); }, copy, work);
  wait_for_copies<0>();

  T* const first_gradient = a.at(of_keys ? AtBatch::dk : AtBatch::dq, b);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const uint32_t row = thread_row + 8 * h;
    float scale = a.scale;
    if constexpr (!of_keys) {
      // A log_sum of -1e9 (all keys masked) has no digits left for the logarithm of the number of keys: the sum of the weights says what is missing.
      // Of a row of -infinity it is not a number, but nothing of what was replaced reaches q.
      const float sum = sum_of_row(total[h]);
      if (lane % 4 == 0 && row < row_count) a.factor[first_query + row] = 1 / sum;
      if (sum > 0) scale /= sum;
    }
    if (row >= row_count) continue;
    T* const to = first_gradient + (of_keys ? offset_of(a.keys, row, AtKey::dk) : offset_of(a.queries, row, AtQuery::dq)) + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < width / 8; ++n) {
      if (static_cast<uint32_t>(first_column + 8 * n) < a.summed.count)
        *reinterpret_cast<uint32_t*>(to + first_column + 8 * n) = packed<T>(first_sums[0][n][2 * h] * scale, first_sums[0][n][2 * h + 1] * scale);
    }
    if constexpr (of_keys) {
      T* const dv = a.at(AtBatch::dv, b) + offset_of(a.keys, row, AtKey::dv) + lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < width / 8; ++n) {
        if (static_cast<uint32_t>(first_column + 8 * n) < a.values.count)
          *reinterpret_cast<uint32_t*>(dv + first_column + 8 * n) = packed<T>(second_sums[0][n][2 * h], second_sums[0][n][2 * h + 1]);
      }
    }
  }
}

// -- launches -------------------------------------------------------------------------------------------------------------------------------------

template <int depth_, int forward_columns_, int forward_parts_, int backward_columns_, int backward_width_>
struct Tiles {
  static constexpr int depth = depth_;
  static constexpr int forward_columns = forward_columns_, forward_parts = forward_parts_;
  static constexpr int backward_columns = backward_columns_, backward_width = backward_width_;
  static constexpr int64_t forward_bytes = int64_t{2} * depth * (16 * forward_parts * warps + 4 * forward_columns);
  static constexpr int64_t backward_bytes = int64_t{2} * depth * (2 * 16 * warps + 4 * backward_columns);
};

// visit(tiles) for the smallest that have room for the shape; false: there are none.
template <class Visit>
bool with_tiles(const AttentionShape& shape, const Visit& visit) {
  const int64_t depth = std::max(shape.depth, shape.width);
  if (depth <= 64)
    visit(Tiles<64, 64, 2, 64, 64>());
  else if (depth <= 128)
    visit(Tiles<128, 64, 1, 32, 128>());
  else if (depth <= 256)
    visit(Tiles<256, 32, 1, 32, 128>());
  else
    return false;
  return true;
}

template <class Kernel, class Arguments>
void launch_tiles(Kernel kernel, int64_t blocks, int parts, int64_t shared_bytes, const Arguments& arguments) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)), "give a kernel shared memory");
  launch(kernel, dim3(blocks_of(blocks), static_cast<unsigned>(parts)), dim3(attention_threads), static_cast<size_t>(shared_bytes), arguments);
}

}  // namespace

bool attention_fits_tensor_cores(const AttentionShape& shape, bool backward) {
  const auto value_of = [](cudaDeviceAttr attribute) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, attribute, device().ordinal), "ask the GPU for its properties");
    return value;
  };
  if (value_of(cudaDevAttrComputeCapabilityMajor) < 8) return false;
  const int64_t available = value_of(cudaDevAttrMaxSharedMemoryPerBlockOptin) - 1024;  // kernels have some of their own
  bool fits = false;
  return with_tiles(shape, [&](auto tiles) { fits = (backward ? tiles.backward_bytes : tiles.forward_bytes) <= available; }) && fits;
}

template <class T>
void attention_by_tensor_cores(const AttentionArguments<T>& arguments, const AttentionShape& shape) {
  with_tiles(shape, [&](auto t) {
    using Of = decltype(t);
    constexpr int rows = 16 * Of::forward_parts * warps;
    launch_tiles(forward_kernel<T, Of::depth, Of::forward_columns, Of::forward_parts>, shape.batches * ((shape.queries + rows - 1) / rows), 1,
                 Of::forward_bytes, arguments);
  });
}

template <class T>
void attention_grad_by_tensor_cores(const AttentionArguments<T>& arguments, const AttentionShape& shape) {
  with_tiles(shape, [&](auto t) {
    using Of = decltype(t);
    constexpr int parts = Of::depth / Of::backward_width;
    launch_tiles(backward_kernel<T, Of::depth, Of::backward_columns, Of::backward_width, false>, shape.batches * arguments.query_tiles, parts,
                 Of::backward_bytes, arguments);
    launch_tiles(backward_kernel<T, Of::depth, Of::backward_columns, Of::backward_width, true>, shape.batches * arguments.key_tiles, parts,
                 Of::backward_bytes, arguments);
  });
}

template void attention_by_tensor_cores(const AttentionArguments<bf16>&, const AttentionShape&);
template void attention_by_tensor_cores(const AttentionArguments<f16>&, const AttentionShape&);
template void attention_grad_by_tensor_cores(const AttentionArguments<bf16>&, const AttentionShape&);
template void attention_grad_by_tensor_cores(const AttentionArguments<f16>&, const AttentionShape&);

}  // namespace sscc::rt
