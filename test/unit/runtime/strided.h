// Tensors for kernel tests: strided views into larger memory, whose elements outside the view must stay as they are.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <random>
#include <type_traits>
#include <vector>

#include "sscc_rt/kernels.h"
#include "sscc_rt/small_floats.h"

namespace sscc::rt::test {

using Dims = std::vector<int64_t>;
inline constexpr double untouched = -12345;

inline std::mt19937& randomness() {
  static std::mt19937 engine(3);
  return engine;
}

// A tensor of type T (uint8_t: booleans) with its own memory. `spread` leaves gaps between elements and orders the dimensions at random, so that no dimension is dense.
template <class T>
class Array {
 public:
  static constexpr DType dtype = std::is_same_v<T, double>    ? DType::f64
                                 : std::is_same_v<T, int64_t> ? DType::i64
                                 : std::is_same_v<T, bf16>    ? DType::bf16
                                 : std::is_same_v<T, f16>     ? DType::f16
                                 : std::is_same_v<T, uint8_t> ? DType::b1
                                                              : DType::f32;

  explicit Array(const Dims& dims, bool spread = true) {
    view_.rank = static_cast<int>(dims.size());
    view_.dtype = dtype;
    std::vector<size_t> order(dims.size());
    for (size_t d = 0; d < dims.size(); ++d) order[d] = dims.size() - 1 - d;
    if (spread) std::shuffle(order.begin(), order.end(), randomness());
    int64_t stride = spread ? 2 : 1;
    for (const size_t d : order) {
      view_.dims[d] = dims[d];
      view_.strides[d] = stride;
      stride *= dims[d] + (spread ? 1 : 0);
    }
    memory_.assign(static_cast<size_t>(stride + 3), static_cast<T>(untouched));
    view_.data = memory_.data() + (spread ? 3 : 0);
  }
  Array(const Array&) = delete;

  // Integers in [low, high]: sums and products of them are exact.
  Array& integers(int low, int high) {
    each([&](T& value) { value = static_cast<T>(low + static_cast<int>(randomness()() % static_cast<uint32_t>(high - low + 1))); });
    return *this;
  }
  Array& reals(double low, double high) {
    each([&](T& value) { value = static_cast<T>(low + (high - low) * static_cast<double>(randomness()()) / 4294967296.0); });
    return *this;
  }
  Array& constant(T value) {
    return set([&] { return value; });
  }
  // value(), called row-major.
  template <class Value>
  Array& set(const Value& value) {
    each([&](T& element) { element = value(); });
    return *this;
  }

  operator const Tensor&() const { return view_; }
  const Tensor& view() const { return view_; }
  T at(const Dims& index) const { return const_cast<Array*>(this)->element(index); }

  // Row-major.
  std::vector<T> values() const {
    std::vector<T> list;
    const_cast<Array*>(this)->each([&](T& value) { list.push_back(value); });
    return list;
  }
  // Everything, gaps included.
  const std::vector<T>& memory() const { return memory_; }
  size_t untouched_elements() const { return static_cast<size_t>(std::count(memory_.begin(), memory_.end(), static_cast<T>(untouched))); }

 private:
  T& element(const Dims& index) {
    int64_t offset = 0;
    for (size_t d = 0; d < index.size(); ++d) offset += index[d] * view_.strides[d];
    return static_cast<T*>(view_.data)[offset];
  }
  template <class Visit>
  void each(const Visit& visit) {
    Dims index(static_cast<size_t>(view_.rank), 0);
    const std::function<void(size_t)> descend = [&](size_t d) {
      if (d == index.size()) return visit(element(index));
      for (index[d] = 0; index[d] < view_.dims[d]; ++index[d]) descend(d + 1);
    };
    descend(0);
  }

  Tensor view_;
  std::vector<T> memory_;
};

// visit(index) for every index below dims, row-major.
template <class Visit>
void for_each_index(const Dims& dims, const Visit& visit) {
  Dims index(dims.size(), 0);
  const std::function<void(size_t)> descend = [&](size_t d) {
    if (d == dims.size()) return visit(static_cast<const Dims&>(index));
    for (index[d] = 0; index[d] < dims[d]; ++index[d]) descend(d + 1);
  };
  descend(0);
}

}  // namespace sscc::rt::test
