// What the files of a build folder give each other.
//
// bin/program_K.so, from src/program_K.cpp, exports one C symbol: the description of the program that ranks share.
//
//   extern "C" const sscc::rt::ProgramInfo* sscc_program();      // static data; valid while the library is loaded
//
// bin/launch is runtime/src/launcher.cpp linked with src/model.cpp and src/ranks.cpp, which define the functions below, and with what starts ranks on
// its target (runtime/src/launch.h). It finds its folder from /proc/self/exe (bin/.., with bin/program_K.so and weights/*.safetensors), loads the
// programs that it needs and calls run_rank.
//
// Processors: launch_host.cpp; transport_mpi.cpp needs MPI's C interface and is part of bin/launch only, and only where MPI was found; then
// SSCC_WITH_MPI is defined for launch_host.cpp. GPUs: device/launch_device.cpp; the files device/nccl*.cpp are part of bin/launch only, and only where
// there is more than one rank; then SSCC_WITH_NCCL is defined for launch_device.cpp. All others make libsscc_rt.so and need neither.
#pragma once

#include <cstdint>
#include <vector>

#include "sscc_rt/rank.h"

namespace sscc::rt {

// One rank: which program it runs, and the constants that it gives it.
struct RankInfo {
  int32_t program = 0;  // bin/program_K.so
  int32_t stage = 0;
  Constants constants;
};

}  // namespace sscc::rt

// Defined by src/model.cpp and src/ranks.cpp.
sscc::rt::ModelInfo sscc_model();
int sscc_ranks();
sscc::rt::RankInfo sscc_rank(int rank);
// The groups of all ranks, in the order in which all of them make their communicators. Of GPUs only.
std::vector<std::vector<int32_t>> sscc_groups();

// Defined by src/program_K.cpp.
extern "C" const sscc::rt::ProgramInfo* sscc_program();
