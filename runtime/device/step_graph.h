// A step's work as a CUDA graph.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

namespace sscc::rt {

class StepGraph {
 public:
  // Records what `give` enqueues on `stream`, and on streams that wait for it and that it waits for at the end. Nothing of it runs. Throws what `give`
  // throws, and as `check` does where CUDA does not record what is enqueued.
  StepGraph(cudaStream_t stream, const std::function<void()>& give);
  StepGraph(const StepGraph&) = delete;
  StepGraph& operator=(const StepGraph&) = delete;
  ~StepGraph();

  // Enqueues all of it.
  void launch(cudaStream_t stream) const;

 private:
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace sscc::rt
