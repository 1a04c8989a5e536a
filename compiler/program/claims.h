// Does an instruction say of itself what the model says? (Part of the lineage check, which holds instructions to their claims.)
#pragma once

#include <string>

#include "compiler/program/layouts.h"

namespace sscc {

// What differs between what an operator's instruction is said to read, write and compute on a rank, and what the rank's piece of the operator does;
// empty: nothing, or the instruction is no operator's. Fused instructions are compared step by step.
std::string difference_from_claims(const Module& module, const Layouts& layouts, const RankProgram& rank, const Body& body,
                                   const Instruction& instruction);

}  // namespace sscc
