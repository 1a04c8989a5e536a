// What cuDNN does for a convolution.
#pragma once

#include "graph.h"

namespace sscc::rt {

struct Plan {
  std::optional<Graph> graph;
  std::optional<Descriptor> configuration, plan;  // nothing: cuDNN does not take the convolution
  int64_t workspace_bytes = 0;
};

// Asks cuDNN, which takes a while.
Plan make_plan(cudnnHandle_t handle, const Convolution& convolution, bool accumulate, bool allows_tf32);

// Whether an engine sums what it is given, and in one order. `full_floats`: without tensor cores, where floats become TF32.
bool is_wanted(const Descriptor& configuration, bool full_floats);

constexpr int64_t most_recommendations = 64;

}  // namespace sscc::rt
