// All ranks' programs run in the mind, one step: every instruction is visited once for each slot that runs it, as soon as its rank reaches it and
// what it waits for has come. The checkers and the cost model read programs through this and nothing else.
//
// Rules, the strictest that a communication library may have (NCCL's, with one stream for everything, and no buffers): a rank's instructions run in
// order. Sends of a slot, and receives that follow them at once, are one group call, unless a receive writes where a send still reads; receives of a
// segment that continues a group belong to it, too. The rank goes on when every message of the group is through. A message is through when both ends
// have it in the group that they stand in; what one rank sends another arrives in the order in which it is sent. A collective waits until every member
// of its group has reached the same call.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "compiler/program/program.h"
#include "compiler/program/wiring.h"

namespace sscc {

struct Step {
  int32_t rank = 0;
  int32_t slot = 0;         // index in the schedule
  int32_t segment = 0;      // index in the body
  int32_t instruction = 0;  // index in the segment
  int32_t micro_batch = 0;
  const Instruction* what = nullptr;
  int64_t message = -1;  // send, receive: the same number for both ends
};

// A visit returns whether the walk goes on.
struct Visitor {
  std::function<bool(const Step&)> instruction;              // everything but collectives
  std::function<bool(const std::vector<Step>&)> collective;  // all members, in group order
  // May what different ranks do between communications be visited at the same time, and calls of different ranks, too?
  bool side_by_side = false;
};

// A rank that could not go on.
struct Stuck {
  Step step;
  std::string reason;
};

struct Walked {
  bool stopped = false;      // by a visit; nothing else is then known
  std::vector<Stuck> stuck;  // none: the step ran through
};

// Is `next`, which follows a group of sends and receives, in one group call with them? An empty group: does it begin one?
bool joins(const Body& body, llvm::ArrayRef<Step> group, const Step& next);
// Is the segment prologue or epilogue, or cut off them?
bool runs_once(const Body& body, int32_t segment);

// `wiring`: all ranks, or one for each class of ranks that cannot be told apart; a collective's members are then one of each class. `micro_batches`:
// only slots of so many, and what runs once a step.
Walked walk(const Programs& programs, const Wiring& wiring, const Visitor& visitor, int64_t micro_batches = INT64_MAX);

// Every rank runs the same segments in the same order for micro-batches m and m + period, and what runs once before or after all of them: micro-batch
// m + period then does to its values what m does to its own. As many as there are micro-batches, if nothing repeats.
int64_t micro_batches_period(const Programs& programs);

}  // namespace sscc
