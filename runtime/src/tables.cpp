#include "sscc_rt/tables.h"

#include <cstdlib>
#include <string>

namespace sscc::rt {
namespace {

// Reads the integers of a text one after another; anything between two of them is a separator.
class Integers {
 public:
  explicit Integers(const char* text) : at_(text) { skip(); }
  bool at_end() const { return *at_ == '\0'; }
  int64_t next() {
    char* end = nullptr;
    const int64_t value = std::strtoll(at_, &end, 10);
    at_ = end;
    skip();
    return value;
  }
  // What stood between the last integer and the next one, if that holds `separator`.
  bool passed(char separator) const { return passed_.find(separator) != std::string::npos; }

 private:
  void skip() {
    passed_.clear();
    while (*at_ != '\0' && *at_ != '-' && (*at_ < '0' || *at_ > '9')) passed_ += *at_++;
  }
  const char* at_;
  std::string passed_;
};

template <class T>
std::vector<T> read_list(const char* text) {
  std::vector<T> values;
  for (Integers integers(text); !integers.at_end();) values.push_back(static_cast<T>(integers.next()));
  return values;
}

Region read_region(const char* text) {
  Region region;
  Integers integers(text);
  if (integers.at_end()) return region;  // of a scalar
  region.emplace_back();
  while (!integers.at_end()) {
    const int64_t begin = integers.next();
    const int64_t end = integers.next();
    if (begin < end) region.back().push_back({begin, end});  // "0:0": a piece without elements
    if (integers.passed(',')) region.emplace_back();
  }
  return region;
}

}  // namespace

std::vector<FileTensor> file_tensors(std::span<const TensorRow> rows) {
  std::vector<FileTensor> tensors;
  for (const TensorRow& row : rows) tensors.push_back({row.name, row.dtype, read_list<int64_t>(row.shape), row.trainable, row.upper_bound});
  return tensors;
}

std::vector<std::vector<int32_t>> read_groups(const char* text) {
  std::vector<std::vector<int32_t>> groups;
  Integers integers(text);
  while (!integers.at_end()) {
    if (groups.empty() || integers.passed('|')) groups.emplace_back();
    groups.back().push_back(static_cast<int32_t>(integers.next()));
  }
  return groups;
}

Constants read_constants(const RankRow& row, std::span<const char* const> regions) {
  Constants constants;
  constants.peers = read_list<int32_t>(row.peers);
  constants.groups = read_groups(row.groups);
  for (const int32_t index : read_list<int32_t>(row.regions)) constants.regions.push_back(read_region(regions[static_cast<size_t>(index)]));
  constants.offsets = read_list<int64_t>(row.offsets);
  return constants;
}

}  // namespace sscc::rt
