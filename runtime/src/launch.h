// What launcher.cpp, the same for all targets, asks of the one that is linked: launch_host.cpp (processors: threads, or processes under MPI) or
// device/launch_device.cpp (GPUs: processes).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "sscc_rt/bundle.h"

namespace sscc::rt {

constexpr int usage = 2, environment_failed = 3, bug = 70;

struct CommandLine {
  int local = 0;  // --local N; 0: not given
  bool is_valid = true;
  std::string one_gpu;                 // --one-gpu[=WAY]: "nccl" or "loopback"; empty: not given
  std::vector<const char*> arguments;  // without these
};

struct Launch {
  std::filesystem::path folder;  // the build folder
  const CommandLine& line;
  const Options& options;
};

// -- of the target --------------------------------------------------------------------------------------------------------------------------------

extern const char* const help_of_start;  // lines of --help
extern const bool knows_one_gpu;
// The rank that whoever started this process gave it, -1: nobody did.
int rank_in_environment();
// All ranks, from here. Returns the exit status.
int run_all_here(const Launch& launch);
// This process's rank, or the only one.
int run_this_one(const Launch& launch);

// -- of launcher.cpp ------------------------------------------------------------------------------------------------------------------------------

// Loads bin/program_NUMBER.so. Throws EnvironmentFailure.
const ProgramInfo* load_program(const std::filesystem::path& folder, int32_t number);
// "run: this program has 4 ranks but 3 processes were started; ..."
void refuse_size(int started);

}  // namespace sscc::rt
