// The straight line from a model and a plan to programs.
#pragma once

#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "compiler/ir/cluster.h"
#include "compiler/plan/plan.h"
#include "compiler/program/program.h"
#include "compiler/simulate/predict.h"
#include "compiler/support/diagnostics.h"

namespace sscc {

struct Request {
  std::string model, plan, recipe;                     // paths; "-": standard input; empty recipe: the plan's own, or inference
  std::string cluster;                                 // path; empty: the reference device
  Settings settings;                                   // --set
  std::map<std::string, std::vector<int64_t>> shapes;  // --shape
  bool needs_weights = false;                          // the weights' data must be there (everything but check)
};

// What is known after each step; `after` is called with the step's name when it has ended.
struct Compilation {
  Module module;
  Plan plan;
  Recipe recipe;
  Cluster cluster;
  Programs programs;
  bool equivalent = false, deadlock_free = false;
  Prediction prediction;
  std::vector<std::pair<std::string, double>> seconds;  // by step
};
using After = std::function<void(const char* step, const Compilation&)>;

// Runs every step, or up to and including `last` (empty: all). Stops after a step that reported an error; false then.
bool compile(const Request& request, Compilation& compilation, Diagnostics& diagnostics, const std::string& last = "", const After& after = {});

// Runs passes by name on a compilation whose module, plan and recipe are there (sscc-opt). Throws UnknownPass. False if one reported an error.
struct UnknownPass : std::runtime_error {
  using std::runtime_error::runtime_error;
};
bool run_passes(const std::vector<std::string>& names, Compilation& compilation, Diagnostics& diagnostics);

}  // namespace sscc
