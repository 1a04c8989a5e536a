#include "compiler/codegen/safetensors.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "compiler/support/check.h"
#include "compiler/support/diagnostics.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/raw_ostream.h"

namespace sscc {
namespace {

static_assert(std::endian::native == std::endian::little, "weights are copied byte by byte");

constexpr int64_t block_bytes = int64_t{4} << 20;

int64_t bytes_of(const FileTensor& tensor) { return elements(tensor.shape) * static_cast<int64_t>(rt::size_of(tensor.dtype)); }

// The header, padded with spaces so that the data begins at a multiple of 8 bytes.
std::string header_of(llvm::ArrayRef<const FileTensor*> tensors) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  llvm::json::OStream json(stream);
  int64_t offset = 0;
  json.object([&] {
    for (const FileTensor* tensor : tensors) {
      json.attributeObject(llvm::json::fixUTF8(tensor->name), [&] {
        json.attribute("dtype", rt::name_of(tensor->dtype));
        json.attributeArray("shape", [&] {
          for (const int64_t length : tensor->shape) json.value(length);
        });
        json.attributeArray("data_offsets", [&] {
          json.value(offset);
          json.value(offset + bytes_of(*tensor));
        });
      });
      offset += bytes_of(*tensor);
    }
  });
  stream.flush();
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

class Writer {
 public:
  explicit Writer(std::string path) : path_(std::move(path)), file_(path_, std::ios::binary | std::ios::trunc) { check(); }

  void write(const char* data, int64_t bytes) {
    file_.write(data, bytes);
    check();
  }
  void copy_from(const std::string& source, int64_t offset, int64_t bytes) {
    if (source != source_) {
      input_ = std::ifstream(source, std::ios::binary);
      if (!input_) throw EnvironmentError("cannot open '" + source + "': " + std::strerror(errno));
      source_ = source;
    }
    input_.seekg(offset);
    for (int64_t done = 0; done < bytes;) {
      const int64_t now = std::min(block_bytes, bytes - done);
      if (!input_.read(block_.data(), now)) throw EnvironmentError("'" + source + "' ends within a weight, at byte " + std::to_string(offset + done));
      write(block_.data(), now);
      done += now;
    }
  }
  void close() {
    file_.close();
    check();
  }

 private:
  void check() const {
    if (!file_) throw EnvironmentError("cannot write '" + path_ + "': " + std::strerror(errno));
  }
  std::string path_;
  std::ofstream file_;
  std::string source_;
  std::ifstream input_;
  std::vector<char> block_ = std::vector<char>(block_bytes);
};

int64_t write_file(const std::string& path, llvm::ArrayRef<const FileTensor*> tensors) {
  Writer writer(path);
  const std::string header = header_of(tensors);
  const uint64_t length = header.size();
  writer.write(reinterpret_cast<const char*>(&length), sizeof length);
  writer.write(header.data(), static_cast<int64_t>(header.size()));
  int64_t bytes = static_cast<int64_t>(sizeof length + header.size());
  for (const FileTensor* tensor : tensors) {
    SSCC_CHECK(tensor->weight.has_value(), "a parameter or constant without a value: " + tensor->name);
    const Weight& weight = *tensor->weight;
    const int64_t wanted = bytes_of(*tensor);
    if (weight.file.empty()) {
      SSCC_CHECK(weight.bytes && static_cast<int64_t>(weight.bytes->size()) == wanted, "the value of '" + tensor->name + "' has a wrong size");
      writer.write(weight.bytes->data(), wanted);
    } else {
      SSCC_CHECK(weight.length == wanted, "the value of '" + tensor->name + "' has a wrong size");
      writer.copy_from(weight.file, weight.offset, wanted);
    }
    bytes += wanted;
  }
  writer.close();
  return bytes;
}

void write_index(const std::string& path, llvm::ArrayRef<std::vector<const FileTensor*>> shards, llvm::ArrayRef<WeightFile> files) {
  std::error_code error;
  llvm::raw_fd_ostream stream(path, error);
  if (error) throw EnvironmentError("cannot write '" + path + "': " + error.message());
  int64_t total = 0;
  for (const auto& shard : shards) {
    for (const FileTensor* tensor : shard) total += bytes_of(*tensor);
  }
  llvm::json::OStream json(stream, 2);
  json.object([&] {
    json.attributeObject("metadata", [&] { json.attribute("total_size", total); });
    json.attributeObject("weight_map", [&] {
      for (size_t i = 0; i < shards.size(); ++i) {
        for (const FileTensor* tensor : shards[i]) json.attribute(llvm::json::fixUTF8(tensor->name), files[i].name);
      }
    });
  });
  stream << "\n";
  stream.flush();
  if (stream.has_error()) {
    const std::string reason = stream.error().message();
    stream.clear_error();
    throw EnvironmentError("cannot write '" + path + "': " + reason);
  }
}

}  // namespace

std::vector<WeightFile> write_safetensors(const std::string& folder, const std::vector<const FileTensor*>& tensors, int64_t shard_bytes) {
  std::vector<std::vector<const FileTensor*>> shards(1);
  int64_t filled = 0;
  for (const FileTensor* tensor : tensors) {
    if (filled > 0 && filled + bytes_of(*tensor) > shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(tensor);
    filled += bytes_of(*tensor);
  }
  std::vector<WeightFile> files;
  for (size_t i = 0; i < shards.size(); ++i) {
    char name[64] = "model.safetensors";
    if (shards.size() > 1) std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, shards.size());
    const int64_t bytes = write_file(folder + "/" + name, shards[i]);
    files.push_back({name, bytes, static_cast<int64_t>(shards[i].size())});
  }
  if (shards.size() > 1) write_index(folder + "/model.safetensors.index.json", shards, files);
  return files;
}

}  // namespace sscc
