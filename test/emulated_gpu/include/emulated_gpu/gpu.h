// What the GPU was given to do, and when it does it.
//
// Calls enqueue work and return, as on a GPU that is slow to begin. A stream's work is done in order; what streams and events leave open is decided by
// a seed (SSCC_EMULATED_GPU_SEED), each time that the host waits for something: only what it waits for is done, or other streams go as far ahead as
// events let them, or all in turns. From one wait to the next the GPU either begins nothing, or now and then does all that it can as soon as it is given
// it. A program whose events are right gives the same results for every seed.
//
// While a stream is captured, work becomes the nodes of a graph; launching the graph is one work, which does the nodes in any order that their
// dependences allow.
#pragma once

#include <functional>
#include <mutex>

#include "cuda_runtime_api.h"
#include "emulated_gpu/block.h"

namespace emulated_gpu {

// Done, or false: it has to wait, and is tried again. It may keep state; a copy that was never called begins anew.
using Work = std::function<bool()>;

// cudaErrorInvalidResourceHandle without a stream; the status of what failed before.
cudaError_t enqueue(cudaStream_t stream, const char* what, Work work);
cudaError_t enqueue_kernel(Kernel kernel, cudaStream_t stream);
// As cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes).
cudaError_t allow_dynamic_shared_memory(const void* kernel, int bytes);

// The status of a call that must not be made while a stream is captured (cudaMalloc); it breaks the capture. cudaSuccess: none is.
cudaError_t refused_while_capturing();

// Held by whoever does the GPU's work or changes its queues.
std::recursive_mutex& mutex();
// A choice among `count` for what is left open.
unsigned choose(unsigned count);

}  // namespace emulated_gpu
