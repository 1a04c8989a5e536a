#include "compiler/program/runs.h"

#include <algorithm>

namespace sscc {

Runs::Runs(const Body& body) : body_(body), slots_(body.segments.size()) {
  for (size_t t = 0; t < body.schedule.size(); ++t) {
    std::vector<int32_t>& slots = slots_[static_cast<size_t>(body.schedule[t].segment)];
    ordinals_.push_back(static_cast<int32_t>(slots.size()));
    slots.push_back(static_cast<int32_t>(t));
  }
  for (const ProgramSegment& segment : body.segments) awaited_.emplace_back(segment.instructions.size());
  // A group call may have runs of two slots in any order (walk.h): hence one place more.
  const auto keep = [&](size_t segment, int32_t instruction, int32_t age) {
    int32_t& count = awaited_[segment][static_cast<size_t>(instruction)].count;
    count = std::max(count, age + 2);
  };
  for (size_t s = 0; s < body.segments.size(); ++s)
    for (const Instruction& i : body.segments[s].instructions) {
      for (const int32_t other : i.waits) keep(s, other, 0);
      for (const EarlierRun& run : i.waits_before) keep(static_cast<size_t>(run.segment), run.instruction, run.age + 1);
    }
  for (std::vector<Awaited>& of_segment : awaited_)
    for (Awaited& awaited : of_segment)
      if (awaited.count > 0) {
        awaited.first = places_;
        places_ += awaited.count;
      }
}

int32_t Runs::slot_of(const EarlierRun& run, int32_t slot) const {
  const std::vector<int32_t>& slots = slots_[static_cast<size_t>(run.segment)];
  const auto before = std::lower_bound(slots.begin(), slots.end(), slot) - slots.begin();
  return run.age < before ? slots[static_cast<size_t>(before - 1 - run.age)] : -1;
}

int32_t Runs::place_of(int32_t slot, int32_t instruction) const {
  const Awaited& awaited = awaited_[static_cast<size_t>(body_.schedule[static_cast<size_t>(slot)].segment)][static_cast<size_t>(instruction)];
  return awaited.count == 0 ? -1 : awaited.first + ordinals_[static_cast<size_t>(slot)] % awaited.count;
}

const Instruction& Runs::instruction_at(int32_t slot, int32_t instruction) const {
  return body_.segments[static_cast<size_t>(body_.schedule[static_cast<size_t>(slot)].segment)].instructions[static_cast<size_t>(instruction)];
}

}  // namespace sscc
