// What a program that has convolutions brings along for them (../cudnn). What it does not take, and all where there is none, is left to the strided
// kernel.
#pragma once

#include "../kernels/convolution.h"

namespace sscc::rt {

class ConvolutionLibrary {
 public:
  virtual ~ConvolutionLibrary() = default;
  // Enqueues it. False, and nothing done, if the library does not take it.
  virtual bool enqueue(const Convolution& convolution, bool accumulate) = 0;
  // Device memory that it has taken.
  virtual int64_t bytes() const = 0;
};

}  // namespace sscc::rt
