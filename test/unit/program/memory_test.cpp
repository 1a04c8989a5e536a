// What an instruction may write where it reads.
#include <catch2/catch.hpp>

#include "compiler/program/check.h"

using namespace sscc;

namespace {

constexpr int64_t side = 4;

// One instruction over one buffer of 4 x 4 that is kept over steps.
bool is_accepted(Opcode opcode, const View& out, const View& in) {
  Body body;
  Buffer buffer;
  buffer.name = "w:w";
  buffer.elements = side * side;
  buffer.offset = 0;
  buffer.source = Buffer::Source::parameter;
  buffer.life = Buffer::Life::persistent;
  body.buffers.add(buffer);
  body.arena_bytes = buffer.elements * 4;
  Instruction i;
  i.opcode = opcode;
  i.outs = {out};
  i.ins = {in};
  body.segments.push_back({"0F", 0, {i}});
  body.schedule.push_back({0, 0});
  Programs programs;
  programs.bodies.push_back(std::move(body));
  Diagnostics diagnostics;
  return check_memory(programs, diagnostics);
}

View view_of(int64_t offset, Shape dims, Shape strides) { return {BufferId(0), offset, dims, {strides.begin(), strides.end()}}; }

}  // namespace

TEST_CASE("a kernel writes nothing of what it reads, but element by element") {
  const View whole = view_of(0, {side, side}, {side, 1}), turned = view_of(0, {side, side}, {1, side});
  const View upper = view_of(0, {2, side}, {side, 1}), lower = view_of(2 * side, {2, side}, {side, 1}), middle = view_of(side, {2, side}, {side, 1});
  CHECK(is_accepted(Opcode::pointwise, whole, whole));
  CHECK(is_accepted(Opcode::copy, upper, lower));
  CHECK_FALSE(is_accepted(Opcode::pointwise, whole, turned));
  CHECK_FALSE(is_accepted(Opcode::copy, whole, turned));
  CHECK_FALSE(is_accepted(Opcode::copy, upper, middle));
  CHECK_FALSE(is_accepted(Opcode::softmax, whole, whole));
}
