// Convolutions of floats are oneDNN's. Those of doubles, and what oneDNN does not take, are loops: for each pair of channels and each position of the
// kernel, rows of windows meet the rows that they see.
#include "convolution.h"

#include "convolution_library.h"
#include "rows.h"
#include "widened.h"

namespace sscc::rt {
namespace {

// An operand from where a pair of channels has it.
template <class T>
struct Plane {
  T* data;
  int64_t step;  // along the dimension that is summed over
  int64_t strides[max_space];

  T* at(int64_t i) const { return data + i * step; }
};

// x: the positions that a row of windows sees at one position of the kernel, y: the windows, w: the weight.
template <ConvolutionOperand result, class T>
void multiply_row(T* x, int64_t x_step, T* y, int64_t y_step, T* w, int64_t n) {
  if constexpr (result == weight_operand) {
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += x[i * x_step] * y[i * y_step];
    *w += sum;
  } else {
    const T factor = *w;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      if constexpr (result == small_operand)
        y[i * y_step] += factor * x[i * x_step];
      else
        x[i * x_step] += factor * y[i * y_step];
    }
  }
}

template <ConvolutionOperand result, class T>
void by_loops(const Convolution& convolution, bool accumulate) {
  const int summed = convolution.summed();
  const Tensor& out = convolution.out();
  const RowShape out_space(out, 2, out.rank);
  Tensor channels[3];
  Plane<T> planes[3];
  for (const ConvolutionOperand o : all_operands) {
    const auto i = static_cast<size_t>(o);
    channels[i] = convolution.channels(o);
    planes[i].step = channels[i].strides[summed];
    std::copy_n(convolution[o].strides + 2, max_space, planes[i].strides);
    if (o == result) std::copy_n(DenseSpace(out.dims + 2).strides, max_space, planes[i].strides);  // while it is summed up
  }
  const int64_t count = channels[0].dims[summed], each = convolution.work() * count / channels[0].elements();

  for_each_row({without(channels[0], summed), without(channels[1], summed), without(channels[2], summed)}, each, [&](const auto& offsets) {
    thread_local std::vector<T> scratch;
    Plane<T> plane[3] = {planes[0], planes[1], planes[2]};
    for (size_t i = 0; i < 3; ++i) plane[i].data = static_cast<T*>(channels[i].data) + offsets[i];
    T* const base = plane[static_cast<size_t>(result)].data;
    plane[static_cast<size_t>(result)].data = out_space.open_sums(base, scratch, accumulate);
    const auto& [x, y, w] = plane;
    const int64_t x_step = convolution.axes[2].stride * x.strides[2], y_step = y.strides[2];
    for (int64_t i = 0; i < count; ++i) {
      for_each_tap(convolution.axes, [&](const auto& k, int64_t) {
        T* const weight = w.at(i) + k[0] * w.strides[0] + k[1] * w.strides[1] + k[2] * w.strides[2];
        for_each_row_of_tap(convolution.axes, k, x.strides, y.strides, [&](int64_t small_at, int64_t large_at, int64_t n) {
          multiply_row<result>(x.at(i) + large_at, x_step, y.at(i) + small_at, y_step, weight, n);
        });
      });
    }
    out_space.close(base, scratch);
  });
}

template <ConvolutionOperand result>
void convolve_as(const Tensor& large, const Tensor& small, const Tensor& weight, const Window& window, bool accumulate) {
  const Convolution convolution(result, large, small, weight, window);
  if (!has_products(convolution, accumulate)) return;
  if (convolution.out().dtype == DType::f32 && convolve_by_library(convolution, accumulate)) return;
  for_float_type("convolve", convolution.out().dtype, [&](auto t) { by_loops<result, decltype(t)>(convolution, accumulate); });
}

}  // namespace

void convolve(const Tensor& small, const Tensor& large, const Tensor& weight, const Window& window, bool accumulate) {
  if (is_small(large.dtype))
    return widened([&](Wide& wide) { convolve(wide.out(small, accumulate), wide.in(large), wide.in(weight), window, accumulate); });
  convolve_as<small_operand>(large, small, weight, window, accumulate);
}

void convolve_transposed(const Tensor& large, const Tensor& small, const Tensor& weight, const Window& window, bool accumulate) {
  if (is_small(small.dtype))
    return widened([&](Wide& wide) { convolve_transposed(wide.out(large, accumulate), wide.in(small), wide.in(weight), window, accumulate); });
  convolve_as<large_operand>(large, small, weight, window, accumulate);
}

void convolve_grad_weight(const Tensor& weight, const Tensor& large, const Tensor& small, const Window& window, bool accumulate) {
  if (is_small(large.dtype))
    return widened([&](Wide& wide) { convolve_grad_weight(wide.out(weight, accumulate), wide.in(large), wide.in(small), window, accumulate); });
  convolve_as<weight_operand>(large, small, weight, window, accumulate);
}

}  // namespace sscc::rt
