// In place of CUB's header of this name: a stable sort of pairs by some of the bits of their keys.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <type_traits>
#include <vector>

#include "emulated_gpu/gpu.h"

namespace cub {

struct DeviceRadixSort {
  // Without memory of its own to work in, it only says how much it needs.
  template <class Key, class Value>
  static cudaError_t SortPairs(void* workspace, size_t& bytes, const Key* keys, Key* sorted_keys, const Value* values, Value* sorted_values,
                               int count, int begin_bit, int end_bit, cudaStream_t stream) {
    static_assert(std::is_unsigned_v<Key>);
    const size_t needed = static_cast<size_t>(count) * (sizeof(Key) + sizeof(Value)) + 1024;
    if (!workspace) {
      bytes = needed;
      return cudaSuccess;
    }
    if (bytes < needed) return cudaErrorInvalidValue;
    return emulated_gpu::enqueue(stream, "a sort", [=] {
      const auto part = [&](int32_t i) { return (uint64_t{keys[i]} & ((uint64_t{1} << end_bit) - 1)) >> begin_bit; };
      std::vector<int32_t> order(static_cast<size_t>(count));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return part(a) < part(b); });
      for (int i = 0; i < count; ++i) {
        sorted_keys[i] = keys[order[static_cast<size_t>(i)]];
        sorted_values[i] = values[order[static_cast<size_t>(i)]];
      }
      return true;
    });
  }
};

}  // namespace cub
