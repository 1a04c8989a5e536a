// Values packed into a message between hosts of the same kind.
#pragma once

#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "sscc_rt/rank.h"

namespace sscc::rt {

class MessageWriter {
 public:
  template <class T>
  void value(const T& value) {
    bytes(&value, sizeof value);
  }
  void bytes(const void* data, size_t count) {
    const auto* from = static_cast<const std::byte*>(data);
    message_.insert(message_.end(), from, from + count);
  }
  void text(const std::string& text) {
    value(text.size());
    bytes(text.data(), text.size());
  }
  void optional(const std::optional<double>& number) {
    value(number.has_value());
    value(number.value_or(0));
  }
  void region(const Region& region) {
    value(region.size());
    for (const std::vector<Interval>& intervals : region) {
      value(intervals.size());
      bytes(intervals.data(), intervals.size() * sizeof(Interval));
    }
  }
  std::vector<std::byte> take() { return std::move(message_); }

 private:
  std::vector<std::byte> message_;
};

class MessageReader {
 public:
  explicit MessageReader(const std::vector<std::byte>& message) : message_(message) {}

  bool at_end() const { return at_ == message_.size(); }
  template <class T>
  T value() {
    T value;
    std::memcpy(&value, bytes(sizeof value), sizeof value);
    return value;
  }
  const std::byte* bytes(size_t count) {
    if (count > message_.size() - at_) throw std::logic_error("a message between hosts is too short");
    at_ += count;
    return message_.data() + at_ - count;
  }
  std::string text() {
    const auto size = value<size_t>();
    return {reinterpret_cast<const char*>(bytes(size)), size};
  }
  std::optional<double> optional() {
    const auto has_value = value<bool>();
    const auto number = value<double>();
    return has_value ? std::optional(number) : std::nullopt;
  }
  Region region() {
    Region region(value<size_t>());
    for (std::vector<Interval>& intervals : region) {
      intervals.resize(value<size_t>());
      for (Interval& interval : intervals) interval = value<Interval>();
    }
    return region;
  }

 private:
  const std::vector<std::byte>& message_;
  size_t at_ = 0;
};

}  // namespace sscc::rt
