// The functions of pointwise operators (the table SSCC_SCALAR_FUNCTIONS of types.h), for C++ and CUDA C++.
//
// Every function is a template of its result's type, written so that a loop over it becomes vector code: no branches, no calls. The float versions
// of exp, tanh and erf are our own polynomials (about 1 ulp), so that results are the same on every machine and in every loop; other types use the
// library's.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "sscc_rt/types.h"

#define SSCC_INLINE SSCC_HOST_DEVICE inline

namespace sscc::rt::scalar {

// -- elementary functions -------------------------------------------------------------------------------------------------------------------------

// 2^n for n in [-126, 127].
SSCC_INLINE float power_of_two(int32_t n) { return std::bit_cast<float>((n + 127) << 23); }

// exp(x) = 2^n exp(r) with |r| <= ln(2)/2, exp(r) as a polynomial of degree 7; the scaling is done in two steps so that results may be subnormal.
SSCC_INLINE float exp_of(float x) {
  const float bounded = x < -104.0f ? -104.0f : x > 89.0f ? 89.0f : x;
  const float n = std::floor(bounded * 1.44269504f + 0.5f);
  const float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691e-4f;
  p = p * r + 1.3981999e-3f;
  p = p * r + 8.3334519e-3f;
  p = p * r + 4.1665796e-2f;
  p = p * r + 1.6666665e-1f;
  p = p * r + 5.0000001e-1f;
  p = p * r * r + r + 1.0f;
  const auto whole = static_cast<int32_t>(n);
  const int32_t half = whole >> 1;
  const float result = p * power_of_two(half) * power_of_two(whole - half);
  return x != x ? x : x > 88.7228394f ? std::numeric_limits<float>::infinity() : result;
}
template <class T>
SSCC_INLINE T exp_of(T x) {
  return std::exp(x);
}

// tanh(x): an odd polynomial near 0, 1 - 2 / (exp(2x) + 1) elsewhere.
SSCC_INLINE float tanh_of(float x) {
  const float a = std::fabs(x);
  const float s = x * x;
  float p = -5.70498872745e-3f;
  p = p * s + 2.06390887954e-2f;
  p = p * s - 5.37397155531e-2f;
  p = p * s + 1.33314422036e-1f;
  p = p * s - 3.33332819422e-1f;
  const float near = std::copysign(p * s * a + a, x);
  const float far = std::copysign(1.0f - 2.0f / (exp_of(a + a) + 1.0f), x);
  return x != x ? x : a < 0.625f ? near : far;
}
template <class T>
SSCC_INLINE T tanh_of(T x) {
  return std::tanh(x);
}

// erf(x): an odd polynomial near 0, 1 - exp(-polynomial) elsewhere.
SSCC_INLINE float erf_of(float x) {
  const float a = std::fabs(x);
  const float s = x * x;
  float near = -5.96761703e-4f;
  near = near * s + 4.99119423e-3f;
  near = near * s - 2.67681349e-2f;
  near = near * s + 1.12819925e-1f;
  near = near * s - 3.76125336e-1f;
  near = near * s + 1.28379166e-1f;
  near = near * x + x;
  const float b = a < 4.0f ? a : 4.0f;
  const float t = b * b;
  float far = -1.72853470e-5f * b + 3.83197126e-4f;
  far = far * t + (-3.88396438e-3f * b + 2.42546219e-2f);
  far = far * b - 1.06777877e-1f;
  far = far * b - 6.34846687e-1f;
  far = far * b - 1.28717512e-1f;
  far = far * b - b;
  far = std::copysign(1.0f - exp_of(far), x);
  return x != x ? x : a > 0.927734375f ? far : near;
}
template <class T>
SSCC_INLINE T erf_of(T x) {
  return std::erf(x);
}

// -- one operand ----------------------------------------------------------------------------------------------------------------------------------

template <class T, class A>
SSCC_INLINE T identity(A a) {
  if constexpr (std::is_same_v<T, bool>)
    return a != A(0);
  else
    return static_cast<T>(a);
}
template <class T>
SSCC_INLINE T neg(T a) {
  return -a;
}
template <class T>
SSCC_INLINE T abs(T a) {
  return a < T(0) ? -a : a;
}
template <class T>
SSCC_INLINE T sign(T a) {
  return T(a > T(0)) - T(a < T(0));
}
template <class T>
SSCC_INLINE T exp(T a) {
  return exp_of(a);
}
template <class T>
SSCC_INLINE T log(T a) {
  return std::log(a);
}
template <class T>
SSCC_INLINE T sqrt(T a) {
  return std::sqrt(a);
}
template <class T>
SSCC_INLINE T rsqrt(T a) {
  return T(1) / std::sqrt(a);
}
template <class T>
SSCC_INLINE T reciprocal(T a) {
  return T(1) / a;
}
template <class T>
SSCC_INLINE T square(T a) {
  return a * a;
}
template <class T>
SSCC_INLINE T tanh(T a) {
  return tanh_of(a);
}
template <class T>
SSCC_INLINE T erf(T a) {
  return erf_of(a);
}
template <class T>
SSCC_INLINE T sigmoid(T a) {
  return T(1) / (T(1) + exp_of(-a));
}
template <class T>
SSCC_INLINE T softplus(T a) {
  return (a > T(0) ? a : T(0)) + std::log1p(exp_of(a > T(0) ? -a : a));
}
template <class T>
SSCC_INLINE T relu(T a) {
  return a > T(0) ? a : a != a ? a : T(0);
}
template <class T>
SSCC_INLINE T leaky_relu(T a, double slope) {
  return a > T(0) ? a : static_cast<T>(slope) * a;
}
template <class T>
SSCC_INLINE T gelu_erf(T a) {
  return T(0.5) * a * (T(1) + erf_of(a * T(0.70710678118654752440)));
}
template <class T>
SSCC_INLINE T gelu_tanh(T a) {
  return T(0.5) * a * (T(1) + tanh_of(T(0.79788456080286535588) * (a + T(0.044715) * a * a * a)));
}
template <class T>
SSCC_INLINE T sin(T a) {
  return std::sin(a);
}
template <class T>
SSCC_INLINE T cos(T a) {
  return std::cos(a);
}
template <class T>
SSCC_INLINE T floor(T a) {
  return std::floor(a);
}
template <class T>
SSCC_INLINE T ceil(T a) {
  return std::ceil(a);
}
template <class T>
SSCC_INLINE T round(T a) {
  return std::nearbyint(a);
}  // halves to even
template <class T>
SSCC_INLINE T clip(T a, double low, double high) {
  return a < static_cast<T>(low) ? static_cast<T>(low) : a > static_cast<T>(high) ? static_cast<T>(high) : a;
}
template <class T>
SSCC_INLINE T scale_shift(T a, double scale, double shift) {
  return static_cast<T>(scale) * a + static_cast<T>(shift);
}
template <class T>
SSCC_INLINE T pow_scalar(T a, double exponent) {
  return static_cast<T>(std::pow(a, static_cast<T>(exponent)));
}
template <class T>
SSCC_INLINE T logical_not(bool a) {
  return !a;
}
template <class T, class A>
SSCC_INLINE T equal_scalar(A a, double value) {
  return a == static_cast<A>(value);
}
template <class T, class A>
SSCC_INLINE T not_equal_scalar(A a, double value) {
  return a != static_cast<A>(value);
}

// -- two operands ---------------------------------------------------------------------------------------------------------------------------------

template <class T>
SSCC_INLINE T add(T a, T b) {
  return a + b;
}
template <class T>
SSCC_INLINE T sub(T a, T b) {
  return a - b;
}
template <class T>
SSCC_INLINE T mul(T a, T b) {
  return a * b;
}
template <class T>
SSCC_INLINE T div(T a, T b) {
  return a / b;
}
template <class T>
SSCC_INLINE T pow(T a, T b) {
  return static_cast<T>(std::pow(a, b));
}
template <class T>
SSCC_INLINE T max(T a, T b) {
  return a > b || a != a ? a : b;
}
template <class T>
SSCC_INLINE T min(T a, T b) {
  return a < b || a != a ? a : b;
}
template <class T>
SSCC_INLINE T mod(T a, T b) {  // the sign of b, as ONNX's Mod with fmod = 0
  if constexpr (std::is_floating_point_v<T>) {
    return std::fmod(a, b);
  } else {
    const T r = static_cast<T>(a % b);
    return r != 0 && ((r < 0) != (b < 0)) ? static_cast<T>(r + b) : r;
  }
}
template <class T, class A>
SSCC_INLINE T equal(A a, A b) {
  return a == b;
}
template <class T, class A>
SSCC_INLINE T less(A a, A b) {
  return a < b;
}
template <class T, class A>
SSCC_INLINE T less_equal(A a, A b) {
  return a <= b;
}
template <class T, class A>
SSCC_INLINE T greater(A a, A b) {
  return a > b;
}
template <class T, class A>
SSCC_INLINE T greater_equal(A a, A b) {
  return a >= b;
}
template <class T>
SSCC_INLINE T logical_and(bool a, bool b) {
  return a & b;
}
template <class T>
SSCC_INLINE T logical_or(bool a, bool b) {
  return a | b;
}
template <class T>
SSCC_INLINE T exp_sub(T a, T b) {
  return exp_of(static_cast<T>(a - b));
}

// -- gradients ------------------------------------------------------------------------------------------------------------------------------------

template <class T>
SSCC_INLINE T tanh_grad(T y, T dy) {
  return dy * (T(1) - y * y);
}
template <class T>
SSCC_INLINE T sigmoid_grad(T y, T dy) {
  return dy * y * (T(1) - y);
}
template <class T>
SSCC_INLINE T relu_grad(T y, T dy) {
  return y > T(0) ? dy : T(0);
}
template <class T>
SSCC_INLINE T sqrt_grad(T y, T dy) {
  return dy / (T(2) * y);
}
template <class T>
SSCC_INLINE T leaky_relu_grad(T x, T dy, double slope) {
  return x > T(0) ? dy : static_cast<T>(slope) * dy;
}
template <class T>
SSCC_INLINE T gelu_erf_grad(T x, T dy) {
  const T cdf = T(0.5) * (T(1) + erf_of(x * T(0.70710678118654752440)));
  const T pdf = T(0.39894228040143267794) * exp_of(T(-0.5) * x * x);
  return dy * (cdf + x * pdf);
}
template <class T>
SSCC_INLINE T gelu_tanh_grad(T x, T dy) {
  const T c = T(0.79788456080286535588);
  const T t = tanh_of(c * (x + T(0.044715) * x * x * x));
  const T slope = c * (T(1) + T(3 * 0.044715) * x * x);
  return dy * (T(0.5) * (T(1) + t) + T(0.5) * x * (T(1) - t * t) * slope);
}
template <class T>
SSCC_INLINE T erf_grad(T x, T dy) {
  return dy * T(1.12837916709551257390) * exp_of(-x * x);
}
template <class T>
SSCC_INLINE T abs_grad(T x, T dy) {
  return dy * sign(x);
}
template <class T>
SSCC_INLINE T clip_grad(T x, T dy, double low, double high) {
  return x >= static_cast<T>(low) && x <= static_cast<T>(high) ? dy : T(0);
}
template <class T>
SSCC_INLINE T softplus_grad(T x, T dy) {
  return dy * sigmoid(x);
}
template <class T>
SSCC_INLINE T pow_scalar_grad(T x, T dy, double exponent) {
  return dy * static_cast<T>(exponent) * static_cast<T>(std::pow(x, static_cast<T>(exponent - 1)));
}

// -- three operands -------------------------------------------------------------------------------------------------------------------------------

template <class T>
SSCC_INLINE T where(bool condition, T a, T b) {
  return condition ? a : b;
}
template <class T>
SSCC_INLINE T mul_add(T a, T b, T c) {
  return a * b + c;
}
template <class T>
SSCC_INLINE T max_grad(T a, T b, T dy) {
  return a >= b ? dy : T(0);
}
template <class T>
SSCC_INLINE T token_loss(T lse, T picked, int64_t label, double ignored) {
  return label == static_cast<int64_t>(ignored) ? T(0) : lse - picked;
}

}  // namespace sscc::rt::scalar

namespace sscc::rt {

// How many of alpha and beta a function takes, after its operands.
constexpr int constants_of(Scalar function) {
  switch (function) {
    case Scalar::clip:
    case Scalar::scale_shift:
    case Scalar::clip_grad: return 2;
    case Scalar::leaky_relu:
    case Scalar::leaky_relu_grad:
    case Scalar::pow_scalar:
    case Scalar::pow_scalar_grad:
    case Scalar::equal_scalar:
    case Scalar::not_equal_scalar:
    case Scalar::token_loss: return 1;
    default: return 0;
  }
}

// Functions whose operands have one type and whose result is a truth value.
constexpr bool is_comparison(Scalar function) {
  switch (function) {
    case Scalar::equal:
    case Scalar::less:
    case Scalar::less_equal:
    case Scalar::greater:
    case Scalar::greater_equal:
    case Scalar::equal_scalar:
    case Scalar::not_equal_scalar: return true;
    default: return false;
  }
}

// Functions of real numbers; other types are a bug of whoever made the step.
constexpr bool is_real(Scalar function) {
  switch (function) {
    case Scalar::exp:
    case Scalar::log:
    case Scalar::sqrt:
    case Scalar::rsqrt:
    case Scalar::reciprocal:
    case Scalar::tanh:
    case Scalar::erf:
    case Scalar::sigmoid:
    case Scalar::softplus:
    case Scalar::leaky_relu:
    case Scalar::gelu_erf:
    case Scalar::gelu_tanh:
    case Scalar::sin:
    case Scalar::cos:
    case Scalar::floor:
    case Scalar::ceil:
    case Scalar::round:
    case Scalar::tanh_grad:
    case Scalar::sigmoid_grad:
    case Scalar::relu_grad:
    case Scalar::leaky_relu_grad:
    case Scalar::gelu_erf_grad:
    case Scalar::gelu_tanh_grad:
    case Scalar::erf_grad:
    case Scalar::abs_grad:
    case Scalar::clip_grad:
    case Scalar::softplus_grad:
    case Scalar::pow_scalar_grad:
    case Scalar::sqrt_grad:
    case Scalar::max_grad:
    case Scalar::exp_sub:
    case Scalar::token_loss: return true;
    default: return false;
  }
}
constexpr bool is_logical(Scalar function) {
  return function == Scalar::logical_not || function == Scalar::logical_and || function == Scalar::logical_or;
}

// The type in which operand `index` of a step is read; `first`: the type of its first argument.
constexpr DType operand_type(Scalar function, int index, DType result, DType first) {
  switch (function) {
    case Scalar::logical_not:
    case Scalar::logical_and:
    case Scalar::logical_or: return DType::b1;
    case Scalar::where: return index == 0 ? DType::b1 : result;
    case Scalar::token_loss: return index == 2 ? DType::i64 : result;
    case Scalar::identity: return arithmetic_type(first);
    default: return is_comparison(function) ? arithmetic_type(first) : result;
  }
}

}  // namespace sscc::rt
