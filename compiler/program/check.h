// The checkers: what is proven of the programs of a build. They know nothing of how the programs were made, and read programs (and, for lineage, the
// logical model they are said to compute) only. A refusal is the smallest story that shows why.
#pragma once

#include "compiler/program/program.h"
#include "compiler/support/diagnostics.h"

namespace sscc {

// Every rank's step runs to its end, and no message is left over.
bool check_deadlock(const Programs& programs, Diagnostics& diagnostics);

// Whatever an instruction reads is what was last written to that buffer: no other live buffer lies on it, nor what it writes itself; everything lies
// inside the arena.
bool check_memory(const Programs& programs, Diagnostics& diagnostics);

// No two instructions of a rank that may run at the same time in a step, by their streams and waits, touch the same bytes while one of them writes.
bool check_races(const Programs& programs, Diagnostics& diagnostics);

// What the module's precedences put first has ended, on all its ranks, when what they put behind it begins, whichever order streams and waits allow.
bool check_order(const Module& module, const Programs& programs, Diagnostics& diagnostics);

// No rank's arena is larger than its limit (bytes by rank; one entry: all; empty: none). A refusal lists the largest buffers that are live at the peak.
void check_memory_limit(const Programs& programs, const std::vector<int64_t>& limits, const Location& where, Diagnostics& diagnostics);

// Every reader of a logical tensor gets exactly the region and the whole join that its operator needs, from this step's micro-batches, each
// contribution once; every trainable parameter gets its new version at every home.
bool check_lineage(const Module& module, const Programs& programs, Diagnostics& diagnostics);

}  // namespace sscc
