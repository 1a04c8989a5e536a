// What contract_epilogue does behind a product that cuBLASLt does not do with it.
#pragma once

#include "sscc_rt/types.h"

namespace sscc::rt {

// The product lies in `out`, or in `pre` where that is wanted.
void enqueue_epilogue(const Tensor& out, const Tensor& pre, const Tensor& base, const Tensor& bias, const Tensor& before, Scalar function);

}  // namespace sscc::rt
