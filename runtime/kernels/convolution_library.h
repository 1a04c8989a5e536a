// Convolutions of floats by oneDNN.
#pragma once

#include "convolution.h"

namespace sscc::rt {

// Of f32 operands, with something to be summed. False, and nothing done, if oneDNN does not take it.
bool convolve_by_library(const Convolution& convolution, bool accumulate);

}  // namespace sscc::rt
