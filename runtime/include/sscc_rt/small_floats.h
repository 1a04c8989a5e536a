// bf16 and f16: how values lie in memory. What is computed is float.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "sscc_rt/types.h"

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace sscc::rt {

#ifdef __CUDACC__
using bf16 = __nv_bfloat16;
using f16 = __half;
#else
// The upper half of a float, rounded to nearest, ties to even.
struct bf16 {
  uint16_t bits = 0;
  bf16() = default;
  explicit bf16(float value) {
    const auto word = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = word + 0x7fffu + (word >> 16 & 1);
    bits = static_cast<uint16_t>((value != value ? word | 0x400000u : rounded) >> 16);
  }
  operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
};
// IEEE 754's binary16.
struct f16 {
  _Float16 value = 0;
  f16() = default;
  explicit f16(float from) : value(static_cast<_Float16>(from)) {}
  operator float() const { return static_cast<float>(value); }
};
#endif

template <class T>
inline constexpr bool is_small_float = std::is_same_v<T, bf16> || std::is_same_v<T, f16>;
template <class T>
using Arithmetic = std::conditional_t<is_small_float<T>, float, T>;

}  // namespace sscc::rt
