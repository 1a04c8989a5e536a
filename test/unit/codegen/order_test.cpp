// The statements that order a CUDA program, replayed as the runtime would act on them: whatever an instruction waits for has ended when it begins, in
// random segments; and where one of the statements is missing, that shows.
#include <catch2/catch.hpp>
#include <map>
#include <optional>
#include <random>
#include <regex>
#include <set>

#include "compiler/codegen/print_order.h"
#include "compiler/program/lower.h"
#include "compiler/program/traffic.h"
#include "small_programs.h"

using namespace sscc;

namespace {

using Ended = std::set<int32_t>;  // instructions

class Replay {
 public:
  Replay(const ProgramSegment& segment, const OrderStatements& order) : instructions_(segment.instructions), order_(order) {}

  // `without`: this line in front of instructions, counted from 0, is left out. The first instruction that begins before one that it waits for.
  std::optional<size_t> run(int64_t without = -1) {
    left_out_ = without;
    for (size_t i = 0; i < instructions_.size(); ++i) {
      act_on(order_.before(i), true);
      begin(static_cast<int32_t>(i));
      act_on(order_.after(i), false);
    }
    end_group();
    for (size_t i = 0; i < instructions_.size(); ++i) {
      for (const int32_t other : instructions_[i].waits)
        if (!before_[static_cast<int32_t>(i)].contains(other)) return i;
    }
    return std::nullopt;
  }
  int64_t lines() const { return line_; }

 private:
  const Instruction& at(int32_t i) const { return instructions_[static_cast<size_t>(i)]; }
  static bool is_message(const Instruction& i) { return i.opcode == Opcode::send || i.opcode == Opcode::receive; }

  void act_on(const std::string& statements, bool counts) {
    static const std::regex line("  (?:const Event (\\w+) = )?rank\\.(\\w+)\\(([^\\n]*)\\);[^\\n]*\\n");
    for (std::sregex_iterator it(statements.begin(), statements.end(), line), end; it != end; ++it) {
      if (counts && line_++ == left_out_) continue;
      const std::string event = (*it)[1], what = (*it)[2], arguments = (*it)[3];
      if (what == "end_group") {
        end_group();
      } else if (what == "mark") {
        if (arguments == "stream::messages") end_group();
        events_[event] = passed_[arguments];
      } else {
        REQUIRE(what == "wait");
        const size_t comma = arguments.find(", ");
        const Ended& other = events_.at(arguments.substr(comma + 2));
        passed_[arguments.substr(0, comma)].insert(other.begin(), other.end());
      }
    }
  }

  // As NcclDataPlane.
  void begin(int32_t i) {
    if (is_message(at(i))) {
      const bool sends = at(i).opcode == Opcode::send;
      const bool splits = std::any_of(group_.begin(), group_.end(), [&](int32_t other) {
        if (at(other).opcode == Opcode::receive) return sends;
        return !sends && at(other).ins[0].buffer == at(i).outs[0].buffer;
      });
      if (splits) end_group();
      group_.push_back(i);
      return;
    }
    const auto* communication = std::get_if<Communication>(&at(i).expression);
    if (communication) end_group();
    REQUIRE(group_.empty());
    const std::string stream = communication ? "stream::group(" + std::to_string(communication->group) + ")" : "stream::kernels";
    before_[i] = passed_[stream];
    passed_[stream].insert(i);
  }

  void end_group() {
    Ended& passed = passed_["stream::messages"];
    for (const int32_t i : group_) before_[i] = passed;
    passed.insert(group_.begin(), group_.end());
    group_.clear();
  }

  const std::vector<Instruction>& instructions_;
  const OrderStatements& order_;
  std::map<std::string, Ended> passed_, events_;
  std::map<int32_t, Ended> before_;
  std::vector<int32_t> group_;
  int64_t left_out_ = -1, line_ = 0;
};

// Kernels, messages and collectives over a few buffers.
Programs random_segment(std::mt19937& random) {
  constexpr int64_t buffers = 5, elements = 16;
  const auto below = [&](int n) { return static_cast<int32_t>(random() % static_cast<unsigned>(n)); };
  Body body;
  for (int64_t i = 0; i < buffers; ++i) {
    Buffer buffer;
    buffer.elements = elements;
    buffer.offset = i * elements * 4;
    body.buffers.add(buffer);
  }
  const auto view = [&] { return View{BufferId(below(buffers)), 0, {elements}, {1}}; };
  ProgramSegment segment{"0F", 0, {}};
  std::set<int64_t> received;  // since the last that is no receive: nobody receives a value that nobody reads
  for (int i = 0; i < 24; ++i) {
    Instruction one;
    Communication communication{below(2), below(2), i, Join::sum};
    switch (below(5)) {
      case 0: one.opcode = Opcode::send; break;
      case 1: one.opcode = Opcode::receive; break;
      case 2: one.opcode = Opcode::all_reduce; break;
      default: one.opcode = Opcode::copy;
    }
    if (one.opcode != Opcode::receive) one.ins.push_back(view());
    if (one.opcode == Opcode::all_reduce) one.outs.push_back(std::exchange(one.ins, {})[0]);
    if (one.opcode == Opcode::receive || one.opcode == Opcode::copy) one.outs.push_back(view());
    if (one.opcode != Opcode::receive)
      received.clear();
    else if (!received.insert(one.outs[0].buffer.index).second)
      continue;
    if (one.opcode != Opcode::copy) one.expression = communication;
    segment.instructions.push_back(one);
  }
  body.segments.push_back(segment);
  Programs programs;
  programs.bodies.push_back(body);
  assign_streams(programs);
  return programs;
}

}  // namespace

TEST_CASE("events and streams keep every instruction behind what it waits for") {
  std::mt19937 random(7);
  int64_t lines = 0;
  for (int i = 0; i < 500; ++i) {
    const Programs programs = random_segment(random);
    const ProgramSegment& segment = programs.bodies[0].segments[0];
    const OrderStatements order(Target::cuda, segment);
    Replay replay(segment, order);
    INFO(i);
    CHECK(!replay.run());
    lines += replay.lines();
  }
  CHECK(lines > 1000);
}

TEST_CASE("an event that is missing shows") {
  const Programs programs = test::messages_between_kernels();
  const ProgramSegment& segment = programs.bodies[0].segments[0];
  const OrderStatements order(Target::cuda, segment);
  Replay whole(segment, order);
  CHECK(!whole.run());
  REQUIRE(whole.lines() > 3);
  for (int64_t line = 0; line < whole.lines(); ++line) {
    INFO(line);
    CHECK(Replay(segment, order).run(line));
  }
}
