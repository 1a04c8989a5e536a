// What a command does with a compilation: a build folder, figures, dumps.
#pragma once

#include <string>
#include <vector>

#include "compiler/codegen/target.h"
#include "compiler/driver/compile.h"
#include "compiler/report/check_report.h"

namespace sscc {

CheckFacts facts_of(const Compilation& compilation, Target target);

// What is compiled for where nothing is said: cuda where there is nvcc.
Target default_target();

// Refuses a folder that may not be written (EnvironmentError); before long work.
void check_output(const std::string& folder, bool force);

struct BuildRequest {
  std::string model, folder;
  Target target = Target::cpu;
  std::vector<std::string> architectures;  // of GPUs: "sm_80"
  bool binaries = true;
  int jobs = 0;
  bool force = false;
  std::string version;
};
// Writes the build folder. Throws EnvironmentError.
void build(const BuildRequest& request, const Compilation& compilation, const Diagnostics& diagnostics);

// FOLDER/NN.STEP.txt: the module, or from `lower` on the programs, after a step.
void dump_step(const std::string& folder, int number, const std::string& step, const Compilation& compilation);

}  // namespace sscc
