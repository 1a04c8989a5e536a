// Pooling works on planes, the space of one channel of one sample: for each position of the kernel, rows of windows meet the rows that they see.
#include <limits>

#include "dispatch.h"
#include "rows.h"
#include "widened.h"
#include "windows.h"

namespace sscc::rt {
namespace {

// Work for each plane, on several threads.
template <class Body>
void for_each_plane(const Pooling& pooling, std::initializer_list<Tensor> views, const Body& body) {
  const int64_t taps = pooling.axes[0].small * pooling.axes[1].small * pooling.axes[2].small * pooling.kernel_positions();
  for_each_row(views, taps, body);
}

// The space of a view of five dimensions, as a row.
RowShape space_of(const Tensor& view) { return RowShape(view, 2, view.rank); }

// For each window the number of the first tap that sees a position inside; 0 where there is none.
void set_to_first_taps(const WindowAxis (&axes)[max_space], uint8_t* taps) {
  for (int64_t y0 = 0; y0 < axes[0].small; ++y0) {
    for (int64_t y1 = 0; y1 < axes[1].small; ++y1) {
      for (int64_t y2 = 0; y2 < axes[2].small; ++y2) {
        const int64_t k[] = {axes[0].first_inside(y0), axes[1].first_inside(y1), axes[2].first_inside(y2)};
        const int64_t tap = (k[0] * axes[1].kernel + k[1]) * axes[2].kernel + k[2];
        const bool is_one = k[0] < axes[0].kernel && k[1] < axes[1].kernel && k[2] < axes[2].kernel;
        *taps++ = static_cast<uint8_t>(is_one ? tap : 0);
      }
    }
  }
}

template <class T>
void largest_of_windows(const Pooling& pooling) {
  const Tensor &large = pooling.large, &small = pooling.small, &taps = pooling.taps;
  const RowShape small_row = space_of(small), taps_row = space_of(taps);
  const int64_t count = small_row.length(), step = pooling.axes[2].stride * large.strides[4];
  const DenseSpace dense(small.dims + 2);
  for_each_plane(pooling, {leading(small, 2), leading(taps, 2), leading(large, 2)}, [&](const auto& at) {
    thread_local std::vector<T> small_scratch;
    thread_local std::vector<uint8_t> taps_scratch;
    T* const base = static_cast<T*>(small.data) + at[0];
    T* const largest = small_row.open(base, small_scratch);
    uint8_t* const taps_base = taps.data ? static_cast<uint8_t*>(taps.data) + at[1] : nullptr;
    uint8_t* const tap = taps_base ? taps_row.open(taps_base, taps_scratch) : nullptr;
    const T* const plane = static_cast<const T*>(large.data) + at[2];
    std::fill_n(largest, count, -std::numeric_limits<T>::infinity());
    if (tap) set_to_first_taps(pooling.axes, tap);
    for_each_tap(pooling.axes, [&](const auto& k, int64_t number) {
      for_each_row_of_tap(pooling.axes, k, large.strides + 2, dense.strides, [&](int64_t small_at, int64_t large_at, int64_t n) {
        const T* const x = plane + large_at;
        T* const y = largest + small_at;
        // The first one that is not a number stays.
        const auto is_larger = [](T value, T than) { return value > than || (value != value && than == than); };
        if (tap) {
          for (int64_t i = 0; i < n; ++i) tap[small_at + i] = is_larger(x[i * step], y[i]) ? static_cast<uint8_t>(number) : tap[small_at + i];
        }
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) y[i] = is_larger(x[i * step], y[i]) ? x[i * step] : y[i];
      });
    });
    small_row.close(base, small_scratch);
    if (tap) taps_row.close(taps_base, taps_scratch);
  });
}

// large (+)= what its windows hand on.
template <class T>
void max_pool_gradient(const Pooling& pooling, bool accumulate) {
  const Tensor &large = pooling.large, &small = pooling.small, &taps = pooling.taps;
  const WindowAxis(&axes)[max_space] = pooling.axes;
  const RowShape large_row = space_of(large), small_row = space_of(small), taps_row = space_of(taps);
  const DenseSpace dense(large.dims + 2);
  for_each_plane(pooling, {leading(large, 2), leading(small, 2), leading(taps, 2)}, [&](const auto& at) {
    thread_local std::vector<T> large_scratch, small_scratch;
    thread_local std::vector<uint8_t> taps_scratch;
    T* const base = static_cast<T*>(large.data) + at[0];
    T* const sums = large_row.open_sums(base, large_scratch, accumulate);
    const T* y = small_row.read(static_cast<const T*>(small.data) + at[1], small_scratch);
    const uint8_t* tap = taps_row.read(static_cast<const uint8_t*>(taps.data) + at[2], taps_scratch);
    for (int64_t y0 = 0; y0 < axes[0].small; ++y0) {
      for (int64_t y1 = 0; y1 < axes[1].small; ++y1) {
        for (int64_t y2 = 0; y2 < axes[2].small; ++y2, ++y, ++tap) {
          const int64_t x0 = axes[0].position(y0, *tap / (axes[1].kernel * axes[2].kernel));
          const int64_t x1 = axes[1].position(y1, *tap / axes[2].kernel % axes[1].kernel);
          const int64_t x2 = axes[2].position(y2, *tap % axes[2].kernel);
          if (axes[0].is_inside(x0) && axes[1].is_inside(x1) && axes[2].is_inside(x2)) sums[x0 * dense.strides[0] + x1 * dense.strides[1] + x2] += *y;
        }
      }
    }
    large_row.close(base, large_scratch);
  });
}

template <class T>
void sums_of_windows(const Pooling& pooling, double scale) {
  const Tensor &large = pooling.large, &small = pooling.small;
  const RowShape small_row = space_of(small);
  const DenseSpace dense(small.dims + 2);
  const int64_t step = pooling.axes[2].stride * large.strides[4];
  for_each_plane(pooling, {leading(small, 2), leading(large, 2)}, [&](const auto& at) {
    thread_local std::vector<T> scratch;
    T* const base = static_cast<T*>(small.data) + at[0];
    T* const sums = small_row.open_sums(base, scratch, false);
    const T* const plane = static_cast<const T*>(large.data) + at[1];
    for_each_tap(pooling.axes, [&](const auto& k, int64_t) {
      for_each_row_of_tap(pooling.axes, k, large.strides + 2, dense.strides, [&](int64_t small_at, int64_t large_at, int64_t n) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) sums[small_at + i] += plane[large_at + i * step];
      });
    });
#pragma omp simd
    for (int64_t i = 0; i < small_row.length(); ++i) sums[i] *= static_cast<T>(scale);
    small_row.close(base, scratch);
  });
}

template <class T>
void sum_pool_gradient(const Pooling& pooling, double scale, bool accumulate) {
  const Tensor &large = pooling.large, &small = pooling.small;
  const RowShape large_row = space_of(large);
  const DenseSpace dense(large.dims + 2);
  const int64_t step = pooling.axes[2].stride, small_step = small.strides[4];
  for_each_plane(pooling, {leading(large, 2), leading(small, 2)}, [&](const auto& at) {
    thread_local std::vector<T> scratch;
    T* const base = static_cast<T*>(large.data) + at[0];
    T* const sums = large_row.open_sums(base, scratch, accumulate);
    const T* const plane = static_cast<const T*>(small.data) + at[1];
    for_each_tap(pooling.axes, [&](const auto& k, int64_t) {
      for_each_row_of_tap(pooling.axes, k, dense.strides, small.strides + 2, [&](int64_t small_at, int64_t large_at, int64_t n) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) sums[large_at + i * step] += static_cast<T>(scale) * plane[small_at + i * small_step];
      });
    });
    large_row.close(base, scratch);
  });
}

}  // namespace

void max_pool(const Tensor& small, const Tensor& taps, const Tensor& large, const Window& window) {
  if (is_small(small.dtype)) return widened([&](Wide& wide) { max_pool(wide.out(small), taps, wide.in(large), window); });
  const Pooling pooling("max_pool", large, small, window, taps);
  if (small.elements() == 0) return;
  for_float_type("max_pool", small.dtype, [&](auto t) { largest_of_windows<decltype(t)>(pooling); });
}

void max_pool_grad(const Tensor& large, const Tensor& small, const Tensor& taps, const Window& window, bool accumulate) {
  if (is_small(large.dtype))
    return widened([&](Wide& wide) { max_pool_grad(wide.out(large, accumulate), wide.in(small), taps, window, accumulate); });
  const Pooling pooling("max_pool_grad", large, small, window, taps);
  if (large.elements() == 0) return;
  for_float_type("max_pool_grad", large.dtype, [&](auto t) { max_pool_gradient<decltype(t)>(pooling, accumulate); });
}

void sum_pool(const Tensor& small, const Tensor& large, const Window& window, double scale) {
  if (is_small(small.dtype)) return widened([&](Wide& wide) { sum_pool(wide.out(small), wide.in(large), window, scale); });
  const Pooling pooling("sum_pool", large, small, window);
  if (small.elements() == 0) return;
  for_float_type("sum_pool", small.dtype, [&](auto t) { sums_of_windows<decltype(t)>(pooling, scale); });
}

void sum_pool_grad(const Tensor& large, const Tensor& small, const Window& window, double scale, bool accumulate) {
  if (is_small(large.dtype))
    return widened([&](Wide& wide) { sum_pool_grad(wide.out(large, accumulate), wide.in(small), window, scale, accumulate); });
  const Pooling pooling("sum_pool_grad", large, small, window);
  if (large.elements() == 0) return;
  for_float_type("sum_pool_grad", large.dtype, [&](auto t) { sum_pool_gradient<decltype(t)>(pooling, scale, accumulate); });
}

}  // namespace sscc::rt
