// Collectives of what lies ready before their slot, one use ahead.
//
// A parameter that is kept in blocks (ZeRO-3) is gathered just before the first operator that reads it, so the memory that takes it in is free only
// then, and the kernels wait. Such a call moves up, over kernels, to where the call stood before it that brings as much or more:
//
//   gather w1, kernels of w1, gather w2, kernels of w2, gather b2, kernels of b2, gather w3, kernels of w3        b2: few bytes
//   gather w1, gather w2, kernels of w1, gather b2, gather w3, kernels of w2, kernels of b2, kernels of w3
//
// so that what the next operator needs comes while this one's kernels run, and memory is needed for both. Communications keep their order, and messages
// their neighbours: what was made sure of their order before (order_transfers) still holds.
#include <algorithm>
#include <iterator>
#include <map>

#include "compiler/program/calls.h"
#include "compiler/program/lower.h"
#include "compiler/program/traffic.h"
#include "compiler/program/walk.h"

namespace sscc {
namespace {

class Rearrangement {
 public:
  Rearrangement(const Body& body, std::vector<Instruction>& instructions) : body_(body), instructions_(instructions) {}

  void run() {
    find_calls();
    if (calls_.empty()) return;
    // What brings little goes along with the next that brings more, whose place it must not stand behind.
    for (size_t c = calls_.size() - 1; c-- > 0;) calls_[c].place = std::min(calls_[c].place, calls_[c + 1].place);
    for (size_t c = 0; c < calls_.size(); ++c) calls_[c].place = std::max({calls_[c].place, calls_[c].first_place, c == 0 ? 0 : calls_[c - 1].place});

    std::vector<Instruction> result;
    const auto take = [&](size_t begin, size_t end) {
      for (size_t i = begin; i < end; ++i) result.push_back(std::move(instructions_[i]));
    };
    size_t kernels = 0;  // instructions before this one have their place, if they are kernels
    const auto take_kernels = [&](size_t end) {
      for (; kernels < end; ++kernels)
        if (!is_communication(instructions_[kernels].opcode)) take(kernels, kernels + 1);
    };
    for (const Call& call : calls_) {
      take_kernels(call.place);
      take(call.begin, call.end);
    }
    take_kernels(instructions_.size());
    instructions_ = std::move(result);
  }

 private:
  // A communication, or several collectives that are one: instructions [begin, end).
  struct Call {
    size_t begin = 0, end = 0;
    int64_t bytes = 0;
    size_t first_place = 0;  // before which instruction it may stand at the earliest
    size_t place = 0;        // before which it is to stand
  };

  void find_calls() {
    std::map<BufferId, size_t> touched, written;  // by a kernel; by anything: the place behind the last that did
    for (size_t i = 0; i < instructions_.size(); ++i) {
      const Instruction& one = instructions_[i];
      if (is_communication(one.opcode)) {
        if (!is_with_previous(instructions_, i)) calls_.push_back({i, i, 0, 0, 0});
        Call& call = calls_.back();
        call.end = i + 1;
        call.bytes += bytes_of_call(body_, one);
        if (!lies_ready(one, written)) call.first_place = call.begin;
        for (const View& view : one.outs)
          if (const auto it = touched.find(view.buffer); it != touched.end()) call.first_place = std::max(call.first_place, it->second);
      } else {
        for (const View& view : one.ins) touched[view.buffer] = i + 1;
        for (const View& view : one.outs) touched[view.buffer] = i + 1;
      }
      for (const View& view : one.outs) written[view.buffer] = i + 1;
    }
    for (size_t c = 0; c < calls_.size(); ++c) {
      size_t before = c;
      while (before > 0 && calls_[before - 1].bytes < calls_[c].bytes) --before;
      calls_[c].place = before == 0 ? 0 : calls_[before - 1].end;
    }
  }

  // Is it a collective that takes nothing which the segment has made before?
  static bool lies_ready(const Instruction& i, const std::map<BufferId, size_t>& written) {
    if (i.opcode == Opcode::send || i.opcode == Opcode::receive) return false;
    const llvm::ArrayRef<View> read = i.opcode == Opcode::all_reduce ? llvm::ArrayRef<View>(i.outs) : llvm::ArrayRef<View>(i.ins);
    return llvm::none_of(read, [&](const View& view) { return written.contains(view.buffer); });
  }

  const Body& body_;
  std::vector<Instruction>& instructions_;
  std::vector<Call> calls_;
};

}  // namespace

void prefetch(Programs& programs) {
  for (Body& body : programs.bodies)
    for (size_t s = 0; s < body.segments.size(); ++s)
      if (!runs_once(body, static_cast<int32_t>(s))) Rearrangement(body, body.segments[s].instructions).run();
}

}  // namespace sscc
