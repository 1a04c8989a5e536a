// The statements of a segment that keep what it enqueues in order.
//
// A collective of several tensors begins with rank.begin_call() and ends with rank.end_call().
//
// cpu: every call has done its work when it returns, but for sends; whoever writes what a send still reads waits for all sends first.
//
//   rank.wait_sends();
//
// cuda: kernels, messages and each group have a stream of their own. Where an instruction waits for one on another stream there is an event between
// the two. Sends and the receives that follow them are one group call, which ends before whatever comes next.
//
//   contract(...);
//   const Event ended_4 = rank.mark(stream::kernels);
//   ...
//   rank.wait(stream::group(0), ended_4);
//   rank.all_reduce(...);
#pragma once

#include <string>
#include <vector>

#include "compiler/codegen/target.h"
#include "compiler/program/program.h"

namespace sscc {

class OrderStatements {
 public:
  OrderStatements(Target target, const ProgramSegment& segment);

  // In front of and behind the statement of an instruction; may be empty.
  const std::string& before(size_t instruction) const { return before_[instruction]; }
  const std::string& after(size_t instruction) const { return after_[instruction]; }

 private:
  void bracket_calls(const ProgramSegment& segment);
  void order_sends(const ProgramSegment& segment);
  void order_streams(const ProgramSegment& segment);

  std::vector<std::string> before_, after_;
};

}  // namespace sscc
