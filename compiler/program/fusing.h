// What the passes that make one instruction of several share.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "compiler/program/program.h"

namespace sscc {

// The ranks that run a body.
using Ranks = std::vector<const RankProgram*>;
std::vector<Ranks> ranks_by_body(const Programs& programs);

// Do two claims say the same, on all these ranks?
bool are_equal_claims(const Ranks& ranks, int32_t a, int32_t b);

// The origins of several instructions, each once, for people.
std::string origins_of(llvm::ArrayRef<const Instruction*> instructions);

// Buffers that no instruction names any more are taken out; the others keep their order.
void drop_unused_buffers(Body& body);

// Operators that a plan's `before` puts in an order: they stay instructions of their own, at their places.
std::set<OpId> named_by_precedences(const Module& module);

}  // namespace sscc
