// bf16 and f16 on the processor: how they round, and kernels that read and write them.
#include "sscc_rt/small_floats.h"

#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>
#include <vector>

#include "sscc_rt/kernels.h"
#include "sscc_rt/pointwise_loop.h"

using namespace sscc::rt;

namespace {

template <class T>
T of_bits(uint16_t bits) {
  return std::bit_cast<T>(bits);
}
template <class T>
uint16_t bits_of(T value) {
  return std::bit_cast<uint16_t>(value);
}
template <class T>
constexpr DType type_of = std::is_same_v<T, bf16>  ? DType::bf16
                          : std::is_same_v<T, f16> ? DType::f16
                                                   : DType::f32;

template <class T>
Tensor view(std::vector<T>& memory, std::initializer_list<int64_t> dims) {
  Tensor tensor{memory.data(), type_of<T>, static_cast<int>(dims.size()), {}, {}};
  std::copy(dims.begin(), dims.end(), tensor.dims);
  int64_t stride = 1;
  for (int d = tensor.rank; d-- > 0; stride *= tensor.dims[d]) tensor.strides[d] = stride;
  return tensor;
}

template <class T>
std::vector<T> random_values(size_t count, float low = -2, float high = 2) {
  static std::mt19937 engine(3);
  std::vector<T> values;
  for (size_t i = 0; i < count; ++i) values.push_back(static_cast<T>(std::uniform_real_distribution<float>(low, high)(engine)));
  return values;
}
template <class T>
std::vector<float> widened_values(const std::vector<T>& small) {
  return {small.begin(), small.end()};
}
template <class T>
std::vector<T> rounded_values(const std::vector<float>& wide) {
  std::vector<T> small;
  for (const float value : wide) small.push_back(static_cast<T>(value));
  return small;
}
template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](T x, T y) { return bits_of(x) == bits_of(y); });
}

}  // namespace

TEMPLATE_TEST_CASE("a small float becomes a float and the same small float again", "", bf16, f16) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto value = of_bits<TestType>(static_cast<uint16_t>(bits));
    const float wide = value;
    if (wide != wide)
      CHECK(static_cast<float>(static_cast<TestType>(wide)) != wide);
    else if (bits_of(static_cast<TestType>(wide)) != bits)
      FAIL(bits);
  }
}

TEMPLATE_TEST_CASE("a float is rounded to the nearest, to the even one of two", "", bf16, f16) {
  // Between neighbours: a quarter, half and three quarters of the way.
  for (uint32_t bits = 0; bits < (std::is_same_v<TestType, bf16> ? 0x7f00u : 0x7bffu); bits += 7) {
    const auto low = of_bits<TestType>(static_cast<uint16_t>(bits)), high = of_bits<TestType>(static_cast<uint16_t>(bits + 1));
    const double a = static_cast<float>(low), b = static_cast<float>(high);
    const auto rounded = [&](double share) { return bits_of(static_cast<TestType>(static_cast<float>(a + (b - a) * share))); };
    if (rounded(0.25) != bits || rounded(0.75) != bits + 1 || rounded(0.5) != (bits % 2 == 0 ? bits : bits + 1)) FAIL(bits);
  }
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(static_cast<float>(static_cast<TestType>(infinity)) == infinity);
  CHECK(static_cast<float>(static_cast<TestType>(-3.4e38f)) == -infinity);
}

TEMPLATE_TEST_CASE("kernels compute small floats as floats, and round what they write", "", bf16, f16) {
  using T = TestType;
  std::vector<T> x = random_values<T>(6 * 8), y(6 * 8), weights = random_values<T>(8 * 5), product(6 * 5);
  std::vector<float> wide_x = widened_values(x), wide_y(6 * 8), wide_weights = widened_values(weights), wide_product(6 * 5);

  SECTION("softmax") {
    softmax(view(y, {6, 8}), view(x, {6, 8}), 1);
    softmax(view(wide_y, {6, 8}), view(wide_x, {6, 8}), 1);
    CHECK(same(y, rounded_values<T>(wide_y)));
  }
  SECTION("a product of small floats, rounded, or kept as floats and added to") {
    contract(view(wide_product, {6, 5}), view(wide_x, {6, 8}), view(wide_weights, {8, 5}), "mk,kn->mn", 0.5, false);
    contract(view(product, {6, 5}), view(x, {6, 8}), view(weights, {8, 5}), "mk,kn->mn", 0.5, false);
    CHECK(same(product, rounded_values<T>(wide_product)));
    std::vector<float> sum(6 * 5, 1);
    contract(view(sum, {6, 5}), view(x, {6, 8}), view(weights, {8, 5}), "mk,kn->mn", 0.5, true);
    for (size_t i = 0; i < sum.size(); ++i) CHECK(sum[i] == Approx(wide_product[i] + 1));
  }
  SECTION("layer norm: statistics, scale and bias are float") {
    std::vector<float> mean(6), rstd(6), scale = random_values<float>(8), bias = random_values<float>(8), wide_mean(6), wide_rstd(6);
    norm(view(y, {6, 8}), view(rstd, {6}), view(mean, {6}), view(x, {6, 8}), view(scale, {8}), view(bias, {8}), 0b10, 0b10, 1e-5);
    norm(view(wide_y, {6, 8}), view(wide_rstd, {6}), view(wide_mean, {6}), view(wide_x, {6, 8}), view(scale, {8}), view(bias, {8}), 0b10, 0b10, 1e-5);
    CHECK(same(y, rounded_values<T>(wide_y)));
    CHECK(mean == wide_mean);
    CHECK(rstd == wide_rstd);
  }
  SECTION("sums over a dimension are float") {
    std::vector<float> sum(8, 2), wide_sum(8, 2);
    reduce(view(sum, {8}), view(x, {6, 8}), 1, Join::sum, 1, true);
    reduce(view(wide_sum, {8}), view(wide_x, {6, 8}), 1, Join::sum, 1, true);
    CHECK(sum == wide_sum);
  }
  SECTION("rows of a float table are gathered rounded, and their gradients added as floats") {
    std::vector<float> table = random_values<float>(4 * 8), gradient(4 * 8, 1), wide_gradient(4 * 8, 1);
    std::vector<int64_t> indices = {3, 0, 3, 1, -1, 2};
    Tensor index{indices.data(), DType::i64, 1, {6}, {1}};
    gather(view(y, {6, 8}), view(table, {4, 8}), index, 0, 0, 4);
    gather(view(wide_y, {6, 8}), view(table, {4, 8}), index, 0, 0, 4);
    CHECK(same(y, rounded_values<T>(wide_y)));
    scatter_add(view(gradient, {4, 8}), index, view(x, {6, 8}), 0, 0, 4, true);
    scatter_add(view(wide_gradient, {4, 8}), index, view(wide_x, {6, 8}), 0, 0, 4, true);
    CHECK(gradient == wide_gradient);
  }
  SECTION("copies convert and add; fills round") {
    copy(view(y, {6, 8}), view(x, {6, 8}), false);
    copy(view(y, {6, 8}), view(x, {6, 8}), true);
    for (size_t i = 0; i < x.size(); ++i) CHECK(static_cast<float>(y[i]) == static_cast<float>(x[i]) * 2);
    copy(view(wide_y, {6, 8}), view(y, {6, 8}), false);
    CHECK(wide_y == widened_values(y));
    fill(view(y, {6, 8}), 1.0 / 3);
    CHECK(bits_of(y[7]) == bits_of(static_cast<T>(1.0f / 3)));
  }
  SECTION("pointwise: conversions and comparisons") {
    const auto run = [&](const Tensor& out, const Tensor& a, Scalar function, DType type) {
      const ScalarStep step{function, {0, 1, 0}, 0, 0, type};
      pointwise(std::array{out}, std::array{a, view(x, {6, 8})}, std::array{step}, std::array<int32_t, 1>{0}, false);
    };
    run(view(wide_y, {6, 8}), view(x, {6, 8}), Scalar::identity, DType::f32);
    CHECK(wide_y == wide_x);
    run(view(y, {6, 8}), view(wide_x, {6, 8}), Scalar::identity, DType::f32);
    CHECK(same(y, x));
    std::vector<uint8_t> truth(6 * 8);
    Tensor truths{truth.data(), DType::b1, 2, {6, 8}, {8, 1}};
    run(truths, view(x, {6, 8}), Scalar::less_equal, DType::b1);
    CHECK(std::count(truth.begin(), truth.end(), 1) == 6 * 8);
  }
  SECTION("pointwise: steps are floats, known or compiled") {
    std::vector<float> scale = random_values<float>(8), wide(6 * 8);
    const std::array<ScalarStep, 2> steps = {ScalarStep{Scalar::mul, {0, 1, 0}, 0, 0, DType::f32},
                                             ScalarStep{Scalar::tanh, {~0, 0, 0}, 0, 0, DType::f32}};
    const std::array<int32_t, 1> results = {1};
    pointwise(std::array{view(y, {6, 8})}, std::array{view(x, {6, 8}), view(scale, {8})}, steps, results, false);
    pointwise(std::array{view(wide, {6, 8})}, std::array{view(wide_x, {6, 8}), view(scale, {8})}, steps, results, false);
    CHECK(same(y, rounded_values<T>(wide)));
    std::vector<T> compiled(6 * 8);
    pointwise_loop(Types<T>(), Types<T, float>(), {view(compiled, {6, 8})}, {view(x, {6, 8}), view(scale, {8})}, false,
                   [](float& out, float a, float b) { out = scalar::tanh<float>(a * b); });
    CHECK(same(compiled, y));
    pointwise_loop(Types<T>(), Types<T, float>(), {view(compiled, {6, 8})}, {view(x, {6, 8}), view(scale, {8})}, true,
                   [](float& out, float a, float b) { out = scalar::tanh<float>(a * b); });
    for (size_t i = 0; i < y.size(); ++i) CHECK(static_cast<float>(compiled[i]) == Approx(2 * static_cast<float>(y[i])).epsilon(1e-2));
  }
}
