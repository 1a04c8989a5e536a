// What convolution and pooling have in common (sscc_rt/kernels.h): space as three dimensions, however many the operands have, and which windows see
// what.
#pragma once

#include <algorithm>

#include "dispatch.h"
#include "sscc_rt/kernels.h"

namespace sscc::rt {

// A dimension of space: window y sees y * stride + k * dilation - pad.
struct WindowAxis {
  int64_t large = 1, small = 1, kernel = 1, stride = 1, dilation = 1, pad = 0;

  int64_t position(int64_t y, int64_t k) const { return y * stride + k * dilation - pad; }
  bool is_inside(int64_t x) const { return 0 <= x && x < large; }
  // At k, windows [first_window, end_window) see a position inside; there may be none.
  int64_t first_window(int64_t k) const { return least(pad - k * dilation, stride, small); }
  int64_t end_window(int64_t k) const { return least(large + pad - k * dilation, stride, small); }
  // The first k at which window y sees a position inside; `kernel`: none.
  int64_t first_inside(int64_t y) const {
    const int64_t k = least(pad - y * stride, dilation, kernel);
    return is_inside(position(y, k)) ? k : kernel;
  }
  // From the first position that a window sees to the end of the last.
  int64_t seen() const { return (small - 1) * stride + (kernel - 1) * dilation + 1; }

 private:
  // The first i in [0, end] with i * step >= bound, or end.
  static int64_t least(int64_t bound, int64_t step, int64_t end) { return bound <= 0 ? 0 : std::min((bound + step - 1) / step, end); }
};

// Dimensions of space that are missing come first, of length 1.
inline Tensor in_three_dimensions(const Tensor& view) {
  Tensor result = view;
  const int missing = 2 + max_space - view.rank;
  result.rank = 2 + max_space;
  for (int d = result.rank; d-- > 2;) {
    result.dims[d] = d - missing >= 2 ? view.dims[d - missing] : 1;
    result.strides[d] = d - missing >= 2 ? view.strides[d - missing] : 0;
  }
  return result;
}

struct Windows {
  Tensor large, small;  // of five dimensions
  int space;            // how many dimensions operands have of it
  WindowAxis axes[max_space];

  // Throws std::logic_error where operands do not fit.
  Windows(const char* kernel, const Tensor& large_view, const Tensor& small_view, const Window& window)
      : large(in_three_dimensions(large_view)), small(in_three_dimensions(small_view)), space(large_view.rank - 2) {
    const int rank = large_view.rank, missing = 2 + max_space - rank;
    if (rank < 3 || missing < 0 || small_view.rank != rank || large.dims[0] != small.dims[0])
      throw std::logic_error(std::string(kernel) + ": operands do not fit");
    for (int d = 0; d < max_space; ++d) {
      axes[d].large = large.dims[2 + d];
      axes[d].small = small.dims[2 + d];
      if (d < missing) continue;
      axes[d].kernel = window.kernel[d - missing];
      axes[d].stride = window.stride[d - missing];
      axes[d].dilation = window.dilation[d - missing];
      axes[d].pad = window.pad[d - missing];
    }
  }
  int64_t kernel_positions() const { return axes[0].kernel * axes[1].kernel * axes[2].kernel; }
};

struct Pooling : Windows {
  Tensor taps;  // of five dimensions; no data where they are not wanted

  Pooling(const char* kernel, const Tensor& large_view, const Tensor& small_view, const Window& window, const Tensor& taps_view = {})
      : Windows(kernel, large_view, small_view, window), taps(small) {
    taps.data = nullptr;
    if (taps_view.data) taps = in_three_dimensions(taps_view);
    const bool has_taps = taps.data != nullptr;
    if (large.dims[1] != small.dims[1] ||
        (has_taps && (taps_view.rank != small_view.rank || !std::equal(taps.dims, taps.dims + taps.rank, small.dims))))
      throw std::logic_error(std::string(kernel) + ": operands do not fit");
    expect_type(kernel, large.dtype, {small});
    if (has_taps) expect_type(kernel, DType::u8, {taps});
    if (has_taps && kernel_positions() > 256) throw std::logic_error(std::string(kernel) + ": a kernel of more than 256 positions");
  }
};

// body(k, number) for every position of the kernel, row-major.
template <class Body>
void for_each_tap(const WindowAxis (&axes)[max_space], const Body& body) {
  int64_t k[max_space], number = 0;
  for (k[0] = 0; k[0] < axes[0].kernel; ++k[0])
    for (k[1] = 0; k[1] < axes[1].kernel; ++k[1])
      for (k[2] = 0; k[2] < axes[2].kernel; ++k[2]) body(k, number++);
}

// row(small_offset, large_offset, count) for the windows that see a position inside at k, as rows along the last dimension. `large_strides` and
// `small_strides`: of space, in elements.
template <class Row>
void for_each_row_of_tap(const WindowAxis (&axes)[max_space], const int64_t (&k)[max_space], const int64_t* large_strides,
                         const int64_t* small_strides, const Row& row) {
  const int64_t first = axes[2].first_window(k[2]), count = axes[2].end_window(k[2]) - first;
  if (count <= 0) return;
  for (int64_t y0 = axes[0].first_window(k[0]); y0 < axes[0].end_window(k[0]); ++y0) {
    for (int64_t y1 = axes[1].first_window(k[1]); y1 < axes[1].end_window(k[1]); ++y1) {
      row(y0 * small_strides[0] + y1 * small_strides[1] + first * small_strides[2],
          axes[0].position(y0, k[0]) * large_strides[0] + axes[1].position(y1, k[1]) * large_strides[1] +
              axes[2].position(first, k[2]) * large_strides[2],
          count);
    }
  }
}

// The strides of space where it is dense.
struct DenseSpace {
  int64_t strides[max_space];
  explicit DenseSpace(const int64_t* lengths) : strides{lengths[1] * lengths[2], lengths[2], 1} {}
};

}  // namespace sscc::rt
