#include "compiler/program/check.h"
#include "compiler/program/walk.h"

namespace sscc {

bool check_deadlock(const Programs& programs, Diagnostics& diagnostics) {
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
