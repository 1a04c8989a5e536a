#include <limits>

#include "test/unit/cuda/mirror.h"

using namespace sscc::rt;
using namespace sscc::rt::test;

namespace {

struct Shape {
  Dims large, small, kernel, stride, dilation, pad;

  Window window() const {
    Window window;
    for (size_t d = 0; d < large.size() - 2; ++d) {
      window.kernel[d] = kernel[d];
      window.stride[d] = stride[d];
      window.dilation[d] = dilation[d];
      window.pad[d] = pad[d];
    }
    return window;
  }
};

const Shape shapes[] = {
    {{2, 3, 9, 8}, {2, 3, 5, 4}, {3, 3}, {2, 2}, {1, 1}, {1, 1}},
    {{2, 2, 7, 9}, {2, 2, 6, 4}, {2, 3}, {1, 2}, {2, 1}, {1, 0}},
    {{1, 4, 20}, {1, 4, 9}, {2}, {3}, {1}, {4}},  // the first windows see nothing
    {{1, 2, 5, 4, 6}, {1, 2, 2, 2, 3}, {2, 2, 2}, {2, 2, 2}, {1, 1, 1}, {-1, 0, 0}},
};

}  // namespace

TEST_CASE("pooling and its gradients") {
  const Shape shape = GENERATE(from_range(std::begin(shapes), std::end(shapes)));
  const DType type = GENERATE(DType::f32, DType::f64, DType::bf16, DType::f16);
  const Layout layout = GENERATE(Layout::dense, Layout::spread);
  const bool adds = GENERATE(false, true);
  const Window window = shape.window();
  Mirror large(type, shape.large, layout), small(type, shape.small, layout), taps(DType::u8, shape.small, layout);
  large.integers(-3, 3);  // with ties
  host_kernels()->max_pool(small.host(), taps.host(), large.host(), window);
  max_pool(small.device(), taps.device(), large.device(), window);
  CHECK(small.difference() <= 1);
  CHECK(taps.difference() <= 1);
  small.constant(0);
  max_pool(small.device(), nothing, large.device(), window);
  host_kernels()->max_pool(small.host(), nothing, large.host(), window);
  CHECK(small.difference() <= 1);
  host_kernels()->sum_pool(small.host(), large.host(), window, 0.3);
  sum_pool(small.device(), large.device(), window, 0.3);
  CHECK(small.difference() <= 1);

  small.reals(-1, 1), large.reals(-1, 1);  // the same on both sides
  host_kernels()->max_pool_grad(large.host(), small.host(), taps.host(), window, adds);
  max_pool_grad(large.device(), small.device(), taps.device(), window, adds);
  CHECK(large.difference() <= 1);
  host_kernels()->sum_pool_grad(large.host(), small.host(), window, 0.3, adds);
  sum_pool_grad(large.device(), small.device(), window, 0.3, adds);
  CHECK(large.difference() <= 1);
}

TEST_CASE("max_pool of what is not a number, and of infinities") {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  const double values[] = {-infinity, -infinity, 1, nan, nan, 4, 4, nan};
  Mirror large(DType::f32, {1, 1, 8}), small(DType::f32, {1, 1, 3}), taps(DType::u8, {1, 1, 3});
  large.by_index([&](const Dims& at) { return values[at[2]]; });
  Window window;
  window.kernel[0] = window.stride[0] = 3;
  window.pad[0] = 1;
  host_kernels()->max_pool(small.host(), taps.host(), large.host(), window);
  max_pool(small.device(), taps.device(), large.device(), window);
  CHECK(small.difference() <= 1);
  CHECK(taps.difference() <= 1);
}
