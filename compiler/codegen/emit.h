// From Programs to a build folder (PLAN_LANGUAGE section 4): readable source, weights, manifest and, unless told to stop before, binaries. The folder is
// self-contained: it builds with CMake, Ninja and a C++20 compiler, and needs (cpu) MPI, OpenBLAS and oneDNN only, or (cuda) the CUDA Toolkit and, with
// more than one rank, NCCL.
//
// The targets differ in four places: the order of what a program enqueues (print_order.h), the loop of fused functions (print_fused.h), the runtime's
// files (embedded_files.h), and the CMakeLists.txt (templates/).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "compiler/codegen/target.h"
#include "compiler/program/program.h"

namespace sscc {

struct EmitOptions {
  Target target = Target::cpu;
  std::vector<std::string> architectures;  // of cuda: "80", "90a"; the last also as PTX, for later GPUs
  std::string folder;
  bool build = true;         // false (`--emit source`): everything but bin/
  int jobs = 0;              // of the build; 0: as many as there are processors
  bool force = false;        // replace a folder that sscc did not write
  std::string version;       // of sscc
  std::string onnx_hash;     // SHA-256 of the .onnx file, in hexadecimal
  std::string plan_hash;     // SHA-256 of the plan
  std::string cluster_hash;  // SHA-256 of the cluster file; empty: there was none
  // Texts of the files beside the program; an empty one is not written.
  std::string plan_expanded_json, schedule_svg, trace_json;
  std::function<std::string(const std::string& sources)> check_json;  // given the hash of all sources
};

// Refuses a folder that may not be written: a file, or a non-empty folder that sscc did not write (unless `force`). Call it before long work.
// Throws EnvironmentError.
void check_output_folder(const std::string& folder, bool force);

// Writes the folder beside its final place and renames it, so that a half-written one is never seen under its name. A folder that sscc wrote
// is replaced. Equal inputs give equal bytes, bin/ excepted. When the build fails, its output stays in FOLDER.log and the folder is not
// touched. Throws EnvironmentError.
void emit(const Programs& programs, const EmitOptions& options);

// What a compiled runtime depends on: its sources, the CMakeLists.txt that has its flags, the GPUs.
std::string runtime_hash(const EmitOptions& options);

}  // namespace sscc
