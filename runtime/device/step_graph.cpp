#include "step_graph.h"

#include <stdexcept>
#include <string>

#include "sscc_rt/cuda.h"

namespace sscc::rt {

StepGraph::StepGraph(cudaStream_t stream, const std::function<void()>& give) {
  cudaGraph_t graph = nullptr;
  const auto leave = [&] {
    if (!graph) cudaStreamEndCapture(stream, &graph);  // it failed in the middle
    if (graph) cudaGraphDestroy(graph);
  };
  try {
    // Other threads, the watchdog's and NCCL's, go on with calls that this one may not make meanwhile.
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "record the step");
    give();
    check(cudaStreamEndCapture(stream, &graph), "record the step");
    check(cudaGraphInstantiate(&executable_, graph, 0), "make a graph of the step");
  } catch (const std::logic_error& error) {
    leave();
    throw std::logic_error(std::string(error.what()) + ", while the step is recorded; SSCC_CUDA_GRAPH=0 does without");
  } catch (...) {
    leave();
    throw;
  }
  cudaGraphDestroy(graph);
}

StepGraph::~StepGraph() { cudaGraphExecDestroy(executable_); }

void StepGraph::launch(cudaStream_t stream) const { check(cudaGraphLaunch(executable_, stream), "launch the step"); }

}  // namespace sscc::rt
