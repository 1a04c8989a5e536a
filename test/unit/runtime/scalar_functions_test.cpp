// Our own exp, tanh and erf in float, against the library's in double: over the whole range, at its ends, and on values that are not numbers.
#include "sscc_rt/scalar_functions.h"

#include <catch2/catch.hpp>

using namespace sscc::rt;

namespace {

// Distance in units of the last place of the exact value (of the smallest normal number, below it).
double ulps(float got, double exact) {
  const double size = std::max(std::fabs(exact), 1.1754943508222875e-38);
  return std::fabs(got - exact) / std::ldexp(1.0, std::ilogb(size) - 23);
}

template <class Function, class Exact>
double worst(float low, float high, const Function& function, const Exact& exact) {
  double result = 0;
  const int count = 200000;
  for (int i = 0; i <= count; ++i) {
    const float x = low + (high - low) * static_cast<float>(i) / count;
    result = std::max(result, ulps(function(x), exact(static_cast<double>(x))));
  }
  return result;
}

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

}  // namespace

TEST_CASE("exp, tanh and erf are accurate to about one unit in the last place") {
  CHECK(worst(
            -87, 88.7f, [](float x) { return scalar::exp_of(x); }, [](double x) { return std::exp(x); }) < 1.5);
  CHECK(worst(
            -1, 1, [](float x) { return scalar::exp_of(x); }, [](double x) { return std::exp(x); }) < 1.5);
  CHECK(worst(
            -10, 10, [](float x) { return scalar::tanh_of(x); }, [](double x) { return std::tanh(x); }) < 3);
  CHECK(worst(
            -1e-3f, 1e-3f, [](float x) { return scalar::tanh_of(x); }, [](double x) { return std::tanh(x); }) < 1.5);
  CHECK(worst(
            -5, 5, [](float x) { return scalar::erf_of(x); }, [](double x) { return std::erf(x); }) < 3);
  CHECK(worst(
            -1e-3f, 1e-3f, [](float x) { return scalar::erf_of(x); }, [](double x) { return std::erf(x); }) < 1.5);
}

TEST_CASE("ends of the range, and what is not a number") {
  CHECK(scalar::exp_of(0.0f) == 1);
  CHECK(scalar::exp_of(-infinity) == 0);
  CHECK(scalar::exp_of(infinity) == infinity);
  CHECK(scalar::exp_of(89.0f) == infinity);
  CHECK(scalar::exp_of(-200.0f) == 0);
  CHECK(scalar::exp_of(-95.0f) == Approx(std::exp(-95.0)).epsilon(1e-3));  // subnormal
  CHECK(std::isnan(scalar::exp_of(not_a_number)));
  CHECK(scalar::tanh_of(infinity) == 1);
  CHECK(scalar::tanh_of(-infinity) == -1);
  CHECK(std::isnan(scalar::tanh_of(not_a_number)));
  CHECK(scalar::erf_of(infinity) == 1);
  CHECK(scalar::erf_of(-infinity) == -1);
  CHECK(std::isnan(scalar::erf_of(not_a_number)));
  CHECK(std::signbit(scalar::tanh_of(-0.0f)));
  CHECK(scalar::sigmoid(-infinity) == 0);
  CHECK(scalar::softplus(1000.0f) == 1000);
  CHECK(scalar::softplus(-1000.0f) == 0);
  CHECK(std::isnan(scalar::relu(not_a_number)));
  CHECK(std::isnan(scalar::max(not_a_number, 1.0f)));
  CHECK(std::isnan(scalar::max(1.0f, not_a_number)));
  CHECK(std::isnan(scalar::min(not_a_number, 1.0f)));
  CHECK(std::isnan(scalar::min(1.0f, not_a_number)));
}

TEST_CASE("rounding, signs and remainders are ONNX's") {
  CHECK(scalar::round(0.5f) == 0);
  CHECK(scalar::round(1.5f) == 2);
  CHECK(scalar::round(-2.5f) == -2);
  CHECK(scalar::mod<int64_t>(-7, 3) == 2);
  CHECK(scalar::mod<int64_t>(7, -3) == -2);
  CHECK(scalar::mod<int64_t>(6, 3) == 0);
  CHECK(scalar::sign(-2.0f) == -1);
  CHECK(scalar::sign(0.0f) == 0);
}

TEST_CASE("gradients are derivatives") {
  // Central differences in double, away from corners.
  const auto slope = [](const auto& function, double x) { return (function(x + 1e-6) - function(x - 1e-6)) / 2e-6; };
  for (const double x : {-2.3, -0.7, 0.4, 1.9}) {
    INFO("x = " << x);
    CHECK(scalar::gelu_erf_grad(x, 2.0) == Approx(2 * slope([](double v) { return scalar::gelu_erf(v); }, x)).epsilon(1e-6));
    CHECK(scalar::gelu_tanh_grad(x, 2.0) == Approx(2 * slope([](double v) { return scalar::gelu_tanh(v); }, x)).epsilon(1e-6));
    CHECK(scalar::erf_grad(x, 2.0) == Approx(2 * slope([](double v) { return scalar::erf(v); }, x)).epsilon(1e-6));
    CHECK(scalar::tanh_grad(std::tanh(x), 2.0) == Approx(2 * slope([](double v) { return scalar::tanh(v); }, x)).epsilon(1e-6));
    CHECK(scalar::sigmoid_grad(scalar::sigmoid(x), 2.0) == Approx(2 * slope([](double v) { return scalar::sigmoid(v); }, x)).epsilon(1e-6));
    CHECK(scalar::softplus_grad(x, 2.0) == Approx(2 * slope([](double v) { return scalar::softplus(v); }, x)).epsilon(1e-6));
    CHECK(scalar::leaky_relu_grad(x, 2.0, 0.1) == Approx(2 * slope([](double v) { return scalar::leaky_relu(v, 0.1); }, x)).epsilon(1e-6));
    CHECK(scalar::pow_scalar_grad(std::fabs(x), 2.0, 2.5) ==
          Approx(2 * slope([](double v) { return scalar::pow_scalar(v, 2.5); }, std::fabs(x))).epsilon(1e-6));
  }
}
