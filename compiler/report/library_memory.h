// What libraries are expected to take of a GPU's memory beside a rank's arena.
#pragma once

#include "compiler/program/program.h"

namespace sscc {

// In bytes. What kernels ask for is known; what the driver and NCCL take is said only by a run, and is a rule of thumb here (docs/cuda.md).
int64_t library_bytes(const Body& body, const RankProgram& rank);

}  // namespace sscc
