// Rows of elements that are only moved, seen as rows of larger words.
#pragma once

#include "sscc_rt/cuda_walk.cuh"

namespace sscc::rt {

struct WideLoop {
  StridedLoop loop;  // in words
  int word_bytes = 0;
};

// The largest words, up to 16 bytes, that the rows of all operands in the bit mask `moved` consist of. Other operands do not step along rows, else
// words are elements; theirs and `strides_beside` stay in elements.
inline WideLoop widened(const StridedLoop& loop, const void* const* memory, int element_bytes, uint32_t moved) {
  int bytes[max_operands];
  for (int o = 0; o < loop.operands; ++o) bytes[o] = element_bytes;
  for (int word = 16; word > element_bytes; word /= 2) {
    const int n = word / element_bytes;
    if (!has_whole_packs(loop, memory, bytes, ~moved, n)) continue;
    StridedLoop wide = in_packs(loop, n);
    for (int o = 0; o < loop.operands; ++o) {
      if (!(moved >> o & 1)) continue;
      for (int d = 0; d < loop.rank; ++d) wide.strides[o][d] /= n;
    }
    return {wide, word};
  }
  return {loop, element_bytes};
}

}  // namespace sscc::rt
