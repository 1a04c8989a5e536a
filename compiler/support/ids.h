// Typed 32-bit ids into vectors: objects never point at each other, and a TensorId is not an OpId.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <vector>

namespace sscc {

template <class Tag>
struct Id {
  int32_t index = -1;  // -1: none

  constexpr Id() = default;
  constexpr explicit Id(int64_t i) : index(static_cast<int32_t>(i)) {}
  constexpr bool valid() const { return index >= 0; }
  constexpr auto operator<=>(const Id&) const = default;
};

// A vector of T that is indexed by its own kind of id only.
template <class T, class IdType>
class Store {
 public:
  IdType add(T value) {
    items_.push_back(std::move(value));
    return IdType(static_cast<int64_t>(items_.size()) - 1);
  }
  T& operator[](IdType id) { return items_[static_cast<size_t>(id.index)]; }
  const T& operator[](IdType id) const { return items_[static_cast<size_t>(id.index)]; }
  int64_t size() const { return static_cast<int64_t>(items_.size()); }
  auto begin() { return items_.begin(); }
  auto end() { return items_.end(); }
  auto begin() const { return items_.begin(); }
  auto end() const { return items_.end(); }
  IdType id_at(int64_t i) const { return IdType(i); }

 private:
  std::vector<T> items_;
};

}  // namespace sscc

template <class Tag>
struct std::hash<sscc::Id<Tag>> {
  size_t operator()(const sscc::Id<Tag>& id) const noexcept { return std::hash<int32_t>()(id.index); }
};
