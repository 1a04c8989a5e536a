// The statements of a program that keep what it enqueues in order.
//
// A collective of several tensors begins with rank.begin_call() and ends with rank.end_call().
//
// cpu: every call has done its work when it returns, but for sends; whoever writes what a send still reads waits for all sends first.
//
//   rank.wait_sends();
//
// cuda: kernels, messages and each group have a stream of their own. Where an instruction waits for one on another stream there is an event between
// the two, of this slot or of an earlier one: numbers are the program's. Sends and the receives that follow them are one group call, which ends before
// whatever comes next.
//
//   rank.wait(stream::kernels, 3, 1);  // send of /down/MatMul, last run of 0F but 1
//   contract(...);
//   rank.mark(4, stream::kernels);
//   ...
//   rank.wait(stream::group(0), 4);  // contract of /up/MatMul
//   rank.all_reduce(...);
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "compiler/codegen/target.h"
#include "compiler/program/program.h"

namespace sscc {

class OrderStatements {
 public:
  OrderStatements(Target target, const Body& body);

  // In front of and behind the statement of an instruction; may be empty.
  const std::string& before(size_t segment, size_t instruction) const { return statements_[segment][instruction].before; }
  const std::string& after(size_t segment, size_t instruction) const { return statements_[segment][instruction].after; }

 private:
  struct Statements {
    std::string before, after;
  };
  using Point = std::pair<int32_t, int32_t>;  // in the program's text: behind an instruction of a segment
  // What is recorded there.
  struct Event {
    int32_t number = 0;
    int32_t kept = 1;  // of the last ones, how many somebody may wait for
  };
  struct Wait {
    Point of;
    int32_t age = -1;     // as EarlierRun has it; -1: in this slot
    int32_t records = 0;  // how many times, when it is waited for, the event has been recorded since
  };

  void order_sends();
  void order_streams();
  void find_ends();
  std::vector<std::vector<Wait>> waits_of(int32_t segment) const;
  std::string text_of(const Wait& wait, int stream, int32_t event) const;
  void bracket_calls();

  const Instruction& instruction_at(const Point& p) const {
    return body_.segments[static_cast<size_t>(p.first)].instructions[static_cast<size_t>(p.second)];
  }
  Point end_of(const Point& p) const { return {p.first, ends_[static_cast<size_t>(p.first)][static_cast<size_t>(p.second)]}; }

  const Body& body_;
  std::vector<std::vector<int32_t>> ends_;  // by segment and instruction: where it has ended, as an event can tell
  std::vector<std::vector<Statements>> statements_;
};

}  // namespace sscc
