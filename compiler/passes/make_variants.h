// Where stages are held at several coordinates: operators of their own for the micro-batches of each turn. `transform` ends with it.
#pragma once

#include "compiler/ir/module.h"

namespace sscc {

// Operators are divided and placed (op.splits, op.placement), and have no pieces yet.
void make_variants(Module& module);

}  // namespace sscc
