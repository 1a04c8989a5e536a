// Where micro-batches differ in size, in where they run, or in what they wait for: operators of their own for those that are alike. Before operators
// are divided.
#pragma once

#include "compiler/ir/module.h"
#include "compiler/plan/plan.h"

namespace sscc {

// The step is cut (module.cut), operators are placed (op.placement) and not yet divided.
void make_variants(Module& module, const Order& order);

}  // namespace sscc
