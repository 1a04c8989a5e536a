// For kernels that work on whole rows (softmax, norms): a row as contiguous memory, however it lies in a view.
#pragma once

#include <vector>

#include "sscc_rt/strided_loop.h"

namespace sscc::rt {

// The dims of a view from `first` on, or one of them, walked as a row. Two dims or more may not be one stride: a loop then.
class RowShape {
 public:
  // Dims [first, end) of the view.
  RowShape(const Tensor& view, int first, int end) {
    const int64_t* strides[] = {view.strides + first};
    loop_ = StridedLoop::make(std::span(view.dims + first, static_cast<size_t>(end - first)), strides);
    length_ = loop_.rows() * loop_.row_length();
  }
  int64_t length() const { return length_; }
  bool is_contiguous() const { return loop_.rank == 1 && (loop_.row_stride(0) == 1 || length_ == 1); }

  // The row that begins at `base`: itself, or a copy in `scratch`.
  template <class T>
  const T* read(const T* base, std::vector<T>& scratch) const {
    if (is_contiguous()) return base;
    scratch.resize(static_cast<size_t>(length_));
    T* to = scratch.data();
    loop_.for_rows(0, loop_.rows(), [&](const auto& at) {
      for (int64_t i = 0; i < loop_.row_length(); ++i) *to++ = base[at[0] + i * loop_.row_stride(0)];
    });
    return scratch.data();
  }
  // Where to write the row that begins at `base`, and, when written, the way there.
  template <class T>
  T* open(T* base, std::vector<T>& scratch) const {
    if (is_contiguous()) return base;
    scratch.resize(static_cast<size_t>(length_));
    return scratch.data();
  }
  // The same, for sums: what the row holds, or zeros.
  template <class T>
  T* open_sums(T* base, std::vector<T>& scratch, bool accumulate) const {
    T* const sums = open(base, scratch);
    if (accumulate)
      read(base, scratch);
    else
      std::fill_n(sums, length_, T(0));
    return sums;
  }
  template <class T>
  void close(T* base, const std::vector<T>& scratch) const {
    if (is_contiguous()) return;
    const T* from = scratch.data();
    loop_.for_rows(0, loop_.rows(), [&](const auto& at) {
      for (int64_t i = 0; i < loop_.row_length(); ++i) base[at[0] + i * loop_.row_stride(0)] = *from++;
    });
  }

 private:
  StridedLoop loop_;
  int64_t length_ = 0;
};

// The view, row-major: itself, or a copy in `memory`.
template <class T>
Tensor packed(const Tensor& view, std::vector<T>& memory) {
  if (!view.data) return view;
  Tensor result = view;
  int64_t stride = 1;
  for (int d = view.rank; d-- > 0;) {
    result.strides[d] = stride;
    stride *= view.dims[d];
  }
  result.data = const_cast<T*>(RowShape(view, 0, view.rank).read(static_cast<const T*>(view.data), memory));
  return result;
}

// A view without one dimension.
inline Tensor without(const Tensor& view, int dim) {
  Tensor result = view;
  for (int d = dim; d + 1 < view.rank; ++d) {
    result.dims[d] = view.dims[d + 1];
    result.strides[d] = view.strides[d + 1];
  }
  --result.rank;
  return result;
}
// The first dimensions of a view.
inline Tensor leading(const Tensor& view, int count) {
  Tensor result = view;
  result.rank = count;
  return result;
}

// Calls body(offsets) for each position of a loop, on several threads; `work`: how many elements a position stands for.
template <class Body>
void for_each_position(const StridedLoop& loop, int64_t work, const Body& body) {
  loop.parallel_for_rows(std::max<int64_t>(1, 8192 / std::max<int64_t>(work, 1)), [&](const auto& begin, int64_t n) {
    auto offsets = begin;
    for (int64_t i = 0; i < n; ++i) {
      body(offsets);
      for (int k = 0; k < loop.operands; ++k) offsets[static_cast<size_t>(k)] += loop.row_stride(k);
    }
  });
}
// The same for views of equal dims.
template <class Body>
void for_each_row(std::initializer_list<Tensor> views, int64_t row_elements, const Body& body) {
  const int64_t* strides[max_operands];
  size_t count = 0;
  for (const Tensor& view : views) strides[count++] = view.strides;
  const Tensor& first = *views.begin();
  for_each_position(StridedLoop::make(std::span(first.dims, static_cast<size_t>(first.rank)), std::span(strides, count)), row_elements, body);
}

}  // namespace sscc::rt
