// How values are joined that more than one kernel needs.
#pragma once

#include <limits>

#include "sscc_rt/cuda_walk.cuh"
#include "sscc_rt/scalar_functions.h"

namespace sscc::rt {

// What sums of T are kept in.
template <class T>
using Sum = std::conditional_t<is_small_float<T>, float, std::conditional_t<std::is_floating_point_v<T>, double, int64_t>>;

// log(sum of exp(x)) as the largest x and the sum of exp(x - largest) over finite x.
template <class T, class Total = Sum<T>>
struct LogSumExpJoin {
  using Real = Arithmetic<T>;
  struct State {
    Real largest;
    Total sum;
  };
  __device__ static Real infinity() { return std::numeric_limits<Real>::infinity(); }
  // What exp(x - from) becomes when it is exp(x - to).
  __device__ static Real factor(Real from, Real to) { return from == to ? Real(1) : scalar::exp_of(from - to); }

  __device__ State identity() const { return {-infinity(), 0}; }
  __device__ State enter(State state, T value) const {
    const Real x = static_cast<Real>(value);
    if (x == -infinity()) return state;
    if (x == infinity()) return {x, state.sum};
    if (x > state.largest) return {x, state.sum * factor(state.largest, x) + 1};
    // Not a number is no larger, and makes the sum not a number.
    return {state.largest, state.sum + scalar::exp_of(x - state.largest)};
  }
  __device__ State operator()(State a, State b) const {
    const Real largest = a.largest > b.largest ? a.largest : b.largest;
    return {largest, a.sum * factor(a.largest, largest) + b.sum * factor(b.largest, largest)};
  }
  __device__ Real finish(State state) const {
    if (state.sum != state.sum) return static_cast<Real>(state.sum);
    if (state.largest == infinity() || state.largest == -infinity()) return state.largest;
    return static_cast<Real>(static_cast<Total>(state.largest) + log(state.sum));
  }
  __device__ Real add(Real old, Real value) const {
    const Real high = scalar::max<Real>(old, value), low = scalar::min<Real>(old, value);
    return high - high == 0 ? high + log1p(exp(low - high)) : high;
  }
};

}  // namespace sscc::rt
