// The products of convolution: compiled with cuDNN and without.
#include "runtime/cuda/convolution_library.h"
#include "runtime/cuda/device.h"
#include "test/unit/cuda/mirror.h"

using namespace sscc::rt;
using namespace sscc::rt::test;

namespace {

struct Shape {
  const char* what;
  int64_t batch, groups, m, c;
  Dims large, kernel, stride, dilation, pad, behind;

  Window window() const {
    Window window;
    for (size_t d = 0; d < large.size(); ++d) {
      window.kernel[d] = kernel[d];
      window.stride[d] = stride[d];
      window.dilation[d] = dilation[d];
      window.pad[d] = pad[d];
    }
    return window;
  }
  Dims large_dims() const { return with_channels(batch, groups * c, large); }
  Dims weight_dims() const { return with_channels(groups * m, c, kernel); }
  Dims small_dims() const {
    Dims small;
    for (size_t d = 0; d < large.size(); ++d) small.push_back((large[d] + pad[d] + behind[d] - (kernel[d] - 1) * dilation[d] - 1) / stride[d] + 1);
    return with_channels(batch, groups * m, small);
  }

 private:
  static Dims with_channels(int64_t first, int64_t second, Dims space) {
    space.insert(space.begin(), {first, second});
    return space;
  }
};

const Shape shapes[] = {
    {"3 x 3", 2, 1, 5, 4, {7, 8}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"3 x 3, stride 2: a position behind is not seen", 3, 1, 3, 6, {8, 8}, {3, 3}, {2, 2}, {1, 1}, {1, 1}, {1, 1}},
    {"1 x 1, stride 2", 2, 1, 4, 3, {6, 5}, {1, 1}, {2, 2}, {1, 1}, {0, 0}, {0, 0}},
    {"other paddings behind, dilation", 1, 2, 3, 2, {9, 6}, {3, 2}, {1, 2}, {2, 3}, {0, 2}, {2, 1}},
    {"a piece that begins behind its first positions", 1, 1, 2, 3, {7, 6}, {2, 3}, {1, 1}, {1, 1}, {-1, 0}, {0, -2}},
    {"depthwise", 2, 6, 2, 1, {6, 6}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"one dimension, tiles of more than one", 2, 1, 70, 9, {80}, {5}, {1}, {1}, {2}, {2}},
    {"three dimensions", 1, 1, 3, 2, {4, 3, 5}, {2, 3, 3}, {1, 1, 2}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}},
};

}  // namespace

TEST_CASE("the products of convolution") {
  const Shape shape = GENERATE(from_range(std::begin(shapes), std::end(shapes)));
  const auto [in, out] = GENERATE(table<DType, DType>(
      {{DType::f32, DType::f32}, {DType::f64, DType::f64}, {DType::bf16, DType::bf16}, {DType::f16, DType::f16}, {DType::bf16, DType::f32}}));
  const Layout layout = GENERATE(Layout::dense, Layout::offset, Layout::spread);
  const bool adds = GENERATE(false, true);
  if (layout == Layout::offset && in != DType::bf16) return;
  CAPTURE(shape.what, name_of(in), name_of(out), static_cast<int>(layout), adds);
  Mirror large(in, shape.large_dims(), layout), small(in, shape.small_dims(), layout), weight(in, shape.weight_dims(), layout);
  Mirror large_result(out, shape.large_dims(), layout), small_result(out, shape.small_dims(), layout),
      weight_result(out, shape.weight_dims(), layout);
  for (Mirror* operand : {&large, &small, &weight}) is_small(in) ? operand->integers(-1, 1) : operand->reals(-1, 1);
  for (Mirror* result : {&large_result, &small_result, &weight_result}) result->integers(-9, 9);
  const Window window = shape.window();
  host_kernels()->convolve(small_result.host(), large.host(), weight.host(), window, adds);
  host_kernels()->convolve_transposed(large_result.host(), small.host(), weight.host(), window, adds);
  host_kernels()->convolve_grad_weight(weight_result.host(), large.host(), small.host(), window, adds);
  convolve(small_result.device(), large.device(), weight.device(), window, adds);
  convolve_transposed(large_result.device(), small.device(), weight.device(), window, adds);
  convolve_grad_weight(weight_result.device(), large.device(), small.device(), window, adds);
  CHECK(small_result.difference() <= 1);
  CHECK(large_result.difference() <= 1);
  CHECK(weight_result.difference() <= 1);
}

TEST_CASE("convolution of nothing") {
  Mirror large(DType::f32, {2, 2, 3}), small(DType::f32, {2, 1, 2}), weight(DType::f32, {1, 2, 2});
  large.reals(1, 2), weight.reals(1, 2), small.constant(5);
  Window window;
  window.kernel[0] = 2;
  window.pad[0] = 9;  // no window sees a position
  convolve(small.device(), large.device(), weight.device(), window, false);
  host_kernels()->fill(small.host(), 0);
  CHECK(small.difference() <= 1);
  Tensor none_large = large.device(), none_small = small.device();
  none_large.dims[0] = none_small.dims[0] = 0;
  convolve_grad_weight(weight.device(), none_large, none_small, window, false);
  host_kernels()->fill(weight.host(), 0);
  CHECK(weight.difference() <= 1);
}

TEST_CASE("convolutions are recorded in graphs, once they were called") {
  const Shape shape = shapes[1];
  const bool adds = GENERATE(false, true);
  Mirror large(DType::f16, shape.large_dims()), small(DType::f16, shape.small_dims()), weight(DType::f16, shape.weight_dims());
  small.integers(-2, 2), weight.integers(-2, 2);
  const auto call = [&] { convolve_transposed(large.device(), small.device(), weight.device(), shape.window(), adds); };
  call();
  large.integers(-9, 9);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  check(cudaStreamBeginCapture(compute_stream(), cudaStreamCaptureModeThreadLocal), "record");
  call();
  check(cudaStreamEndCapture(compute_stream(), &graph), "record");
  check(cudaGraphInstantiate(&executable, graph, 0), "record");
  for (int i = 0; i < 2; ++i) {
    check(cudaGraphLaunch(executable, compute_stream()), "launch a graph");
    host_kernels()->convolve_transposed(large.host(), small.host(), weight.host(), shape.window(), adds);
    CHECK(large.difference() <= 1);
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

TEST_CASE("sums of convolution repeat bit by bit") {
  const Shape shape = shapes[0];
  Mirror large(DType::f32, shape.large_dims()), small(DType::f32, shape.small_dims()), weight(DType::f32, shape.weight_dims());
  large.reals(-1, 1), small.reals(-1, 1);
  const auto run = [&] {
    convolve_grad_weight(weight.device(), large.device(), small.device(), shape.window(), false);
    return weight.downloaded();
  };
  const auto first = run();
  for (int i = 0; i < 3; ++i) CHECK(run() == first);
}

#ifdef SSCC_WITH_CUDNN
TEST_CASE("what cuDNN takes, and what it leaves") {
  const auto is_taken = [](const Shape& shape, DType in, DType out, Layout layout, bool adds) {
    Mirror large(in, shape.large_dims(), layout), small(in, shape.small_dims(), layout), weight(out, shape.weight_dims(), layout);
    large.constant(1), small.constant(1);
    const Convolution convolution(ConvolutionOperand::weight, large.device(), small.device(), weight.device(), shape.window());
    return device().convolutions->enqueue(convolution, adds);
  };
  for (const DType type : {DType::f32, DType::bf16, DType::f16}) {
    CHECK(is_taken(shapes[0], type, type, Layout::dense, true));
    CHECK(is_taken(shapes[0], type, DType::f32, Layout::dense, true));
  }
  for (const size_t i : {1, 2, 5, 6, 7}) CHECK(is_taken(shapes[i], DType::f32, DType::f32, Layout::dense, false));
  CHECK_FALSE(is_taken(shapes[0], DType::f64, DType::f64, Layout::dense, false));
  CHECK_FALSE(is_taken(shapes[4], DType::f32, DType::f32, Layout::dense, false));
}
#endif
