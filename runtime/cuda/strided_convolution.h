// Convolutions of any strides and types.
#pragma once

#include "../kernels/convolution.h"

namespace sscc::rt {

// Enqueues it. Sums are in one order, in the type of the operands (float for small ones).
void convolve_strided(const Convolution& convolution, bool accumulate);

}  // namespace sscc::rt
