// Files that hold tensors: ONNX's TensorProto (.pb), NumPy's .npy, safetensors. Readers map a file and copy regions out of it, so that a rank
// touches no more than it needs; writers write beside the final path and rename. Little-endian, row-major (a .npy may be in Fortran order).
//
// A file that cannot be opened or written: EnvironmentFailure. A file that is not what its format says: DataError, with path and byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "sscc_rt/rank.h"

namespace sscc::rt {

// A file in memory, read-only.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Where the elements of one tensor lie.
struct StoredTensor {
  std::string name;  // as the file says; may be empty
  DType dtype = DType::f32;
  std::vector<int64_t> dims, strides;  // strides in elements
  const std::byte* data = nullptr;
  std::shared_ptr<const void> owner;  // keeps `data` alive
};

StoredTensor read_pb(const std::string& path);  // raw_data or the typed fields; no external data
StoredTensor read_npy(const std::string& path);

// All tensors of a safetensors file, by name.
std::map<std::string, StoredTensor> read_safetensors(const std::string& path);

// "float32 8x32x64", "float32 scalar"
std::string type_and_shape(DType dtype, std::span<const int64_t> dims);

// Throws DataError, "PATH: 'x' is float32 8x4 but int64 8 is expected", unless type and shape are these.
void expect(const StoredTensor& tensor, const std::string& path, const std::string& name, DType dtype, std::span<const int64_t> dims);

// Strides of a dense row-major tensor.
std::vector<int64_t> dense_strides(std::span<const int64_t> dims);
int64_t elements_of(const Region& region);
Region whole_region(std::span<const int64_t> dims);

// Copies the elements of `region`, in row-major order, to `destination`. The region lies within the tensor (checked).
void copy_region(const StoredTensor& tensor, const Region& region, void* destination);
// The other way: the packed elements of `region` go to their places in a whole, dense tensor. `covered` (one entry an element) is set there.
void place_region(std::span<const int64_t> dims, DType dtype, const Region& region, const void* packed, std::byte* whole, std::vector<bool>& covered);

void write_pb(const std::string& path, const std::string& name, DType dtype, std::span<const int64_t> dims, const void* data);

// A file written beside its path; `commit` puts it in place. Destroyed without that, it is removed.
class NewFile {
 public:
  explicit NewFile(std::string path);
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile();
  void write(const void* data, size_t bytes);
  void commit();

 private:
  [[noreturn]] void fail(const char* what);
  std::string path_, beside_;
  int file_ = -1;
};

// Tensors are announced first, then their bytes written one after another.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::string& path, std::span<const FileTensor> tensors);
  void write(std::span<const std::byte> tensor) { file_.write(tensor.data(), tensor.size()); }
  void commit() { file_.commit(); }

 private:
  NewFile file_;
};

}  // namespace sscc::rt
