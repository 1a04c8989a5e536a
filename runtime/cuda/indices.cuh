// Reading indices and labels, and reporting those that are out of range.
#pragma once

#include "device.h"
#include "dispatch.cuh"

namespace sscc::rt {

// Of i64 or i32.
struct Indices {
  const void* data;
  bool is_long;
  explicit Indices(const char* kernel, const Tensor& tensor, int64_t offset = 0) : is_long(tensor.dtype == DType::i64) {
    if (!is_long && tensor.dtype != DType::i32) no_kernel(kernel, tensor.dtype);
    data = static_cast<const std::byte*>(tensor.data) + offset * static_cast<int64_t>(size_of(tensor.dtype));
  }
  __device__ int64_t operator[](int64_t at) const { return is_long ? static_cast<const int64_t*>(data)[at] : static_cast<const int32_t*>(data)[at]; }
};

__device__ inline void report(WrongElement* wrong, WrongData kind, int64_t value, int64_t bound) {
  if (atomicCAS(reinterpret_cast<int*>(&wrong->kind), static_cast<int>(WrongData::none), static_cast<int>(kind)) != 0) return;
  wrong->value = value;
  wrong->bound = bound;
}

// What an index means: a dimension of `length`, of which the piece [offset, offset + piece) is here.
struct IndexedDimension {
  int64_t offset, piece, length;
  WrongElement* wrong;
  // Within the piece; -1: elsewhere, or out of range, which is reported.
  __device__ int64_t position(int64_t index) const {
    if (index < -length || index >= length) {
      report(wrong, WrongData::index, index, length);
      return -1;
    }
    if (index < 0) index += length;
    return index >= offset && index < offset + piece ? index - offset : -1;
  }
};

}  // namespace sscc::rt
