// How an emitted program writes down the model's tensors and the constants of its ranks: rows of plain data and short texts, which cost a compiler
// nothing however many ranks there are, turned into the types of rank.h when the program starts.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

#include "sscc_rt/rank.h"

namespace sscc::rt {

struct TensorRow {
  const char* name;
  DType dtype;
  const char* shape;  // "8x32", "" for a scalar
  bool trainable;
  int64_t upper_bound = 2;  // of synthetic integers
};
std::vector<FileTensor> file_tensors(std::span<const TensorRow> rows);

struct RankRow {
  int32_t program;  // bin/program_K.so
  int32_t stage;
  const char* peers;    // "1 2"
  const char* groups;   // "0 1 | 0 2"
  const char* regions;  // indices of the table of regions, "0 0 3"
  const char* offsets;  // "0 256"
};
// `regions`: the distinct regions of all ranks as NumPy slices, intervals of one dimension joined by '|': "0:4, 8:16|24:32".
std::vector<std::vector<int32_t>> read_groups(const char* text);
Constants read_constants(const RankRow& row, std::span<const char* const> regions);

}  // namespace sscc::rt
