// Source of one rank program: a function for each segment, the table of buffers, the schedule.
#pragma once

#include <string>

#include "compiler/codegen/print_fused.h"
#include "compiler/codegen/target.h"
#include "compiler/program/program.h"

namespace sscc {

// The source file of body `body`. Fused pointwise expressions are entered in `fused`, which names them.
std::string print_program(const Programs& programs, int32_t body, Target target, FusedFunctions& fused, const std::string& version);

}  // namespace sscc
