// Attention from wherever elements lie, of any type and size. A block of 16 x 16 threads has a tile of 64 rows, and meets tiles of 64 columns; a thread has
// every 16th row and column of the tile of scores. Results are made 64 columns at a time; the blocks of other columns compute the same weights again.
//
// Rows are queries (forward, dq) or keys (dk, dv); as in attention_tensor_core.cu, which is the same for what tensor cores can read.
#include "attention.cuh"
#include "group.cuh"
#include "sscc_rt/cuda_launch.cuh"
#include "sscc_rt/scalar_functions.h"

namespace sscc::rt {
namespace {

constexpr int side = mask_tile;
constexpr int threads_side = 16, threads = threads_side * threads_side;
constexpr int each = side / threads_side;

template <class Real>
struct Shared {
  static constexpr int depth = 64 / sizeof(Real);  // of products at a time
  Real left[depth][side + 1], right[depth][side + 1];
  Real weights[side][side + 1];
};

// A thread's part of a tile.
template <class Real>
using Part = Real[each][each];
__device__ inline int row_of(int i) { return threadIdx.x / threads_side + threads_side * i; }
__device__ inline int column_of(int j) { return threadIdx.x % threads_side + threads_side * j; }

// c = the sum over z of left(row, z) right(column, z).
template <class Real, class Left, class Right>
__device__ void multiply_by_rows(Shared<Real>& shared, Part<Real>& c, uint32_t count, const Left& left, const Right& right) {
  constexpr int depth = Shared<Real>::depth;
#pragma unroll
  for (int i = 0; i < each; ++i) {
#pragma unroll
    for (int j = 0; j < each; ++j) c[i][j] = 0;
  }
  for (uint32_t first = 0; first < count; first += depth) {
#pragma unroll 1
    for (int i = threadIdx.x; i < side * depth; i += threads) {
      const int row = i / depth, d = i % depth;
      const bool is_there = first + d < count;
      shared.left[d][row] = is_there ? left(row, first + d) : Real(0);
      shared.right[d][row] = is_there ? right(row, first + d) : Real(0);
    }
    __syncthreads();
#pragma unroll
    for (int d = 0; d < depth; ++d) {
#pragma unroll
      for (int i = 0; i < each; ++i) {
#pragma unroll
        for (int j = 0; j < each; ++j) c[i][j] += shared.left[d][row_of(i)] * shared.right[d][column_of(j)];
      }
    }
    __syncthreads();
  }
}

// c += weights times columns [first, first + side) of right(column of weights, column of c).
template <class Real, class Right>
__device__ void multiply_by_columns(Shared<Real>& shared, Part<Real>& c, const Part<Real>& weights, uint32_t first, uint32_t width,
                                    const Right& right) {
  constexpr int depth = Shared<Real>::depth;
#pragma unroll
  for (int i = 0; i < each; ++i) {
#pragma unroll
    for (int j = 0; j < each; ++j) shared.weights[row_of(i)][column_of(j)] = weights[i][j];
  }
  for (int begin = 0; begin < side; begin += depth) {
#pragma unroll 1
    for (int i = threadIdx.x; i < depth * side; i += threads) {
      const int d = i / side, column = i % side;
      shared.right[d][column] = first + column < width ? right(begin + d, first + column) : Real(0);
    }
    __syncthreads();
#pragma unroll
    for (int d = 0; d < depth; ++d) {
#pragma unroll
      for (int i = 0; i < each; ++i) {
#pragma unroll
        for (int j = 0; j < each; ++j) c[i][j] += shared.weights[row_of(i)][begin + d] * shared.right[d][column_of(j)];
      }
    }
    __syncthreads();
  }
}

// The score that the mask makes of a scaled product; `replaced`: it no longer depends on it.
template <class T, class Real>
__device__ Real masked(const MaskOfBatch<T>& mask, Real product, int64_t offset, bool& replaced) {
  if (!mask.replaces()) return product + mask.added(offset);
  replaced = mask.is_replaced(offset);
  return replaced ? mask.value : product;
}

// combine(a, b) of a row's threads, for all of them.
template <class Real, class Combine>
__device__ Real joined_in_row(Real value, const Combine& combine) {
#pragma unroll
  for (int distance = threads_side / 2; distance > 0; distance /= 2) value = combine(value, __shfl_xor_sync(0xffffffffu, value, distance));
  return value;
}

// Elements of an operand's rows at a position of the batch, 0 where there is none.
template <class T, int row_operands, int column_operands>
struct Elements {
  const T* base;
  const StridedWalk<row_operands>& rows;
  const StridedWalk<column_operands>& columns;
  int row_operand, column_operand;
  uint32_t first_row;
  __device__ Arithmetic<T> operator()(uint32_t row, uint32_t column) const {
    if (first_row + row >= rows.count) return 0;
    return static_cast<Arithmetic<T>>(base[offset_of(rows, first_row + row, row_operand) + offset_of(columns, column, column_operand)]);
  }
};

template <class T>
__global__ void __launch_bounds__(threads) forward_kernel(const __grid_constant__ AttentionArguments<T> a) {
  using Real = Arithmetic<T>;
  constexpr Real infinity = std::numeric_limits<Real>::infinity();
  __shared__ Shared<Real> shared;
  const uint32_t b = blockIdx.x / a.query_tiles, query_tile = blockIdx.x % a.query_tiles, first_query = query_tile * side;
  const uint32_t first_value = blockIdx.y * side;
  const MaskOfBatch<T> mask(a, b);
  const T *q = a.at(AtBatch::q, b), *k = a.at(AtBatch::k, b), *v = a.at(AtBatch::v, b);
  Part<Real> sums = {};
  Real largest[each], total[each];
#pragma unroll
  for (int i = 0; i < each; ++i) largest[i] = -infinity, total[i] = 0;

  // Tiles that are masked as a whole come last, when it is known whether they can be left out.
  bool has_late = false;
  Real lowest = infinity;
#pragma unroll 1
  for (bool late = false;; late = true) {
#pragma unroll 1
    for (uint32_t key_tile = 0; key_tile < a.key_tiles; ++key_tile) {
      const MaskTile<Real> known = mask.tile(query_tile, key_tile);
      const bool is_late = known.highest != infinity;
      has_late |= is_late && known.highest > -infinity;
      if (is_late != late || (late && (known.highest == -infinity || are_zero(known.highest, lowest)))) continue;
      const uint32_t first_key = key_tile * side;
      Part<Real> s;
      multiply_by_rows(shared, s, a.summed.count, Elements{q, a.queries, a.summed, AtQuery::q, AtSummed::q, first_query},
                       Elements{k, a.keys, a.summed, AtKey::k, AtSummed::k, first_key});
#pragma unroll
      for (int i = 0; i < each; ++i) {
        const uint32_t query = first_query + row_of(i);
        Real now = largest[i];
#pragma unroll
        for (int j = 0; j < each; ++j) {
          const uint32_t key = first_key + column_of(j);
          s[i][j] *= a.scale;
          bool replaced = false;
          if (known.has_effect && query < a.queries.count && key < a.keys.count)
            s[i][j] = masked(mask, s[i][j], offset_of(a.queries, query, AtQuery::mask) + offset_of(a.keys, key, AtKey::mask), replaced);
          s[i][j] = key < a.keys.count ? mask.bounded(s[i][j]) : -infinity;
          now = Largest()(now, s[i][j]);
        }
        now = joined_in_row(now, Largest());
        const Real subtracted = now == -infinity ? Real(0) : now;  // so far all scores are -infinity: weights are 0
        const Real factor = scalar::exp_of(largest[i] - subtracted);
        largest[i] = now;
        total[i] *= factor;
#pragma unroll
        for (int j = 0; j < each; ++j) {
          total[i] += s[i][j] = scalar::exp_of(s[i][j] - subtracted);
          sums[i][j] *= factor;
        }
      }
      multiply_by_columns(shared, sums, s, first_value, a.values.count, Elements{v, a.keys, a.values, AtKey::v, AtValue::v, first_key});
    }
    if (late || !has_late) break;
#pragma unroll
    for (int i = 0; i < each; ++i)
      if (first_query + row_of(i) < a.queries.count) lowest = Smallest()(lowest, largest[i]);
    lowest = joined_in_group(lowest, Smallest());
  }

  T* const out = a.at(AtBatch::out, b);
#pragma unroll
  for (int i = 0; i < each; ++i) {
    const Real all = joined_in_row(total[i], Add()), factor = 1 / all;  // of a row of -infinity: 0 * infinity
    const uint32_t query = first_query + row_of(i);
    if (query >= a.queries.count) continue;
    if (a.log_sums && blockIdx.y == 0 && column_of(0) == 0)
      a.log_sums[offset_of(a.batch, b, AtBatch::sums) + offset_of(a.queries, query, AtQuery::sums)] = largest[i] + log(all);
#pragma unroll
    for (int j = 0; j < each; ++j) {
      const uint32_t w = first_value + column_of(j);
      if (w < a.values.count)
        out[offset_of(a.queries, query, AtQuery::out) + offset_of(a.values, w, AtValue::out)] = static_cast<T>(sums[i][j] * factor);
    }
  }
}

template <class T, bool of_keys>
__global__ void __launch_bounds__(threads) backward_kernel(const __grid_constant__ AttentionArguments<T> a) {
  using Real = Arithmetic<T>;
  __shared__ Shared<Real> shared;
  const uint32_t row_count = of_keys ? a.keys.count : a.queries.count, column_count = of_keys ? a.queries.count : a.keys.count;
  const uint32_t row_tiles = of_keys ? a.key_tiles : a.query_tiles, column_tiles = of_keys ? a.query_tiles : a.key_tiles;
  const uint32_t b = blockIdx.x / row_tiles, row_tile = blockIdx.x % row_tiles, first_row = row_tile * side;
  const uint32_t first_result = blockIdx.y * side;
  const MaskOfBatch<T> mask(a, b);
  const T *q = a.at(AtBatch::q, b), *k = a.at(AtBatch::k, b), *v = a.at(AtBatch::v, b), *dout = a.at(AtBatch::dout, b);
  const Real* log_sums = a.log_sums + offset_of(a.batch, b, AtBatch::sums);
  const Real* lowest = a.lowest + int64_t{b} * a.query_tiles;
  const int64_t first_query = int64_t{b} * a.queries.count;  // of delta and factor
  Part<Real> first_sums = {}, second_sums = {};              // dq or dk; dv
  Real total[each] = {};

#pragma unroll 1
  for (uint32_t column_tile = 0; column_tile < column_tiles; ++column_tile) {
    const uint32_t query_tile = of_keys ? column_tile : row_tile, key_tile = of_keys ? row_tile : column_tile;
    const MaskTile<Real> known = mask.tile(query_tile, key_tile);
    if (are_zero(known.highest, lowest[query_tile])) continue;
    const uint32_t first_column = column_tile * side;
    const Elements of_q{q, a.queries, a.summed, AtQuery::q, AtSummed::q, query_tile * side};
    const Elements of_dout{dout, a.queries, a.values, AtQuery::dout, AtValue::dout, query_tile * side};
    const Elements of_k{k, a.keys, a.summed, AtKey::k, AtSummed::k, key_tile * side};
    const Elements of_v{v, a.keys, a.values, AtKey::v, AtValue::v, key_tile * side};
    Part<Real> s, dp;
    if constexpr (of_keys) {
      multiply_by_rows(shared, s, a.summed.count, of_k, of_q);
      multiply_by_rows(shared, dp, a.values.count, of_v, of_dout);
    } else {
      multiply_by_rows(shared, s, a.summed.count, of_q, of_k);
      multiply_by_rows(shared, dp, a.values.count, of_dout, of_v);
    }
#pragma unroll
    for (int i = 0; i < each; ++i) {
#pragma unroll
      for (int j = 0; j < each; ++j) {
        const uint32_t row = first_row + row_of(i), column = first_column + column_of(j);
        const uint32_t query = of_keys ? column : row, key = of_keys ? row : column;
        Real weight = 0, ds = 0;
        if (row < row_count && column < column_count) {
          bool replaced = false;
          Real score = s[i][j] * a.scale;
          if (known.has_effect)
            score = masked(mask, score, offset_of(a.queries, query, AtQuery::mask) + offset_of(a.keys, key, AtKey::mask), replaced);
          weight = scalar::exp_of(mask.bounded(score) - log_sums[offset_of(a.queries, query, AtQuery::sums)]);
          if (of_keys) weight *= a.factor[first_query + query];
          if (!replaced) ds = weight * (dp[i][j] - a.delta[first_query + query]);
        }
        total[i] += weight;
        s[i][j] = weight;
        dp[i][j] = ds;
      }
    }
    if constexpr (of_keys) {
      multiply_by_columns(shared, first_sums, dp, first_result, a.summed.count, of_q);
      multiply_by_columns(shared, second_sums, s, first_result, a.values.count, of_dout);
    } else {
      multiply_by_columns(shared, first_sums, dp, first_result, a.summed.count, of_k);
    }
  }

#pragma unroll
  for (int i = 0; i < each; ++i) {
    const uint32_t row = first_row + row_of(i);
    Real scale = a.scale;
    if constexpr (!of_keys) {
      // A log_sum of -1e9 (all keys masked) has no digits left for the logarithm of the number of keys: the sum of the weights says what is missing.
      // Of a row of -infinity it is not a number, but nothing of what was replaced reaches q.
      const Real sum = joined_in_row(total[i], Add());
      if (row < row_count && column_of(0) == 0) a.factor[first_query + row] = 1 / sum;
      if (sum > 0) scale /= sum;
    }
    if (row >= row_count) continue;
#pragma unroll
    for (int j = 0; j < each; ++j) {
      const uint32_t column = first_result + column_of(j);
      if constexpr (of_keys) {
        if (column < a.summed.count)
          a.at(AtBatch::dk, b)[offset_of(a.keys, row, AtKey::dk) + offset_of(a.summed, column, AtSummed::dk)] =
              static_cast<T>(first_sums[i][j] * scale);
        if (column < a.values.count)
          a.at(AtBatch::dv, b)[offset_of(a.keys, row, AtKey::dv) + offset_of(a.values, column, AtValue::dv)] = static_cast<T>(second_sums[i][j]);
      } else if (column < a.summed.count) {
        a.at(AtBatch::dq, b)[offset_of(a.queries, row, AtQuery::dq) + offset_of(a.summed, column, AtSummed::dq)] =
            static_cast<T>(first_sums[i][j] * scale);
      }
    }
  }
}

// Blocks for tiles of rows and, beside them, for columns of results.
dim3 grid_of(int64_t tiles, int64_t columns) {
  const int64_t parts = std::max<int64_t>(1, (columns + side - 1) / side);
  if (parts > 65535) throw std::logic_error("attention: too many tiles for a launch");
  return dim3(blocks_of(tiles), static_cast<unsigned>(parts));
}

}  // namespace

template <class T>
void attention_strided(const AttentionArguments<T>& a, const AttentionShape& shape) {
  launch(forward_kernel<T>, grid_of(shape.batches * a.query_tiles, shape.width), dim3(threads), 0, a);
}

template <class T>
void attention_grad_strided(const AttentionArguments<T>& a, const AttentionShape& shape) {
  launch(backward_kernel<T, false>, grid_of(shape.batches * a.query_tiles, shape.depth), dim3(threads), 0, a);
  launch(backward_kernel<T, true>, grid_of(shape.batches * a.key_tiles, std::max(shape.depth, shape.width)), dim3(threads), 0, a);
}

#define SSCC_ATTENTION_STRIDED(T)                                                       \
  template void attention_strided(const AttentionArguments<T>&, const AttentionShape&); \
  template void attention_grad_strided(const AttentionArguments<T>&, const AttentionShape&);
SSCC_ATTENTION_STRIDED(float)
SSCC_ATTENTION_STRIDED(double)
SSCC_ATTENTION_STRIDED(bf16)
SSCC_ATTENTION_STRIDED(f16)
#undef SSCC_ATTENTION_STRIDED

}  // namespace sscc::rt
