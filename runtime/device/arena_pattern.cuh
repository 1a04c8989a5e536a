// The pattern that an arena is filled with before the run, on the GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sscc::rt {

// All of these enqueue on `stream`.
void fill_with_pattern(uint32_t* words, int64_t count, uint32_t pattern, cudaStream_t stream);
// *highest becomes at least one more than the position, in bytes, of the last byte of words [begin, end) that differs from the pattern.
void find_highest_changed(const uint32_t* words, int64_t begin, int64_t end, uint32_t pattern, unsigned long long* highest, cudaStream_t stream);

}  // namespace sscc::rt
