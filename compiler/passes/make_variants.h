// Where micro-batches differ in size, or in where they run: operators of their own for those that are alike. Before operators are divided.
#pragma once

#include "compiler/ir/module.h"

namespace sscc {

// The step is cut (module.cut), operators are placed (op.placement) and not yet divided.
void make_variants(Module& module);

}  // namespace sscc
