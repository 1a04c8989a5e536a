#include <cmath>

#include "dispatch.h"
#include "rows.h"
#include "sscc_rt/kernels.h"
#include "widened.h"

namespace sscc::rt {
namespace {

template <class T>
const T* at(const Tensor& view, int64_t offset = 0) {
  return static_cast<const T*>(view.data) + offset;
}
template <class T>
T* to(const Tensor& view, int64_t offset = 0) {
  return static_cast<T*>(view.data) + offset;
}

template <class T>
void normalize(const Tensor& y, const Tensor& mean, const Tensor& rstd, const Tensor& x, const Tensor& scale, const Tensor& bias, int first,
               double epsilon) {
  const RowShape x_row(x, first, x.rank), y_row(y, first, y.rank);
  std::vector<T> scale_scratch, bias_scratch;
  const T* gamma = RowShape(scale, 0, scale.rank).read(at<T>(scale), scale_scratch);
  const T* beta = bias.data ? RowShape(bias, 0, bias.rank).read(at<T>(bias), bias_scratch) : nullptr;
  const int64_t n = x_row.length();
  for_each_row({leading(y, first), leading(x, first), mean, rstd}, n, [&](const auto& offset) {
    thread_local std::vector<T> x_scratch, y_scratch;
    const T* in = x_row.read(at<T>(x, offset[1]), x_scratch);
    T* out = y_row.open(to<T>(y, offset[0]), y_scratch);
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += in[i];
    const T m = sum / static_cast<T>(n);
    T squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; ++i) squares += (in[i] - m) * (in[i] - m);
    const T r = T(1) / std::sqrt(squares / static_cast<T>(n) + static_cast<T>(epsilon));
    if (beta) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) out[i] = (in[i] - m) * r * gamma[i] + beta[i];
    } else {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) out[i] = (in[i] - m) * r * gamma[i];
    }
    y_row.close(to<T>(y, offset[0]), y_scratch);
    *to<T>(mean, offset[2]) = m;
    *to<T>(rstd, offset[3]) = r;
  });
}

// dx = rstd (g - mean(g) - xhat mean(g xhat)), g = dy scale.
template <class T>
void gradient(const Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& scale, const Tensor& mean, const Tensor& rstd, int first,
              bool accumulate) {
  const RowShape x_row(x, first, x.rank), dy_row(dy, first, dy.rank), dx_row(dx, first, dx.rank);
  std::vector<T> scale_scratch;
  const T* gamma = RowShape(scale, 0, scale.rank).read(at<T>(scale), scale_scratch);
  const int64_t n = x_row.length();
  for_each_row({leading(dx, first), leading(dy, first), leading(x, first), mean, rstd}, n, [&](const auto& offset) {
    thread_local std::vector<T> x_scratch, dy_scratch, dx_scratch, old_scratch;
    const T* in = x_row.read(at<T>(x, offset[2]), x_scratch);
    const T* d = dy_row.read(at<T>(dy, offset[1]), dy_scratch);
    const T* before = accumulate ? dx_row.read(at<T>(dx, offset[0]), old_scratch) : nullptr;
    T* out = dx_row.open(to<T>(dx, offset[0]), dx_scratch);
    const T m = *at<T>(mean, offset[3]), r = *at<T>(rstd, offset[4]);
    T sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
    for (int64_t i = 0; i < n; ++i) {
      const T g = d[i] * gamma[i];
      sum += g;
      dot += g * (in[i] - m) * r;
    }
    sum /= static_cast<T>(n);
    dot /= static_cast<T>(n);
    const auto gradient_at = [&](int64_t i) { return r * (d[i] * gamma[i] - sum - (in[i] - m) * r * dot); };
    if (accumulate) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) out[i] = before[i] + gradient_at(i);
    } else {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) out[i] = gradient_at(i);
    }
    dx_row.close(to<T>(dx, offset[0]), dx_scratch);
  });
}

// The columns are divided among threads, so that each sum is made by one, in row order.
template <class T>
void scale_gradient(const Tensor& dscale, const Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd, int first,
                    bool accumulate) {
  const RowShape x_row(x, first, x.rank), dy_row(dy, first, dy.rank), scale_row(dscale, 0, dscale.rank);
  const int64_t n = x_row.length();
  const int64_t* strides[] = {dy.strides, x.strides, mean.strides, rstd.strides};
  const StridedLoop rows = StridedLoop::make(std::span(x.dims, static_cast<size_t>(first)), strides);
  const bool has_bias = dbias.data != nullptr;
  std::vector<double> scale_sums(static_cast<size_t>(n)), bias_sums(static_cast<size_t>(n));
  const bool direct = x_row.is_contiguous() && dy_row.is_contiguous();
  parallel_ranges(n, direct ? 64 : n, [&](int64_t begin, int64_t end) {
    std::vector<T> x_scratch, dy_scratch;
    double* s = scale_sums.data();
    double* b = bias_sums.data();
    rows.for_rows(0, rows.rows(), [&](const auto& base) {
      for (int64_t i = 0; i < rows.row_length(); ++i) {
        const T* d = dy_row.read(at<T>(dy, base[0] + i * rows.row_stride(0)), dy_scratch);
        const T* in = x_row.read(at<T>(x, base[1] + i * rows.row_stride(1)), x_scratch);
        const T m = *at<T>(mean, base[2] + i * rows.row_stride(2)), r = *at<T>(rstd, base[3] + i * rows.row_stride(3));
#pragma omp simd
        for (int64_t c = begin; c < end; ++c) {
          s[c] += static_cast<double>(d[c] * (in[c] - m) * r);
          b[c] += static_cast<double>(d[c]);
        }
      }
    });
  });
  const auto write = [&](const Tensor& result, const std::vector<double>& sums) {
    const RowShape row(result, 0, result.rank);
    std::vector<T> scratch, old;
    T* out = row.open(to<T>(result), scratch);
    const T* before = row.read(at<T>(result), old);
    for (int64_t c = 0; c < n; ++c) out[c] = static_cast<T>(sums[static_cast<size_t>(c)]) + (accumulate ? before[c] : T(0));
    row.close(to<T>(result), scratch);
  };
  write(dscale, scale_sums);
  if (has_bias) write(dbias, bias_sums);
}

}  // namespace

void layer_norm(const Tensor& y, const Tensor& mean, const Tensor& rstd, const Tensor& x, const Tensor& scale, const Tensor& bias, int first_dim,
                double epsilon) {
  if (is_small(y.dtype)) return widened([&](Wide& wide) { layer_norm(wide.out(y), mean, rstd, wide.in(x), scale, bias, first_dim, epsilon); });
  for_float_type("layer_norm", y.dtype, [&](auto t) { normalize<decltype(t)>(y, mean, rstd, x, scale, bias, first_dim, epsilon); });
}

void layer_norm_grad(const Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& scale, const Tensor& mean, const Tensor& rstd, int first_dim,
                     bool accumulate) {
  if (is_small(dx.dtype))
    return widened([&](Wide& wide) { layer_norm_grad(wide.out(dx, accumulate), wide.in(dy), wide.in(x), scale, mean, rstd, first_dim, accumulate); });
  for_float_type("layer_norm_grad", dx.dtype, [&](auto t) { gradient<decltype(t)>(dx, dy, x, scale, mean, rstd, first_dim, accumulate); });
}

void layer_norm_grad_scale(const Tensor& dscale, const Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd,
                           int first_dim, bool accumulate) {
  if (is_small(x.dtype))
    return widened([&](Wide& wide) { layer_norm_grad_scale(dscale, dbias, wide.in(dy), wide.in(x), mean, rstd, first_dim, accumulate); });
  for_float_type("layer_norm_grad_scale", dscale.dtype,
                 [&](auto t) { scale_gradient<decltype(t)>(dscale, dbias, dy, x, mean, rstd, first_dim, accumulate); });
}

}  // namespace sscc::rt
