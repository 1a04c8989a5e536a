// Pooling: a thread for each window or, for gradients, for each position, which asks the windows that see it. Nothing is added by two threads.
#include <limits>

#include "../kernels/windows.h"
#include "dispatch.cuh"
#include "sscc_rt/cuda_launch.cuh"

namespace sscc::rt {
namespace {

struct Axis {
  int32_t large, small, kernel, dilation, pad;
  Divisor stride;
  int64_t large_step, small_step, taps_step;  // in elements
};

// What the threads walk over are the elements of one operand, with
//   windows      small, taps, the plane of large; y * stride for each dimension of space
//   positions    large, the planes of small and taps; x
template <class T>
struct Arguments {
  StridedWalk<6> walk;
  Axis axes[max_space];
  T *large, *small;
  uint8_t* taps;
  int64_t base[6];
  Arithmetic<T> scale;
  bool accumulate;
};

template <class T>
__device__ bool find_element(const Arguments<T>& a, int64_t (&at)[6]) {
  const uint32_t element = blockIdx.x * threads_per_block + threadIdx.x;
  if (element >= a.walk.count) return false;
#pragma unroll
  for (int o = 0; o < 6; ++o) at[o] = a.base[o];
  a.walk.advance(element, at);
  return true;
}

// body(number of the tap, offset in the plane of large) for what a window sees, row-major; first: y * stride.
template <class Body>
__device__ void for_each_position(const Axis (&axes)[max_space], const int64_t* first, const Body& body) {
  const auto& [a, b, c] = axes;
  const auto is_inside = [](const Axis& axis, int64_t x) { return 0 <= x && x < axis.large; };
  int number = 0;
  for (int i = 0; i < a.kernel; ++i) {
    const int64_t x = first[0] + i * a.dilation - a.pad;
    for (int j = 0; j < b.kernel; ++j) {
      const int64_t y = first[1] + j * b.dilation - b.pad;
      for (int k = 0; k < c.kernel; ++k, ++number) {
        const int64_t z = first[2] + k * c.dilation - c.pad;
        if (is_inside(a, x) && is_inside(b, y) && is_inside(c, z)) body(number, x * a.large_step + y * b.large_step + z * c.large_step);
      }
    }
  }
}

// The window that has a position as its kth, or -1.
__device__ inline int64_t window_at(const Axis& axis, int64_t x, int k) {
  const int64_t first = x + axis.pad - k * axis.dilation;
  if (first < 0) return -1;
  const uint32_t y = axis.stride.quotient(static_cast<uint32_t>(first));
  return y < static_cast<uint32_t>(axis.small) && y * axis.stride.divisor == first ? static_cast<int64_t>(y) : -1;
}

// body(number of the tap, offset in the plane of small, offset in that of taps) for the windows that see a position.
template <class Body>
__device__ void for_each_window(const Axis (&axes)[max_space], const int64_t* position, const Body& body) {
  const auto& [a, b, c] = axes;
  int number = 0;
  for (int i = 0; i < a.kernel; ++i) {
    const int64_t x = window_at(a, position[0], i);
    for (int j = 0; j < b.kernel; ++j) {
      const int64_t y = window_at(b, position[1], j);
      for (int k = 0; k < c.kernel; ++k, ++number) {
        const int64_t z = window_at(c, position[2], k);
        if (x >= 0 && y >= 0 && z >= 0)
          body(number, x * a.small_step + y * b.small_step + z * c.small_step, x * a.taps_step + y * b.taps_step + z * c.taps_step);
      }
    }
  }
}

template <class T>
__global__ void __launch_bounds__(threads_per_block) max_pool_kernel(const __grid_constant__ Arguments<T> a) {
  int64_t at[6];
  if (!find_element(a, at)) return;
  Arithmetic<T> largest = -std::numeric_limits<Arithmetic<T>>::infinity();
  int tap = -1;
  for_each_position(a.axes, at + 3, [&](int number, int64_t offset) {
    const auto value = static_cast<Arithmetic<T>>(a.large[at[2] + offset]);
    // The first one that is not a number stays.
    const bool is_larger = value > largest || (value != value && largest == largest);
    if (is_larger || tap < 0) tap = number;
    if (is_larger) largest = value;
  });
  a.small[at[0]] = static_cast<T>(largest);
  if (a.taps) a.taps[at[1]] = static_cast<uint8_t>(tap < 0 ? 0 : tap);
}

template <class T>
__global__ void __launch_bounds__(threads_per_block) sum_pool_kernel(const __grid_constant__ Arguments<T> a) {
  int64_t at[6];
  if (!find_element(a, at)) return;
  Arithmetic<T> sum = 0;
  for_each_position(a.axes, at + 3, [&](int, int64_t offset) { sum += static_cast<Arithmetic<T>>(a.large[at[2] + offset]); });
  a.small[at[0]] = static_cast<T>(sum * a.scale);
}

template <class T>
__device__ void write_sum(const Arguments<T>& a, T& to, Arithmetic<T> sum) {
  to = static_cast<T>(a.accumulate ? static_cast<Arithmetic<T>>(to) + sum : sum);
}

template <class T>
__global__ void __launch_bounds__(threads_per_block) max_pool_grad_kernel(const __grid_constant__ Arguments<T> a) {
  int64_t at[6];
  if (!find_element(a, at)) return;
  Arithmetic<T> sum = 0;
  for_each_window(a.axes, at + 3, [&](int number, int64_t in_small, int64_t in_taps) {
    if (a.taps[at[2] + in_taps] == number) sum += static_cast<Arithmetic<T>>(a.small[at[1] + in_small]);
  });
  write_sum(a, a.large[at[0]], sum);
}

template <class T>
__global__ void __launch_bounds__(threads_per_block) sum_pool_grad_kernel(const __grid_constant__ Arguments<T> a) {
  int64_t at[6];
  if (!find_element(a, at)) return;
  Arithmetic<T> sum = 0;
  for_each_window(a.axes, at + 3, [&](int, int64_t in_small, int64_t) { sum += static_cast<Arithmetic<T>>(a.small[at[1] + in_small]); });
  write_sum(a, a.large[at[0]], sum * a.scale);
}

// -- launches -------------------------------------------------------------------------------------------------------------------------------------

// Over windows or over positions.
StridedLoop loop_over(const Pooling& pooling, bool positions) {
  const Tensor& walked = positions ? pooling.large : pooling.small;
  const int64_t *large = pooling.large.strides, *small = pooling.small.strides, *taps = pooling.taps.strides;
  int64_t planes[2][5] = {}, space[max_space][5] = {};
  std::copy_n(positions ? small : taps, positions ? 2 : 5, planes[0]);
  std::copy_n(positions ? taps : large, 2, planes[1]);
  for (int d = 0; d < max_space; ++d) space[d][2 + d] = positions ? 1 : pooling.axes[d].stride;
  const int64_t* strides[] = {walked.strides, planes[0], planes[1], space[0], space[1], space[2]};
  return StridedLoop::make(std::span(walked.dims, 5), strides);
}

template <class T>
void run(const Pooling& pooling, bool positions, void (*kernel)(Arguments<T>), double scale, bool accumulate) {
  Arguments<T> a{};
  for (int d = 0; d < max_space; ++d) {
    const WindowAxis& axis = pooling.axes[d];
    a.axes[d] = {static_cast<int32_t>(axis.large),    static_cast<int32_t>(axis.small), static_cast<int32_t>(axis.kernel),
                 static_cast<int32_t>(axis.dilation), static_cast<int32_t>(axis.pad),   Divisor(static_cast<uint32_t>(axis.stride)),
                 pooling.large.strides[2 + d],        pooling.small.strides[2 + d],     pooling.taps.strides[2 + d]};
  }
  a.large = static_cast<T*>(pooling.large.data);
  a.small = static_cast<T*>(pooling.small.data);
  a.taps = static_cast<uint8_t*>(pooling.taps.data);
  a.scale = static_cast<Arithmetic<T>>(scale);
  a.accumulate = accumulate;
  for_each_piece(loop_over(pooling, positions), [&](const StridedLoop& loop, const StridedLoop::Offsets& base) {
    a.walk = StridedWalk<6>(loop);
    std::copy_n(base.begin(), 6, a.base);
    launch(kernel, blocks_for(a.walk.count), threads_per_block, 0, a);
  });
}

}  // namespace

void max_pool(const Tensor& small, const Tensor& taps, const Tensor& large, const Window& window) {
  const Pooling pooling("max_pool", large, small, window, taps);
  for_any_float_type("max_pool", small.dtype, [&](auto t) { run<decltype(t)>(pooling, false, max_pool_kernel<decltype(t)>, 1, false); });
}

void max_pool_grad(const Tensor& large, const Tensor& small, const Tensor& taps, const Window& window, bool accumulate) {
  const Pooling pooling("max_pool_grad", large, small, window, taps);
  for_any_float_type("max_pool_grad", large.dtype,
                     [&](auto t) { run<decltype(t)>(pooling, true, max_pool_grad_kernel<decltype(t)>, 1, accumulate); });
}

void sum_pool(const Tensor& small, const Tensor& large, const Window& window, double scale) {
  const Pooling pooling("sum_pool", large, small, window);
  for_any_float_type("sum_pool", small.dtype, [&](auto t) { run<decltype(t)>(pooling, false, sum_pool_kernel<decltype(t)>, scale, false); });
}

void sum_pool_grad(const Tensor& large, const Tensor& small, const Window& window, double scale, bool accumulate) {
  const Pooling pooling("sum_pool_grad", large, small, window);
  for_any_float_type("sum_pool_grad", large.dtype,
                     [&](auto t) { run<decltype(t)>(pooling, true, sum_pool_grad_kernel<decltype(t)>, scale, accumulate); });
}

}  // namespace sscc::rt
