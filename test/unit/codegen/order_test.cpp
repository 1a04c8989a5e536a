// The statements that order a CUDA program, replayed as the runtime would act on them: whatever an instruction waits for has ended when it begins, in
// random programs; and where one of the statements is missing, that shows.
#include <catch2/catch.hpp>
#include <map>
#include <optional>
#include <random>
#include <regex>
#include <set>

#include "compiler/codegen/print_order.h"
#include "compiler/program/check.h"
#include "compiler/program/lower.h"
#include "compiler/program/runs.h"
#include "compiler/program/traffic.h"
#include "small_programs.h"

using namespace sscc;

namespace {

using Run = std::pair<int32_t, int32_t>;  // slot and instruction
using Ended = std::set<Run>;

class Replay {
 public:
  Replay(const Body& body, const OrderStatements& order) : body_(body), order_(order) {}

  // `without`: this line in front of instructions (segment, instruction, line) is left out. The first run that begins before one that it waits for.
  std::optional<Run> run(std::optional<std::tuple<size_t, size_t, size_t>> without = std::nullopt) {
    for (slot_ = 0; slot_ < static_cast<int32_t>(body_.schedule.size()); ++slot_) {
      const auto segment = static_cast<size_t>(body_.schedule[static_cast<size_t>(slot_)].segment);
      for (size_t i = 0; i < body_.segments[segment].instructions.size(); ++i) {
        const bool leaves_out = without && std::get<0>(*without) == segment && std::get<1>(*without) == i;
        act_on(order_.before(segment, i), leaves_out ? std::get<2>(*without) : SIZE_MAX);
        begin({slot_, static_cast<int32_t>(i)});
        act_on(order_.after(segment, i), SIZE_MAX);
      }
      const auto next = static_cast<size_t>(slot_) + 1;
      if (next == body_.schedule.size() || !body_.segments[static_cast<size_t>(body_.schedule[next].segment)].continues_group) end_group();
    }
    const Runs runs(body_);
    for (const auto& [run, before] : before_) {
      for (const int32_t other : at(run).waits)
        if (!before.contains({run.first, other})) return run;
      for (const EarlierRun& other : at(run).waits_before) {
        const int32_t slot = runs.slot_of(other, run.first);
        if (slot >= 0 && !before.contains({slot, other.instruction})) return run;
      }
    }
    return std::nullopt;
  }

 private:
  const Instruction& at(const Run& run) const {
    const auto segment = static_cast<size_t>(body_.schedule[static_cast<size_t>(run.first)].segment);
    return body_.segments[segment].instructions[static_cast<size_t>(run.second)];
  }
  std::pair<BufferId, int64_t> copy_of(const Run& run, const View& view) const {
    return {view.buffer, body_.schedule[static_cast<size_t>(run.first)].micro_batch % body_.buffers[view.buffer].copies};
  }
  static bool is_message(const Instruction& i) { return i.opcode == Opcode::send || i.opcode == Opcode::receive; }

  // As NcclDataPlane does, here and below.
  void act_on(const std::string& statements, size_t left_out) {
    static const std::regex line("  rank\\.(\\w+)\\(([^\\n]*)\\);[^\\n]*\\n");
    size_t number = 0;
    for (std::sregex_iterator it(statements.begin(), statements.end(), line), end; it != end; ++it) {
      if (number++ == left_out) continue;
      const std::string what = (*it)[1];
      std::vector<std::string> arguments;
      std::istringstream text((*it)[2]);
      for (std::string argument; std::getline(text >> std::ws, argument, ',');) arguments.push_back(argument);
      const auto number_at = [&](size_t place, int otherwise) { return place < arguments.size() ? std::stoi(arguments[place]) : otherwise; };
      if (what == "end_group") {
        end_group();
      } else if (what == "mark") {
        kept_[number_at(0, 0)] = number_at(2, 1);
        if (arguments[1] == "stream::messages" && !group_.empty())
          open_marks_.push_back(number_at(0, 0));
        else
          recorded_[number_at(0, 0)].push_back(passed_[arguments[1]]);
      } else {
        REQUIRE(what == "wait");
        wait(arguments[0], number_at(1, 0), static_cast<size_t>(number_at(2, 0)));
      }
    }
  }

  void wait(const std::string& stream, int event, size_t age) {
    if (std::find(open_marks_.begin(), open_marks_.end(), event) != open_marks_.end()) end_group();
    const std::vector<Ended>& recorded = recorded_[event];
    if (recorded.size() <= age) return;
    REQUIRE(static_cast<int>(age) < kept_.at(event));
    const Ended& other = recorded[recorded.size() - 1 - age];
    passed_[stream].insert(other.begin(), other.end());
  }

  void begin(const Run& run) {
    if (is_message(at(run))) {
      const bool sends = at(run).opcode == Opcode::send;
      const bool splits = std::any_of(group_.begin(), group_.end(), [&](const Run& other) {
        if (at(other).opcode == Opcode::receive) return sends;
        return !sends && copy_of(other, at(other).ins[0]) == copy_of(run, at(run).outs[0]);
      });
      if (splits) end_group();
      group_.push_back(run);
      return;
    }
    const auto* communication = std::get_if<Communication>(&at(run).expression);
    if (communication) end_group();
    REQUIRE(group_.empty());
    const std::string stream = communication ? "stream::group(" + std::to_string(communication->group) + ")" : "stream::kernels";
    before_[run] = passed_[stream];
    passed_[stream].insert(run);
  }

  void end_group() {
    Ended& passed = passed_["stream::messages"];
    for (const Run& run : group_) before_[run] = passed;
    passed.insert(group_.begin(), group_.end());
    group_.clear();
    for (const int event : std::exchange(open_marks_, {})) recorded_[event].push_back(passed);
  }

  const Body& body_;
  const OrderStatements& order_;
  int32_t slot_ = 0;
  std::map<std::string, Ended> passed_;
  std::map<int, std::vector<Ended>> recorded_;  // by event
  std::map<int, int> kept_;
  std::vector<int> open_marks_;
  std::map<Run, Ended> before_;
  std::vector<Run> group_;
};

// Kernels, messages and collectives over a few buffers.
ProgramSegment random_segment(std::mt19937& random, int64_t buffers, int64_t elements) {
  const auto below = [&](int64_t n) { return static_cast<int32_t>(random() % static_cast<unsigned>(n)); };
  const auto view = [&] { return View{BufferId(below(buffers)), 0, {elements}, {1}}; };
  ProgramSegment segment{"0F", 0, {}};
  std::set<int64_t> received;  // since the last that is no receive: nobody receives a value that nobody reads
  for (int i = 0; i < 12; ++i) {
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
  return segment;
}

// Three segments that run in any order, with values of several copies; the last one goes on with the group call of the slot before.
Body random_body(std::mt19937& random) {
  constexpr int64_t buffers = 5, elements = 16, stride = elements * 4;
  Body body;
  for (int64_t i = 0; i <= buffers; ++i) {  // the last one for what the last segment receives: never twice in a group
    Buffer buffer;
    buffer.elements = elements;
    buffer.copies = i == buffers ? 4 : 1 + static_cast<int64_t>(random() % 3);
    buffer.stride = stride;
    buffer.offset = i * 3 * stride;
    body.buffers.add(buffer);
  }
  for (int s = 0; s < 2; ++s) body.segments.push_back(random_segment(random, buffers, elements));
  Instruction reader;
  reader.opcode = Opcode::copy;
  reader.ins = {View{BufferId(buffers), 0, {elements}, {1}}};
  reader.outs = {View{BufferId(0), 0, {elements}, {1}}};
  body.segments[0].instructions.push_back(reader);
  Instruction receive;
  receive.opcode = Opcode::receive;
  receive.outs = {View{BufferId(buffers), 0, {elements}, {1}}};
  receive.expression = Communication{0, -1, 100, Join::sum};
  body.segments.push_back({"0F.receive", 0, {receive}, 0, true});
  for (int32_t t = 0; t < 8; ++t) body.schedule.push_back({t == 0 ? 0 : static_cast<int32_t>(random() % 3), t % 4});
  body.micro_batches = 4;
  return body;
}

// A program of one body, with its streams and waits, which check_races finds to be enough.
Body with_waits(const Body& body) {
  Programs programs;
  programs.bodies.push_back(body);
  assign_streams(programs);
  Diagnostics diagnostics;
  CHECK(check_races(programs, diagnostics));
  return programs.bodies[0];
}

}  // namespace

TEST_CASE("events and streams keep every instruction behind what it waits for") {
  std::mt19937 random(7);
  int64_t here = 0, before = 0, older = 0;
  for (int i = 0; i < 500; ++i) {
    const Body body = with_waits(random_body(random));
    const OrderStatements order(Target::cuda, body);
    const auto early = Replay(body, order).run();
    INFO("program " << i << (early ? ", slot " + std::to_string(early->first) + ", instruction " + std::to_string(early->second) : ""));
    CHECK(!early);
    for (const ProgramSegment& segment : body.segments)
      for (const Instruction& one : segment.instructions) {
        here += static_cast<int64_t>(one.waits.size());
        before += static_cast<int64_t>(one.waits_before.size());
        older += std::count_if(one.waits_before.begin(), one.waits_before.end(), [](const EarlierRun& run) { return run.age > 0; });
      }
  }
  CHECK(here > 1000);
  CHECK(before > 1000);
  CHECK(older > 100);
}

TEST_CASE("an event that is missing shows") {
  Body body = test::messages_between_kernels().bodies[0];
  body.schedule = {{0, 0}, {0, 1}};  // without the slot whose receive is one call with a send, and waits for the same
  body = with_waits(body);
  const OrderStatements order(Target::cuda, body);
  CHECK(!Replay(body, order).run());
  size_t lines = 0;
  for (size_t s = 0; s < body.segments.size(); ++s)
    for (size_t i = 0; i < body.segments[s].instructions.size(); ++i) {
      const std::string& text = order.before(s, i);
      for (size_t line = 0; line < static_cast<size_t>(std::count(text.begin(), text.end(), '\n')); ++line, ++lines) {
        INFO(text);
        CHECK(Replay(body, order).run({{s, i, line}}));
      }
    }
  CHECK(lines > 5);
}
