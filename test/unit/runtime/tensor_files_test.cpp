// The readers of tensor files: what they take, region by region, and what they refuse, located.
#include "sscc_rt/tensor_files.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>

using namespace sscc::rt;
using Catch::Matchers::Contains;

namespace {

namespace fs = std::filesystem;

class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / ("sscc_files_" + std::to_string(getpid()))) { fs::create_directories(path_); }
  ~Folder() { fs::remove_all(path_); }
  std::string path(const std::string& name) const { return path_ / name; }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path(name), std::ios::binary) << bytes;
    return path(name);
  }
  std::string read(const std::string& name) const {
    std::ifstream file(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  size_t files() const { return static_cast<size_t>(std::distance(fs::directory_iterator(path_), {})); }

 private:
  fs::path path_;
};

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::string npy(const std::string& header, const std::string& data) {
  std::string text = header;
  while ((10 + text.size() + 1) % 64 != 0) text += ' ';
  text += '\n';
  const auto length = static_cast<uint16_t>(text.size());
  return std::string("\x93NUMPY\x01\x00", 8) + std::string(reinterpret_cast<const char*>(&length), 2) + text + data;
}

std::string safetensors(const std::string& header, const std::string& data) {
  const auto length = static_cast<uint64_t>(header.size());
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

std::vector<float> region_of(const StoredTensor& tensor, const Region& region) {
  std::vector<float> values(static_cast<size_t>(elements_of(region)));
  copy_region(tensor, region, values.data());
  return values;
}

const std::vector<float> six = {0, 1, 2, 3, 4, 5};

}  // namespace

TEST_CASE(".npy files in both orders") {
  const Folder folder;
  const StoredTensor rows = read_npy(folder.write("c.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", bytes_of(six))));
  CHECK(rows.dtype == DType::f32);
  CHECK(rows.dims == std::vector<int64_t>{2, 3});
  CHECK(region_of(rows, whole_region(rows.dims)) == six);
  const StoredTensor columns = read_npy(folder.write("f.npy", npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", bytes_of(six))));
  CHECK(region_of(columns, whole_region(columns.dims)) == std::vector<float>{0, 2, 4, 1, 3, 5});
  const StoredTensor scalar = read_npy(folder.write("s.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", bytes_of<float>({7}))));
  CHECK(scalar.dims.empty());
  CHECK(region_of(scalar, {}) == std::vector<float>{7});
}

TEST_CASE(".npy files that are none") {
  const Folder folder;
  const auto refused = [&](const std::string& bytes) {
    std::string message;
    try {
      read_npy(folder.write("x.npy", bytes));
    } catch (const DataError& error) { message = error.what(); }
    return message;
  };
  const std::string good = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", bytes_of(six));
  CHECK_THAT(refused(""), Contains("not an .npy file"));
  CHECK_THAT(refused("PK\x03\x04 and more bytes"), Contains("not an .npy file"));
  CHECK_THAT(refused(good.substr(0, 40)), Contains("ends within its header"));
  CHECK_THAT(refused(good.substr(0, good.size() - 1)), Contains("says float32 2x3 but holds 23 bytes"));
  CHECK_THAT(refused(npy("{'fortran_order': False, 'shape': (2, 3), }", bytes_of(six))), Contains("descr"));
  CHECK_THAT(refused(npy("{'descr': '<c8', 'fortran_order': False, 'shape': (3,), }", bytes_of(six))), Contains("'<c8'"));
  CHECK_THAT(refused(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -3), }", bytes_of(six))), Contains("says float32 -2x-3"));
  CHECK_THAT(refused(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }", "")), Contains("says float32"));
  CHECK_THROWS_AS(read_npy(folder.path("absent.npy")), EnvironmentFailure);
}

TEST_CASE("regions with gaps are copied in row-major order, and placed back") {
  const Folder folder;
  std::vector<float> values(2 * 4 * 3);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const StoredTensor tensor =
      read_npy(folder.write("x.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4, 3), }", bytes_of(values))));
  const Region region = {{{1, 2}}, {{0, 1}, {2, 4}}, {{0, 2}}};
  const std::vector<float> packed = region_of(tensor, region);
  CHECK(packed == std::vector<float>{12, 13, 18, 19, 21, 22});
  std::vector<float> back(24, -1);
  std::vector<bool> covered(24, false);
  place_region(tensor.dims, DType::f32, region, packed.data(), reinterpret_cast<std::byte*>(back.data()), covered);
  CHECK(std::count(covered.begin(), covered.end(), true) == 6);
  for (size_t i = 0; i < 24; ++i) CHECK(back[i] == (covered[i] ? values[i] : -1));
}

TEST_CASE(".pb files: written and read, and what is refused") {
  const Folder folder;
  const std::vector<int64_t> dims = {2, 3};
  write_pb(folder.path("x.pb"), "x", DType::f32, dims, six.data());
  const StoredTensor tensor = read_pb(folder.path("x.pb"));
  CHECK(tensor.name == "x");
  CHECK(tensor.dims == dims);
  CHECK(region_of(tensor, whole_region(dims)) == six);
  CHECK(folder.files() == 1);  // nothing is left beside it

  const std::string good = folder.read("x.pb");
  for (size_t length = 1; length < good.size(); ++length) {  // cut anywhere: refused, with the reason
    INFO("cut to " << length << " bytes");
    CHECK_THROWS_AS(read_pb(folder.write("cut.pb", good.substr(0, length))), DataError);
  }
  // dims 2, float_data 1.5 and 2.5 packed, name "y"
  const StoredTensor typed =
      read_pb(folder.write("typed.pb", std::string("\x08\x02\x10\x01\x22\x08", 6) + bytes_of<float>({1.5f, 2.5f}) + "\x42\x01y"));
  CHECK(region_of(typed, whole_region(typed.dims)) == std::vector<float>{1.5f, 2.5f});
  CHECK_THROWS_WITH(read_pb(folder.write("string.pb", std::string("\x08\x01\x10\x08", 4))), Contains("type 8"));
}

TEST_CASE("safetensors: written and read") {
  const Folder folder;
  const std::vector<FileTensor> tensors = {{"a.weight", DType::f32, {2, 3}}, {"ids", DType::i64, {2}}, {"odd \"name\" \xc3\xa9\n", DType::u8, {}}};
  {
    SafetensorsWriter writer(folder.path("w.safetensors"), tensors);
    const std::vector<int64_t> ids = {-5, 6};
    const uint8_t one = 9;
    writer.write(std::as_bytes(std::span(six)));
    writer.write(std::as_bytes(std::span(ids)));
    writer.write(std::as_bytes(std::span(&one, 1)));
    writer.commit();
  }
  const auto read = read_safetensors(folder.path("w.safetensors"));
  REQUIRE(read.size() == 3);
  CHECK(region_of(read.at("a.weight"), {{{1, 2}}, {{0, 3}}}) == std::vector<float>{3, 4, 5});
  CHECK(read.at("ids").dtype == DType::i64);
  CHECK(read.at(tensors[2].name).dims.empty());
}

TEST_CASE("a writer that is not committed leaves nothing") {
  const Folder folder;
  { SafetensorsWriter writer(folder.path("w.safetensors"), std::vector<FileTensor>{{"a", DType::f32, {2}}}); }
  CHECK(folder.files() == 0);
}

TEST_CASE("safetensors files that are none") {
  const Folder folder;
  const auto refused = [&](const std::string& bytes) {
    std::string message;
    try {
      read_safetensors(folder.write("x.safetensors", bytes));
    } catch (const DataError& error) { message = error.what(); }
    return message;
  };
  const std::string entry = R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})";
  CHECK(refused(safetensors(entry, bytes_of(six))).empty());
  CHECK_THAT(refused(""), Contains("ends within its header"));
  CHECK_THAT(refused(safetensors(entry, "").substr(0, 20)), Contains("ends within its header"));
  CHECK_THAT(refused(std::string(8, '\xff') + entry), Contains("ends within its header"));
  CHECK_THAT(refused(safetensors(entry, bytes_of(six).substr(1))), Contains("'a' does not lie within the file"));
  CHECK_THAT(refused(safetensors(R"({"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,24]}})", bytes_of(six))),
             Contains("with the size of its shape"));
  CHECK_THAT(refused(safetensors(R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[24,0]}})", bytes_of(six))), Contains("'a'"));
  CHECK_THAT(refused(safetensors(R"({"a":{"dtype":"F4","shape":[6],"data_offsets":[0,24]}})", bytes_of(six))), Contains("type F4"));
  CHECK_THAT(refused(safetensors(R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]})", bytes_of(six))), Contains("expected at byte"));
  CHECK_THAT(refused(safetensors(R"({"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,24]}})", bytes_of(six))),
             Contains("smaller number"));
  CHECK_THAT(refused(safetensors("[]", "")), Contains("expected at byte 8"));
}

TEST_CASE("what a tensor should be, and is not") {
  StoredTensor tensor;
  tensor.dims = {8, 4};
  const std::vector<int64_t> wanted = {8};
  CHECK_THROWS_WITH(expect(tensor, "x.pb", "x", DType::i64, wanted), "x.pb: 'x' is float32 8x4 but int64 8 is expected");
  CHECK_NOTHROW(expect(tensor, "x.pb", "x", DType::f32, tensor.dims));
  CHECK(type_and_shape(DType::f32, {}) == "float32 scalar");
}
