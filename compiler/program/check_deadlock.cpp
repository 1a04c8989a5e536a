#include "compiler/program/check.h"
#include "compiler/program/traffic.h"
#include "compiler/program/walk.h"
#include "compiler/support/strings.h"

namespace sscc {

namespace {

// What is said to be one call with what comes next: that must be a collective of its kind.
bool check_calls(const Body& body, Diagnostics& diagnostics) {
  const auto type_of = [&](const Instruction& i) { return body.buffers[i.outs[0].buffer].dtype; };
  for (const ProgramSegment& segment : body.segments)
    for (size_t at = 1; at <= segment.instructions.size(); ++at) {
      if (!is_with_previous(segment.instructions, at)) continue;
      const Instruction& i = segment.instructions[at - 1];
      const auto& call = std::get<Communication>(i.expression);
      const Instruction* next = at < segment.instructions.size() ? &segment.instructions[at] : nullptr;
      const auto* other = next && next->opcode == i.opcode && i.opcode != Opcode::broadcast ? std::get_if<Communication>(&next->expression) : nullptr;
      if (other && other->group == call.group && other->join == call.join && type_of(*next) == type_of(i)) continue;
      diagnostics.error(Code::deadlock, {},
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
