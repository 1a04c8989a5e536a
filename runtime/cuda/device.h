// What the kernels of a device share: start_device (sscc_rt/cuda.h) makes it.
#pragma once

#include <cublasLt.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "sscc_rt/cuda.h"
#include "sscc_rt/workspaces.h"

namespace sscc::rt {

// The first wrong element that a kernel met, in memory that host and device share.
enum class WrongData : int32_t { none, index, label };
struct WrongElement {
  WrongData kind = WrongData::none;
  int64_t value = 0, bound = 0;  // bound: the dimension's length, the number of classes
};

class ConvolutionLibrary;  // convolution_library.h

struct Device {
  int ordinal = 0;
  cudaStream_t stream = nullptr;
  cublasLtHandle_t blas = nullptr;
  bool tf32 = false;
  std::byte* blas_workspace = nullptr;
  // For what one call keeps between its kernels. The next call may overwrite it: calls follow one another on the stream.
  std::byte* scratch = nullptr;
  WrongElement* wrong = nullptr;
  int64_t* step = nullptr;                           // t of update
  std::unique_ptr<ConvolutionLibrary> convolutions;  // null: there is none
};

// Throws std::logic_error if none was started.
Device& device();

void check(cublasStatus_t status, const char* what);

}  // namespace sscc::rt
