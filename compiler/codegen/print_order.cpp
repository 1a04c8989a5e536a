#include "compiler/codegen/print_order.h"

#include <algorithm>
#include <functional>
#include <map>

#include "compiler/codegen/source_text.h"
#include "compiler/program/calls.h"
#include "compiler/program/traffic.h"

namespace sscc {
namespace {

// A stream of the runtime (sscc_rt/transport.h). Those of the program are finer: there each peer has its own, here all messages share one, so waits
// among them are met by the order of the stream.
constexpr int kernels = 0, messages = 1, first_group = 2;

bool is_message(const Instruction& i) { return i.opcode == Opcode::send || i.opcode == Opcode::receive; }

int stream_of(const Instruction& i) {
  if (is_message(i)) return messages;
  const auto* communication = std::get_if<Communication>(&i.expression);
  return communication ? first_group + communication->group : kernels;
}

std::string name_of_stream(int stream) {
  if (stream == kernels) return "stream::kernels";
  if (stream == messages) return "stream::messages";
  return "stream::group(" + std::to_string(stream - first_group) + ")";
}

// Of each stream, the last instruction of it that is known to end first; none: none.
using Known = std::map<int, int32_t>;

void learn(Known& known, const Known& more) {
  for (const auto& [stream, instruction] : more) {
    int32_t& mine = known.try_emplace(stream, -1).first->second;
    mine = std::max(mine, instruction);
  }
}

}  // namespace

OrderStatements::OrderStatements(Target target, const Body& body) : body_(body) {
  for (const ProgramSegment& segment : body.segments) statements_.emplace_back(segment.instructions.size());
  if (target == Target::cpu)
    order_sends();
  else
    order_streams();
  bracket_calls();
}

// Around whatever else stands there: events of a call's members are recorded when the call has been made.
void OrderStatements::bracket_calls() {
  for (size_t s = 0; s < body_.segments.size(); ++s) {
    const std::vector<Instruction>& instructions = body_.segments[s].instructions;
    for (size_t i = 0; i < instructions.size(); ++i) {
      if (!is_communication(instructions[i].opcode)) continue;
      const bool goes_on = is_with_previous(instructions, i), has_more = is_with_previous(instructions, i + 1);
      if (has_more && !goes_on) statements_[s][i].before += "  rank.begin_call();  // of all that come up to its end\n";
      if (goes_on && !has_more) statements_[s][i].after = "  rank.end_call();\n" + statements_[s][i].after;
    }
  }
}

void OrderStatements::order_sends() {
  for (size_t s = 0; s < body_.segments.size(); ++s) {
    const std::vector<Instruction>& instructions = body_.segments[s].instructions;
    for (size_t i = 0; i < instructions.size(); ++i)
      if (waits_for_sends(body_, body_.segments[s], instructions[i]))
        statements_[s][i].before = "  rank.wait_sends();  // a send still reads what is written next\n";
  }
}

void OrderStatements::order_streams() {
  find_ends();
  std::vector<std::vector<std::vector<Wait>>> waits;  // by segment and instruction
  std::map<Point, Event> events;
  for (size_t s = 0; s < body_.segments.size(); ++s)
    for (const std::vector<Wait>& of_one : waits.emplace_back(waits_of(static_cast<int32_t>(s))))
      for (const Wait& wait : of_one) {
        int32_t& kept = events[wait.of].kept;
        kept = std::max(kept, wait.records + 1);
      }
  int32_t number = 0;
  for (auto& [point, event] : events) event.number = number++;

  for (size_t s = 0; s < body_.segments.size(); ++s) {
    const std::vector<Instruction>& instructions = body_.segments[s].instructions;
    for (size_t i = 0; i < instructions.size(); ++i) {
      Statements& statements = statements_[s][i];
      for (const Wait& wait : waits[s][i]) statements.before += text_of(wait, stream_of(instructions[i]), events.at(wait.of).number);
      // A group ends behind its last message; at the end of the slot unless the next one continues it.
      const bool ends_group = is_message(instructions[i]) && i + 1 < instructions.size() && !is_message(instructions[i + 1]);
      if (ends_group) statements.after += "  rank.end_group();\n";
      const auto event = events.find({static_cast<int32_t>(s), static_cast<int32_t>(i)});
      if (event == events.end()) continue;
      const std::string kept = event->second.kept > 1 ? ", " + std::to_string(event->second.kept) : "";
      statements.after += "  rank.mark(" + std::to_string(event->second.number) + ", " + name_of_stream(stream_of(instructions[i])) + kept + ");\n";
    }
  }
}

// A message has ended when its group has, a collective when its call has.
void OrderStatements::find_ends() {
  for (const ProgramSegment& segment : body_.segments) {
    const std::vector<Instruction>& instructions = segment.instructions;
    std::vector<int32_t>& ends = ends_.emplace_back(instructions.size());
    for (size_t i = instructions.size(); i-- > 0;) {
      const bool goes_on =
          (i + 1 < instructions.size() && is_message(instructions[i]) && is_message(instructions[i + 1])) || is_with_previous(instructions, i + 1);
      ends[i] = goes_on ? ends[i + 1] : static_cast<int32_t>(i);
    }
  }
}

// What each instruction of a segment has to wait for that its stream has not waited for in this slot, and that is not of this stream itself.
std::vector<std::vector<OrderStatements::Wait>> OrderStatements::waits_of(int32_t segment) const {
  const std::vector<Instruction>& instructions = body_.segments[static_cast<size_t>(segment)].instructions;
  std::vector<std::vector<Wait>> result(instructions.size());
  std::map<int, Known> known;                     // by stream: what of this slot it has waited for
  std::vector<Known> ended(instructions.size());  // when an instruction has ended, so have these
  std::map<int, std::vector<Wait>> seen;          // by stream: what of earlier slots it has waited for
  for (size_t i = 0; i < instructions.size(); ++i) {
    const int stream = stream_of(instructions[i]);
    const auto is_elsewhere = [&](const Point& other) { return stream_of(instruction_at(other)) != stream; };
    std::vector<int32_t> here;
    for (const int32_t other : instructions[i].waits) here.push_back(end_of({segment, other}).second);
    std::sort(here.begin(), here.end(), std::greater<>());  // a later one of a stream makes earlier ones superfluous
    for (const int32_t other : here) {
      const int theirs = stream_of(instructions[static_cast<size_t>(other)]);
      const auto found = known[stream].find(theirs);
      if (theirs == stream || (found != known[stream].end() && found->second >= other)) continue;
      result[i].push_back({{segment, other}, -1, 0});
      learn(known[stream], ended[static_cast<size_t>(other)]);
    }
    std::vector<Wait> before;
    for (const EarlierRun& run : instructions[i].waits_before) {
      const Point point = end_of({run.segment, run.instruction});
      const bool is_recorded_here = point.first == segment && point.second < static_cast<int32_t>(i);
      if (is_elsewhere(point)) before.push_back({point, run.age, run.age + is_recorded_here});
    }
    std::sort(before.begin(), before.end(),
              [](const Wait& a, const Wait& b) { return std::pair(a.age, -a.of.second) < std::pair(b.age, -b.of.second); });
    for (const Wait& wait : before) {
      const auto covers = [&](const Wait& other) {
        return other.of.first == wait.of.first && stream_of(instruction_at(other.of)) == stream_of(instruction_at(wait.of)) &&
               (other.age < wait.age || (other.age == wait.age && other.of.second >= wait.of.second));
      };
      const bool is_behind_this_slot = known[stream].contains(stream_of(instruction_at(wait.of)));
      if (is_behind_this_slot || std::any_of(seen[stream].begin(), seen[stream].end(), covers)) continue;
      result[i].push_back(wait);
      seen[stream].push_back(wait);
    }
    ended[i] = known[stream];
    ended[i][stream] = static_cast<int32_t>(i);
  }
  return result;
}

std::string OrderStatements::text_of(const Wait& wait, int stream, int32_t event) const {
  const Instruction& other = instruction_at(wait.of);
  std::string text = "  rank.wait(" + name_of_stream(stream) + ", " + std::to_string(event);
  if (wait.records > 0) text += ", " + std::to_string(wait.records);
  text += ");  // " + std::string(name_of(other.opcode)) + " of " + comment_text(other.origin);
  if (wait.age >= 0) text += ", last run of " + comment_text(body_.segments[static_cast<size_t>(wait.of.first)].name);
  if (wait.age > 0) text += " but " + std::to_string(wait.age);
  return text + "\n";
}

}  // namespace sscc
