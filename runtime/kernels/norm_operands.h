// Operands of norms: x has all dimensions; statistics, scale and bias have some of them, which a bit mask names.
#pragma once

#include <initializer_list>

#include "sscc_rt/strided_loop.h"

namespace sscc::rt {

// The view with all dims of `whole`: its own dimensions are those of the mask, in order; along the others it repeats. A view without memory repeats
// along all.
inline Tensor stretched(const Tensor& view, uint32_t mask, const Tensor& whole) {
  Tensor result = whole;
  result.data = view.data;
  result.dtype = view.dtype;
  for (int d = 0, own = 0; d < whole.rank; ++d) result.strides[d] = view.data && (mask >> d & 1) ? view.strides[own++] : 0;
  return result;
}

// The dimensions of a mask.
inline Tensor selected(const Tensor& view, uint32_t mask) {
  Tensor result = view;
  result.rank = 0;
  for (int d = 0; d < view.rank; ++d) {
    if ((mask >> d & 1) == 0) continue;
    result.dims[result.rank] = view.dims[d];
    result.strides[result.rank++] = view.strides[d];
  }
  return result;
}

// Over the dimensions of a mask, of views of equal dims.
inline StridedLoop loop_over(uint32_t mask, std::span<const Tensor> views) {
  Tensor chosen[max_operands];
  const int64_t* strides[max_operands];
  size_t count = 0;
  for (const Tensor& view : views) {
    chosen[count] = selected(view, mask);
    strides[count] = chosen[count].strides;
    ++count;
  }
  return StridedLoop::make(std::span(chosen[0].dims, static_cast<size_t>(chosen[0].rank)), std::span(strides, count));
}
inline StridedLoop loop_over(uint32_t mask, std::initializer_list<Tensor> views) { return loop_over(mask, std::span(views.begin(), views.size())); }

}  // namespace sscc::rt
