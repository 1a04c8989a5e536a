#include "compiler/passes/meetings.h"

#include <map>

#include "llvm/ADT/STLExtras.h"

namespace sscc {

Meetings::Meetings(const Module& module)
    : module_(module), position_(static_cast<size_t>(module.ops.size()), 0), segment_(static_cast<size_t>(module.ops.size()), -1) {
  for (size_t i = 0; i < module.order.size(); ++i) position_[static_cast<size_t>(module.order[i].index)] = i;
  for (size_t s = 0; s < module.segments.size(); ++s)
    for (OpId id : module.segments[s].ops) segment_[static_cast<size_t>(id.index)] = static_cast<int>(s);
  std::map<std::vector<std::pair<int, int>>, int> classes;
  for (const auto& slots : module.timetable) {
    std::vector<std::pair<int, int>> text;
    for (const Slot& slot : slots) text.emplace_back(slot.segment, slot.micro_batch);
    timetable_class_.push_back(classes.try_emplace(std::move(text), static_cast<int>(classes.size())).first->second);
  }
}

bool Meetings::run_alike(llvm::ArrayRef<int32_t> devices, int segment) const {
  const SegmentKind kind = module_.segments[static_cast<size_t>(segment)].kind;
  if (kind == SegmentKind::prologue || kind == SegmentKind::epilogue) return true;
  return llvm::all_of(
      devices, [&](int32_t device) { return timetable_class_[static_cast<size_t>(device)] == timetable_class_[static_cast<size_t>(devices[0])]; });
}

Standing Meetings::first_of(const std::vector<const Delivery*>& deliveries) const {
  Standing first{deliveries[0]->segment, deliveries[0]->before};
  for (const Delivery* each : deliveries)
    if (each->before.valid() &&
        (!first.before.valid() || position_[static_cast<size_t>(each->before.index)] < position_[static_cast<size_t>(first.before.index)]))
      first.before = each->before;
  return first;
}

}  // namespace sscc
