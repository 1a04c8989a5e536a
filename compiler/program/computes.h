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

// Likewise, a product and what follows it: of its operators the last makes the result, and the one before it the value that its function is of.
std::string difference_from_epilogue(const Module& module, const Instruction& product);
// Likewise, an instruction of attention or of its gradient: do its operators, as they read each other, make up what the kernel computes by the equation
// and the rule?
std::string difference_from_attention(const Module& module, const Instruction& attention);
// Which of an AttentionExpression's operators make what, where they do so; -1: none.
struct AttentionRoles {
  int32_t softmax = -1, output = -1, query_gradient = -1, key_gradient = -1, value_gradient = -1;
};
AttentionRoles roles_of(const Module& module, const Instruction& attention);

}  // namespace sscc
