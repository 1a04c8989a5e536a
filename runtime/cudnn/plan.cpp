// What cuDNN recommends is tried in the order of its recommendation, until something is found that gives the same bits each time, sums products as
// they are, and fits in the workspace.
#include "plan.h"

#include "sscc_rt/workspaces.h"

namespace sscc::rt {
namespace {

// The first of cuDNN's recommendations that will do. Where there is none because cuDNN failed (a part of it is missing, or memory), that is told: a slow
// kernel would hide it.
void choose(cudnnHandle_t handle, bool full_floats, Plan& made) {
  cudnnStatus_t failure = CUDNN_STATUS_SUCCESS;
  const auto is_made = [&](const Descriptor& descriptor) {
    const cudnnStatus_t status = descriptor.finalize();
    if (status != CUDNN_STATUS_SUCCESS && !is_refusal(status)) failure = status;
    return status == CUDNN_STATUS_SUCCESS;
  };
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    Descriptor heuristic(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, made.graph->graph);
    heuristic.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, mode);
    if (!is_made(heuristic)) continue;
    for (Descriptor& configuration :
         heuristic.get_descriptors(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, most_recommendations)) {
      if (!is_wanted(configuration, full_floats)) continue;
      Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
      plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, handle);
      plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
      if (!is_made(plan)) continue;
      made.workspace_bytes = plan.get<int64_t>(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1).at(0);
      if (made.workspace_bytes > most_convolution_workspace_bytes) continue;
      made.configuration = std::move(configuration);
      made.plan = std::move(plan);
      return;
    }
  }
  check(failure, "plan a convolution");
}

}  // namespace

bool is_wanted(const Descriptor& configuration, bool full_floats) {
  const auto engines = configuration.get_descriptors(CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1);
  const auto notes =
      engines.at(0).get<cudnnBackendNumericalNote_t>(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT);
  return std::none_of(notes.begin(), notes.end(), [&](cudnnBackendNumericalNote_t note) {
    switch (note) {
      case CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC:
      case CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION:
      case CUDNN_NUMERICAL_NOTE_FFT:
      case CUDNN_NUMERICAL_NOTE_WINOGRAD: return true;
      case CUDNN_NUMERICAL_NOTE_TENSOR_CORE:
      case CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS: return full_floats;
      default: return false;
    }
  });
}

Plan make_plan(cudnnHandle_t handle, const Convolution& convolution, bool accumulate, bool allows_tf32) {
  Plan made;
  made.graph = describe(convolution, accumulate);
  if (!made.graph) return made;
  made.graph->graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, handle);
  if (made.graph->graph.finalize() == CUDNN_STATUS_SUCCESS) choose(handle, convolution.input_type() == DType::f32 && !allows_tf32, made);
  return made;
}

}  // namespace sscc::rt
