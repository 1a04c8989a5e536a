// Rows of elements that are only moved, seen as rows of larger words.
#pragma once

#include "sscc_rt/cuda_walk.cuh"

namespace sscc::rt {

struct WideLoop {
  StridedLoop loop;  // in words
  int word_bytes = 0;
};

// The largest words, up to 16 bytes, that the rows of all operands in the bit mask `moved` consist of. The other operands stay in elements: they do
// not step along rows, else words are elements. `beside`: a stride that is added to them, which has to be whole words, too.
inline WideLoop widened(const StridedLoop& loop, const void* const* memory, int element_bytes, uint32_t moved, int64_t beside = 0) {
  int bytes[max_operands];
  for (int o = 0; o < loop.operands; ++o) bytes[o] = element_bytes;
  for (int word = 16; word > element_bytes; word /= 2) {
    const int n = word / element_bytes;
    if (beside % n != 0 || !has_whole_packs(loop, memory, bytes, ~moved, n)) continue;
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
