// What travels in a step, counted from the programs by the contract's rules (PLAN_LANGUAGE section 3): all ranks of a call together,
//   all_reduce 2(n-1)B, B what one rank holds;  all_gather, reduce_scatter (n-1)B, B the whole;  all_to_all (n-1)B, B what one rank holds;
//   broadcast (n-1)B, B the value;  send B.
#pragma once

#include <map>
#include <string>

#include "compiler/program/program.h"

namespace sscc {

struct Traffic {
  struct Kind {
    int64_t count = 0, bytes = 0;
  };
  std::map<std::string, Kind> by_kind;  // a collective counts once, and so does one of several tensors
  int64_t bytes = 0, messages = 0;
};
Traffic count_traffic(const Programs& programs);

int64_t bytes_of(const Body& body, const View& view);
// What the rules above call B.
int64_t bytes_of_call(const Body& body, const Instruction& communication);
bool is_communication(Opcode opcode);
bool is_signal(const Instruction& instruction);  // one end of an empty message
// The bytes of the arena from the first to the last element, half-open; {0, 0} if there is none. Of a copy that micro-batches use.
std::pair<int64_t, int64_t> bytes_of_copy(const Body& body, const View& view, int64_t copy);
// Of all copies, in whole, where there are several.
std::pair<int64_t, int64_t> bytes_of_all_copies(const Body& body, const View& view);
// Does an instruction wait for a send, of its run of the segment or of an earlier slot?
bool waits_for_sends(const Body& body, const ProgramSegment& segment, const Instruction& instruction);

}  // namespace sscc
