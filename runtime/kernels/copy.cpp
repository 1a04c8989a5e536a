#include <cstring>

#include "dispatch.h"
#include "sscc_rt/kernels.h"
#include "sscc_rt/scalar_functions.h"
#include "sscc_rt/strided_loop.h"

namespace sscc::rt {
namespace {

constexpr int64_t grain = 32768;

StridedLoop loop_over(const Tensor& out, const Tensor& in) {
  const int64_t* strides[] = {out.strides, in.strides};
  return StridedLoop::make(std::span(out.dims, static_cast<size_t>(out.rank)), strides);
}

// Elements as words of their size: a copy does not look into them.
template <class Word>
void copy_words(const Tensor& out, const Tensor& in) {
  const StridedLoop loop = loop_over(out, in);
  const int64_t to_stride = loop.row_stride(0), from_stride = loop.row_stride(1);
  loop.parallel_for_rows(grain, [&](const auto& offsets, int64_t n) {
    Word* to = static_cast<Word*>(out.data) + offsets[0];
    const Word* from = static_cast<const Word*>(in.data) + offsets[1];
    if (to_stride == 1 && from_stride == 1)
      std::memcpy(to, from, static_cast<size_t>(n) * sizeof(Word));
    else if (to_stride == 1 && from_stride == 0)
      std::fill_n(to, n, *from);
    else
      for (int64_t i = 0; i < n; ++i) to[i * to_stride] = from[i * from_stride];
  });
}

// Between types.
template <class To, class From>
void convert(const Tensor& out, const Tensor& in, bool accumulate) {
  const StridedLoop loop = loop_over(out, in);
  const int64_t to_stride = loop.row_stride(0), from_stride = loop.row_stride(1);
  loop.parallel_for_rows(grain, [&](const auto& offsets, int64_t n) {
    To* to = static_cast<To*>(out.data) + offsets[0];
    const From* from = static_cast<const From*>(in.data) + offsets[1];
    for (int64_t i = 0; i < n; ++i) {
      const float value = from[i * from_stride];
      To& place = to[i * to_stride];
      place = static_cast<To>(accumulate ? static_cast<float>(place) + value : value);
    }
  });
}

template <class T>
void add_into(const Tensor& out, const Tensor& in) {
  const StridedLoop loop = loop_over(out, in);
  const int64_t to_stride = loop.row_stride(0), from_stride = loop.row_stride(1);
  loop.parallel_for_rows(grain, [&](const auto& offsets, int64_t n) {
    T* to = static_cast<T*>(out.data) + offsets[0];
    const T* from = static_cast<const T*>(in.data) + offsets[1];
    if (to_stride == 1 && from_stride == 1) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) to[i] += from[i];
    } else {
      for (int64_t i = 0; i < n; ++i) to[i * to_stride] += from[i * from_stride];
    }
  });
}

}  // namespace

void copy(const Tensor& out, const Tensor& in, bool accumulate) {
  if (out.dtype != in.dtype || (accumulate && is_small(out.dtype))) {
    for_float_memory("copy", out.dtype, [&](auto to) {
      for_float_memory("copy", in.dtype, [&](auto from) { convert<decltype(to), decltype(from)>(out, in, accumulate); });
    });
    return;
  }
  if (accumulate) {
    for_number_type("copy", out.dtype, [&](auto t) { add_into<decltype(t)>(out, in); });
    return;
  }
  switch (size_of(out.dtype)) {
    case 1: return copy_words<uint8_t>(out, in);
    case 2: return copy_words<uint16_t>(out, in);
    case 4: return copy_words<uint32_t>(out, in);
    default: return copy_words<uint64_t>(out, in);
  }
}

void fill(const Tensor& out, double value) {
  const int64_t* strides[] = {out.strides};
  const StridedLoop loop = StridedLoop::make(std::span(out.dims, static_cast<size_t>(out.rank)), strides);
  const auto write = [&](auto constant) {
    using T = decltype(constant);
    const int64_t stride = loop.row_stride(0);
    loop.parallel_for_rows(grain, [&](const auto& offsets, int64_t n) {
      T* to = static_cast<T*>(out.data) + offsets[0];
      if (stride == 1)
        std::fill_n(to, n, constant);
      else
        for (int64_t i = 0; i < n; ++i) to[i * stride] = constant;
    });
  };
  for_any_type("fill", out.dtype, [&](auto t) { write(scalar::identity<decltype(t)>(static_cast<Arithmetic<decltype(t)>>(value))); });
}

void pad(const Tensor& out, const Tensor& in, const int64_t* starts, const int64_t* steps, bool accumulate) {
  if (!accumulate) fill(out, 0);
  Tensor inner = out;
  int64_t offset = 0;
  for (int d = 0; d < out.rank; ++d) {
    offset += starts[d] * out.strides[d];
    inner.dims[d] = in.dims[d];
    inner.strides[d] = steps[d] * out.strides[d];
  }
  inner.data = static_cast<std::byte*>(out.data) + offset * static_cast<int64_t>(size_of(out.dtype));
  copy(inner, in, accumulate);
}

}  // namespace sscc::rt
