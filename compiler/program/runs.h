// Which runs instructions wait for: Instruction::waits and waits_before, resolved to slots of the schedule.
#pragma once

#include <cstdint>
#include <vector>

#include "compiler/program/program.h"

namespace sscc {

// Of a body whose waits name instructions that it has.
class Runs {
 public:
  explicit Runs(const Body& body);

  // The slot of the run that an instruction of slot `slot` waits for; -1: the step has none.
  int32_t slot_of(const EarlierRun& run, int32_t slot) const;

  // Places for what is known of runs that somebody may still wait for, if runs come in the order of the schedule: some for each instruction that is waited
  // for, used in turn. -1: nobody waits for it.
  int32_t places() const { return places_; }
  bool is_awaited(int32_t segment, int32_t instruction) const {
    return awaited_[static_cast<size_t>(segment)][static_cast<size_t>(instruction)].count > 0;
  }
  int32_t place_of(int32_t slot, int32_t instruction) const;

  // visit(place) for all runs that an instruction waits for.
  template <class Visit>
  void for_each_awaited(int32_t slot, int32_t instruction, const Visit& visit) const {
    const Instruction& i = instruction_at(slot, instruction);
    for (const int32_t other : i.waits) visit(place_of(slot, other));
    for (const EarlierRun& run : i.waits_before)
      if (const int32_t there = slot_of(run, slot); there >= 0) visit(place_of(there, run.instruction));
  }

 private:
  struct Awaited {
    int32_t first = -1, count = 0;  // places
  };
  const Instruction& instruction_at(int32_t slot, int32_t instruction) const;

  const Body& body_;
  std::vector<std::vector<int32_t>> slots_;    // by segment: those that run it
  std::vector<int32_t> ordinals_;              // by slot: how many slots before it run the same segment
  std::vector<std::vector<Awaited>> awaited_;  // by segment and instruction
  int32_t places_ = 0;
};

}  // namespace sscc
