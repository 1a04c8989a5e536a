// When devices meet: which of them may wait for each other in a segment, and where deliveries stand that are made one.
#pragma once

#include <vector>

#include "compiler/ir/module.h"

namespace sscc {

// Where a delivery stands: in this segment, before this operator (invalid: at its end).
struct Standing {
  int segment = 0;
  OpId before;
};

class Meetings {
 public:
  explicit Meetings(const Module& module);

  // Do these devices go through the same slots, or is it a segment that runs once?
  bool run_alike(llvm::ArrayRef<int32_t> devices, int segment) const;
  // Of deliveries in one segment: where the first of them stands.
  Standing first_of(const std::vector<const Delivery*>& deliveries) const;
  // The segment of an operator.
  int segment_of(OpId op) const { return segment_[static_cast<size_t>(op.index)]; }

 private:
  const Module& module_;
  std::vector<size_t> position_;      // by operator
  std::vector<int> segment_;          // by operator
  std::vector<int> timetable_class_;  // by device: equal for equal timetables
};

}  // namespace sscc
