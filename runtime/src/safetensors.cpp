// safetensors (https://huggingface.co/docs/safetensors): 8 bytes of header length, a JSON header with the type, shape and byte range of each tensor,
// then the bytes.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <optional>

#include "json_text.h"
#include "sscc_rt/tensor_files.h"

namespace sscc::rt {
namespace {

// Reads the JSON of a header: objects of objects of strings and lists of integers. Anything else is refused.
class HeaderReader {
 public:
  HeaderReader(const std::string& path, std::string_view text) : path_(path), text_(text) {}

  struct Entry {
    std::string dtype;
    std::vector<int64_t> shape, offsets;
  };
  std::map<std::string, Entry> read() {
    std::map<std::string, Entry> entries;
    read_object([&](const std::string& name) {
      if (name == "__metadata__") return read_object([&](const std::string&) { read_string(); });
      Entry& entry = entries[name];
      read_object([&](const std::string& key) {
        if (key == "dtype")
          entry.dtype = read_string();
        else if (key == "shape")
          entry.shape = read_integers();
        else if (key == "data_offsets")
          entry.offsets = read_integers();
        else
          fail("a known key");
      });
    });
    return entries;
  }

 private:
  [[noreturn]] void fail(const char* expected) const {
    throw DataError(path_ + ": not a safetensors file: " + expected + " is expected at byte " + std::to_string(8 + at_) + " of the header");
  }
  char peek() {
    at_ = text_.find_first_not_of(" \t\r\n", at_);
    if (at_ == std::string_view::npos) {
      at_ = text_.size();
      fail("more");
    }
    return text_[at_];
  }
  bool accept(char c) {
    const bool is_there = peek() == c;
    at_ += is_there;
    return is_there;
  }
  void need(char c) {
    const char expected[] = {'\'', c, '\'', 0};
    if (!accept(c)) fail(expected);
  }
  template <class Member>
  void read_object(const Member& member) {
    need('{');
    if (accept('}')) return;
    do {
      const std::string key = read_string();
      need(':');
      member(key);
    } while (accept(','));
    need('}');
  }
  std::vector<int64_t> read_integers() {
    std::vector<int64_t> values;
    need('[');
    if (accept(']')) return values;
    do {
      if (peek() < '0' || peek() > '9') fail("a number");
      int64_t value = 0;
      for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
        if (__builtin_mul_overflow(value, int64_t{10}, &value) || __builtin_add_overflow(value, int64_t{text_[at_] - '0'}, &value))
          fail("a smaller number");
      }
      values.push_back(value);
    } while (accept(','));
    need(']');
    return values;
  }
  std::string read_string() {
    need('"');
    std::string value;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (text_[at_] != '\\') {
        value += text_[at_++];
        continue;
      }
      static constexpr std::string_view letters = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
      if (++at_ >= text_.size()) fail("more");
      const char c = text_[at_++];
      if (const size_t k = letters.find(c); k != std::string_view::npos)
        value += meanings[k];
      else if (c == 'u')
        append_utf8(value, read_code_point());
      else
        fail("an escape");
    }
    if (at_ >= text_.size()) fail("'\"'");
    ++at_;
    return value;
  }
  uint32_t read_hex() {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i) {
      if (at_ >= text_.size()) fail("four hexadecimal digits");
      const char c = text_[at_++];
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (digit < 0) fail("four hexadecimal digits");
      value = value * 16 + static_cast<uint32_t>(digit);
    }
    return value;
  }
  uint32_t read_code_point() {
    const uint32_t high = read_hex();
    if (high < 0xd800 || high >= 0xdc00) return high;
    if (text_.substr(at_, 2) != "\\u") fail("the second half of a surrogate pair");
    at_ += 2;
    return 0x10000 + ((high - 0xd800) << 10) + (read_hex() - 0xdc00);
  }
  static void append_utf8(std::string& text, uint32_t c) {
    const auto add = [&](uint32_t byte) { text += static_cast<char>(byte); };
    if (c < 0x80) return add(c);
    if (c < 0x800) {
      add(0xc0 | c >> 6);
    } else {
      if (c < 0x10000) {
        add(0xe0 | c >> 12);
      } else {
        add(0xf0 | c >> 18);
        add(0x80 | (c >> 12 & 0x3f));
      }
      add(0x80 | (c >> 6 & 0x3f));
    }
    add(0x80 | (c & 0x3f));
  }

  const std::string& path_;
  std::string_view text_;
  size_t at_ = 0;
};

std::optional<DType> dtype_of(const std::string& name) {
  for (int i = 0; i <= static_cast<int>(DType::b1); ++i) {
    if (name == name_of(static_cast<DType>(i))) return static_cast<DType>(i);
  }
  return std::nullopt;
}

std::string header_of(std::span<const FileTensor> tensors) {
  std::string text = "{";
  uint64_t offset = 0;
  for (const FileTensor& tensor : tensors) {
    text += (offset || text.size() > 1 ? "," : "") + json_string(tensor.name) + ":{\"dtype\":\"" + name_of(tensor.dtype) + "\",\"shape\":[";
    uint64_t bytes = size_of(tensor.dtype);
    for (size_t d = 0; d < tensor.dims.size(); ++d) {
      text += (d ? "," : "") + std::to_string(tensor.dims[d]);
      bytes *= static_cast<uint64_t>(tensor.dims[d]);
    }
    text += "],\"data_offsets\":[" + std::to_string(offset) + "," + std::to_string(offset + bytes) + "]}";
    offset += bytes;
  }
  text += "}";
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

}  // namespace

std::map<std::string, StoredTensor> read_safetensors(const std::string& path) {
  const auto file = std::make_shared<MappedFile>(path);
  const auto bytes = file->bytes();
  uint64_t length = 0;
  if (bytes.size() >= sizeof length) std::memcpy(&length, bytes.data(), sizeof length);
  if (bytes.size() < sizeof length || length > bytes.size() - sizeof length)
    throw DataError(path + ": not a safetensors file: it ends within its header");
  const auto data = bytes.subspan(sizeof length + length);
  HeaderReader reader(path, {reinterpret_cast<const char*>(bytes.data()) + sizeof length, length});
  std::map<std::string, StoredTensor> tensors;
  for (const auto& [name, entry] : reader.read()) {
    const std::optional<DType> dtype = dtype_of(entry.dtype);
    if (!dtype) throw DataError(path + ": '" + name + "' is of type " + entry.dtype + ", which no program takes");
    uint64_t wanted = size_of(*dtype);
    bool good = entry.offsets.size() == 2;
    for (const int64_t dim : entry.shape) good &= !__builtin_mul_overflow(wanted, static_cast<uint64_t>(dim), &wanted);
    good = good && entry.offsets[0] <= entry.offsets[1] && static_cast<uint64_t>(entry.offsets[1]) <= data.size() &&
           static_cast<uint64_t>(entry.offsets[1] - entry.offsets[0]) == wanted;
    if (!good) throw DataError(path + ": '" + name + "' does not lie within the file, or not with the size of its shape");
    tensors[name] = {name, *dtype, entry.shape, dense_strides(entry.shape), data.data() + entry.offsets[0], file};
  }
  return tensors;
}

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::span<const FileTensor> tensors) : file_(path) {
  const std::string header = header_of(tensors);
  const uint64_t length = header.size();
  file_.write(&length, sizeof length);
  file_.write(header.data(), header.size());
}

namespace {

// The weights of a folder, opened at the first read.
class WeightFolder {
 public:
  WeightFolder(std::string path, const ModelInfo& model) : path_(std::move(path)), model_(model) {}

  void read(const std::string& name, const Region& region, void* destination) {
    {
      const std::lock_guard lock(mutex_);
      if (!is_open_) open();
      is_open_ = true;
    }
    copy_region(tensors_.at(name), region, destination);
  }

 private:
  void open() {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(path_, error)) {
      if (entry.path().extension() == ".safetensors") tensors_.merge(read_safetensors(entry.path().string()));
    }
    if (error) throw EnvironmentFailure("cannot read '" + path_ + "': " + error.message());
    for (const std::vector<FileTensor>* list : {&model_.parameters, &model_.constants}) {
      for (const FileTensor& wanted : *list) {
        const auto found = tensors_.find(wanted.name);
        if (found == tensors_.end()) throw DataError(path_ + ": no file holds '" + wanted.name + "'");
        expect(found->second, path_, wanted.name, wanted.dtype, wanted.dims);
      }
    }
  }

  const std::string path_;
  const ModelInfo& model_;
  std::mutex mutex_;
  bool is_open_ = false;
  std::map<std::string, StoredTensor> tensors_;
};

}  // namespace

WeightReader read_weights_from_folder(const std::string& folder, const ModelInfo& model) {
  return [weights = std::make_shared<WeightFolder>(folder, model)](const std::string& name, const Region& region, void* destination) {
    weights->read(name, region, destination);
  };
}

}  // namespace sscc::rt
