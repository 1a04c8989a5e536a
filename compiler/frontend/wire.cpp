#include "compiler/frontend/wire.h"

namespace sscc {
namespace {

// Field numbers of onnx.proto.
constexpr int model_graph = 7, graph_initializer = 5, tensor_raw_data = 9;

class Walker {
 public:
  Walker(std::string_view bytes, size_t begin, size_t end) : bytes_(bytes), at_(begin), end_(end) {}

  // The next field: its number, and where its payload lies if it is length-delimited (else length 0). False at the end or when malformed.
  bool next(int& field, size_t& begin, size_t& length) {
    uint64_t tag = 0, value = 0;
    if (at_ >= end_ || !varint(tag)) return false;
    field = static_cast<int>(tag >> 3);
    begin = at_;
    length = 0;
    switch (tag & 7) {
      case 0: return varint(value);
      case 1: return skip(8);
      case 5: return skip(4);
      case 2:
        if (!varint(value) || value > end_ - at_) return false;
        begin = at_;
        length = value;
        return skip(value);
      default: return false;
    }
  }

 private:
  bool varint(uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64 && at_ < end_; shift += 7) {
      const uint8_t byte = static_cast<uint8_t>(bytes_[at_++]);
      value |= static_cast<uint64_t>(byte & 127) << shift;
      if (byte < 128) return true;
    }
    return false;
  }
  bool skip(uint64_t count) {
    if (count > end_ - at_) return false;
    at_ += count;
    return true;
  }
  std::string_view bytes_;
  size_t at_, end_;
};

}  // namespace

std::vector<RawData> find_raw_data(std::string_view model) {
  std::vector<RawData> result;
  int field;
  size_t begin, length;
  for (Walker in_model(model, 0, model.size()); in_model.next(field, begin, length);) {
    if (field != model_graph) continue;
    for (Walker in_graph(model, begin, begin + length); in_graph.next(field, begin, length);) {
      if (field != graph_initializer) continue;
      RawData raw;
      for (Walker in_tensor(model, begin, begin + length); in_tensor.next(field, begin, length);)
        if (field == tensor_raw_data) raw = {static_cast<int64_t>(begin), static_cast<int64_t>(length)};
      result.push_back(raw);
    }
  }
  return result;
}

}  // namespace sscc
