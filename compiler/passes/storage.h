// Where parameters, gradients and optimizer state live between uses, and with them the updates.
#pragma once

#include "compiler/ir/module.h"
#include "compiler/plan/plan.h"

namespace sscc {

// Homes of all tensors without producers; pieces of updates and of the squared norms of gradients. Forward and backward operators have their pieces.
void place_storage(Module& module, const Plan& plan);

}  // namespace sscc
