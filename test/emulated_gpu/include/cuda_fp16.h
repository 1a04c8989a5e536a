// In place of CUDA's header of this name: IEEE 754's binary16.
#pragma once

#include <bit>
#include <type_traits>

#include "cuda_runtime_api.h"

struct __half_raw {
  unsigned short x;
};

struct __half {
  _Float16 value;

  __half() = default;
  __half(__half_raw raw) : value(std::bit_cast<_Float16>(raw.x)) {}
  __half(float from) : value(static_cast<_Float16>(from)) {}
  __half(double from) : value(static_cast<_Float16>(from)) {}
  template <class Integer>
  requires std::is_integral_v<Integer> __half(Integer from) : value(static_cast<_Float16>(from)) {}
  operator float() const { return static_cast<float>(value); }
  operator __half_raw() const { return {std::bit_cast<unsigned short>(value)}; }
};
struct alignas(4) __half2 {
  __half x, y;
};

inline __half __float2half(float value) { return value; }
inline __half __double2half(double value) { return value; }
inline float __half2float(__half value) { return value; }
inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
inline float2 __half22float2(__half2 pair) { return {pair.x, pair.y}; }
