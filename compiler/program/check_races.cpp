// Two instructions of a segment that touch the same bytes, one of them writing, must not run at the same time: streams and waits must put one after
// the other, and they must not be one call, but for the number that sums of squares of a call add to. Judged by the exact bytes that each slot of the
// schedule touches.
#include <map>
#include <numeric>
#include <set>

#include "compiler/program/calls.h"
#include "compiler/program/check.h"
#include "compiler/program/traffic.h"
#include "compiler/support/strings.h"

namespace sscc {
namespace {

class Checker {
 public:
  Checker(const Body& body, Diagnostics& diagnostics) : body_(body), diagnostics_(diagnostics) {}

  bool run() {
    // Micro-batches that use the same copies of all buffers are alike. Of what is only read, as inputs, any copy counts as touched.
    is_written_.assign(static_cast<size_t>(body_.buffers.size()), false);
    for (const ProgramSegment& segment : body_.segments)
      for (const Instruction& i : segment.instructions)
        for (const View& view : i.outs) is_written_[static_cast<size_t>(view.buffer.index)] = true;
    int64_t alike = 1;
    for (int64_t b = 0; b < body_.buffers.size(); ++b)
      if (is_written_[static_cast<size_t>(b)]) alike = std::min<int64_t>(std::lcm(alike, body_.buffers[BufferId(b)].copies), 1 << 16);
    std::set<std::pair<int32_t, int64_t>> seen;
    for (const ProgramSlot& slot : body_.schedule)
      if (seen.insert({slot.segment, slot.micro_batch % alike}).second && !check(slot)) return false;
    return true;
  }

 private:
  struct Access {
    int32_t writer = -1;
    std::vector<int32_t> readers;
  };

  bool check(const ProgramSlot& slot) {
    const std::vector<Instruction>& instructions = body_.segments[static_cast<size_t>(slot.segment)].instructions;
    if (!find_order(instructions)) return false;
    std::map<int64_t, Access> bytes = {{0, {}}};
    const auto cut = [&](int64_t at) { return bytes.emplace(at, std::prev(bytes.upper_bound(at))->second).first; };
    int32_t call_begin = 0;  // of the call that the instruction is in
    for (size_t at = 0; at < instructions.size(); ++at) {
      const Instruction& i = instructions[at];
      const auto index = static_cast<int32_t>(at);
      if (!is_with_previous(instructions, at)) call_begin = index;
      const auto apart = [&](int32_t other, const View& view) {
        if (other < 0 || other == index) return true;
        const bool at_the_same_time = other >= call_begin && !is_communication(i.opcode);
        if (!at_the_same_time && after(index, other, instructions)) return true;
        const Instruction& earlier = instructions[static_cast<size_t>(other)];
        diagnostics_.error(Code::memory_conflict, {},
                           std::string(name_of(earlier.opcode)) + " of " + quoted(earlier.origin) + " and " + name_of(i.opcode) + " of " +
                               quoted(i.origin) + " (segment " + body_.segments[static_cast<size_t>(slot.segment)].name + ", micro-batch " +
                               std::to_string(slot.micro_batch) + ") may run at the same time, and both touch the memory of buffer " +
                               quoted(body_.buffers[view.buffer].name));
        return false;
      };
      const auto touch = [&](const View& view, bool writes) {
        const auto [begin, end] = bytes_of(view, slot.micro_batch);
        if (begin >= end) return true;
        cut(end);
        for (auto it = cut(begin); it != bytes.end() && it->first < end; ++it) {
          const bool adds = writes && it->second.writer >= call_begin && is_sum_of_squares(body_, i);
          if (!adds && !apart(it->second.writer, view)) return false;
          if (!writes) {
            it->second.readers.push_back(index);
            continue;
          }
          for (const int32_t reader : it->second.readers)
            if (!apart(reader, view)) return false;
          it->second = {index, {}};
        }
        return true;
      };
      for (const View& view : i.ins)
        if (!touch(view, false)) return false;
      for (const View& view : i.outs)
        if (!touch(view, true)) return false;
    }
    return true;
  }

  // ended_[i][s]: the last instruction of stream s that has surely ended when instruction i begins.
  bool find_order(const std::vector<Instruction>& instructions) {
    std::map<int, int32_t> last;
    ended_.assign(instructions.size(), {});
    for (size_t at = 0; at < instructions.size(); ++at) {
      const Instruction& i = instructions[at];
      std::map<int, int32_t>& mine = ended_[at];
      const auto follows = [&](int32_t other) {
        for (const auto& [stream, index] : ended_[static_cast<size_t>(other)])
          mine[stream] = std::max(mine.try_emplace(stream, -1).first->second, index);
        const int stream = instructions[static_cast<size_t>(other)].stream;
        mine[stream] = std::max(mine.try_emplace(stream, -1).first->second, other);
      };
      if (const auto previous = last.find(i.stream); previous != last.end()) follows(previous->second);
      for (const int32_t other : i.waits) {
        if (other < 0 || other >= static_cast<int32_t>(at)) {
          diagnostics_.error(Code::deadlock, {}, quoted(i.origin) + " waits for an instruction that does not come before it");
          return false;
        }
        follows(other);
      }
      last[i.stream] = static_cast<int32_t>(at);
    }
    return true;
  }

  bool after(int32_t index, int32_t other, const std::vector<Instruction>& instructions) const {
    const auto& ended = ended_[static_cast<size_t>(index)];
    const auto it = ended.find(instructions[static_cast<size_t>(other)].stream);
    return it != ended.end() && it->second >= other;
  }

  std::pair<int64_t, int64_t> bytes_of(const View& view, int64_t micro_batch) const {
    const Buffer& buffer = body_.buffers[view.buffer];
    const auto size = static_cast<int64_t>(rt::size_of(buffer.dtype));
    int64_t last = view.offset;
    for (size_t d = 0; d < view.dims.size(); ++d) {
      if (view.dims[d] == 0) return {0, 0};
      last += (view.dims[d] - 1) * view.strides[d];
    }
    if (!is_written_[static_cast<size_t>(view.buffer.index)])
      return {buffer.offset + view.offset * size, buffer.offset + (buffer.copies - 1) * buffer.stride + (last + 1) * size};
    const int64_t base = buffer.offset + micro_batch % buffer.copies * buffer.stride;
    return {base + view.offset * size, base + (last + 1) * size};
  }

  const Body& body_;
  Diagnostics& diagnostics_;
  std::vector<std::map<int, int32_t>> ended_;
  std::vector<bool> is_written_;  // by buffer
};

}  // namespace

bool check_races(const Programs& programs, Diagnostics& diagnostics) {
  bool good = true;
  for (const Body& body : programs.bodies) good &= Checker(body, diagnostics).run();
  return good;
}

}  // namespace sscc
