#include "graph.h"

namespace sscc::rt {
namespace {

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

}  // namespace

std::vector<int64_t> key_of(const Convolution& convolution, bool accumulate) {
  std::vector<int64_t> key = convolution.key();
  key.push_back(accumulate);
  for (const ConvolutionOperand o : all_operands) key.push_back(alignment_of(convolution[o].data));
  return key;
}

std::optional<Graph> describe(const Convolution& convolution, bool accumulate) {
  Graph made{{}, Descriptor(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)};
  std::optional<Descriptor> windows = describe_windows(convolution);
  if (!windows || windows->finalize() != CUDNN_STATUS_SUCCESS) return std::nullopt;
  const OperationNames names = names_of(convolution.result);
  Descriptor operation(names.type);
  for (const ConvolutionOperand o : all_operands) {
    std::optional<Descriptor> tensor = describe_tensor(convolution, o);
    if (!tensor || tensor->finalize() != CUDNN_STATUS_SUCCESS) return std::nullopt;
    operation.set(o == large_operand ? names.large : o == small_operand ? names.small : names.weight, *tensor);
    made.parts.push_back(std::move(*tensor));
  }
  operation.set(names.windows, *windows);
  operation.set(names.alpha, CUDNN_TYPE_FLOAT, 1.0f);
  operation.set(names.beta, CUDNN_TYPE_FLOAT, accumulate ? 1.0f : 0.0f);
  if (operation.finalize() != CUDNN_STATUS_SUCCESS) return std::nullopt;
  made.graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, operation);
  made.parts.push_back(std::move(*windows));
  made.parts.push_back(std::move(operation));
  return made;
}

}  // namespace sscc::rt
