// What the kernels of attention share: their arguments, and what masks do to scores.
//
// Scores are seen as tiles of 64 x 64. Before anything else a kernel looks at the mask of each (MaskTile), so that the others know which tiles they may
// leave out, and which have no mask to read. They keep to kernels.h: a tile is left out only where all its weights are 0.
#pragma once

#include "../kernels/attention_loops.h"
#include "dispatch.cuh"

namespace sscc::rt {

inline constexpr uint32_t mask_tile = 64;  // queries and keys
inline constexpr int attention_threads = 128;

inline unsigned blocks_of(int64_t count) {
  if (count >= largest_walk) throw std::logic_error("attention: too many tiles for a launch");
  return static_cast<unsigned>(count);
}

// What is known of a tile's scores from the mask alone.
template <class Real>
struct MaskTile {
  Real highest;  // from tile(): no score is higher. In the map, of masks that are added: nothing that is added is
  int has_effect;
};

// Operands of walks, by role.
struct AtBatch {
  enum { q, k, v, out, dout, dq, dk, dv, sums, mask, map, count };  // map: tiles of the mask, in masks
};
struct AtQuery {
  enum { q, out, dout, dq, sums, mask, count };
};
struct AtKey {
  enum { k, v, dk, dv, mask, count };
};
struct AtSummed {
  enum { q, k, dq, dk, count };
};
struct AtValue {
  enum { v, out, dout, dv, count };
};

template <int operands>
__device__ inline int64_t offset_of(const StridedWalk<operands>& walk, uint32_t element, int operand) {
  int64_t at = 0;
#pragma unroll 1
  for (int d = walk.rank - 1; d > 0; --d) {
    const uint32_t rest = walk.lengths[d].quotient(element);
    at += (element - rest * walk.lengths[d].divisor) * walk.strides[operand][d];
    element = rest;
  }
  return at + element * walk.strides[operand][0];
}

template <class T>
struct AttentionArguments {
  using Real = Arithmetic<T>;
  StridedWalk<AtBatch::count> batch;
  StridedWalk<AtQuery::count> queries;
  StridedWalk<AtKey::count> keys;
  StridedWalk<AtSummed::count> summed;
  StridedWalk<AtValue::count> values;
  T* data[AtBatch::dv + 1];
  Real* log_sums;
  const void *mask, *value;
  DType mask_type, value_type;
  AttentionMask kind;
  Real scale, low, high;

  // In the device's scratch; null: not there.
  MaskTile<Real>* map;              // (masks, tiles of queries, tiles of keys)
  Real *query_norms, *key_norms;    // the largest |q| or |k| of (batch, tiles): what scores to be added to can be
  Real *delta, *factor;             // of (batch, queries): rowsum(dout * out); what weights by log_sums are multiplied with
  Real* lowest;                     // the lowest log_sum of (batch, tiles of queries)
  uint32_t query_tiles, key_tiles;  // of mask_tile

  // An operand at a position of the batch.
  __device__ T* at(int operand, uint32_t b) const { return data[operand] + offset_of(batch, b, operand); }
};

template <class Real>
__device__ inline Real clamped(Real score, Real low, Real high) {
  return score < low ? low : score > high ? high : score;
}

template <class Real>
__device__ inline Real float_at(const void* data, DType type, int64_t at) {
  switch (type) {
    case DType::f64: return static_cast<Real>(static_cast<const double*>(data)[at]);
    case DType::bf16: return static_cast<Real>(static_cast<float>(static_cast<const bf16*>(data)[at]));
    case DType::f16: return static_cast<Real>(static_cast<float>(static_cast<const f16*>(data)[at]));
    default: return static_cast<Real>(static_cast<const float*>(data)[at]);
  }
}

// The mask at a position of the batch.
template <class T>
struct MaskOfBatch {
  using Real = Arithmetic<T>;
  const AttentionArguments<T>& a;
  uint32_t b;
  int64_t base, map_base;
  Real value;

  __device__ MaskOfBatch(const AttentionArguments<T>& arguments, uint32_t at_batch)
      : a(arguments),
        b(at_batch),
        base(offset_of(a.batch, b, AtBatch::mask)),
        map_base(offset_of(a.batch, b, AtBatch::map) * a.query_tiles * a.key_tiles),
        value(replaces() ? float_at<Real>(a.value, a.value_type, 0) : Real(0)) {}

  __device__ bool replaces() const { return a.kind == AttentionMask::replace || a.kind == AttentionMask::keep; }

  // Of the element at `offset` from where the mask of this position begins.
  __device__ bool is_replaced(int64_t offset) const {
    return (static_cast<const uint8_t*>(a.mask)[base + offset] != 0) == (a.kind == AttentionMask::replace);
  }
  __device__ Real added(int64_t offset) const { return float_at<Real>(a.mask, a.mask_type, base + offset); }
  __device__ Real bounded(Real score) const { return clamped(score, a.low, a.high); }

  // Of a tile of mask_tile x mask_tile: no score is higher than `highest`.
  __device__ MaskTile<Real> tile(uint32_t query_tile, uint32_t key_tile) const {
    constexpr Real infinity = std::numeric_limits<Real>::infinity();
    if (a.kind == AttentionMask::none) return {infinity, 0};
    if (!a.map) return {infinity, 1};
    MaskTile<Real> known = a.map[map_base + int64_t{query_tile} * a.key_tiles + key_tile];
    if (known.highest == infinity) return known;
    if (a.kind == AttentionMask::add && known.highest > -infinity) {
      const Real scale = a.scale < 0 ? -a.scale : a.scale;  // and products are rounded
      known.highest += scale * a.query_norms[int64_t{b} * a.query_tiles + query_tile] * a.key_norms[int64_t{b} * a.key_tiles + key_tile] * Real(1.01);
    }
    known.highest = bounded(known.highest);
    return known;
  }
};

struct Largest {
  template <class Real>
  __device__ Real operator()(Real a, Real b) const {
    return b > a ? b : a;
  }
};
struct Smallest {
  template <class Real>
  __device__ Real operator()(Real a, Real b) const {
    return b < a ? b : a;
  }
};

// Whether weights exp(score - base) are all 0 where no score is higher and no base lower. Never where it is not a number.
template <class Real>
__device__ inline bool are_zero(Real highest, Real lowest_base) {
  return highest - lowest_base < lowest_exponent<Real>;
}

// The kernels for tensor cores (attention_tensor_core.cu), for bf16 and f16. Backward: both gradients, after delta and lowest are there.
struct AttentionShape {
  int64_t batches, queries, keys, depth, width;  // depth: of q.k; width: of v
};
// Whether they have a kernel for the shape that this GPU can run.
bool attention_fits_tensor_cores(const AttentionShape& shape, bool backward);
template <class T>
void attention_by_tensor_cores(const AttentionArguments<T>& arguments, const AttentionShape& shape);
template <class T>
void attention_grad_by_tensor_cores(const AttentionArguments<T>& arguments, const AttentionShape& shape);

// The kernels for everything (attention_strided.cu).
template <class T>
void attention_strided(const AttentionArguments<T>& arguments, const AttentionShape& shape);
template <class T>
void attention_grad_strided(const AttentionArguments<T>& arguments, const AttentionShape& shape);

}  // namespace sscc::rt
