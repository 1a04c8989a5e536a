// From the number of a thread to the elements that it works on: what StridedLoop (strided_loop.h) is on the processor.
//
// The loop is prepared on the host: neighbouring dimensions that all operands step through evenly are joined, divisions by lengths become
// multiplications, and a loop of 2^31 elements or more becomes several, so that the device counts in 32 bits. Offsets are 64 bits, in elements.
#pragma once

#include <cstdint>
#include <type_traits>

#include "sscc_rt/cuda.h"
#include "sscc_rt/small_floats.h"
#include "sscc_rt/strided_loop.h"
#include "sscc_rt/types.h"

namespace sscc::rt {

// Elements that are loaded and stored at once.
template <class T, int n>
struct alignas(sizeof(T) * n) Pack {
  T values[n];
};

// -- division by a number known on the host -------------------------------------------------------------------------------------------------------

// For n < 2^31 and 1 <= divisor < 2^31: n / divisor = n * ceil(2^(31 + l) / divisor) / 2^(31 + l), with 2^(l - 1) < divisor <= 2^l. The rounding adds
// less than n / 2^(31 + l) < 1 / divisor, too little to reach the next integer.
struct Divisor {
  uint32_t divisor = 1, multiplier = 0, shift = 0;

  Divisor() = default;
  explicit Divisor(uint32_t by) : divisor(by) {
    if (by <= 1) return;
    uint32_t log = 1;
    while ((uint64_t{1} << log) < by) ++log;
    shift = log - 1;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << (31 + log)) + by - 1) / by);
  }
  SSCC_HOST_DEVICE uint32_t quotient(uint32_t n) const {
    if (divisor == 1) return n;
#ifdef __CUDA_ARCH__
    return __umulhi(n, multiplier) >> shift;
#else
    return static_cast<uint32_t>(uint64_t{n} * multiplier >> 32) >> shift;
#endif
  }
};

// -- walks ----------------------------------------------------------------------------------------------------------------------------------------

inline constexpr int64_t largest_walk = int64_t{1} << 31;  // elements, exclusive

// Elements are numbered row-major, from 0.
template <int operands>
struct StridedWalk {
  int rank = 1;
  uint32_t count = 0;
  Divisor lengths[max_rank];
  int64_t strides[operands][max_rank] = {};

  StridedWalk() = default;
  // The loop has at least `operands` operands and fewer than largest_walk elements.
  explicit StridedWalk(const StridedLoop& loop) : rank(loop.rank), count(static_cast<uint32_t>(loop.rows() * loop.row_length())) {
    for (int d = 0; d < rank; ++d) {
      lengths[d] = Divisor(static_cast<uint32_t>(loop.dims[d]));
      for (int o = 0; o < operands; ++o) strides[o][d] = loop.strides[o][d];
    }
  }

  // Where an element lies in each operand, from `at` on.
  SSCC_HOST_DEVICE void advance(uint32_t element, int64_t (&at)[operands]) const {
    for (int d = rank - 1; d > 0; --d) {
      const uint32_t rest = lengths[d].quotient(element);
      const int64_t index = element - rest * lengths[d].divisor;
#pragma unroll
      for (int o = 0; o < operands; ++o) at[o] += index * strides[o][d];
      element = rest;
    }
#pragma unroll
    for (int o = 0; o < operands; ++o) at[o] += element * strides[o][0];
  }
};

// Calls launch(piece, base) for loops of at most `most` elements that make up `loop`; operand o of a piece begins base[o] elements further.
template <class Launch>
void for_each_piece(const StridedLoop& loop, const StridedLoop::Offsets& base, const Launch& launch, int64_t most = largest_walk - 1) {
  const int64_t elements = loop.rows() * loop.row_length();
  if (elements == 0) return;
  if (elements <= most) {
    launch(loop, base);
    return;
  }
  // Split the first dimension that is longer than 1: the ones before it add nothing to an offset.
  int d = 0;
  while (loop.dims[d] == 1) ++d;
  StridedLoop first = loop, second = loop;
  first.dims[d] = loop.dims[d] / 2;
  second.dims[d] = loop.dims[d] - first.dims[d];
  StridedLoop::Offsets second_base = base;
  for (int o = 0; o < loop.operands; ++o) second_base[static_cast<size_t>(o)] += first.dims[d] * loop.strides[o][d];
  for_each_piece(first, base, launch, most);
  for_each_piece(second, second_base, launch, most);
}
template <class Launch>
void for_each_piece(const StridedLoop& loop, const Launch& launch) {
  for_each_piece(loop, StridedLoop::Offsets{}, launch);
}

// Whether rows can be walked in steps of `n` elements: every operand lies densely along the row, or (if `may_repeat` has its bit) repeats one
// element, and every step begins where memory is aligned to it. element_bytes[o]: of operand o.
inline bool has_whole_packs(const StridedLoop& loop, const void* const* memory, const int* element_bytes, uint32_t may_repeat, int64_t n) {
  if (loop.row_length() % n != 0) return false;
  for (int o = 0; o < loop.operands; ++o) {
    if (loop.row_stride(o) == 0 && (may_repeat >> o & 1)) continue;
    if (loop.row_stride(o) != 1) return false;
    if (reinterpret_cast<uintptr_t>(memory[o]) % static_cast<uintptr_t>(n * element_bytes[o]) != 0) return false;
    for (int d = 0; d + 1 < loop.rank; ++d)
      if (loop.strides[o][d] % n != 0) return false;
  }
  return true;
}
// The loop over such steps; strides stay in elements.
inline StridedLoop in_packs(StridedLoop loop, int64_t n) {
  const int last = loop.rank - 1;
  loop.dims[last] /= n;
  for (int o = 0; o < loop.operands; ++o) loop.strides[o][last] *= n;
  return loop;
}

inline constexpr int threads_per_block = 256;
inline unsigned blocks_for(int64_t threads) { return static_cast<unsigned>((threads + threads_per_block - 1) / threads_per_block); }

}  // namespace sscc::rt
