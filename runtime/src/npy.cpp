// NumPy's .npy (numpy.lib.format): "\x93NUMPY", two bytes of version, the header's length (2 bytes in version 1, else 4), the header, which is the
// text of a Python dictionary such as {'descr': '<f4', 'fortran_order': False, 'shape': (8, 32), }, and the elements.
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "sscc_rt/tensor_files.h"

namespace sscc::rt {
namespace {

struct TypeCode {
  const char* code;
  DType dtype;
};
constexpr TypeCode type_codes[] = {{"<f4", DType::f32}, {"<f8", DType::f64}, {"<f2", DType::f16}, {"<i8", DType::i64},
                                   {"<i4", DType::i32}, {"|i1", DType::i8},  {"|u1", DType::u8},  {"|b1", DType::b1}};

class Header {
 public:
  Header(const std::string& path, std::string text) : path_(path), text_(std::move(text)) {}

  // What stands behind 'key':, from its first character that is no space.
  const char* value_of(const char* key) const {
    const std::string quoted = std::string("'") + key + "'";
    size_t at = text_.find(quoted);
    if (at != std::string::npos) at = text_.find_first_not_of(": ", at + quoted.size());
    if (at == std::string::npos) throw DataError(path_ + ": not an .npy file: its header has no " + quoted);
    return text_.c_str() + at;
  }
  DType dtype() const {
    const char* value = value_of("descr");
    for (const TypeCode& each : type_codes) {
      if (std::strncmp(value + 1, each.code, 3) == 0 && (value[4] == '\'' || value[4] == '"')) return each.dtype;
    }
    throw DataError(path_ + ": elements of NumPy type " + std::string(value, std::strcspn(value, ",}")) + ", which no program takes");
  }
  std::vector<int64_t> shape() const {
    std::vector<int64_t> dims;
    const char* at = value_of("shape");
    while (*at && *at != ')') {
      char* end = nullptr;
      const int64_t length = std::strtoll(at, &end, 10);
      if (end != at) dims.push_back(length);
      at = end != at ? end : at + 1;
      if (end != at && length < 0) throw DataError(path_ + ": not an .npy file: a negative length");
    }
    return dims;
  }

 private:
  const std::string& path_;
  std::string text_;
};

}  // namespace

StoredTensor read_npy(const std::string& path) {
  auto file = std::make_shared<MappedFile>(path);
  const auto bytes = file->bytes();
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  if (bytes.size() < 12 || std::memcmp(text, "\x93NUMPY", 6) != 0) throw DataError(path + ": not an .npy file");
  const size_t start = text[6] == 1 ? 10 : 12;
  uint32_t length = 0;
  std::memcpy(&length, text + 8, start - 8);
  if (length > bytes.size() - start) throw DataError(path + ": ends within its header");
  const Header header(path, std::string(text + start, length));
  StoredTensor tensor;
  tensor.dtype = header.dtype();
  tensor.dims = header.shape();
  tensor.data = bytes.data() + start + length;
  tensor.strides = dense_strides(tensor.dims);
  if (std::strncmp(header.value_of("fortran_order"), "True", 4) == 0) {
    uint64_t stride = 1;
    for (size_t d = 0; d < tensor.dims.size(); ++d) {
      tensor.strides[d] = static_cast<int64_t>(stride);
      stride *= static_cast<uint64_t>(tensor.dims[d]);
    }
  }
  uint64_t wanted = size_of(tensor.dtype);
  bool possible = true;
  for (const int64_t each : tensor.dims) possible &= each >= 0 && !__builtin_mul_overflow(wanted, static_cast<uint64_t>(each), &wanted);
  if (!possible || wanted != bytes.size() - start - length) {
    throw DataError(path + ": says " + type_and_shape(tensor.dtype, tensor.dims) + " but holds " + std::to_string(bytes.size() - start - length) +
                    " bytes");
  }
  tensor.owner = std::move(file);
  return tensor;
}

}  // namespace sscc::rt
