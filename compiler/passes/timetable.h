// Each device's timetable: (segment, micro-batch) slots by a schedule's closed form, or as the plan lists them.
#pragma once

#include "compiler/ir/module.h"
#include "compiler/plan/plan.h"
#include "compiler/support/diagnostics.h"

namespace sscc {

// The module has its segments: a prologue, the stages' forward segments, their backward segments, an epilogue.
void make_timetable(Module& module, const Order& order, Diagnostics& diagnostics);

// Every slot can run when its turn comes; else the shortest circle of slots that wait for each other is reported.
void check_timetable(const Module& module, const Order& order, Diagnostics& diagnostics);

}  // namespace sscc
