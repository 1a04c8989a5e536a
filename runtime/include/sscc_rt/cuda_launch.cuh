// Launching kernels, by a function that is plain C++: what nvcc compiles differs from C++ by the kernels alone.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <tuple>
#include <utility>

#include "sscc_rt/cuda.h"

namespace sscc::rt {

// Enqueues kernel(arguments...) on `stream` for grid x block threads; arguments are converted to the parameters' types and copied before it returns.
// Each block gets `shared_bytes` of dynamic_shared_memory. Throws as `check` does where the launch is refused; what goes wrong later is found by
// whoever waits for the stream.
template <class... Parameters, class... Arguments>
void launch_on(cudaStream_t stream, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments));
  std::tuple<Parameters...> values(static_cast<Parameters>(std::forward<Arguments>(arguments))...);
  std::apply(
      [&](Parameters&... each) {
        void* pointers[] = {&each...};
        // CUDA 12's compiler does not deduce a function behind `const T*`.
        check(cudaLaunchKernel<void(Parameters...)>(kernel, grid, block, pointers, shared_bytes, stream), "launch a kernel");
      },
      values);
}

// On the compute stream.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, Arguments&&... arguments) {
  launch_on(compute_stream(), kernel, grid, block, shared_bytes, std::forward<Arguments>(arguments)...);
}

// In a kernel: the memory that the launch gave to the block, aligned to 128 bytes.
template <class T>
__device__ T* dynamic_shared_memory() {
#ifdef SSCC_EMULATED_GPU
  return static_cast<T*>(emulated_gpu::dynamic_shared_memory());
#else
  extern __shared__ __align__(128) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
#endif
}

}  // namespace sscc::rt
