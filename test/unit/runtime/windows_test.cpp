// Convolution and pooling on strided views, against loops over all positions. Integer-valued data makes sums exact, so results are compared with ==.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "test/unit/runtime/strided.h"

using namespace sscc::rt;
using namespace sscc::rt::test;

namespace {

int64_t one_of(std::initializer_list<int64_t> values) { return values.begin()[randomness()() % values.size()]; }

// Windows over some space, and the lengths of what they slide over.
struct Geometry {
  Window window;
  Dims large, small, kernel;

  // Paddings before and behind differ; windows may begin behind the first position, see nothing but padding, and leave positions unseen.
  static Geometry any(int space) {
    Geometry g;
    for (int d = 0; d < space; ++d) {
      const int64_t kernel = one_of({1, 2, 3, 5}), stride = one_of({1, 1, 2, 3}), dilation = one_of({1, 1, 2}), pad = one_of({0, 1, 1, 2, 3, -1});
      const int64_t large = space == 3 ? one_of({1, 4, 6}) : one_of({1, 4, 7, 12}), behind = one_of({0, 1, 2, -1, -2});
      const int64_t reach = (kernel - 1) * dilation + 1;
      g.window.kernel[d] = kernel, g.window.stride[d] = stride, g.window.dilation[d] = dilation, g.window.pad[d] = pad;
      g.large.push_back(large), g.kernel.push_back(kernel);
      g.small.push_back(std::max<int64_t>(0, large + pad + behind - reach) / stride + 1);
    }
    return g;
  }
  static Geometry of(const Dims& large, const Dims& kernel, int64_t stride, int64_t pad) {
    Geometry g{{}, large, {}, kernel};
    for (size_t d = 0; d < large.size(); ++d) {
      g.window.kernel[d] = kernel[d], g.window.stride[d] = stride, g.window.pad[d] = pad;
      g.small.push_back((large[d] + 2 * pad - kernel[d]) / stride + 1);
    }
    return g;
  }

  // What windows see, positions numbered row-major: position x is what window y has at k.
  struct Sight {
    int64_t x, y, k;
  };
  std::vector<Sight> sights() const {
    std::vector<Sight> list;
    const auto number = [](const Dims& lengths, const Dims& at) {
      int64_t n = 0;
      for (size_t d = 0; d < at.size(); ++d) n = n * lengths[d] + at[d];
      return n;
    };
    for_each_index(small, [&](const Dims& y) {
      for_each_index(kernel, [&](const Dims& k) {
        Dims x(y.size());
        bool is_inside = true;
        for (size_t d = 0; d < y.size(); ++d) {
          x[d] = y[d] * window.stride[d] + k[d] * window.dilation[d] - window.pad[d];
          is_inside = is_inside && 0 <= x[d] && x[d] < large[d];
        }
        if (is_inside) list.push_back({number(large, x), number(small, y), number(kernel, k)});
      });
    });
    return list;
  }
};

int64_t count_of(const Dims& dims) {
  int64_t count = 1;
  for (const int64_t length : dims) count *= length;
  return count;
}

Dims joined(std::initializer_list<int64_t> first, const Dims& second) {
  Dims all(first);
  all.insert(all.end(), second.begin(), second.end());
  return all;
}

// In double, whatever the elements are, row-major.
using Values = std::vector<double>;
template <class T>
Values values_of(const Array<T>& array) {
  Values values;
  for (const T value : array.values()) values.push_back(static_cast<double>(value));
  return values;
}
double& at(Values& values, int64_t i) { return values[static_cast<size_t>(i)]; }
double at(const Values& values, int64_t i) { return values[static_cast<size_t>(i)]; }

// The three products, whose results are of another type than what is multiplied if it is a small float.
template <class In, class Out>
void check_products(const Geometry& g, int64_t batch, int64_t groups, int64_t m, int64_t c, bool spread, bool adds) {
  const Dims large_dims = joined({batch, groups * c}, g.large), small_dims = joined({batch, groups * m}, g.small),
             weight_dims = joined({groups * m, c}, g.kernel);
  Array<In> large(large_dims, spread), small(small_dims, spread), weight(weight_dims, spread);
  Array<Out> large_result(large_dims, spread), small_result(small_dims, spread), weight_result(weight_dims, spread);
  large.integers(-2, 2), small.integers(-2, 2), weight.integers(-2, 2);
  large_result.integers(-9, 9), small_result.integers(-9, 9), weight_result.integers(-9, 9);
  const Values x = values_of(large), y = values_of(small), w = values_of(weight);
  const auto begin = [&](const Array<Out>& result) {
    Values values = values_of(result);
    if (!adds) std::fill(values.begin(), values.end(), 0);
    return values;
  };
  Values x_wanted = begin(large_result), y_wanted = begin(small_result), w_wanted = begin(weight_result);
  const std::vector<Geometry::Sight> sights = g.sights();
  for_each_index({batch, groups, m, c}, [&](const Dims& i) {
    const int64_t x_channel = i[0] * groups * c + i[1] * c + i[3], y_channel = i[0] * groups * m + i[1] * m + i[2],
                  w_channel = (i[1] * m + i[2]) * c + i[3];
    for (const auto& [x_at, y_at, k_at] : sights) {
      const int64_t to_x = x_channel * count_of(g.large) + x_at, to_y = y_channel * count_of(g.small) + y_at,
                    to_w = w_channel * count_of(g.kernel) + k_at;
      at(x_wanted, to_x) += at(y, to_y) * at(w, to_w);
      at(y_wanted, to_y) += at(x, to_x) * at(w, to_w);
      at(w_wanted, to_w) += at(x, to_x) * at(y, to_y);
    }
  });
  const auto check = [&](const Array<Out>& result, Values wanted, size_t gaps) {
    for (double& value : wanted) value = static_cast<double>(static_cast<Out>(static_cast<float>(value)));  // rounded once
    CHECK(values_of(result) == wanted);
    CHECK(result.untouched_elements() == gaps);
  };
  const size_t gaps[] = {large_result.untouched_elements(), small_result.untouched_elements(), weight_result.untouched_elements()};
  convolve(small_result, large, weight, g.window, adds);
  convolve_transposed(large_result, small, weight, g.window, adds);
  convolve_grad_weight(weight_result, large, small, g.window, adds);
  check(large_result, x_wanted, gaps[0]);
  check(small_result, y_wanted, gaps[1]);
  check(weight_result, w_wanted, gaps[2]);
}

Tensor as_taps(const Array<uint8_t>& array) {
  Tensor view = array;
  view.dtype = DType::u8;
  return view;
}

}  // namespace

TEST_CASE("the products of convolution: any windows, groups, types, dense and strided, overwriting and adding") {
  const int space = GENERATE(1, 2, 3), round = GENERATE(range(0, 12));
  const bool spread = GENERATE(false, true), adds = GENERATE(false, true);
  const Geometry g = Geometry::any(space);
  const bool is_depthwise = round % 4 == 3;
  const int64_t groups = is_depthwise ? one_of({3, 16}) : one_of({1, 1, 2}), m = is_depthwise ? one_of({1, 2}) : one_of({1, 3, 5, 16}),
                c = is_depthwise ? 1 : one_of({1, 3, 4, 16});
  const int64_t batch = one_of({1, 2, 3});
  CAPTURE(space, batch, groups, m, c, g.large, g.small, g.kernel);
  for (int d = 0; d < space; ++d)
    UNSCOPED_INFO("stride " << g.window.stride[d] << " dilation " << g.window.dilation[d] << " pad " << g.window.pad[d]);
  switch (round % 6) {
    case 0: return check_products<double, double>(g, batch, groups, m, c, spread, adds);
    case 1: return check_products<bf16, bf16>(g, batch, groups, m, c, spread, adds);
    case 2: return check_products<f16, float>(g, batch, groups, m, c, spread, adds);
    default: return check_products<float, float>(g, batch, groups, m, c, spread, adds);
  }
}

TEST_CASE("convolution, where work is divided: the same for any number of threads, and right") {
  const int64_t groups = GENERATE(1, 32);
  const Geometry g = Geometry::of({20, 20}, {3, 3}, 1, 1);
  const int64_t batch = 12, channels = 32, c = channels / groups;
  const Dims dims = {batch, channels, 20, 20}, weight_dims = {channels, c, 3, 3};
  const int64_t wanted_products = groups == 1 ? 44236800 : 0;
  if (wanted_products) CHECK(batch * channels * c * 400 * 9 == wanted_products);  // more than one piece
  const auto run = [&]<class T>(T, int threads, bool exact) {
    randomness().seed(5);
    Array<T> large(dims), small(dims), weight(weight_dims, false), products[] = {Array<T>(dims), Array<T>(dims), Array<T>(weight_dims)};
    for (Array<T>* operand : {&large, &small, &weight}) exact ? operand->integers(-2, 2) : operand->reals(-1, 1);
    set_kernel_threads(threads);
    convolve(products[0], large, weight, g.window, false);
    convolve_transposed(products[1], small, weight, g.window, false);
    convolve_grad_weight(products[2], large, small, g.window, false);
    set_kernel_threads(1);
    std::vector<Values> values;
    for (const Array<T>& product : products) values.push_back(values_of(product));
    return values;
  };
  CHECK(run(float(), 1, false) == run(float(), 2, false));
  CHECK(run(float(), 2, true) == run(double(), 1, true));
}

TEST_CASE("convolution of nothing: no samples, no channels, windows beside all positions") {
  const bool adds = GENERATE(false, true);
  const auto channels = GENERATE(0, 2);
  Array<float> large({2, channels, 3, 3}), small({2, 4, 2, 2}), weight({4, channels, 2, 2});
  large.integers(1, 2), small.constant(5), weight.integers(1, 2);
  Window window;
  window.kernel[0] = window.kernel[1] = 2;
  window.pad[0] = 4;  // windows 0 and 1 end in front of all
  convolve(small, large, weight, window, adds);
  CHECK(small.values() == std::vector<float>(32, adds ? 5 : 0));
  convolve_transposed(large, small, weight, window, false);
  CHECK(large.values() == std::vector<float>(static_cast<size_t>(18 * channels), 0));
  convolve_grad_weight(weight, large, small, window, false);
  CHECK(weight.values() == std::vector<float>(static_cast<size_t>(16 * channels), 0));
  Array<float> none({0, 4, 2, 2}), nothing({0, channels, 3, 3});
  convolve_grad_weight(weight, nothing, none, window, false);
  convolve(none, nothing, weight, window, adds);
  CHECK(weight.values() == std::vector<float>(static_cast<size_t>(16 * channels), 0));
}

TEST_CASE("convolution: operands that do not fit are refused") {
  Array<float> large({1, 4, 5}), small({1, 6, 3}), weight({6, 2, 3}), wrong({6, 3, 3});
  Window window;
  window.kernel[0] = 3;
  CHECK_NOTHROW(convolve(small, large, weight, window, false));
  CHECK_THROWS_AS(convolve(small, large, wrong, window, false), std::logic_error);
  window.kernel[0] = 2;
  CHECK_THROWS_AS(convolve(small, large, weight, window, false), std::logic_error);
}

TEMPLATE_TEST_CASE("pooling and its gradients: any windows", "", float, double, bf16, f16) {
  const int space = GENERATE(1, 2, 3), round = GENERATE(range(0, 4));
  const bool spread = GENERATE(false, true), adds = GENERATE(false, true);
  CAPTURE(round);
  const Geometry g = Geometry::any(space);
  const int64_t planes = 6, x_count = count_of(g.large), y_count = count_of(g.small);
  const Dims large_dims = joined({2, 3}, g.large), small_dims = joined({2, 3}, g.small);
  const std::vector<Geometry::Sight> sights = g.sights();
  Array<TestType> large(large_dims, spread), small(small_dims, spread), gradient(large_dims, spread);
  Array<uint8_t> taps(small_dims, spread);
  const Tensor as_bytes = as_taps(taps);
  large.integers(-3, 3), small.integers(0, 1), taps.integers(0, 1);  // with ties

  const Values x = values_of(large);
  Values largest(static_cast<size_t>(planes * y_count), -std::numeric_limits<double>::infinity()), sums(largest.size(), 0);
  std::vector<int64_t> origins(largest.size(), -1);  // the position in `large`
  Values tap_numbers(largest.size(), 0);
  for (int64_t plane = 0; plane < planes; ++plane) {
    for (const auto& [x_at, y_at, k_at] : sights) {
      const auto to = static_cast<size_t>(plane * y_count + y_at);
      const int64_t from = plane * x_count + x_at;
      sums[to] += at(x, from);
      if (at(x, from) <= largest[to]) continue;
      largest[to] = at(x, from), origins[to] = from, tap_numbers[to] = static_cast<double>(k_at);
    }
  }
  const size_t gaps = small.untouched_elements();
  max_pool(small, as_bytes, large, g.window);
  CHECK(values_of(small) == largest);
  CHECK(values_of(taps) == tap_numbers);
  CHECK(small.untouched_elements() == gaps);
  small.constant(TestType(0));
  max_pool(small, Tensor(), large, g.window);
  CHECK(values_of(small) == largest);
  sum_pool(small, large, g.window, 0.5);
  for (double& sum : sums) sum /= 2;
  CHECK(values_of(small) == sums);

  small.integers(-4, 4), gradient.integers(-9, 9);
  const Values y = values_of(small);
  const auto begin = [&] { return adds ? values_of(gradient) : Values(static_cast<size_t>(planes * x_count), 0); };
  Values wanted = begin();
  for (size_t i = 0; i < origins.size(); ++i)
    if (origins[i] >= 0) at(wanted, origins[i]) += y[i];
  max_pool_grad(gradient, small, as_bytes, g.window, adds);
  CHECK(values_of(gradient) == wanted);
  gradient.integers(-9, 9);
  wanted = begin();
  for (int64_t plane = 0; plane < planes; ++plane)
    for (const auto& [x_at, y_at, k_at] : sights) at(wanted, plane * x_count + x_at) += at(y, plane * y_count + y_at) / 2;
  sum_pool_grad(gradient, small, g.window, 0.5, adds);
  CHECK(values_of(gradient) == wanted);
}

TEST_CASE("max_pool: what is not a number stays, its first tap is kept, and so is that of infinities") {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  Window window;
  window.kernel[0] = window.stride[0] = 3;
  window.pad[0] = 1;
  Array<float> large({1, 1, 8}), small({1, 1, 3});
  Array<uint8_t> taps({1, 1, 3});
  const std::vector<float> values = {-infinity, -infinity, 1, nan, nan, 4, 4, nan};
  size_t next = 0;
  large.set([&] { return values[next++]; });
  max_pool(small, as_taps(taps), large, window);
  CHECK(small.at({0, 0, 0}) == -infinity);
  CHECK(std::isnan(small.at({0, 0, 1})));
  CHECK(std::isnan(small.at({0, 0, 2})));
  CHECK(taps.values() == std::vector<uint8_t>{1, 1, 2});
}

TEST_CASE("pooling is the same for any number of threads") {
  const Geometry g = Geometry::of({40, 41}, {3, 3}, 2, 1);
  const Dims large_dims = {3, 16, 40, 41}, small_dims = joined({3, 16}, g.small);
  const auto run = [&](int threads) {
    randomness().seed(5);
    Array<float> large(large_dims), small(small_dims), sums(small_dims), gradients[] = {Array<float>(large_dims), Array<float>(large_dims)};
    Array<uint8_t> taps(small_dims);
    large.reals(-1, 1);
    set_kernel_threads(threads);
    max_pool(small, as_taps(taps), large, g.window);
    sum_pool(sums, large, g.window, 1.0 / 9);
    max_pool_grad(gradients[0], small, as_taps(taps), g.window, false);
    sum_pool_grad(gradients[1], sums, g.window, 1.0 / 9, false);
    set_kernel_threads(1);
    return std::vector{values_of(small), values_of(taps), values_of(sums), values_of(gradients[0]), values_of(gradients[1])};
  };
  CHECK(run(1) == run(2));
}
