// Kernels over all elements of many tensors, in one launch.
//
// Each block has a stretch of one tensor. What a launch has to know of its tensors stands in its parameters, of which every GPU takes 4 KiB: nothing is
// allocated or copied, and a captured graph keeps it. What does not fit is for another launch.
#pragma once

#include <array>

#include "sscc_rt/cuda_walk.cuh"

namespace sscc::rt {

// Of tensors whose elements lie without gaps; `operands`: of each so many, in equal order.
template <int operands>
struct TensorTable {
  static constexpr int parameter_bytes = 4096, beside = 256;  // `beside`: for what else a kernel takes
  static constexpr int capacity = (parameter_bytes - beside) / (8 * operands + 16);

  void* memory[operands][capacity];
  int64_t elements[capacity];
  uint32_t first_block[capacity];
  int count = 0;
  uint32_t blocks = 0;        // of all tensors
  bool is_aligned[capacity];  // to 16 bytes, all operands

  bool is_full() const { return count == capacity; }
  void add(const std::array<void*, operands>& of, int64_t length, int64_t elements_of_block) {
    is_aligned[count] = true;
    for (int o = 0; o < operands; ++o) {
      memory[o][count] = of[static_cast<size_t>(o)];
      is_aligned[count] = is_aligned[count] && reinterpret_cast<uintptr_t>(of[static_cast<size_t>(o)]) % 16 == 0;
    }
    elements[count] = length;
    first_block[count++] = blocks;
    blocks += static_cast<uint32_t>((length + elements_of_block - 1) / elements_of_block);
  }
  void clear() { count = 0, blocks = 0; }

  // Whose stretch a block has.
  __device__ int tensor_of(uint32_t block) const {
    int first = 0, end = count;
    while (end - first > 1) {
      const int middle = (first + end) / 2;
      (first_block[middle] <= block ? first : end) = middle;
    }
    return first;
  }
};

}  // namespace sscc::rt
