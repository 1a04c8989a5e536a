// All ranks' programs run in the mind, one step: every instruction is visited once for each slot that runs it, as soon as its rank reaches it and
// what it waits for has come. The checkers and the cost model read programs through this and nothing else.
//
// Rules: a rank's instructions run in order; a send leaves at once; a receive waits for its message (matched by ranks, transfer and micro-batch); a
// collective waits until every member of its group has reached the same call.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "compiler/program/program.h"

namespace sscc {

struct Step {
  int32_t rank = 0;
  int32_t segment = 0;      // index in the body
  int32_t instruction = 0;  // index in the segment
  int32_t micro_batch = 0;
  const Instruction* what = nullptr;
  int64_t message = -1;  // send, receive: the same number for both ends
};

struct Visitor {
  std::function<void(const Step&)> instruction;              // everything but collectives
  std::function<void(const std::vector<Step>&)> collective;  // all members, in group order
};

// A rank that could not go on.
struct Stuck {
  Step step;
  std::string reason;
};

// Returns the ranks that are stuck at the end; empty: the step ran through. `left_over`: messages that nobody received.
std::vector<Stuck> walk(const Programs& programs, const Visitor& visitor, int64_t* left_over = nullptr);

}  // namespace sscc
