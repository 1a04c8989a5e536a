// In place of CUDA's header of this name: bf16, the upper half of a float, rounded to nearest, ties to even.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "cuda_runtime_api.h"

struct __nv_bfloat16_raw {
  unsigned short x;
};

struct __nv_bfloat16 {
  unsigned short __x;

  __nv_bfloat16() = default;
  __nv_bfloat16(__nv_bfloat16_raw raw) : __x(raw.x) {}
  __nv_bfloat16(float value) {
    const auto word = std::bit_cast<uint32_t>(value);
    __x = static_cast<unsigned short>((value != value ? 0x7fff0000u : word + 0x7fffu + (word >> 16 & 1)) >> 16);
  }
  // Rounded once: the float in between is rounded to odd.
  __nv_bfloat16(double value) : __nv_bfloat16(to_odd(value)) {}
  template <class Integer>
  requires std::is_integral_v<Integer> __nv_bfloat16(Integer value) : __nv_bfloat16(static_cast<double>(value)) {}
  operator float() const { return std::bit_cast<float>(uint32_t{__x} << 16); }
  operator __nv_bfloat16_raw() const { return {__x}; }

 private:
  static float to_odd(double value) {
    const auto near = static_cast<float>(value);
    if (value != value || static_cast<double>(near) == value) return near;
    auto word = std::bit_cast<uint32_t>(near);
    const double size = value < 0 ? -value : value, near_size = near < 0 ? -static_cast<double>(near) : static_cast<double>(near);
    if (near_size > size) --word;  // towards zero
    return std::bit_cast<float>(word | 1);
  }
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};

inline __nv_bfloat16 __float2bfloat16(float value) { return value; }
inline __nv_bfloat16 __double2bfloat16(double value) { return value; }
inline float __bfloat162float(__nv_bfloat16 value) { return value; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {x, y}; }
inline float2 __bfloat1622float2(__nv_bfloat162 pair) { return {pair.x, pair.y}; }
