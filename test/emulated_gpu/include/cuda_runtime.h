// In place of CUDA's header of this name: CUDA C++ as plain C++, for kernels that run on the emulated GPU. Included before everything else in a .cu
// file (-include), as nvcc does.
//
// __shared__ variables are thread_local: the threads of a block are fibers of one thread, so they share them, and one thread's thread_locals lie
// together, where they are poisoned before each block (emulated_gpu/block.h).
#pragma once

#include <math.h>
#include <string.h>

#include <tuple>
#include <type_traits>
#include <utility>

#include "cuda_runtime_api.h"
#include "emulated_gpu/block.h"
#include "emulated_gpu/gpu.h"

#define SSCC_EMULATED_GPU 1
#define __CUDA_ARCH__ 900

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __shared__ static thread_local
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__  // within an attribute, too, as libstdc++ writes it
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)

// -- launches -------------------------------------------------------------------------------------------------------------------------------------

namespace emulated_gpu {
template <class... Parameters>
cudaError_t launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block, void** arguments, size_t shared_bytes, cudaStream_t stream) {
  return [&]<size_t... i>(std::index_sequence<i...>) {
    return enqueue_kernel({reinterpret_cast<const void*>(kernel), grid, block, shared_bytes,
                           [kernel, values = std::tuple<Parameters...>(*static_cast<Parameters*>(arguments[i])...)] { std::apply(kernel, values); }},
                          stream);
  }
  (std::index_sequence_for<Parameters...>());
}
}  // namespace emulated_gpu

template <class Kernel>
cudaError_t cudaLaunchKernel(Kernel* kernel, dim3 grid, dim3 block, void** arguments, size_t shared_bytes, cudaStream_t stream) {
  return emulated_gpu::launch_kernel(kernel, grid, block, arguments, shared_bytes, stream);
}

struct cudaFuncAttributes {
  int maxThreadsPerBlock = 1024;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
template <class... Parameters>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*)(Parameters...)) {
  *attributes = {};
  return cudaSuccess;
}
template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int value) {
  return emulated_gpu::allow_dynamic_shared_memory(reinterpret_cast<const void*>(kernel), value);
}

// -- in kernels -----------------------------------------------------------------------------------------------------------------------------------

inline constexpr int warpSize = 32;

inline void __syncthreads(std::source_location where = std::source_location::current()) { emulated_gpu::block_barrier(where); }

// The lanes of `mask` meet; each of them gets what another one gave. A lane that is asked for and did not come, or came elsewhere, is an error.
inline void __syncwarp(unsigned mask = 0xffffffff, std::source_location where = std::source_location::current()) {
  emulated_gpu::exchange(mask, char(), where);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = warpSize, std::source_location where = std::source_location::current()) {
  const int begin = emulated_gpu::lane() / width * width;
  return emulated_gpu::exchange(mask, value, where).of(begin + (lane & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = warpSize, std::source_location where = std::source_location::current()) {
  const int me = emulated_gpu::lane(), other = me ^ bits;
  return emulated_gpu::exchange(mask, value, where).of(other < me / width * width + width ? other : me);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize, std::source_location where = std::source_location::current()) {
  const int me = emulated_gpu::lane(), other = me + static_cast<int>(delta);
  return emulated_gpu::exchange(mask, value, where).of(other < me / width * width + width ? other : me);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, std::source_location where = std::source_location::current()) {
  const int me = emulated_gpu::lane(), other = me - static_cast<int>(delta);
  return emulated_gpu::exchange(mask, value, where).of(other >= me / width * width ? other : me);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, std::source_location where = std::source_location::current()) {
  const auto all = emulated_gpu::exchange(mask, predicate != 0, where);
  unsigned result = 0;
  for (int lane = 0; lane < warpSize; ++lane) result |= static_cast<unsigned>((mask >> lane & 1) && all.of(lane)) << lane;
  return result;
}
inline int __any_sync(unsigned mask, int predicate, std::source_location where = std::source_location::current()) {
  return __ballot_sync(mask, predicate, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, std::source_location where = std::source_location::current()) {
  return __ballot_sync(mask, predicate, where) == mask;
}

// Threads run one at a time: what is done without meeting others is done at once.
template <class T>
T atomicAdd(T* to, std::type_identity_t<T> value) {
  const T old = *to;
  *to = old + value;
  return old;
}
template <class T>
T atomicMax(T* to, std::type_identity_t<T> value) {
  const T old = *to;
  if (value > old) *to = value;
  return old;
}
template <class T>
T atomicCAS(T* to, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  const T old = *to;
  if (old == expected) *to = value;
  return old;
}
inline void __threadfence() {}

inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
template <class T>
T __ldg(const T* from) {
  return *from;
}

inline int min(int a, int b) { return a < b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline float min(float a, float b) { return fminf(a, b); }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
inline float max(float a, float b) { return fmaxf(a, b); }
