#include "epilogue.h"

// clang-format off: the loop first, which the epilogue calls
#include "../kernels/epilogue.h"
#include "device.h"
#include "sscc_rt/cuda_pointwise.cuh"
// clang-format on

namespace sscc::rt {

void enqueue_epilogue(const Tensor& out, const Tensor& pre, const Tensor& product, const Tensor& base, const Tensor& bias, const Tensor& before,
                      Scalar function) {
  apply_epilogue(out, pre, product, base, bias, before, function, device().scratch);
}

}  // namespace sscc::rt
