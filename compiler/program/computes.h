// Is an instruction the kernel of its operator? (Part of the lineage check; knows kinds and attributes, not how programs were made.)
#pragma once

#include <string>

#include "compiler/program/program.h"

namespace sscc {

// What differs between the instruction's constants (equation, scale, dimensions, indices, optimizer) and what its operator's attributes say, on a rank with these
// constants; empty: nothing. Fused pointwise instructions are compared step by step; `ops`: the operator, and the rank's piece of it, of each.
std::string difference_from_operator(const Module& module, const Op& op, const Piece& piece, const Instruction& instruction,
                                     const Constants& constants);
std::string difference_from_operators(const Module& module, const Instruction& fused);

}  // namespace sscc
