// From a DType to a C++ type on the device, beside what ../kernels/dispatch.h has: call `work` with a value of the type.
#pragma once

#include "../kernels/dispatch.h"
#include "sscc_rt/cuda_walk.cuh"

namespace sscc::rt {

template <class Work>
void for_device_number_type(const char* kernel, DType type, const Work& work) {
  if (is_small(type)) return for_small_float(kernel, type, work);
  for_number_type(kernel, type, work);
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
