// What cuDNN itself says to convolutions as they are put to it. It may be asked without a GPU: a description of one is enough.
#include <catch2/catch.hpp>
#include <string_view>

#include "runtime/cudnn/plan.h"
#include "sscc_rt/workspaces.h"

#if CUDNN_VERSION >= 90800

using namespace sscc::rt;

namespace {

// An H100, in the words that CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION gives. They are not documented: a later cuDNN may want others.
constexpr std::string_view h100 =
    R"({"maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "regsPerBlock": 65536, "multiProcessorCount": 132,
        "smClockRateKHz": 1980000, "memClockRateKHz": 2619000, "l2CacheSize": 52428800, "warpSize": 32, "maxSharedMemoryPerBlock": 49152,
        "maxSharedMemoryPerBlockOptin": 232448, "reservedSharedMemoryPerBlock": 1024, "maxRegistersPerSM": 65536, "pciDeviceId": 0,
        "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "isTccDriver": 0, "supportCoopLaunch": 1, "deviceVer": 900,
        "driverVer": 13000, "cudaDeviceId": 0, "totalGlobalMem": 85017493504, "deviceName": "NVIDIA H100 80GB HBM3"})";

Tensor dense(DType type, std::vector<int64_t> dims) {
  alignas(16) static std::byte somewhere[16];
  Tensor view;
  view.data = somewhere;
  view.dtype = type;
  view.rank = static_cast<int>(dims.size());
  int64_t stride = 1;
  for (int d = view.rank; d-- > 0; stride *= view.dims[d]) {
    view.dims[d] = dims[static_cast<size_t>(d)];
    view.strides[d] = stride;
  }
  return view;
}

struct Shape {
  const char* what;
  DType type;
  int64_t batch, groups, m, c;
  std::vector<int64_t> large;
  int64_t kernel, stride, dilation, pad, behind;

  Convolution convolution(ConvolutionOperand result) const {
    std::vector<int64_t> large_dims{batch, groups * c}, small_dims{batch, groups * m}, weight_dims{groups * m, c};
    Window window;
    for (size_t d = 0; d < large.size(); ++d) {
      large_dims.push_back(large[d]);
      small_dims.push_back((large[d] + pad + behind - (kernel - 1) * dilation - 1) / stride + 1);
      weight_dims.push_back(kernel);
      window.kernel[d] = kernel, window.stride[d] = stride, window.dilation[d] = dilation, window.pad[d] = pad;
    }
    return Convolution(result, dense(type, large_dims), dense(type, small_dims), dense(type, weight_dims), window);
  }
};

const Shape shapes[] = {
    {"3 x 3", DType::bf16, 32, 1, 64, 64, {56, 56}, 3, 1, 1, 1, 1},
    {"3 x 3", DType::f32, 32, 1, 64, 64, {56, 56}, 3, 1, 1, 1, 1},
    {"another padding behind", DType::f16, 32, 1, 64, 64, {56, 56}, 3, 1, 1, 1, 0},
    {"another padding behind", DType::f32, 32, 1, 64, 64, {56, 56}, 3, 1, 1, 0, 1},
    {"7 x 7, stride 2", DType::bf16, 32, 1, 64, 3, {224, 224}, 7, 2, 1, 3, 3},
    {"depthwise", DType::bf16, 32, 64, 1, 1, {56, 56}, 3, 1, 1, 1, 1},
    {"odd sizes", DType::bf16, 3, 1, 7, 5, {13, 11}, 3, 2, 1, 1, 1},
    {"one dimension", DType::f32, 8, 1, 384, 80, {3000}, 3, 2, 1, 1, 1},
    {"three dimensions", DType::bf16, 4, 1, 32, 16, {16, 32, 32}, 3, 1, 1, 1, 1},
    {"dilation", DType::f32, 8, 1, 64, 64, {28, 28}, 3, 1, 2, 2, 2},
    {"patches", DType::f16, 32, 1, 768, 3, {224, 224}, 16, 16, 1, 0, 0},
};

// Whether one of cuDNN's recommendations for a GPU of these properties will do, as make_plan asks for the GPU of a handle.
bool has_plan(const Descriptor& properties, const Convolution& convolution, bool accumulate) {
  const std::optional<Graph> described = describe(convolution, accumulate);
  if (!described || described->graph.finalize() != CUDNN_STATUS_SUCCESS) return false;
  Descriptor heuristic(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, described->graph);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, properties);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, CUDNN_HEUR_MODE_A);
  if (heuristic.finalize() != CUDNN_STATUS_SUCCESS) return false;
  for (const Descriptor& configuration :
       heuristic.get_descriptors(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, most_recommendations)) {
    if (!is_wanted(configuration, convolution.input_type() == DType::f32)) continue;
    const Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    plan.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, properties);
    plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
    if (plan.finalize() != CUDNN_STATUS_SUCCESS) continue;
    if (plan.get<int64_t>(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1).at(0) <= most_convolution_workspace_bytes) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("cuDNN has engines that will do", "[host]") {
  const Descriptor properties(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  properties.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, std::span<const char>(h100.data(), h100.size() + 1));
  if (properties.finalize() != CUDNN_STATUS_SUCCESS) {
    WARN("this cuDNN does not know a GPU by such a description");
    return;
  }
  for (const Shape& shape : shapes) {
    for (const ConvolutionOperand result : all_operands) {
      for (const bool adds : {false, true}) {
        CAPTURE(shape.what, name_of(shape.type), static_cast<int>(result), adds);
        CHECK(has_plan(properties, shape.convolution(result), adds));
      }
    }
  }
}

#endif
