// The GPU of this process, as kernels, transports and the loop over steps of a CUDA rank program see it.
//
// One process has one GPU. The functions of kernels.h, as the library sscc_rt_cuda has them, take views of device memory, enqueue their work on the
// compute stream and return: they neither allocate nor wait. Whatever they need beside their operands is allocated once, by start_device; cuDNN's
// workspace by the convolutions that are called first, which wait for it. What a kernel finds wrong in data (an index out of range) is kept until
// throw_data_errors.
//
// Not safe to be called by several threads at once.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "sscc_rt/types.h"

namespace sscc::rt {

// Throws unless the call succeeded: "cannot WHAT: out of memory (cudaErrorMemoryAllocation)". EnvironmentFailure; std::logic_error where the status
// tells that a call or a kernel was wrong (an illegal address, an invalid argument).
void check(cudaError_t status, const char* what);

// Makes GPU `ordinal` the one of this process, and allocates what kernels share. Called once, before any kernel, by the thread that calls kernels.
// Throws EnvironmentFailure where there is no such GPU or this build has no code for it.
void start_device(int ordinal);
// Waits for the compute stream and frees what start_device allocated. Does nothing where no device was started.
void stop_device();

// The following need a device that was started (std::logic_error).

// Where kernels run, one after the other. It does not wait for the legacy default stream.
cudaStream_t compute_stream();
// Device memory that kernels have taken: to be stated beside the arena.
int64_t device_bytes_of_kernels();
// What the GPU could do at its highest clock: the measure of MFU. In float by its cores, without tensor cores (TF32 is off); in bf16 and f16 by its
// tensor cores, without sparsity. 0 for a kind not known here.
double flops_per_second(DType precision);
// Throws what the kernels of the CPU throw, for the first wrong element that a kernel met since the last call: DataError, "an index of 9 is outside
// of a dimension of length 8". Sees what kernels did before the last synchronisation with the compute stream.
void throw_data_errors();

// Whether products of float matrices may be computed with TF32 (10 bits of mantissa). Off at first.
void allow_tf32(bool allowed);

// The step that `update` is in may come from the host (t counts from 1) or, so that a graph of a step can be launched for every step, from a counter on
// the device: t = step_on_device.
inline constexpr int64_t step_on_device = 0;
void set_device_step(int64_t t);
// Enqueues: the counter becomes one more.
void advance_device_step();

}  // namespace sscc::rt
