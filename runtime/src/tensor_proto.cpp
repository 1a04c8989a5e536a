// ONNX's TensorProto (onnx/onnx.proto) in protobuf's wire format: a sequence of (field number << 3 | wire type) and a value.
//
//   1 dims (int64, repeated)   2 data_type   8 name   9 raw_data   13, 14 external data
//   4 float_data   5 int32_data (also int8, uint8, bool, float16, bfloat16)   7 int64_data   10 double_data   (repeated, packed or not)
#include <bit>
#include <cstring>
#include <numeric>

#include "sscc_rt/tensor_files.h"

namespace sscc::rt {
namespace {

enum Field : uint64_t {
  dims_field = 1,
  type_field = 2,
  float_field = 4,
  int32_field = 5,
  int64_field = 7,
  name_field = 8,
  raw_field = 9,
  double_field = 10,
  external_field = 13,
  location_field = 14,
};
enum Wire : uint64_t { varint_wire = 0, fixed64_wire = 1, bytes_wire = 2, fixed32_wire = 5 };

struct TypeNumber {
  int64_t number;
  DType dtype;
};
constexpr TypeNumber type_numbers[] = {{1, DType::f32}, {2, DType::u8},   {3, DType::i8},   {6, DType::i32},  {7, DType::i64},
                                       {9, DType::b1},  {10, DType::f16}, {11, DType::f64}, {16, DType::bf16}};

class Reader {
 public:
  Reader(const std::string& path, std::span<const std::byte> bytes) : path_(path), bytes_(bytes) {}

  bool at_end() const { return at_ == bytes_.size(); }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<uint64_t>(take(1)[0]);
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    fail("a number of more than 64 bits");
  }
  std::span<const std::byte> take(uint64_t count) {
    if (count > bytes_.size() - at_) fail("the end of the file within a value");
    at_ += count;
    return bytes_.subspan(at_ - count, count);
  }
  std::span<const std::byte> value(uint64_t wire) {
    switch (wire) {
      case fixed64_wire: return take(8);
      case bytes_wire: return take(varint());
      case fixed32_wire: return take(4);
      default: fail("a field of unknown type");
    }
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw DataError(path_ + ": not a TensorProto: " + what + " at byte " + std::to_string(at_));
  }

 private:
  const std::string& path_;
  std::span<const std::byte> bytes_;
  size_t at_ = 0;
};

// A TensorProto's fields as they come.
struct Message {
  std::string name;
  std::vector<int64_t> dims;
  int64_t type = 0;
  std::span<const std::byte> raw;
  bool has_raw = false;
  std::vector<std::byte> floats;  // float_data or double_data, as bytes
  std::vector<int64_t> integers;  // int32_data or int64_data
};

void read_integers(Reader& reader, const std::string& path, uint64_t wire, std::vector<int64_t>& into) {
  if (wire == varint_wire) return into.push_back(static_cast<int64_t>(reader.varint()));
  Reader packed(path, reader.value(wire));
  while (!packed.at_end()) into.push_back(static_cast<int64_t>(packed.varint()));
}

Message read_message(const std::string& path, std::span<const std::byte> bytes) {
  Message message;
  Reader reader(path, bytes);
  while (!reader.at_end()) {
    const uint64_t key = reader.varint(), field = key >> 3, wire = key & 7;
    switch (field) {
      case dims_field: read_integers(reader, path, wire, message.dims); break;
      case int32_field:
      case int64_field: read_integers(reader, path, wire, message.integers); break;
      case type_field: message.type = static_cast<int64_t>(reader.varint()); break;
      case name_field: {
        const auto text = reader.value(wire);
        message.name.assign(reinterpret_cast<const char*>(text.data()), text.size());
        break;
      }
      case raw_field:
        message.raw = reader.value(wire);
        message.has_raw = true;
        break;
      case float_field:
      case double_field: {
        const auto values = reader.value(wire);
        message.floats.insert(message.floats.end(), values.begin(), values.end());
        break;
      }
      case external_field: reader.fail("external data, which is not read here,");
      case location_field:
        if (reader.varint() != 0) reader.fail("external data, which is not read here,");
        break;
      default:
        if (wire == varint_wire)
          reader.varint();
        else
          reader.value(wire);
    }
  }
  return message;
}

// The values of int32_data and int64_data, each in the tensor's own width.
std::vector<std::byte> narrow(const std::vector<int64_t>& values, size_t size) {
  std::vector<std::byte> bytes(values.size() * size);
  for (size_t i = 0; i < values.size(); ++i) std::memcpy(bytes.data() + i * size, &values[i], size);
  return bytes;
}

class Writer {
 public:
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) text_ += static_cast<char>(value | 0x80);
    text_ += static_cast<char>(value);
  }
  void key(Field field, Wire wire) { varint(field << 3 | wire); }
  void bytes(Field field, std::string_view value) {
    key(field, bytes_wire);
    varint(value.size());
    text_ += value;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

}  // namespace

StoredTensor read_pb(const std::string& path) {
  const auto file = std::make_shared<MappedFile>(path);
  Message message = read_message(path, file->bytes());
  StoredTensor tensor;
  tensor.name = std::move(message.name);
  tensor.dims = std::move(message.dims);
  tensor.strides = dense_strides(tensor.dims);
  const TypeNumber* type = nullptr;
  for (const TypeNumber& each : type_numbers) {
    if (each.number == message.type) type = &each;
  }
  if (!type) throw DataError(path + ": '" + tensor.name + "' has TensorProto type " + std::to_string(message.type) + ", which no program takes");
  tensor.dtype = type->dtype;
  size_t bytes = 0;
  if (message.has_raw) {
    tensor.data = message.raw.data();
    tensor.owner = file;
    bytes = message.raw.size();
  } else {
    const bool is_integer = tensor.dtype != DType::f32 && tensor.dtype != DType::f64;
    auto values = std::make_shared<std::vector<std::byte>>(is_integer ? narrow(message.integers, size_of(tensor.dtype)) : std::move(message.floats));
    tensor.data = values->data();
    bytes = values->size();
    tensor.owner = std::move(values);
  }
  uint64_t wanted = size_of(tensor.dtype);
  for (const int64_t length : tensor.dims) {
    if (length < 0 || __builtin_mul_overflow(wanted, static_cast<uint64_t>(length), &wanted))
      throw DataError(path + ": '" + tensor.name + "' has an impossible shape");
  }
  if (bytes != wanted) {
    throw DataError(path + ": '" + tensor.name + "' says " + type_and_shape(tensor.dtype, tensor.dims) + ", which is " + std::to_string(wanted) +
                    " bytes, but holds " + std::to_string(bytes));
  }
  return tensor;
}

void write_pb(const std::string& path, const std::string& name, DType dtype, std::span<const int64_t> dims, const void* data) {
  Writer writer;
  size_t bytes = size_of(dtype);
  for (const int64_t length : dims) {
    writer.key(dims_field, varint_wire);
    writer.varint(static_cast<uint64_t>(length));
    bytes *= static_cast<size_t>(length);
  }
  writer.key(type_field, varint_wire);
  for (const TypeNumber& each : type_numbers) {
    if (each.dtype == dtype) writer.varint(static_cast<uint64_t>(each.number));
  }
  writer.bytes(name_field, name);
  writer.key(raw_field, bytes_wire);
  writer.varint(bytes);
  NewFile file(path);
  file.write(writer.text().data(), writer.text().size());
  file.write(data, bytes);
  file.commit();
}

}  // namespace sscc::rt
