// What cuDNN does for a convolution.
#pragma once

#include <cudnn.h>

#include <optional>
#include <vector>

#include "../kernels/convolution.h"
#include "descriptor.h"

namespace sscc::rt {

struct Plan {
  std::vector<Descriptor> parts;   // what it was made of
  std::optional<Descriptor> plan;  // nothing: cuDNN does not take the convolution
  int64_t workspace_bytes = 0;
};

// Everything that a plan depends on.
std::vector<int64_t> key_of(const Convolution& convolution, bool accumulate);

// Tensors' ids are the numbers of the operands. Asks cuDNN, which takes a while.
Plan make_plan(cudnnHandle_t handle, const Convolution& convolution, bool accumulate);

inline DType input_type(const Convolution& convolution) {
  return convolution.result == ConvolutionOperand::large ? convolution.small.dtype : convolution.large.dtype;
}

constexpr ConvolutionOperand all_operands[] = {ConvolutionOperand::large, ConvolutionOperand::small, ConvolutionOperand::weight};

}  // namespace sscc::rt
