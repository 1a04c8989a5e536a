// Where the raw data of initializers lies in an ONNX file: a walk over the protobuf wire format that touches no payload, so that weights can be read
// by region later without holding the file.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace sscc {

struct RawData {
  int64_t offset = -1, length = 0;
};  // offset -1: the tensor has no raw data

// One entry for each initializer of the main graph, in order. Stops at anything malformed.
std::vector<RawData> find_raw_data(std::string_view model);

}  // namespace sscc
