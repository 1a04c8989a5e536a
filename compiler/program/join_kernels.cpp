// Kernels that follow one another become one call where they may run at the same time (calls.h). One that waits for another stream, for more than the
// call waits for anyhow, begins a call: those before it go on meanwhile.
#include <map>
#include <set>

#include "compiler/program/calls.h"
#include "compiler/program/lower.h"
#include "compiler/program/traffic.h"
#include "compiler/program/views.h"

namespace sscc {
namespace {

// Bytes of the arena.
class Bytes {
 public:
  bool meets(std::pair<int64_t, int64_t> range) const {
    const auto next = ranges_.lower_bound(range.second);
    return range.first < range.second && next != ranges_.begin() && std::prev(next)->second > range.first;
  }
  void add(std::pair<int64_t, int64_t> range) {
    auto it = ranges_.upper_bound(range.first);
    if (it != ranges_.begin() && std::prev(it)->second >= range.first) --it;
    while (it != ranges_.end() && it->first <= range.second) {
      range = {std::min(range.first, it->first), std::max(range.second, it->second)};
      it = ranges_.erase(it);
    }
    if (range.first < range.second) ranges_.insert(range);
  }

 private:
  std::map<int64_t, int64_t> ranges_;  // begin, end; disjoint
};

// The call that is put together.
class Group {
 public:
  Group(const Body& body, const std::vector<Instruction>& segment) : body_(body), segment_(segment) {}

  bool accepts(const Instruction& next) const {
    if (!last_ || !next.waits_before.empty() || is_communication(next.opcode) || !may_be_one_call(body_, *last_, next)) return false;
    if (!llvm::all_of(next.waits, [&](int32_t other) { return awaited_.contains(end_of(other)); })) return false;
    const auto touched = [&](const View& view) { return touched_.meets(bytes_of_all_copies(body_, view)); };
    const auto written = [&](const View& view) { return written_.meets(bytes_of_all_copies(body_, view)); };
    return llvm::none_of(next.ins, written) && (is_sum_of_squares(body_, next) || llvm::none_of(next.outs, touched));
  }

  void add(Instruction& i, bool begins) {
    if (begins) {
      touched_ = written_ = Bytes();
      awaited_.clear();
      for (const int32_t other : i.waits) awaited_.insert(end_of(other));
    } else {
      last_->with_next = true;
    }
    last_ = &i;
    for (const View& view : i.ins) touched_.add(bytes_of_all_copies(body_, view));
    for (const View& view : i.outs) touched_.add(bytes_of_all_copies(body_, view)), written_.add(bytes_of_all_copies(body_, view));
  }

 private:
  // A collective has ended when its call has.
  int32_t end_of(int32_t instruction) const {
    while (segment_[static_cast<size_t>(instruction)].with_next) ++instruction;
    return instruction;
  }

  const Body& body_;
  const std::vector<Instruction>& segment_;
  Instruction* last_ = nullptr;
  std::set<int32_t> awaited_;
  Bytes touched_, written_;
};

}  // namespace

void join_kernels(Programs& programs) {
  for (Body& body : programs.bodies)
    for (ProgramSegment& segment : body.segments) {
      Group group(body, segment.instructions);
      for (Instruction& i : segment.instructions) group.add(i, !group.accepts(i));
    }
}

}  // namespace sscc
