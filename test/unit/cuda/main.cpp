// Needs a GPU: without one only tests tagged [host] run, and ctest shows the program as skipped (exit status 77).
#define CATCH_CONFIG_RUNNER
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <catch2/catch.hpp>
#include <cstdio>

#include "test/unit/cuda/mirror.h"
#ifdef SSCC_WITH_CUDNN
#include "runtime/cudnn/cudnn_convolutions.h"
#endif

namespace sscc::rt::test {

double element(const void* memory, DType type, int64_t at) {
  switch (type) {
    case DType::f32: return static_cast<double>(static_cast<const float*>(memory)[at]);
    case DType::f64: return static_cast<const double*>(memory)[at];
    case DType::bf16: return static_cast<double>(__bfloat162float(static_cast<const __nv_bfloat16*>(memory)[at]));
    case DType::f16: return static_cast<double>(__half2float(static_cast<const __half*>(memory)[at]));
    case DType::i64: return static_cast<double>(static_cast<const int64_t*>(memory)[at]);
    case DType::i32: return static_cast<const int32_t*>(memory)[at];
    case DType::i8: return static_cast<const int8_t*>(memory)[at];
    case DType::u8:
    case DType::b1: return static_cast<const uint8_t*>(memory)[at];
  }
  return 0;
}

void set_element(void* memory, DType type, int64_t at, double value) {
  switch (type) {
    case DType::f32: static_cast<float*>(memory)[at] = static_cast<float>(value); return;
    case DType::f64: static_cast<double*>(memory)[at] = value; return;
    case DType::bf16: static_cast<__nv_bfloat16*>(memory)[at] = __double2bfloat16(value); return;
    case DType::f16: static_cast<__half*>(memory)[at] = __double2half(value); return;
    case DType::i64: static_cast<int64_t*>(memory)[at] = static_cast<int64_t>(value); return;
    case DType::i32: static_cast<int32_t*>(memory)[at] = static_cast<int32_t>(value); return;
    case DType::i8: static_cast<int8_t*>(memory)[at] = static_cast<int8_t>(value); return;
    case DType::u8: static_cast<uint8_t*>(memory)[at] = static_cast<uint8_t>(value); return;
    case DType::b1: static_cast<uint8_t*>(memory)[at] = value != 0; return;
  }
}

}  // namespace sscc::rt::test

int main(int argc, char* argv[]) {
  Catch::Session session;
  if (const int wrong = session.applyCommandLine(argc, argv)) return wrong;
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess || count == 0) {
    session.configData().testsOrTags = {"[host]"};
    if (const int failed = session.run()) return failed;
    std::printf("skipped, but for what runs on the host: no GPU (%s)\n", cudaGetErrorString(status));
    return 77;
  }
  sscc::rt::start_device(0);
#ifdef SSCC_WITH_CUDNN
  sscc::rt::use_cudnn();
#endif
  const int status = session.run();
  sscc::rt::stop_device();
  return status;
}
