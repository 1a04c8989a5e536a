#include <limits>

#include "dispatch.h"
#include "rows.h"
#include "sscc_rt/kernels.h"
#include "sscc_rt/scalar_functions.h"
#include "widened.h"

namespace sscc::rt {
namespace {

template <class T>
void softmax_rows(const Tensor& out, const Tensor& in, int dim) {
  const RowShape in_row(in, dim, dim + 1), out_row(out, dim, dim + 1);
  const int64_t n = in_row.length();
  for_each_row({without(out, dim), without(in, dim)}, 4 * n, [&](const auto& at) {
    thread_local std::vector<T> in_scratch, out_scratch;
    const T* x = in_row.read(static_cast<const T*>(in.data) + at[1], in_scratch);
    T* base = static_cast<T*>(out.data) + at[0];
    T* y = out_row.open(base, out_scratch);
    T largest = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
    // A row of -infinity alone gives not a number, as everywhere.
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) {
      y[i] = scalar::exp_of(x[i] - largest);
      sum += y[i];
    }
    const T scale = T(1) / sum;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] *= scale;
    out_row.close(base, out_scratch);
  });
}

template <class T>
void softmax_grad_rows(const Tensor& dx, const Tensor& y, const Tensor& dy, int dim) {
  const RowShape dx_row(dx, dim, dim + 1), y_row(y, dim, dim + 1), dy_row(dy, dim, dim + 1);
  const int64_t n = dx_row.length();
  for_each_row({without(dx, dim), without(y, dim), without(dy, dim)}, n, [&](const auto& at) {
    thread_local std::vector<T> dx_scratch, y_scratch, dy_scratch;
    const T* p = y_row.read(static_cast<const T*>(y.data) + at[1], y_scratch);
    const T* g = dy_row.read(static_cast<const T*>(dy.data) + at[2], dy_scratch);
    T* base = static_cast<T*>(dx.data) + at[0];
    T* d = dx_row.open(base, dx_scratch);
    T dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < n; ++i) dot += p[i] * g[i];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) d[i] = p[i] * (g[i] - dot);
    dx_row.close(base, dx_scratch);
  });
}

}  // namespace

void softmax(const Tensor& out, const Tensor& in, int dim) {
  if (is_small(out.dtype)) return widened([&](Wide& wide) { softmax(wide.out(out), wide.in(in), dim); });
  for_float_type("softmax", out.dtype, [&](auto t) { softmax_rows<decltype(t)>(out, in, dim); });
}

void softmax_grad(const Tensor& dx, const Tensor& y, const Tensor& dy, int dim) {
  if (is_small(dx.dtype)) return widened([&](Wide& wide) { softmax_grad(wide.out(dx), wide.in(y), wide.in(dy), dim); });
  for_float_type("softmax_grad", dx.dtype, [&](auto t) { softmax_grad_rows<decltype(t)>(dx, y, dy, dim); });
}

}  // namespace sscc::rt
