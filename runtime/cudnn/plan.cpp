// A convolution is a graph of one operation. What cuDNN recommends for it is tried in the order of its recommendation, until something is found that
// gives the same bits each time, sums products as they are, and fits in the workspace.
#include "plan.h"

#include <algorithm>
#include <string>

#include "../cuda/device.h"
#include "sscc_rt/rank.h"

namespace sscc::rt {

void check(cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  const std::string message = std::string("cannot ") + what + ": " + cudnnGetErrorString(status);
  if (CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_BAD_PARAM || CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED)
    throw std::logic_error(message);
  throw EnvironmentFailure(message);
}

namespace {

constexpr auto large_operand = ConvolutionOperand::large, small_operand = ConvolutionOperand::small;

// Enough for engines that bring images of a large batch into another layout.
constexpr int64_t most_workspace_bytes = int64_t{256} << 20;

cudnnDataType_t type_of(DType type) {
  switch (type) {
    case DType::f32: return CUDNN_DATA_FLOAT;
    case DType::bf16: return CUDNN_DATA_BFLOAT16;
    default: return CUDNN_DATA_HALF;
  }
}

// The largest power of two, up to 16, that the address is a multiple of.
int64_t alignment_of(const void* memory) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(memory) | 16;
  return static_cast<int64_t>(bits & (~bits + 1));
}

// cuDNN knows two dimensions of space and three.
int first_axis(const Convolution& convolution) { return max_space - std::max(convolution.space, 2); }

// How many positions are added behind `large`: as many as in front, if that gives as many windows.
std::optional<int64_t> pad_behind(const WindowAxis& axis) {
  const int64_t least = std::max<int64_t>(0, axis.seen() - axis.pad - axis.large), end = axis.seen() - axis.pad - axis.large + axis.stride;
  if (axis.pad < 0 || least >= end) return std::nullopt;
  return least <= axis.pad && axis.pad < end ? axis.pad : least;
}

// Nothing: cuDNN takes no elements that are repeated or step back.
std::optional<Descriptor> describe_tensor(const Convolution& convolution, ConvolutionOperand which) {
  const Tensor& view = convolution[which];
  std::vector<int64_t> dims, strides;
  int64_t beyond = 1;
  for (int d = 0; d < view.rank; ++d) {
    if (d >= 2 && d < 2 + first_axis(convolution)) continue;
    dims.push_back(view.dims[d]);
    strides.push_back(view.strides[d]);
    if (view.dims[d] > 1 && view.strides[d] <= 0) return std::nullopt;
    if (view.dims[d] > 1) beyond = std::max(beyond, view.dims[d] * view.strides[d]);
  }
  // A dimension of one position has any stride: here the one that a dense tensor has.
  for (size_t d = dims.size(); d-- > 0;)
    if (dims[d] == 1) strides[d] = d == 0 ? beyond : d + 1 < dims.size() ? dims[d + 1] * strides[d + 1] : 1;
  Descriptor tensor(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  tensor.set(CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, type_of(view.dtype));
  tensor.set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, std::span<const int64_t>(dims));
  tensor.set(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, std::span<const int64_t>(strides));
  tensor.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, static_cast<int64_t>(which));
  tensor.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, alignment_of(view.data));
  return tensor;
}

// Nothing: cuDNN has no such paddings.
std::optional<Descriptor> describe_windows(const Convolution& convolution) {
  std::vector<int64_t> stride, dilation, before, behind;
  for (int d = first_axis(convolution); d < max_space; ++d) {
    const WindowAxis& axis = convolution.axes[d];
    const std::optional<int64_t> pad = pad_behind(axis);
    if (!pad) return std::nullopt;
    stride.push_back(axis.stride);
    dilation.push_back(axis.dilation);
    before.push_back(axis.pad);
    behind.push_back(*pad);
  }
  Descriptor windows(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  windows.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, CUDNN_DATA_FLOAT);
  windows.set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, CUDNN_CROSS_CORRELATION);
  windows.set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, static_cast<int64_t>(stride.size()));
  windows.set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, std::span<const int64_t>(stride));
  windows.set(CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, std::span<const int64_t>(dilation));
  windows.set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, std::span<const int64_t>(before));
  windows.set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, std::span<const int64_t>(behind));
  return windows;
}

struct OperationNames {
  cudnnBackendDescriptorType_t type;
  cudnnBackendAttributeName_t large, small, weight, windows, alpha, beta;
};
OperationNames names_of(ConvolutionOperand result) {
  switch (result) {
    case small_operand:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA};
    case large_operand:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA};
    default:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA};
  }
}

// Whether an engine sums what it is given, and in one order. Where floats are multiplied by tensor cores they become TF32.
bool is_wanted(const Descriptor& configuration, DType type) {
  const auto engines = configuration.get_descriptors(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1);
  const auto notes =
      engines.at(0).get<cudnnBackendNumericalNote_t>(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT);
  const bool full_floats = type == DType::f32 && !device().tf32;
  return std::none_of(notes.begin(), notes.end(), [&](cudnnBackendNumericalNote_t note) {
    switch (note) {
      case CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC:
      case CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION:
      case CUDNN_NUMERICAL_NOTE_FFT:
      case CUDNN_NUMERICAL_NOTE_WINOGRAD: return true;
      case CUDNN_NUMERICAL_NOTE_TENSOR_CORE:
      case CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS: return full_floats;
      default: return false;
    }
  });
}

constexpr int64_t most_recommendations = 64;

// The first of cuDNN's recommendations that will do.
void choose(cudnnHandle_t handle, const Descriptor& graph, DType type, Plan& made) {
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    Descriptor heuristic(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    heuristic.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, mode);
    if (heuristic.finalize() != CUDNN_STATUS_SUCCESS) continue;
    for (Descriptor& configuration :
         heuristic.get_descriptors(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, most_recommendations)) {
      if (!is_wanted(configuration, type)) continue;
      Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
      plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, handle);
      plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
      if (plan.finalize() != CUDNN_STATUS_SUCCESS) continue;
      made.workspace_bytes = plan.get<int64_t>(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1).at(0);
      if (made.workspace_bytes > most_workspace_bytes) continue;
      made.parts.push_back(std::move(configuration));
      made.plan = std::move(plan);
      return;
    }
  }
}

}  // namespace

// Everything that a plan depends on.
std::vector<int64_t> key_of(const Convolution& convolution, bool accumulate) {
  std::vector<int64_t> key{static_cast<int64_t>(convolution.result), convolution.space, accumulate, device().tf32};
  for (const ConvolutionOperand o : all_operands) {
    const Tensor& view = convolution[o];
    key.insert(key.end(), {static_cast<int64_t>(view.dtype), alignment_of(view.data)});
    key.insert(key.end(), view.dims, view.dims + view.rank);
    key.insert(key.end(), view.strides, view.strides + view.rank);
  }
  for (const WindowAxis& axis : convolution.axes) key.insert(key.end(), {axis.kernel, axis.stride, axis.dilation, axis.pad});
  return key;
}

Plan make_plan(cudnnHandle_t handle, const Convolution& convolution, bool accumulate) {
  Plan made, none;
  std::optional<Descriptor> windows = describe_windows(convolution);
  if (!windows || windows->finalize() != CUDNN_STATUS_SUCCESS) return none;
  const OperationNames names = names_of(convolution.result);
  Descriptor operation(names.type), graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  for (const ConvolutionOperand o : all_operands) {
    std::optional<Descriptor> tensor = describe_tensor(convolution, o);
    if (!tensor || tensor->finalize() != CUDNN_STATUS_SUCCESS) return none;
    operation.set(o == large_operand ? names.large : o == small_operand ? names.small : names.weight, *tensor);
    made.parts.push_back(std::move(*tensor));
  }
  operation.set(names.windows, *windows);
  operation.set(names.alpha, CUDNN_TYPE_FLOAT, 1.0f);
  operation.set(names.beta, CUDNN_TYPE_FLOAT, accumulate ? 1.0f : 0.0f);
  if (operation.finalize() != CUDNN_STATUS_SUCCESS) return none;
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, handle);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, operation);
  if (graph.finalize() != CUDNN_STATUS_SUCCESS) return none;
  choose(handle, graph, input_type(convolution), made);
  for (Descriptor* part : {&*windows, &operation, &graph}) made.parts.push_back(std::move(*part));
  return made;
}

}  // namespace sscc::rt
