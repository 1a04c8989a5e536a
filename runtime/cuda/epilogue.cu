#include "epilogue.h"

// clang-format off
#include "sscc_rt/cuda_pointwise.cuh"   // first: the epilogue calls its loop
#include "../kernels/epilogue.h"
#include "device.h"
// clang-format on

namespace sscc::rt {

void enqueue_epilogue(const Tensor& out, const Tensor& pre, const Tensor& base, const Tensor& bias, const Tensor& before, Scalar function) {
  apply_epilogue(out, pre, base, bias, before, function, device().scratch);
}

}  // namespace sscc::rt
