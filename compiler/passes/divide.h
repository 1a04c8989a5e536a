// Dividing operators over mesh axes and in local time: op.splits (PLAN_LANGUAGE section 1 and `transform`).
#pragma once

#include "compiler/ir/module.h"
#include "compiler/plan/plan.h"
#include "compiler/support/diagnostics.h"

namespace sscc {

void divide(Module& module, const Plan& plan, Diagnostics& diagnostics);

}  // namespace sscc
