// The module as text, for people, golden tests and bug reports (docs/ir.md). compiler/ops/parse_module.h reads it back.
#pragma once

#include <string>

#include "compiler/ir/module.h"

namespace sscc {

// Tensors, operators in order (with what the passes so far have added: splits, stages, pieces), segments, timetable, deliveries.
std::string print(const Module& module);

// "f32", "sum", as in sscc_rt/types.h.
const char* word_of(DType type);
const char* word_of(Join join);

}  // namespace sscc
