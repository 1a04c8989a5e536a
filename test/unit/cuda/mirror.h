// Tensors for tests of CUDA kernels: the same strided view in host memory, for the processor's kernel, and in device memory, for the GPU's. Whole
// memories are compared, so that elements outside a view must stay as they are.
#pragma once

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "sscc_rt/cuda.h"
#include "sscc_rt/kernels.h"
#include "test/unit/cuda/host_kernels.h"

namespace sscc::rt::test {

using Dims = std::vector<int64_t>;
inline constexpr double untouched = -123;

inline std::mt19937& randomness() {
  static std::mt19937 engine(7);
  return engine;
}

double element(const void* memory, DType type, int64_t at);
void set_element(void* memory, DType type, int64_t at, double value);

// Differences that rounding may make, relative to the larger of the element and the root mean square of all.
inline double tolerance_of(DType type) {
  switch (type) {
    case DType::f64: return 1e-12;
    case DType::f32: return 3e-5;
    case DType::f16: return 4e-3;
    case DType::bf16: return 3e-2;
    default: return 0;
  }
}

// dense: row-major from an aligned address. offset: row-major, one element further. rows: dense rows with gaps between them. spread: dimensions in
// random order, gaps everywhere.
enum class Layout { dense, offset, rows, spread };

class Mirror {
 public:
  // The processor has no bf16 and f16: it gets the same values as float.
  Mirror(DType type, const Dims& dims, Layout layout = Layout::dense) {
    device_.dtype = type;
    device_.rank = static_cast<int>(dims.size());
    std::vector<size_t> order(dims.size());
    for (size_t d = 0; d < dims.size(); ++d) order[d] = dims.size() - 1 - d;
    if (layout == Layout::spread) std::shuffle(order.begin(), order.end(), randomness());
    int64_t stride = layout == Layout::spread ? 2 : 1;
    for (const size_t d : order) {
      device_.dims[d] = dims[d];
      device_.strides[d] = stride;
      stride *= dims[d];
      if (layout == Layout::spread) stride += 3;
      if (layout == Layout::rows && d + 1 == dims.size()) stride += 16;
    }
    first_ = layout == Layout::offset || layout == Layout::spread ? 1 : 0;
    elements_ = stride + first_;
    host_ = device_;
    if (type == DType::bf16 || type == DType::f16) host_.dtype = DType::f32;
    memory_.resize(static_cast<size_t>(elements_) * size_of(host_.dtype));
    host_.data = memory_.data() + first_ * static_cast<int64_t>(size_of(host_.dtype));
    check(cudaMalloc(&device_memory_, bytes()), "allocate for a test");
    device_.data = static_cast<std::byte*>(device_memory_) + first_ * static_cast<int64_t>(size_of(type));
    set_all([&] { return type == DType::b1 ? 0 : untouched; }, true);
  }
  Mirror(const Mirror&) = delete;
  ~Mirror() { cudaFree(device_memory_); }

  Mirror& reals(double low, double high) {
    return set_all([&] { return low + (high - low) * static_cast<double>(randomness()()) / 4294967296.0; });
  }
  Mirror& integers(int low, int high) {
    return set_all([&] { return static_cast<double>(low + static_cast<int>(randomness()() % static_cast<uint32_t>(high - low + 1))); });
  }
  Mirror& constant(double value) {
    return set_all([&] { return value; });
  }
  // value(index), called row-major.
  Mirror& by_index(const std::function<double(const Dims&)>& value) {
    Dims index(static_cast<size_t>(host_.rank), 0);
    return set_all([&] {
      const double result = value(index);
      for (size_t d = index.size(); d-- > 0;) {
        if (++index[d] < host_.dims[d]) break;
        index[d] = 0;
      }
      return result;
    });
  }

  const Tensor& host() const { return host_; }
  const Tensor& device() const { return device_; }

  // The device's memory, from its first byte on.
  std::vector<std::byte> downloaded() const {
    std::vector<std::byte> result(bytes());
    check(cudaStreamSynchronize(compute_stream()), "wait for kernels");
    check(cudaMemcpy(result.data(), device_memory_, result.size(), cudaMemcpyDeviceToHost), "read results");
    return result;
  }
  // How much more than rounding the two differ by: at most 1 if they agree. `slack`: a factor for the tolerance.
  double difference(double slack = 1) const {
    const std::vector<std::byte> got = downloaded();
    const double tolerance = tolerance_of(device_.dtype) * slack;
    double squares = 0;
    for (int64_t i = 0; i < elements_; ++i) {
      const double wanted = element(memory_.data(), host_.dtype, i);
      if (std::isfinite(wanted) && wanted != untouched) squares += wanted * wanted;
    }
    const double typical = std::sqrt(squares / static_cast<double>(elements_));
    double worst = 0;
    for (int64_t i = 0; i < elements_; ++i) {
      const double wanted = element(memory_.data(), host_.dtype, i), value = element(got.data(), device_.dtype, i);
      if (wanted == value || (wanted != wanted && value != value)) continue;
      const double allowed = tolerance * std::max(std::fabs(wanted), typical);
      const double ratio = std::fabs(wanted - value) / allowed;
      worst = std::max(worst, std::isfinite(ratio) ? ratio : 1e300);
    }
    return worst;
  }

 private:
  size_t bytes() const { return static_cast<size_t>(elements_) * size_of(device_.dtype); }

  // Of the view's elements, or of all memory; rounded to the device's type. Both memories are set.
  template <class Value>
  Mirror& set_all(const Value& value, bool with_gaps = false) {
    std::vector<std::byte> copy = with_gaps ? std::vector<std::byte>(bytes()) : downloaded();
    const auto set = [&](int64_t at) {
      set_element(copy.data(), device_.dtype, at, value());
      set_element(memory_.data(), host_.dtype, at, element(copy.data(), device_.dtype, at));
    };
    if (with_gaps) {
      for (int64_t i = 0; i < elements_; ++i) set(i);
    } else {
      const std::function<void(int, int64_t)> descend = [&](int d, int64_t at) {
        if (d == host_.rank) return set(at);
        for (int64_t i = 0; i < host_.dims[d]; ++i) descend(d + 1, at + i * host_.strides[d]);
      };
      descend(0, first_);
    }
    check(cudaMemcpy(device_memory_, copy.data(), copy.size(), cudaMemcpyHostToDevice), "set up a test");
    return *this;
  }

  Tensor host_, device_;
  int64_t first_ = 0, elements_ = 0;
  std::vector<std::byte> memory_;
  void* device_memory_ = nullptr;
};

// A scalar operand that is left out.
inline constexpr Tensor nothing{};

}  // namespace sscc::rt::test
