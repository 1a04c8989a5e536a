// Turns the sources of a build folder into binaries, with CMake and Ninja.
#pragma once

#include <string>
#include <vector>

#include "compiler/codegen/target.h"

namespace sscc {

struct BuildOptions {
  Target target = Target::cpu;
  int jobs = 0;              // 0: as many as there are processors
  std::string log;           // the build's output; removed when it succeeds
  std::string runtime_hash;  // of the runtime's sources and of what says how they are compiled
};

// Builds FOLDER; its bin/ holds the result. The runtime library is the same for all models: sscc brings one along (precompiled/ beside its binary); what is
// compiled otherwise is kept in $XDG_CACHE_HOME/sscc (else ~/.cache/sscc) and taken from there next time. Either is for the same sources, flags, compilers
// and processor (cuda: GPUs) only. A cache that cannot be written is no error.
// Throws EnvironmentError when a tool is missing or the build fails, with the last lines of its output.
void build_folder(const std::string& folder, const BuildOptions& options);

// Puts a runtime that this machine's compiler has made for processors where sscc, beside `folder`, looks for it. Throws EnvironmentError.
void bring_runtime(const std::string& library, const std::string& folder, const std::string& runtime_hash);

// Whether the CUDA compiler is there: as $CUDACXX, or nvcc on PATH.
bool has_nvcc();

}  // namespace sscc
