// `sscc run`: Programs as they are, without a compiler. Each instruction becomes a call of its kernel; all ranks run as threads of this process.
#pragma once

#include "compiler/program/program.h"
#include "sscc_rt/rank.h"

namespace sscc {

// The exit status of the contract (PLAN_LANGUAGE section 4): 0, 1 data or weights refused, 3 environment, 4 a rank failed or timed out, 70 a bug.
// Messages go to stderr. Every parameter and constant has its weight.
int interpret(const Programs& programs, const rt::Options& options);

}  // namespace sscc
