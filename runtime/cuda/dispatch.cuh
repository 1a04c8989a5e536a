// From a DType to a C++ type on the device: call `work` with a value of the type. (../kernels/dispatch.h is the processor's, which widens small floats.)
#pragma once

#include "../kernels/dispatch.h"
#include "sscc_rt/cuda_walk.cuh"

namespace sscc::rt {

template <class Work>
void for_small_float(const char* kernel, DType type, const Work& work) {
  switch (type) {
    case DType::bf16: return work(bf16());
    case DType::f16: return work(f16());
    default: no_kernel(kernel, type);
  }
}

template <class Work>
void for_device_float_type(const char* kernel, DType type, const Work& work) {
  switch (type) {
    case DType::f32: return work(float());
    case DType::f64: return work(double());
    default: for_small_float(kernel, type, work);
  }
}

template <class Work>
void for_device_number_type(const char* kernel, DType type, const Work& work) {
  switch (type) {
    case DType::i64: return work(int64_t());
    case DType::i32: return work(int32_t());
    default: for_device_float_type(kernel, type, work);
  }
}

// Kernels that only move elements take them as words.
template <class Work>
void for_word_of(int64_t bytes, const Work& work) {
  switch (bytes) {
    case 1: return work(uint8_t());
    case 2: return work(uint16_t());
    case 4: return work(uint32_t());
    case 8: return work(uint64_t());
    default: return work(uint4());
  }
}

}  // namespace sscc::rt
