// Norms. A group is the elements that share a mean: a row of a layer norm, a channel of a batch norm. It is walked in runs, rows of memory as long as
// they can be: a layer norm's group is one run, a batch norm's is one for each sample. A group whose elements do not lie side by side is copied first.
#include <cmath>
#include <type_traits>

#include "dispatch.h"
#include "norm_operands.h"
#include "rows.h"
#include "sscc_rt/kernels.h"
#include "widened.h"

namespace sscc::rt {
namespace {

template <class T>
T* at(const Tensor& view, int64_t offset = 0) {
  return static_cast<T*>(view.data) + offset;
}
template <class T>
constexpr T zero = 0;
template <class T>
constexpr T one = 1;
// Where an operand is left out, all its elements are this one.
template <class T>
const T* at_or(const T& constant, const Tensor& view, int64_t offset) {
  return view.data ? at<T>(view, offset) : &constant;
}

// How the groups of some views, all of x's dims, are walked.
class Groups {
 public:
  // The first `moved` views are read or written run by run, the others (scale, bias) where they lie.
  Groups(uint32_t over, std::vector<Tensor> views, size_t moved) : runs_(loop_over(over, views)) {
    for (size_t i = 0; i < moved; ++i) in_place_ = in_place_ && runs_.row_stride(static_cast<int>(i)) == 1;
    if (in_place_) return;
    for (size_t i = 0; i < moved; ++i) {
      const Tensor group = selected(views[i], over);
      shapes_.emplace_back(group, 0, group.rank);
      int64_t stride = 1;
      for (int d = views[i].rank; d-- > 0;) {
        if ((over >> d & 1) == 0) continue;
        views[i].strides[d] = stride;
        stride *= views[i].dims[d];
      }
    }
    runs_ = loop_over(over, views);
  }

  int64_t elements() const { return runs_.rows() * runs_.row_length(); }
  int64_t run_length() const { return runs_.row_length(); }
  int64_t step(int view) const { return runs_.row_stride(view); }
  // run(offsets), in order.
  template <class Run>
  void for_each_run(const Run& run) const {
    if (runs_.rank == 1) return run(StridedLoop::Offsets{});
    runs_.for_rows(0, runs_.rows(), run);
  }

  // As RowShape's, of the group that begins at `base`.
  template <class T>
  const T* read(size_t view, const T* base, std::vector<T>& scratch) const {
    return in_place_ ? base : shapes_[view].read(base, scratch);
  }
  template <class T>
  T* open(size_t view, T* base, std::vector<T>& scratch) const {
    return in_place_ ? base : shapes_[view].open(base, scratch);
  }
  template <class T>
  void close(size_t view, T* base, const std::vector<T>& scratch) const {
    if (!in_place_) shapes_[view].close(base, scratch);
  }

 private:
  StridedLoop runs_;
  bool in_place_ = true;
  std::vector<RowShape> shapes_;
};

// Calls work(a, b) with steps that the compiler knows, where both are 1 or both are 0: along a run, scale and bias change always or never.
template <class Work>
void with_steps(int64_t a, int64_t b, const Work& work) {
  using Never = std::integral_constant<int64_t, 0>;
  using Always = std::integral_constant<int64_t, 1>;
  if (a == 1 && b == 1) return work(Always(), Always());
  if (a == 0 && b == 0) return work(Never(), Never());
  work(a, b);
}

// Vectors of T add up a chunk; chunks are added up in double, for a group may be a channel of a whole batch.
template <class Work>
void for_each_chunk(int64_t n, const Work& work) {
  constexpr int64_t chunk = 4096;
  for (int64_t begin = 0; begin < n; begin += chunk) work(begin, std::min(begin + chunk, n));
}

template <class T>
void normalize(const Tensor& y, const Tensor& rstd, const Tensor& mean, const Tensor& x, const Tensor& scale, const Tensor& bias, uint32_t over,
               uint32_t along, double epsilon) {
  const Tensor gamma_view = stretched(scale, along, x), beta_view = stretched(bias, along, x);
  const Groups groups(over, {y, x, gamma_view, beta_view}, 2);
  const int64_t n = groups.run_length(), gamma_step = groups.step(2), beta_step = bias.data ? groups.step(3) : gamma_step;
  const auto count = static_cast<double>(groups.elements());
  const StridedLoop kept = loop_over(~over, {y, x, gamma_view, beta_view, stretched(rstd, ~over, x), stretched(mean, ~over, x)});
  for_each_position(kept, groups.elements(), [&](const auto& offset) {
    thread_local std::vector<T> x_scratch, y_scratch;
    const T* from = groups.read(1, at<const T>(x, offset[1]), x_scratch);
    T* to = groups.open(0, at<T>(y, offset[0]), y_scratch);
    double sum = 0, squares = 0;
    if (mean.data) {
      groups.for_each_run([&](const auto& run) {
        const T* in = from + run[1];
        for_each_chunk(n, [&](int64_t begin, int64_t end) {
          T part = 0;
#pragma omp simd reduction(+ : part)
          for (int64_t i = begin; i < end; ++i) part += in[i];
          sum += static_cast<double>(part);
        });
      });
    }
    const T m = static_cast<T>(sum / count);
    groups.for_each_run([&](const auto& run) {
      const T* in = from + run[1];
      for_each_chunk(n, [&](int64_t begin, int64_t end) {
        T part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t i = begin; i < end; ++i) part += (in[i] - m) * (in[i] - m);
        squares += static_cast<double>(part);
      });
    });
    const T r = static_cast<T>(1 / std::sqrt(squares / count + epsilon));
    groups.for_each_run([&](const auto& run) {
      const T* in = from + run[1];
      T* out = to + run[0];
      const T* gamma = at_or(one<T>, scale, offset[2] + run[2]);
      const T* beta = bias.data ? at<T>(bias, offset[3] + run[3]) : nullptr;
      with_steps(gamma_step, beta_step, [&](auto of_gamma, auto of_beta) {
        if (beta) {
#pragma omp simd
          for (int64_t i = 0; i < n; ++i) out[i] = (in[i] - m) * r * gamma[i * of_gamma] + beta[i * of_beta];
        } else {
#pragma omp simd
          for (int64_t i = 0; i < n; ++i) out[i] = (in[i] - m) * r * gamma[i * of_gamma];
        }
      });
    });
    groups.close(0, at<T>(y, offset[0]), y_scratch);
    *at<T>(rstd, offset[4]) = r;
    if (mean.data) *at<T>(mean, offset[5]) = m;
  });
}

// dx = rstd (g - mean(g) - xhat mean(g xhat)), g = dy scale; what is not centred has no mean(g).
template <class T>
void gradient(const Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& rstd, const Tensor& mean, const Tensor& scale, uint32_t over,
              uint32_t along, bool accumulate) {
  const Tensor gamma_view = stretched(scale, along, x);
  const Groups groups(over, {dx, dy, x, gamma_view}, 3);
  const int64_t n = groups.run_length(), gamma_step = groups.step(3);
  const auto count = static_cast<double>(groups.elements());
  const StridedLoop kept = loop_over(~over, {dx, dy, x, gamma_view, stretched(rstd, ~over, x), stretched(mean, ~over, x)});
  for_each_position(kept, groups.elements(), [&](const auto& offset) {
    thread_local std::vector<T> x_scratch, dy_scratch, dx_scratch, old_scratch;
    const T* from = groups.read(2, at<const T>(x, offset[2]), x_scratch);
    const T* from_dy = groups.read(1, at<const T>(dy, offset[1]), dy_scratch);
    const T* old = accumulate ? groups.read(0, at<const T>(dx, offset[0]), old_scratch) : nullptr;
    T* to = groups.open(0, at<T>(dx, offset[0]), dx_scratch);
    const T r = *at<T>(rstd, offset[4]), m = *at_or(zero<T>, mean, offset[5]);
    double sums = 0, dots = 0;
    groups.for_each_run([&](const auto& run) {
      const T *in = from + run[2], *d = from_dy + run[1], *gamma = at_or(one<T>, scale, offset[3] + run[3]);
      with_steps(gamma_step, gamma_step, [&](auto step, auto) {
        for_each_chunk(n, [&](int64_t begin, int64_t end) {
          T sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
          for (int64_t i = begin; i < end; ++i) {
            const T g = d[i] * gamma[i * step];
            sum += g;
            dot += g * (in[i] - m) * r;
          }
          sums += static_cast<double>(sum);
          dots += static_cast<double>(dot);
        });
      });
    });
    const T mean_g = mean.data ? static_cast<T>(sums / count) : T(0), mean_product = static_cast<T>(dots / count);
    groups.for_each_run([&](const auto& run) {
      const T *in = from + run[2], *d = from_dy + run[1], *gamma = at_or(one<T>, scale, offset[3] + run[3]);
      T* out = to + run[0];
      with_steps(gamma_step, gamma_step, [&](auto step, auto) {
        const auto gradient_at = [&](int64_t i) { return r * (d[i] * gamma[i * step] - mean_g - (in[i] - m) * r * mean_product); };
        if (accumulate) {
          const T* before = old + run[0];
#pragma omp simd
          for (int64_t i = 0; i < n; ++i) out[i] = before[i] + gradient_at(i);
        } else {
#pragma omp simd
          for (int64_t i = 0; i < n; ++i) out[i] = gradient_at(i);
        }
      });
    });
    groups.close(0, at<T>(dx, offset[0]), dx_scratch);
  });
}

// -- gradients of scale and bias ------------------------------------------------------------------------------------------------------------------

// Each of their elements is a sum over the dimensions that they have not. Where their elements lie side by side in x (layer norm), rows of sums are
// added to, else (batch norm) rows are added up. One thread makes a sum, in the order of the rows.
template <class T>
class ScaleGradient {
 public:
  ScaleGradient(const Tensor& dscale, const Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& rstd, const Tensor& mean, uint32_t over,
                uint32_t along, bool accumulate)
      : dscale_(dscale), dbias_(dbias), dy_(dy), x_(x), rstd_(rstd), mean_(mean), accumulate_(accumulate) {
    const Tensor r = stretched(rstd, ~over, x), m = stretched(mean, ~over, x);
    results_ = loop_over(along, {dy, x, r, m, stretched(dscale, along, x), stretched(dbias, along, x)});
    summed_ = loop_over(~along, {dy, x, r, m});
  }

  void run() const {
    const auto lies_in_rows = [](const StridedLoop& loop) { return loop.row_stride(0) == 1 && loop.row_stride(1) == 1; };
    if (lies_in_rows(results_) && !lies_in_rows(summed_)) return by_columns();
    const bool has_statistics_of_runs = lies_in_rows(summed_) && summed_.row_stride(2) == 0 && summed_.row_stride(3) == 0;
    for_each_position(results_, summed_.rows() * summed_.row_length(), [&](const auto& of_result) {
      double scale = 0, bias = 0;
      summed_.for_rows(0, summed_.rows(), [&](const auto& of_row) {
        const T *d = at<T>(dy_, of_result[0] + of_row[0]), *in = at<T>(x_, of_result[1] + of_row[1]);
        const T *r = at<T>(rstd_, of_result[2] + of_row[2]), *m = at_or(zero<T>, mean_, of_result[3] + of_row[3]);
        if (has_statistics_of_runs)
          add_run(d, in, *r, *m, scale, bias);
        else
          add_row(d, in, r, m, scale, bias);
      });
      write(of_result, 0, scale, bias);
    });
  }

 private:
  void add_run(const T* d, const T* in, T r, T m, double& scale, double& bias) const {
    for_each_chunk(summed_.row_length(), [&](int64_t begin, int64_t end) {
      T dot = 0, sum = 0;
#pragma omp simd reduction(+ : dot, sum)
      for (int64_t i = begin; i < end; ++i) {
        dot += d[i] * (in[i] - m) * r;
        sum += d[i];
      }
      scale += static_cast<double>(dot);
      bias += static_cast<double>(sum);
    });
  }
  void add_row(const T* d, const T* in, const T* r, const T* m, double& scale, double& bias) const {
    for (int64_t i = 0; i < summed_.row_length(); ++i) {
      const T value = d[i * summed_.row_stride(0)];
      scale += static_cast<double>(value * (in[i * summed_.row_stride(1)] - m[i * summed_.row_stride(3)]) * r[i * summed_.row_stride(2)]);
      bias += static_cast<double>(value);
    }
  }

  void by_columns() const {
    results_.parallel_for_rows(64, [&](const auto& of_result, int64_t n) {
      std::vector<double> scale_sums(static_cast<size_t>(n)), bias_sums(static_cast<size_t>(n));
      double *scale = scale_sums.data(), *bias = bias_sums.data();
      summed_.for_rows(0, summed_.rows(), [&](const auto& of_row) {
        for (int64_t row = 0; row < summed_.row_length(); ++row) {
          const auto offset = [&](size_t i) { return of_result[i] + of_row[i] + row * summed_.row_stride(static_cast<int>(i)); };
          const T *d = at<T>(dy_, offset(0)), *in = at<T>(x_, offset(1)), *r = at<T>(rstd_, offset(2)), *m = at_or(zero<T>, mean_, offset(3));
          with_steps(results_.row_stride(2), results_.row_stride(3), [&](auto of_r, auto of_m) {
#pragma omp simd
            for (int64_t c = 0; c < n; ++c) {
              scale[c] += static_cast<double>(d[c] * (in[c] - m[c * of_m]) * r[c * of_r]);
              bias[c] += static_cast<double>(d[c]);
            }
          });
        }
      });
      for (int64_t c = 0; c < n; ++c) write(of_result, c, scale[c], bias[c]);
    });
  }

  void write(const StridedLoop::Offsets& of_result, int64_t column, double scale, double bias) const {
    const auto add = [&](T& to, double sum) { to = static_cast<T>(sum) + (accumulate_ ? to : T(0)); };
    add(*at<T>(dscale_, of_result[4] + column * results_.row_stride(4)), scale);
    if (dbias_.data) add(*at<T>(dbias_, of_result[5] + column * results_.row_stride(5)), bias);
  }

  const Tensor &dscale_, &dbias_, &dy_, &x_, &rstd_, &mean_;
  const bool accumulate_;
  StridedLoop results_;  // dy, x, rstd, mean, dscale, dbias
  StridedLoop summed_;   // dy, x, rstd, mean
};

}  // namespace

void norm(const Tensor& y, const Tensor& rstd, const Tensor& mean, const Tensor& x, const Tensor& scale, const Tensor& bias, uint32_t over,
          uint32_t along, double epsilon) {
  if (is_small(y.dtype)) return widened([&](Wide& wide) { norm(wide.out(y), rstd, mean, wide.in(x), scale, bias, over, along, epsilon); });
  for_float_type("norm", y.dtype, [&](auto t) { normalize<decltype(t)>(y, rstd, mean, x, scale, bias, over, along, epsilon); });
}

void norm_grad(const Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& rstd, const Tensor& mean, const Tensor& scale, uint32_t over,
               uint32_t along, bool accumulate) {
  if (is_small(dx.dtype)) {
    return widened([&](Wide& wide) { norm_grad(wide.out(dx, accumulate), wide.in(dy), wide.in(x), rstd, mean, scale, over, along, accumulate); });
  }
  for_float_type("norm_grad", dx.dtype, [&](auto t) { gradient<decltype(t)>(dx, dy, x, rstd, mean, scale, over, along, accumulate); });
}

void norm_grad_scale(const Tensor& dscale, const Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& rstd, const Tensor& mean,
                     uint32_t over, uint32_t along, bool accumulate) {
  if (is_small(x.dtype))
    return widened([&](Wide& wide) { norm_grad_scale(dscale, dbias, wide.in(dy), wide.in(x), rstd, mean, over, along, accumulate); });
  for_float_type("norm_grad_scale", dscale.dtype,
                 [&](auto t) { ScaleGradient<decltype(t)>(dscale, dbias, dy, x, rstd, mean, over, along, accumulate).run(); });
}

}  // namespace sscc::rt
