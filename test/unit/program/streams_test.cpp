// Waits over slots: which run of an instruction is waited for, what is left out, and what check_races says where one is missing.
#include <catch2/catch.hpp>

#include "compiler/program/check.h"
#include "compiler/program/lower.h"
#include "compiler/program/runs.h"

using namespace sscc;

namespace {

constexpr int64_t elements = 16, bytes = elements * 4;

View view_of(int32_t buffer) { return {BufferId(buffer), 0, {elements}, {1}}; }

Instruction kernel(int32_t writes) {
  Instruction i;
  i.opcode = Opcode::fill;
  i.outs = {view_of(writes)};
  i.expression = FillValue{1};
  return i;
}
Instruction send(int32_t buffer, int32_t transfer, int32_t peer = 0) {
  Instruction i;
  i.opcode = Opcode::send;
  i.ins = {view_of(buffer)};
  i.expression = Communication{peer, -1, transfer, Join::sum};
  return i;
}

// `count` buffers of so many copies; one segment that runs for each of four micro-batches.
Programs one_segment(std::vector<Instruction> instructions, int32_t count, int64_t copies) {
  Body body;
  for (int32_t b = 0; b < count; ++b) {
    Buffer buffer;
    buffer.name = "t:" + std::to_string(b);
    buffer.elements = elements;
    buffer.copies = copies;
    buffer.stride = bytes;
    buffer.offset = b * copies * bytes;
    body.buffers.add(buffer);
  }
  body.segments.push_back({"0F", 0, std::move(instructions)});
  for (int32_t m = 0; m < 4; ++m) body.schedule.push_back({0, m});
  body.micro_batches = 4;
  Programs programs;
  programs.bodies.push_back(std::move(body));
  assign_streams(programs);
  return programs;
}

Instruction& at(Programs& programs, size_t i) { return programs.bodies[0].segments[0].instructions[i]; }

bool races(const Programs& programs) {
  Diagnostics diagnostics;
  return !check_races(programs, diagnostics);
}

}  // namespace

TEST_CASE("who writes what a send reads waits for the run of the send that has the same copy") {
  Programs one = one_segment({kernel(0), send(0, 0)}, 1, 1);
  CHECK(at(one, 1).waits == llvm::SmallVector<int32_t, 2>{0});
  CHECK(at(one, 0).waits_before == llvm::SmallVector<EarlierRun, 1>{{0, 1, 0}});
  Programs two = one_segment({kernel(0), send(0, 0)}, 1, 2);
  CHECK(at(two, 0).waits_before == llvm::SmallVector<EarlierRun, 1>{{0, 1, 1}});
  Programs four = one_segment({kernel(0), send(0, 0)}, 1, 4);
  CHECK(at(four, 0).waits_before.empty());
  for (const Programs* programs : {&one, &two, &four}) CHECK(!races(*programs));

  ++at(one, 0).waits_before[0].age;
  CHECK(races(one));
  at(two, 0).waits_before[0].age = 0;  // more than is needed
  CHECK(!races(two));
  at(two, 0).waits_before.clear();
  CHECK(races(two));
  at(four, 1).waits.clear();
  CHECK(races(four));
}

TEST_CASE("what streams and other waits say is not waited for") {
  // The sends share a stream: who waits for the second has waited for the first.
  Programs programs = one_segment({kernel(0), kernel(1), send(0, 0), send(1, 1)}, 2, 1);
  CHECK(at(programs, 2).waits == llvm::SmallVector<int32_t, 2>{0});
  CHECK(at(programs, 3).waits == llvm::SmallVector<int32_t, 2>{1});
  CHECK(at(programs, 0).waits_before == llvm::SmallVector<EarlierRun, 1>{{0, 2, 0}});
  CHECK(at(programs, 1).waits_before == llvm::SmallVector<EarlierRun, 1>{{0, 3, 0}});
  Programs other = one_segment({kernel(1), kernel(0), send(0, 0), send(1, 1)}, 2, 1);
  CHECK(at(other, 0).waits_before == llvm::SmallVector<EarlierRun, 1>{{0, 3, 0}});
  CHECK(at(other, 1).waits_before.empty());
  CHECK(!races(other));
  Programs apart = one_segment({kernel(1), kernel(0), send(0, 0), send(1, 1, 1)}, 2, 1);
  CHECK(at(apart, 1).waits_before == llvm::SmallVector<EarlierRun, 1>{{0, 2, 0}});
}

TEST_CASE("a signal waits for earlier slots, and later slots for it") {
  Instruction tell = send(0, 0), hear;
  tell.ins[0].dims = {0};
  hear.opcode = Opcode::receive;
  hear.outs = {tell.ins[0]};
  hear.expression = Communication{1, -1, 1, Join::sum};
  Programs programs = one_segment({tell, kernel(0), hear}, 1, 1);
  CHECK(at(programs, 0).waits_before == llvm::SmallVector<EarlierRun, 1>{{0, 1, 0}, {0, 2, 0}});
  CHECK(at(programs, 1).waits_before == llvm::SmallVector<EarlierRun, 1>{{0, 2, 0}});
}

TEST_CASE("an earlier run is found by its age") {
  Body body;
  body.segments = {{"0F", 0, {kernel(0)}}, {"0B", 1, {kernel(0)}}};
  body.segments[0].instructions[0].waits_before = {{0, 0, 2}};
  body.schedule = {{0, 0}, {0, 1}, {1, 0}, {0, 2}, {1, 1}};
  const Runs runs(body);
  CHECK(runs.slot_of({0, 0, 0}, 0) == -1);
  CHECK(runs.slot_of({0, 0, 0}, 3) == 1);
  CHECK(runs.slot_of({0, 0, 1}, 3) == 0);
  CHECK(runs.slot_of({0, 0, 2}, 3) == -1);
  CHECK(runs.slot_of({1, 0, 0}, 3) == 2);
  CHECK(runs.slot_of({0, 0, 2}, 4) == 0);
  CHECK(runs.place_of(0, 0) >= 0);
  CHECK(runs.place_of(2, 0) == -1);
}

TEST_CASE("a wait for what the program does not have is refused") {
  Programs programs = one_segment({kernel(0), send(0, 0)}, 1, 1);
  at(programs, 0).waits_before = {{7, 0, 0}};
  CHECK(races(programs));
  at(programs, 0).waits_before = {{0, 9, 0}};
  CHECK(races(programs));
}
