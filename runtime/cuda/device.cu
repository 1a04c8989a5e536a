#include "device.h"

#include <memory>
#include <stdexcept>
#include <string>

#include "convolution_library.h"
#include "sscc_rt/cuda_launch.cuh"
#include "sscc_rt/kernels.h"
#include "sscc_rt/rank.h"

namespace sscc::rt {
namespace {

std::unique_ptr<Device> the_device;

// Statuses that tell of a mistake of the program, not of the machine.
bool is_bug(cudaError_t status) {
  if (status >= cudaErrorStreamCaptureUnsupported && status <= cudaErrorCapturedEvent) return true;
  switch (status) {
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidResourceHandle:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorLaunchOutOfResources:
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorIllegalInstruction:
    case cudaErrorAssert:
    case cudaErrorLaunchFailure: return true;
    default: return false;
  }
}

__global__ void increment(int64_t* step) { ++*step; }

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  const std::string message = std::string("cannot ") + what + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")";
  if (is_bug(status)) throw std::logic_error(message);
  throw EnvironmentFailure(message);
}

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const std::string message = std::string("cannot ") + what + ": " + cublasLtGetStatusString(status);
  if (status == CUBLAS_STATUS_INVALID_VALUE || status == CUBLAS_STATUS_NOT_SUPPORTED) throw std::logic_error(message);
  throw EnvironmentFailure(message);
}

Device& device() {
  if (!the_device) throw std::logic_error("no device was started");
  return *the_device;
}

void start_device(int ordinal) {
  if (the_device) throw std::logic_error("a device was started before");
  int count = 0;
  check(cudaGetDeviceCount(&count), "find a GPU");
  if (ordinal < 0 || ordinal >= count) {
    throw EnvironmentFailure("there is no GPU " + std::to_string(ordinal) + ": this process sees " + std::to_string(count));
  }
  check(cudaSetDevice(ordinal), "use the GPU");
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, increment), "run kernels of this build on the GPU");

  auto made = std::make_unique<Device>();
  made->ordinal = ordinal;
  the_device = std::move(made);  // from here on stop_device frees what there is
  try {
    Device& d = *the_device;
    check(cudaStreamCreateWithFlags(&d.stream, cudaStreamNonBlocking), "create a stream");
    check(cublasLtCreate(&d.blas), "start cuBLASLt");
    check(cudaMalloc(&d.blas_workspace, blas_workspace_bytes), "allocate the workspace of cuBLASLt");
    check(cudaMalloc(&d.scratch, scratch_bytes), "allocate the workspace of kernels");
    check(cudaMalloc(&d.step, sizeof *d.step), "allocate the step counter");
    check(cudaHostAlloc(&d.wrong, sizeof *d.wrong, cudaHostAllocMapped), "allocate pinned memory");
    *d.wrong = {};
    set_device_step(1);
  } catch (...) {
    stop_device();
    throw;
  }
}

void stop_device() {
  if (!the_device) return;
  // What fails here has failed before, and was reported there.
  const std::unique_ptr<Device> stopped = std::move(the_device);
  Device& d = *stopped;
  if (d.stream) cudaStreamSynchronize(d.stream);
  d.convolutions.reset();
  if (d.wrong) cudaFreeHost(d.wrong);
  for (void* memory : {static_cast<void*>(d.step), static_cast<void*>(d.scratch), static_cast<void*>(d.blas_workspace)}) cudaFree(memory);
  if (d.blas) cublasLtDestroy(d.blas);
  if (d.stream) cudaStreamDestroy(d.stream);
}

cudaStream_t compute_stream() { return device().stream; }

double flops_per_second(DType precision) {
  const auto value_of = [](cudaDeviceAttr attribute) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, attribute, device().ordinal), "ask the GPU for its properties");
    return value;
  };
  // Of a multiprocessor, by compute capability, in a cycle: its cores, each of which multiplies and adds (CUDA programming guide, arithmetic
  // throughput), and what its tensor cores multiply and add of small floats (NVIDIA's papers: dense peak / (multiprocessors x boost clock) / 2).
  const int major = value_of(cudaDevAttrComputeCapabilityMajor), minor = value_of(cudaDevAttrComputeCapabilityMinor);
  const int cores = major == 8 && minor == 0 ? 64 : major >= 8 && major <= 12 ? 128 : major == 7 ? 64 : 0;
  const int tensor = major == 8 ? (minor == 0 ? 1024 : 512) : major == 9 ? 2048 : major == 10 ? 4096 : major == 12 ? 512 : 0;
  const double each = is_small(precision) ? tensor : cores;
  return 2.0 * each * value_of(cudaDevAttrMultiProcessorCount) * 1e3 * value_of(cudaDevAttrClockRate);
}

int64_t device_bytes_of_kernels() {
  const int64_t of_convolutions = device().convolutions ? device().convolutions->bytes() : 0;
  return static_cast<int64_t>(blas_workspace_bytes + scratch_bytes + sizeof(int64_t)) + of_convolutions;
}

void throw_data_errors() {
  volatile WrongElement& wrong = *device().wrong;
  const WrongData kind = wrong.kind;
  if (kind == WrongData::none) return;
  const std::string value = std::to_string(wrong.value), bound = std::to_string(wrong.bound);
  wrong.kind = WrongData::none;
  if (kind == WrongData::index) throw DataError("an index of " + value + " is outside of a dimension of length " + bound);
  throw DataError("a label of " + value + " is outside of [0, " + bound + ")");
}

void allow_tf32(bool allowed) { device().tf32 = allowed; }

void set_device_step(int64_t t) {
  check(cudaMemcpyAsync(device().step, &t, sizeof t, cudaMemcpyHostToDevice, compute_stream()), "set the step counter");
  check(cudaStreamSynchronize(compute_stream()), "set the step counter");
}

void advance_device_step() { launch(increment, 1, 1, 0, device().step); }

}  // namespace sscc::rt
