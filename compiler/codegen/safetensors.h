// Parameters and constants as safetensors files (https://huggingface.co/docs/safetensors): 8 bytes of header length, a JSON header with the type,
// shape and byte range of each tensor, then the bytes, little-endian and row-major. Tensors are streamed; none is ever whole in memory.
#pragma once

#include <string>
#include <vector>

#include "compiler/program/program.h"

namespace sscc {

struct WeightFile {
  std::string name;
  int64_t bytes = 0;
  int64_t tensors = 0;
};

// Writes the tensors, in order, to FOLDER/model.safetensors, or, where they exceed `shard_bytes` together, to
// FOLDER/model-00001-of-0000N.safetensors, with FOLDER/model.safetensors.index.json. A tensor larger than a shard has a file of its own. Returns the
// safetensors files. Throws EnvironmentError for a file that cannot be read or written, or ends too early.
std::vector<WeightFile> write_safetensors(const std::string& folder, const std::vector<const FileTensor*>& tensors,
                                          int64_t shard_bytes = int64_t{2} << 30);

}  // namespace sscc
