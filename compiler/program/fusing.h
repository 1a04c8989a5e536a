// What the passes that make one instruction of several share.
#pragma once

#include <set>

#include "compiler/program/program.h"

namespace sscc {

// Buffers that no instruction names any more are taken out; the others keep their order.
void drop_unused_buffers(Body& body);

// Operators that a plan's `before` puts in an order: they stay instructions of their own, at their places.
std::set<OpId> named_by_precedences(const Module& module);

}  // namespace sscc
