// Devices, memory and copies. The GPU is an invented one of compute capability 9.0.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "emulated_gpu/gpu.h"
#include "memory.h"

using namespace emulated_gpu;

namespace {

constexpr int most_devices = 8;
int current_device = 0;

// As far as CUDA_VISIBLE_DEVICES lets this process see: all, or those that it lists.
int visible_devices() {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (!visible) return most_devices;
  return *visible == '\0' ? 0 : static_cast<int>(std::count(visible, visible + std::strlen(visible), ',')) + 1;
}

// Calls that find memory used wrongly say so.
template <class Call>
cudaError_t reporting(const char* what, const Call& call) {
  try {
    return call();
  } catch (const Fault& fault) {
    std::fprintf(stderr, "emulated GPU: %s: %s\n", what, fault.what());
    return cudaErrorIllegalAddress;
  }
}

bool fits(cudaMemcpyKind kind, Kind to, Kind from) {
  switch (kind) {
    case cudaMemcpyHostToHost: return to != Kind::device && from != Kind::device;
    case cudaMemcpyHostToDevice: return to == Kind::device && from != Kind::device;
    case cudaMemcpyDeviceToHost: return to != Kind::device && from == Kind::device;
    case cudaMemcpyDeviceToDevice: return to == Kind::device && from == Kind::device;
    case cudaMemcpyDefault: return true;
  }
  return false;
}

}  // namespace

const char* cudaGetErrorName(cudaError_t status) {
  switch (status) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidMemcpyDirection: return "cudaErrorInvalidMemcpyDirection";
    case cudaErrorInvalidDeviceFunction: return "cudaErrorInvalidDeviceFunction";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorLaunchOutOfResources: return "cudaErrorLaunchOutOfResources";
    case cudaErrorAssert: return "cudaErrorAssert";
    case cudaErrorIllegalInstruction: return "cudaErrorIllegalInstruction";
    case cudaErrorMisalignedAddress: return "cudaErrorMisalignedAddress";
    case cudaErrorInvalidAddressSpace: return "cudaErrorInvalidAddressSpace";
    case cudaErrorInvalidPc: return "cudaErrorInvalidPc";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorStreamCaptureMerge: return "cudaErrorStreamCaptureMerge";
    case cudaErrorStreamCaptureUnmatched: return "cudaErrorStreamCaptureUnmatched";
    case cudaErrorStreamCaptureUnjoined: return "cudaErrorStreamCaptureUnjoined";
    case cudaErrorStreamCaptureIsolation: return "cudaErrorStreamCaptureIsolation";
    case cudaErrorCapturedEvent: return "cudaErrorCapturedEvent";
  }
  return "unrecognized error code";
}
const char* cudaGetErrorString(cudaError_t status) {
  switch (status) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorLaunchFailure: return "a kernel failed on the emulated GPU";
    default: return cudaGetErrorName(status);
  }
}

// -- devices --------------------------------------------------------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count) {
  *count = visible_devices();
  return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= visible_devices()) return cudaErrorInvalidDevice;
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 << 10; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 227 << 10; return cudaSuccess;
    case cudaDevAttrClockRate: *value = 1000000; return cudaSuccess;
    case cudaDevAttrMultiProcessorCount: *value = 4; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}
cudaError_t cudaDeviceGetPCIBusId(char* text, int bytes, int device) {
  std::snprintf(text, static_cast<size_t>(bytes), "0000:%02x:00.0", device);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

// -- memory ---------------------------------------------------------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = allocate(bytes, Kind::device);
  return *memory || bytes == 0 ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  *memory = allocate(bytes, Kind::pinned);
  return *memory || bytes == 0 ? cudaSuccess : cudaErrorMemoryAllocation;
}
// As on a GPU, all that it was given is done first.
cudaError_t cudaFree(void* memory) {
  if (!memory) return cudaSuccess;
  const cudaError_t status = cudaDeviceSynchronize();
  return reporting("cudaFree", [&] { return release(memory, Kind::device) ? status : cudaErrorInvalidValue; });
}
cudaError_t cudaFreeHost(void* memory) {
  if (!memory) return cudaSuccess;
  const cudaError_t status = cudaDeviceSynchronize();
  return reporting("cudaFreeHost", [&] { return release(memory, Kind::pinned) ? status : cudaErrorInvalidValue; });
}

// At once: streams that were created non-blocking do not wait for it, nor it for them.
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return reporting("cudaMemcpy", [&] {
    if (!fits(kind, kind_of(to, bytes), kind_of(from, bytes))) return cudaErrorInvalidMemcpyDirection;
    if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess) return status;
    std::memmove(to, from, bytes);
    return cudaSuccess;
  });
}

// From memory of the host that is not pinned, bytes are taken when it is called; to such memory, they are there when it returns.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return reporting("cudaMemcpyAsync", [&] {
    const Kind to_kind = kind_of(to, bytes), from_kind = kind_of(from, bytes);
    if (!fits(kind, to_kind, from_kind)) return cudaErrorInvalidMemcpyDirection;
    if (from_kind == Kind::pageable) {
      const auto* begin = static_cast<const std::byte*>(from);
      return enqueue(stream, "a copy", [to, taken = std::vector<std::byte>(begin, begin + bytes)] {
        std::memcpy(to, taken.data(), taken.size());
        return true;
      });
    }
    const cudaError_t status = enqueue(stream, "a copy", [=] {
      std::memmove(to, from, bytes);
      return true;
    });
    return status == cudaSuccess && to_kind == Kind::pageable ? cudaStreamSynchronize(stream) : status;
  });
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return reporting("cudaMemsetAsync", [&] {
    if (kind_of(to, bytes) == Kind::pageable) return cudaErrorInvalidValue;
    return enqueue(stream, "a memset", [=] {
      std::memset(to, value, bytes);
      return true;
    });
  });
}
