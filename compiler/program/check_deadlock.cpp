#include "compiler/program/calls.h"
#include "compiler/program/check.h"
#include "compiler/program/traffic.h"
#include "compiler/program/walk.h"
#include "compiler/support/strings.h"

namespace sscc {

namespace {

// What is said to be one call with what comes next: that must be of its kind.
bool check_calls(const Body& body, Diagnostics& diagnostics) {
  for (const ProgramSegment& segment : body.segments)
    for (size_t at = 1; at <= segment.instructions.size(); ++at) {
      if (!is_with_previous(segment.instructions, at)) continue;
      const Instruction& i = segment.instructions[at - 1];
      if (at < segment.instructions.size() && may_be_one_call(body, i, segment.instructions[at])) continue;
      diagnostics.error(is_communication(i.opcode) ? Code::deadlock : Code::not_equivalent, {},
                        std::string(name_of(i.opcode)) + " of " + quoted(i.origin) + " (segment " + segment.name +
                            ") is said to be one call with what comes next, which is no such call",
                        "", i.origin);
      return false;
    }
  return true;
}

}  // namespace

bool check_deadlock(const Programs& programs, Diagnostics& diagnostics) {
  for (const Body& body : programs.bodies)
    if (!check_calls(body, diagnostics)) return false;
  Visitor nothing;
  nothing.instruction = [](const Step&) { return true; };
  nothing.collective = [](const std::vector<Step>&) { return true; };
  const std::optional<Wiring> classes = folded(programs);
  const auto [stopped, stuck] = walk(programs, classes ? *classes : wiring_of(programs), nothing);
  for (const Stuck& s : stuck) {
    const Body& body = programs.bodies[static_cast<size_t>(programs.ranks[static_cast<size_t>(s.step.rank)].body)];
    diagnostics.error(Code::deadlock, {},
                      "rank " + std::to_string(s.step.rank) + " stands for ever at " + name_of(s.step.what->opcode) + " of '" + s.step.what->origin +
                          "' (segment " + body.segments[static_cast<size_t>(s.step.segment)].name + ", micro-batch " +
                          std::to_string(s.step.micro_batch) + "): it " + s.reason,
                      "", s.step.what->origin);
  }
  return stuck.empty();
}

}  // namespace sscc
