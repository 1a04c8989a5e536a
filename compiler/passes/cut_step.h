// Micro-batches: the step is cut before anything is divided over devices.
//
// Tensors that hold the cut class take the shape of one micro-batch, the largest, and so do the operators that hold it; the timetable repeats them
// (make_variants.h: for smaller ones there are others). Everything else runs once a step. A gradient of a parameter is a step tensor to which every
// micro-batch adds.
#pragma once

#include "compiler/ir/module.h"
#include "compiler/plan/plan.h"
#include "compiler/support/diagnostics.h"

namespace sscc {

// Does this rule cut the step? (a split in time by `axis`, without `within`, of a dimension of a graph input or label)
bool cuts_the_step(const Module& module, const TransformRule& rule);

// Rules of operators whose tensors have changed shape: all operators, or all of one variant.
void attach_rules_again(Module& module, llvm::ArrayRef<OpId> ops);

void cut_step(Module& module, const Plan& plan, Diagnostics& diagnostics);

}  // namespace sscc
