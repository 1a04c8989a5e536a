// CUDA's objects, freed with their holders.
#pragma once

#include <cuda_runtime_api.h>

#include <utility>

#include "sscc_rt/cuda.h"

namespace sscc::rt {

class DeviceEvent {
 public:
  explicit DeviceEvent(unsigned flags = cudaEventDisableTiming) { check(cudaEventCreateWithFlags(&event_, flags), "create an event"); }
  DeviceEvent(DeviceEvent&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  DeviceEvent& operator=(DeviceEvent&&) = delete;
  ~DeviceEvent() {
    if (event_) cudaEventDestroy(event_);
  }

  cudaEvent_t get() const { return event_; }
  void record(cudaStream_t stream) const { check(cudaEventRecord(event_, stream), "record an event"); }
  // What `stream` is given from here on begins when what was recorded last has passed.
  void hold(cudaStream_t stream) const { check(cudaStreamWaitEvent(stream, event_, 0), "wait for an event"); }

 private:
  cudaEvent_t event_ = nullptr;
};

// For communication: it goes first where kernels could run, too, since other ranks wait for it.
class CommunicationStream {
 public:
  CommunicationStream() {
    int least = 0, greatest = 0;
    check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "ask for the priorities of streams");
    check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest), "create a stream");
  }
  CommunicationStream(CommunicationStream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  CommunicationStream& operator=(CommunicationStream&&) = delete;
  ~CommunicationStream() {
    if (stream_) cudaStreamDestroy(stream_);
  }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// Memory of the GPU.
class DeviceMemory {
 public:
  DeviceMemory(size_t bytes, const char* what) { check(cudaMalloc(&data_, bytes), what); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory() { cudaFree(data_); }
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

}  // namespace sscc::rt
