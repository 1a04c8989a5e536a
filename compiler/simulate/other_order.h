// Programs as devices may run them: the instructions of a slot in another order that streams and waits allow.
#pragma once

#include <optional>
#include <random>

#include "compiler/program/program.h"

namespace sscc {

// All ranks run together with an adversary who chooses who goes on: every stream of every slot draws a priority, and whatever can begin on the stream
// of the highest priority begins. So one stream runs as far ahead as its waits and its peers allow while another stands still. The result does, one
// instruction after another, what each rank did: every slot has a segment of its own. Empty: in this order the ranks stand for ever.
//
// A stream runs in order; an instruction begins when those that it waits for have ended; a slot begins when all streams of the one before have ended;
// a receive waits for its message, a collective for all members.
std::optional<Programs> in_other_order(const Programs& programs, std::mt19937_64& random);

}  // namespace sscc
