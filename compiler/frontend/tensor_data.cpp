#include "compiler/frontend/tensor_data.h"

#include <onnx/onnx_pb.h>

#include <cstring>

namespace sscc {
namespace {

template <class T, class List>
std::string pack(const List& list) {
  std::string bytes(static_cast<size_t>(list.size()) * sizeof(T), '\0');
  for (int i = 0; i < list.size(); ++i) {
    const T value = static_cast<T>(list[i]);
    std::memcpy(bytes.data() + static_cast<size_t>(i) * sizeof(T), &value, sizeof(T));
  }
  return bytes;
}

}  // namespace

std::optional<Shape> shape_of(const onnx::TensorProto& proto) {
  Shape shape;
  int64_t count = 1;
  if (proto.dims_size() > rt::max_rank) return std::nullopt;
  for (int64_t length : proto.dims()) {
    if (length < 0 || (length > 0 && count > (int64_t{1} << 48) / length)) return std::nullopt;
    count *= length;
    shape.push_back(length);
  }
  return shape;
}

std::optional<std::string> bytes_of(const onnx::TensorProto& proto, DType type) {
  if (proto.has_raw_data()) return proto.raw_data();
  switch (type) {
    case DType::f32: return pack<float>(proto.float_data());
    case DType::f64: return pack<double>(proto.double_data());
    case DType::i64: return pack<int64_t>(proto.int64_data());
    case DType::i32: return pack<int32_t>(proto.int32_data());
    case DType::i8: return pack<int8_t>(proto.int32_data());
    case DType::u8:
    case DType::b1: return pack<uint8_t>(proto.int32_data());
    case DType::f16:
    case DType::bf16: return pack<uint16_t>(proto.int32_data());
  }
  return std::nullopt;
}

}  // namespace sscc
