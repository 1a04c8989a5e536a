// A reduction walks the kept dimensions and, within, the reduced ones. Whichever has the innermost memory is the vector loop: a row that becomes one
// value, or rows that are joined into a row of values. Sums of floats are kept in double, so that they do not depend on how long a row is.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "dispatch.h"
#include "reduction.h"
#include "sscc_rt/kernels.h"
#include "sscc_rt/scalar_functions.h"
#include "sscc_rt/strided_loop.h"
#include "widened.h"

namespace sscc::rt {
namespace {

template <class T>
using Sum = std::conditional_t<std::is_floating_point_v<T>, double, int64_t>;

// -- joins: an accumulator, how a value enters it, how two become one -----------------------------------------------------------------------------

template <class T>
struct SumJoin {
  using State = Sum<T>;
  static State identity() { return 0; }
  static State enter(State state, T value) { return state + static_cast<State>(value); }
  static State combine(State a, State b) { return a + b; }
  static T finish(State state, double scale) { return static_cast<T>(scale == 1 ? static_cast<double>(state) : static_cast<double>(state) * scale); }
  static T add(T old, T value) { return static_cast<T>(old + value); }
};
template <class T, bool is_max>
struct ExtremeJoin {
  using State = T;
  static State identity() {
    if constexpr (std::is_floating_point_v<T>)
      return is_max ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::infinity();
    else
      return is_max ? std::numeric_limits<T>::lowest() : std::numeric_limits<T>::max();
  }
  static State enter(State state, T value) { return is_max ? scalar::max<T>(state, value) : scalar::min<T>(state, value); }
  static State combine(State a, State b) { return enter(a, b); }
  static T finish(State state, double scale) { return scale == 1 ? state : static_cast<T>(static_cast<double>(state) * scale); }
  static T add(T old, T value) { return enter(old, value); }
};

template <class T>
struct MaxJoin : ExtremeJoin<T, true> {};
template <class T>
struct MinJoin : ExtremeJoin<T, false> {};

template <class T, class Rule>
typename Rule::State join_row(const T* row, int64_t n, int64_t stride) {
  constexpr int64_t lanes = 8;
  typename Rule::State states[lanes];
  std::fill_n(states, lanes, Rule::identity());
  int64_t i = 0;
  if (stride == 1) {
    for (; i + lanes <= n; i += lanes)
      for (int64_t lane = 0; lane < lanes; ++lane) states[lane] = Rule::enter(states[lane], row[i + lane]);
  }
  for (; i < n; ++i) states[0] = Rule::enter(states[0], row[i * stride]);
  for (int64_t step = lanes / 2; step > 0; step /= 2)
    for (int64_t lane = 0; lane < step; ++lane) states[lane] = Rule::combine(states[lane], states[lane + step]);
  return states[0];
}

template <class T, class Rule>
void reduce_with(const Tensor& out, const Tensor& in, const Reduction& plan, double scale, bool accumulate) {
  const T* from = static_cast<const T*>(in.data);
  T* to = static_cast<T*>(out.data);
  const StridedLoop& kept = plan.kept;
  const StridedLoop& reduced = plan.reduced;
  const int64_t out_stride = kept.row_stride(0), in_stride = kept.row_stride(1);
  const auto write = [&](T& place, typename Rule::State state) {
    const T value = Rule::finish(state, scale);
    place = accumulate ? Rule::add(place, value) : value;
  };
  const int64_t work = reduced.rows() * reduced.row_length();
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(work, 1));
  const bool rows_are_kept = in_stride == 1 && reduced.row_stride(0) != 1;
  kept.parallel_for_rows(grain, [&](const auto& offsets, int64_t n) {
    if (!rows_are_kept) {
      for (int64_t i = 0; i < n; ++i) {
        typename Rule::State state = Rule::identity();
        reduced.for_rows(0, reduced.rows(), [&](const auto& at) {
          state = Rule::combine(state, join_row<T, Rule>(from + offsets[1] + i * in_stride + at[0], reduced.row_length(), reduced.row_stride(0)));
        });
        write(to[offsets[0] + i * out_stride], state);
      }
      return;
    }
    constexpr int64_t tile = 256;
    typename Rule::State states[tile];
    for (int64_t begin = 0; begin < n; begin += tile) {
      const int64_t width = std::min(tile, n - begin);
      std::fill_n(states, width, Rule::identity());
      reduced.for_rows(0, reduced.rows(), [&](const auto& at) {
        const T* base = from + offsets[1] + begin + at[0];
        for (int64_t r = 0; r < reduced.row_length(); ++r) {
          const T* row = base + r * reduced.row_stride(0);
          for (int64_t i = 0; i < width; ++i) states[i] = Rule::enter(states[i], row[i]);
        }
      });
      for (int64_t i = 0; i < width; ++i) write(to[offsets[0] + (begin + i) * out_stride], states[i]);
    }
  });
}

// log sum exp, in two passes over each row's elements.
template <class T>
void log_sum_exp(const Tensor& out, const Tensor& in, const Reduction& plan, bool accumulate) {
  const T* from = static_cast<const T*>(in.data);
  T* to = static_cast<T*>(out.data);
  const StridedLoop& reduced = plan.reduced;
  const int64_t length = reduced.row_length(), stride = reduced.row_stride(0);
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(reduced.rows() * length, 1));
  plan.kept.parallel_for_rows(grain, [&](const auto& offsets, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      const T* base = from + offsets[1] + i * plan.kept.row_stride(1);
      T largest = -std::numeric_limits<T>::infinity();
      reduced.for_rows(0, reduced.rows(),
                       [&](const auto& at) { largest = scalar::max<T>(largest, join_row<T, MaxJoin<T>>(base + at[0], length, stride)); });
      T& place = to[offsets[0] + i * plan.kept.row_stride(0)];
      T result = largest;  // infinite or not a number: so is the result
      if (std::isfinite(largest)) {
        double sum = 0;
        reduced.for_rows(0, reduced.rows(), [&](const auto& at) {
          const T* row = base + at[0];
          constexpr int64_t tile = 256;
          T values[tile];
          for (int64_t begin = 0; begin < length; begin += tile) {
            const int64_t width = std::min(tile, length - begin);
            if (stride == 1) {
#pragma omp simd
              for (int64_t j = 0; j < width; ++j) values[j] = scalar::exp_of(row[begin + j] - largest);
            } else {
              for (int64_t j = 0; j < width; ++j) values[j] = scalar::exp_of(row[(begin + j) * stride] - largest);
            }
            sum += join_row<T, SumJoin<T>>(values, width, 1);
          }
        });
        result = static_cast<T>(static_cast<double>(largest) + std::log(sum));
      }
      if (accumulate) {
        const T high = std::max(place, result), low = std::min(place, result);
        result = std::isfinite(high) ? high + std::log1p(std::exp(low - high)) : high;
      }
      place = result;
    }
  });
}

}  // namespace

namespace {

template <template <class> class Rule>
void reduce_by(const Tensor& out, const Tensor& in, const Reduction& plan, double scale, bool accumulate) {
  switch (in.dtype) {
    case DType::f32: return reduce_with<float, Rule<float>>(out, in, plan, scale, accumulate);
    case DType::f64: return reduce_with<double, Rule<double>>(out, in, plan, scale, accumulate);
    case DType::i64: return reduce_with<int64_t, Rule<int64_t>>(out, in, plan, scale, accumulate);
    case DType::i32: return reduce_with<int32_t, Rule<int32_t>>(out, in, plan, scale, accumulate);
    default: no_kernel("reduce", in.dtype);
  }
}

}  // namespace

void reduce(const Tensor& out, const Tensor& in, uint32_t reduced, Join join, double scale, bool accumulate) {
  if (is_small(in.dtype)) return widened([&](Wide& wide) { reduce(wide.out(out, accumulate), wide.in(in), reduced, join, scale, accumulate); });
  const Reduction plan = reduction_of(out, in, reduced);
  switch (join) {
    case Join::sum: return reduce_by<SumJoin>(out, in, plan, scale, accumulate);
    case Join::max: return reduce_by<MaxJoin>(out, in, plan, scale, accumulate);
    case Join::min: return reduce_by<MinJoin>(out, in, plan, scale, accumulate);
    case Join::logsumexp: return for_float_type("reduce", in.dtype, [&](auto t) { log_sum_exp<decltype(t)>(out, in, plan, accumulate); });
  }
}

}  // namespace sscc::rt
