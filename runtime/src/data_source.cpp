#include "data_source.h"

#include <cstring>
#include <filesystem>

namespace sscc::rt {
namespace {

namespace fs = std::filesystem;

// One of the model's inputs or labels, and the name of its file without extension: "input_0".
struct Item {
  const FileTensor* tensor;
  std::string file;
};

std::map<std::string, Item> items_of(const ModelInfo& model) {
  std::map<std::string, Item> items;
  for (size_t i = 0; i < model.inputs.size(); ++i) items[model.inputs[i].name] = {&model.inputs[i], "input_" + std::to_string(i)};
  for (size_t i = 0; i < model.labels.size(); ++i) items[model.labels[i].name] = {&model.labels[i], "label_" + std::to_string(i)};
  return items;
}

class Folder : public DataSource {
 public:
  Folder(std::string path, const ModelInfo& model) : path_(std::move(path)), items_(items_of(model)) {
    std::error_code error;
    if (!fs::is_directory(path_, error))
      throw DataError("cannot open the data folder '" + path_ + "': " + (error ? error.message() : "it is not a folder"));
    while (fs::exists(step_path(steps_), error) || fs::exists(step_path(steps_) + ".safetensors", error)) ++steps_;
    if (steps_ == 0) throw DataError(path_ + ": a folder step_0 or a file step_0.safetensors is expected");
  }

  int64_t steps() const override { return steps_; }

  void read(int64_t step, const std::string& name, const Region& region, void* destination) override {
    const Item& item = items_.at(name);
    step %= steps_;
    if (step != step_) open_.clear();
    step_ = step;
    auto found = open_.find(name);
    if (found == open_.end()) found = open_.emplace(name, open(step, item)).first;
    copy_region(found->second, region, destination);
  }

 private:
  std::string step_path(int64_t step) const { return path_ + "/step_" + std::to_string(step); }

  StoredTensor open(int64_t step, const Item& item) const {
    const FileTensor& tensor = *item.tensor;
    const std::string base = step_path(step) + "/" + item.file, together = step_path(step) + ".safetensors";
    std::error_code ignored;
    std::string path;
    StoredTensor stored;
    if (fs::exists(path = base + ".pb", ignored)) {
      stored = read_pb(path);
    } else if (fs::exists(path = base + ".npy", ignored)) {
      stored = read_npy(path);
    } else if (fs::exists(path = together, ignored)) {
      auto tensors = read_safetensors(path);
      const auto found = tensors.find(tensor.name);
      if (found == tensors.end())
        throw DataError(path + ": '" + tensor.name + "' is missing; " + type_and_shape(tensor.dtype, tensor.dims) + " is expected");
      stored = std::move(found->second);
    } else {
      throw DataError(base + ".pb: no such file, nor .npy; '" + tensor.name + "', " + type_and_shape(tensor.dtype, tensor.dims) +
                      ", is expected there");
    }
    expect(stored, path, tensor.name, tensor.dtype, tensor.dims);
    return stored;
  }

  std::string path_;
  std::map<std::string, Item> items_;
  int64_t steps_ = 0;
  int64_t step_ = -1;  // whose files are open
  std::map<std::string, StoredTensor> open_;
};

// splitmix64 (Steele, Lea, Flood 2014): its output function, as a hash.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

// Every element is a function of seed, step, tensor and its position in the whole tensor, so that all divisions of a model see the same numbers.
// Floats are uniform in [-1, 1), integers in [0, upper_bound), booleans either.
class Synthetic : public DataSource {
 public:
  Synthetic(uint64_t seed, const ModelInfo& model) : seed_(seed), items_(items_of(model)) {}

  int64_t steps() const override { return 1; }

  void read(int64_t step, const std::string& name, const Region& region, void* destination) override {
    const FileTensor& tensor = *items_.at(name).tensor;
    uint64_t key = mix(seed_ + mix(static_cast<uint64_t>(step)));
    for (const char c : name) key = mix(key ^ static_cast<unsigned char>(c));
    to_ = static_cast<std::byte*>(destination);
    fill(tensor, region, key, 0, 0);
  }

 private:
  void fill(const FileTensor& tensor, const Region& region, uint64_t key, size_t dim, int64_t position) {
    if (dim == region.size()) return put(tensor, mix(key ^ static_cast<uint64_t>(position)));
    for (const Interval& interval : region[dim]) {
      for (int64_t i = interval.begin; i < interval.end; ++i) fill(tensor, region, key, dim + 1, position * tensor.dims[dim] + i);
    }
  }
  template <class T>
  void put_value(T value) {
    std::memcpy(to_, &value, sizeof value);
    to_ += sizeof value;
  }
  void put(const FileTensor& tensor, uint64_t random) {
    const double real = static_cast<double>(random >> 40) * 0x1p-23 - 1;  // 24 bits: exact in f32
    const auto integer = static_cast<int64_t>((random >> 32) * static_cast<uint64_t>(tensor.upper_bound) >> 32);
    switch (tensor.dtype) {
      case DType::f32: return put_value(static_cast<float>(real));
      case DType::f64: return put_value(real);
      case DType::bf16: return put_value(static_cast<uint16_t>(bits_of(static_cast<float>(real)) >> 16));
      case DType::f16: throw EnvironmentFailure("there is no synthetic data of type f16, which '" + tensor.name + "' has");
      case DType::i64: return put_value(integer);
      case DType::i32: return put_value(static_cast<int32_t>(integer));
      case DType::i8: return put_value(static_cast<int8_t>(integer));
      case DType::u8: return put_value(static_cast<uint8_t>(integer));
      case DType::b1: return put_value(static_cast<uint8_t>(random >> 63));
    }
  }
  static uint32_t bits_of(float value) {
    uint32_t bits = 0;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
  }

  uint64_t seed_;
  std::map<std::string, Item> items_;
  std::byte* to_ = nullptr;
};

}  // namespace

std::unique_ptr<DataSource> open_data(const std::string& data, uint64_t seed, const ModelInfo& model) {
  if (data == "synthetic") return std::make_unique<Synthetic>(seed, model);
  return std::make_unique<Folder>(data, model);
}

}  // namespace sscc::rt
