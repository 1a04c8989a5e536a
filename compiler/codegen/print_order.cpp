#include "compiler/codegen/print_order.h"

#include <algorithm>
#include <functional>
#include <map>

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

std::string text_of(int stream) {
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

OrderStatements::OrderStatements(Target target, const ProgramSegment& segment)
    : before_(segment.instructions.size()), after_(segment.instructions.size()) {
  target == Target::cpu ? order_sends(segment) : order_streams(segment);
  bracket_calls(segment);
}

// Around whatever else stands there: events of a call's members are recorded when the call has been made.
void OrderStatements::bracket_calls(const ProgramSegment& segment) {
  for (size_t i = 0; i < segment.instructions.size(); ++i) {
    const bool goes_on = is_with_previous(segment.instructions, i), has_more = is_with_previous(segment.instructions, i + 1);
    if (!is_communication(segment.instructions[i].opcode)) continue;
    if (has_more && !goes_on) before_[i] += "  rank.begin_call();  // of all that come up to its end\n";
    if (goes_on && !has_more) after_[i] = "  rank.end_call();\n" + after_[i];
  }
}

void OrderStatements::order_sends(const ProgramSegment& segment) {
  const auto in_flight = [&](int32_t other) { return segment.instructions[static_cast<size_t>(other)].opcode == Opcode::send; };
  for (size_t i = 0; i < segment.instructions.size(); ++i) {
    const auto& waits = segment.instructions[i].waits;
    if (std::any_of(waits.begin(), waits.end(), in_flight)) before_[i] = "  rank.wait_sends();  // a send still reads what is written next\n";
  }
}

void OrderStatements::order_streams(const ProgramSegment& segment) {
  const std::vector<Instruction>& instructions = segment.instructions;
  // Where an event that stands for an instruction is recorded: a message has ended when its group has, a collective when its call has.
  std::vector<int32_t> end_of(instructions.size());
  for (size_t i = instructions.size(); i-- > 0;) {
    const bool goes_on =
        (i + 1 < instructions.size() && is_message(instructions[i]) && is_message(instructions[i + 1])) || is_with_previous(instructions, i + 1);
    end_of[i] = goes_on ? end_of[i + 1] : static_cast<int32_t>(i);
  }
  std::map<int, Known> known;                     // by stream: what it has waited for
  std::vector<Known> ended(instructions.size());  // when an instruction has ended, so have these
  for (size_t i = 0; i < instructions.size(); ++i) {
    const int stream = stream_of(instructions[i]);
    std::vector<int32_t> awaited;
    for (const int32_t other : instructions[i].waits) awaited.push_back(end_of[static_cast<size_t>(other)]);
    std::sort(awaited.begin(), awaited.end(), std::greater<>());  // a later one of a stream makes earlier ones superfluous
    for (const int32_t other : awaited) {
      const int theirs = stream_of(instructions[static_cast<size_t>(other)]);
      const auto found = known[stream].find(theirs);
      if (theirs == stream || (found != known[stream].end() && found->second >= other)) continue;
      const std::string event = "ended_" + std::to_string(other);
      before_[i] += "  rank.wait(" + text_of(stream) + ", " + event + ");\n";
      after_[static_cast<size_t>(other)] = "  const Event " + event + " = rank.mark(" + text_of(theirs) + ");\n";
      learn(known[stream], ended[static_cast<size_t>(other)]);
    }
    ended[i] = known[stream];
    ended[i][stream] = static_cast<int32_t>(i);
  }
  // mark ends a group, too; so does the slot, unless the next one continues it.
  for (size_t i = 0; i + 1 < instructions.size(); ++i) {
    if (is_message(instructions[i]) && !is_message(instructions[i + 1]) && after_[i].empty()) after_[i] = "  rank.end_group();\n";
  }
}

}  // namespace sscc
