// Programs as devices may run them: the instructions of a step in another order that streams and waits allow.
#pragma once

#include <optional>
#include <random>

#include "compiler/program/program.h"

namespace sscc {

// All ranks run together with an adversary who chooses who goes on: every stream draws a priority, in each slot another, and whatever can begin on the
// stream of the highest priority begins. So one stream runs as far ahead as its waits and its peers allow, over slots too, while another stands still.
// The result does, one instruction after another, what each rank did: a segment for each stretch that belongs to one slot. Empty: in this order the
// ranks stand for ever.
//
// A stream runs in order; an instruction begins when those that it waits for have ended; a receive waits for its message, a collective for all members.
std::optional<Programs> in_other_order(const Programs& programs, std::mt19937_64& random);

}  // namespace sscc
