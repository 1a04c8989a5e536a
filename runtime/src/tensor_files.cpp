// Files as bytes, and regions in them. The formats are in tensor_proto.cpp, npy.cpp and safetensors.cpp.
#include "sscc_rt/tensor_files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

namespace sscc::rt {

static_assert(std::endian::native == std::endian::little, "files are little-endian and copied byte by byte");

// -- files ----------------------------------------------------------------------------------------------------------------------------------------

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const auto fail = [&](const char* what) { throw EnvironmentFailure(std::string("cannot ") + what + " '" + path + "': " + std::strerror(errno)); };
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail("open");
  struct stat status {};
  const bool known = fstat(file, &status) == 0;
  if (known && S_ISDIR(status.st_mode)) errno = EISDIR;
  if (!known || S_ISDIR(status.st_mode)) {
    close(file);
    fail("read");
  }
  size_ = static_cast<size_t>(status.st_size);
  if (size_ > 0) {
    void* mapping = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    if (mapping == MAP_FAILED) {
      close(file);
      fail("map");
    }
    data_ = static_cast<const std::byte*>(mapping);
  }
  close(file);
}

MappedFile::~MappedFile() {
  if (data_) munmap(const_cast<std::byte*>(data_), size_);
}

NewFile::NewFile(std::string path) : path_(std::move(path)), beside_(path_ + ".tmp" + std::to_string(getpid())) {
  file_ = open(beside_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (file_ < 0) fail("create");
}

NewFile::~NewFile() {
  if (file_ < 0) return;
  close(file_);
  unlink(beside_.c_str());
}

void NewFile::fail(const char* what) { throw EnvironmentFailure(std::string("cannot ") + what + " '" + path_ + "': " + std::strerror(errno)); }

void NewFile::write(const void* data, size_t bytes) {
  for (const char* at = static_cast<const char*>(data); bytes > 0;) {
    const ssize_t written = ::write(file_, at, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write");
    at += written;
    bytes -= static_cast<size_t>(written);
  }
}

void NewFile::commit() {
  const int file = file_;
  file_ = -1;
  if (close(file) == 0 && rename(beside_.c_str(), path_.c_str()) == 0) return;
  const int error = errno;
  unlink(beside_.c_str());
  errno = error;
  fail("write");
}

// -- regions --------------------------------------------------------------------------------------------------------------------------------------

namespace {

// Calls visit(offset in the tensor, offset in the packed region, count) for runs of elements that are adjacent in both; all in elements.
template <class Visit>
class Runs {
 public:
  Runs(std::span<const int64_t> dims, std::span<const int64_t> strides, const Region& region, const Visit& visit)
      : strides_(strides), region_(region), visit_(visit), run_dim_(dims.size()) {
    // Dimensions that are whole and lie densely behind one another lengthen the runs of the dimension before them.
    int64_t block = 1;
    for (size_t d = dims.size(); d-- > 0 && strides[d] == block; block *= dims[d]) {
      run_dim_ = d;
      run_block_ = block;
      const bool whole = region[d].size() == 1 && region[d][0].begin == 0 && region[d][0].end == dims[d];
      if (!whole) break;
    }
  }
  void go() { descend(0, 0); }

 private:
  void descend(size_t dim, int64_t offset) {
    if (dim == strides_.size()) return run(offset, 1);
    for (const Interval& interval : region_[dim]) {
      if (dim == run_dim_) {
        run(offset + interval.begin * run_block_, (interval.end - interval.begin) * run_block_);
      } else {
        for (int64_t i = interval.begin; i < interval.end; ++i) descend(dim + 1, offset + i * strides_[dim]);
      }
    }
  }
  void run(int64_t offset, int64_t count) {
    visit_(offset, packed_, count);
    packed_ += count;
  }

  std::span<const int64_t> strides_;
  const Region& region_;
  const Visit& visit_;
  size_t run_dim_;         // an interval of this dimension is one run; the rank: single elements
  int64_t run_block_ = 1;  // elements of one position of it
  int64_t packed_ = 0;
};

void check_within(std::span<const int64_t> dims, const Region& region) {
  bool good = region.size() == dims.size();
  for (size_t d = 0; good && d < dims.size(); ++d) {
    for (const Interval& interval : region[d]) good &= 0 <= interval.begin && interval.begin <= interval.end && interval.end <= dims[d];
  }
  if (!good) throw std::logic_error("a region lies outside its tensor");
}

}  // namespace

std::vector<int64_t> dense_strides(std::span<const int64_t> dims) {
  std::vector<int64_t> strides(dims.size());
  uint64_t stride = 1;  // may wrap round: the shape may be a claim that its reader has yet to refuse
  for (size_t d = dims.size(); d-- > 0;) {
    strides[d] = static_cast<int64_t>(stride);
    stride *= static_cast<uint64_t>(dims[d]);
  }
  return strides;
}

int64_t elements_of(const Region& region) {
  int64_t count = 1;
  for (const std::vector<Interval>& intervals : region) {
    int64_t length = 0;
    for (const Interval& interval : intervals) length += interval.end - interval.begin;
    count *= length;
  }
  return count;
}

Region whole_region(std::span<const int64_t> dims) {
  Region region;
  for (const int64_t length : dims) region.push_back({{0, length}});
  return region;
}

void copy_region(const StoredTensor& tensor, const Region& region, void* destination) {
  check_within(tensor.dims, region);
  if (elements_of(region) == 0) return;
  const size_t size = size_of(tensor.dtype);
  std::byte* const to = static_cast<std::byte*>(destination);
  const auto visit = [&](int64_t offset, int64_t packed, int64_t count) {
    std::memcpy(to + static_cast<size_t>(packed) * size, tensor.data + offset * static_cast<int64_t>(size), static_cast<size_t>(count) * size);
  };
  Runs(tensor.dims, tensor.strides, region, visit).go();
}

void place_region(std::span<const int64_t> dims, DType dtype, const Region& region, const void* packed, std::byte* whole,
                  std::vector<bool>& covered) {
  check_within(dims, region);
  if (elements_of(region) == 0) return;
  const size_t size = size_of(dtype);
  const std::byte* const from = static_cast<const std::byte*>(packed);
  const std::vector<int64_t> strides = dense_strides(dims);
  const auto visit = [&](int64_t offset, int64_t at, int64_t count) {
    std::memcpy(whole + static_cast<size_t>(offset) * size, from + static_cast<size_t>(at) * size, static_cast<size_t>(count) * size);
    std::fill_n(covered.begin() + offset, count, true);
  };
  Runs(dims, strides, region, visit).go();
}

std::string type_and_shape(DType dtype, std::span<const int64_t> dims) {
  static constexpr const char* names[] = {"float32", "float64", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"};
  std::string text = names[static_cast<size_t>(dtype)];
  if (dims.empty()) return text + " scalar";
  for (size_t d = 0; d < dims.size(); ++d) text += (d ? "x" : " ") + std::to_string(dims[d]);
  return text;
}

void expect(const StoredTensor& tensor, const std::string& path, const std::string& name, DType dtype, std::span<const int64_t> dims) {
  if (tensor.dtype == dtype && std::equal(tensor.dims.begin(), tensor.dims.end(), dims.begin(), dims.end())) return;
  throw DataError(path + ": '" + name + "' is " + type_and_shape(tensor.dtype, tensor.dims) + " but " + type_and_shape(dtype, dims) + " is expected");
}

}  // namespace sscc::rt
