// Two instructions of a rank that touch the same bytes in a step, one of them writing, must not run at the same time: streams and waits must put one
// after the other. The schedule is walked by the exact bytes that each slot touches; what a stream knows to have ended is a clock, for each stream the
// number of its instructions. Kernels of one call run at the same time, too, but for the number that sums of squares add to.
#include <algorithm>
#include <map>
#include <optional>

#include "compiler/program/calls.h"
#include "compiler/program/check.h"
#include "compiler/program/runs.h"
#include "compiler/program/traffic.h"
#include "compiler/support/strings.h"

namespace sscc {
namespace {

using Clock = std::vector<int64_t>;  // by stream: so many of its instructions have ended

class Checker {
 public:
  Checker(const Body& body, Diagnostics& diagnostics) : body_(body), diagnostics_(diagnostics) {}

  bool run() {
    if (!waits_are_earlier() || !calls_are_apart()) return false;
    number_streams();
    find_bytes();
    runs_.emplace(body_);
    kept_.resize(static_cast<size_t>(runs_->places()));
    for (const ProgramSegment& segment : body_.segments) find_steps(segment);
    clocks_.assign(streams_.size(), Clock(streams_.size(), 0));
    for (slot_ = 0; slot_ < static_cast<int32_t>(body_.schedule.size()); ++slot_)
      for (const Step& step : steps_[static_cast<size_t>(segment_of(slot_))])
        if (!run(step)) return false;
    return true;
  }

 private:
  // Bytes from an entry of begins_ to the next. Only what more than one stream may touch is looked at.
  struct Stretch {
    int32_t first = 0, end = 0;
  };
  struct Touch {
    BufferId buffer;
    bool writes = false;
    std::vector<Stretch> by_copy;
  };
  // An instruction with a part in what is checked.
  struct Step {
    int32_t instruction = 0;
    size_t stream = 0;
    std::vector<Touch> touches;
  };
  struct Ran {
    size_t stream = 0;
    int64_t number = 0;  // on its stream, from 1
    int32_t slot = 0, instruction = 0;
  };
  struct Bytes {
    std::optional<Ran> writer;
    std::vector<Ran> readers;  // since then, of each stream the last
  };

  int32_t segment_of(int32_t slot) const { return body_.schedule[static_cast<size_t>(slot)].segment; }
  const Instruction& instruction(int32_t slot, int32_t at) const {
    return body_.segments[static_cast<size_t>(segment_of(slot))].instructions[static_cast<size_t>(at)];
  }

  bool waits_are_earlier() {
    const auto count = static_cast<int32_t>(body_.segments.size());
    for (const ProgramSegment& segment : body_.segments)
      for (size_t at = 0; at < segment.instructions.size(); ++at) {
        const Instruction& i = segment.instructions[at];
        const auto is_here = [&](int32_t other) { return other >= 0 && other < static_cast<int32_t>(at); };
        const auto is_there = [&](const EarlierRun& run) {
          return run.segment >= 0 && run.segment < count && run.age >= 0 && run.instruction >= 0 &&
                 run.instruction < static_cast<int32_t>(body_.segments[static_cast<size_t>(run.segment)].instructions.size());
        };
        if (std::all_of(i.waits.begin(), i.waits.end(), is_here) && std::all_of(i.waits_before.begin(), i.waits_before.end(), is_there)) continue;
        diagnostics_.error(Code::deadlock, {}, quoted(i.origin) + " waits for an instruction that does not come before it");
        return false;
      }
    return true;
  }

  // Kernels of one call: none touches what another one writes.
  bool calls_are_apart() {
    for (const ProgramSegment& segment : body_.segments)
      for (size_t first = 0, size = 1; first < segment.instructions.size(); first += size) {
        const llvm::ArrayRef<Instruction> call = call_at(segment.instructions, first);
        size = call.size();
        if (size > 1 && !is_communication(call[0].opcode) && !are_apart(segment, call)) return false;
      }
    return true;
  }

  bool are_apart(const ProgramSegment& segment, llvm::ArrayRef<Instruction> call) {
    struct Range {
      int64_t begin, end;
      bool writes, adds;
      const Instruction* by;
      BufferId buffer;
    };
    std::vector<Range> ranges;
    for (const Instruction& i : call) {
      const auto add = [&](const View& view, bool writes) {
        const auto [begin, end] = bytes_of_all_copies(body_, view);
        if (begin < end) ranges.push_back({begin, end, writes, writes && is_sum_of_squares(body_, i), &i, view.buffer});
      };
      for (const View& view : i.ins) add(view, false);
      for (const View& view : i.outs) add(view, true);
    }
    std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
    for (size_t a = 0; a < ranges.size(); ++a)
      for (size_t b = a + 1; b < ranges.size() && ranges[b].begin < ranges[a].end; ++b) {
        const bool are_harmless = (!ranges[a].writes && !ranges[b].writes) || (ranges[a].adds && ranges[b].adds);
        if (ranges[a].by == ranges[b].by || are_harmless) continue;
        const Instruction &one = *ranges[a].by, &other = *ranges[b].by;
        diagnostics_.error(Code::memory_conflict, {},
                           std::string(name_of(one.opcode)) + " of " + quoted(one.origin) + " and " + name_of(other.opcode) + " of " +
                               quoted(other.origin) + " (segment " + segment.name + ") run at the same time, and both touch the memory of buffer " +
                               quoted(body_.buffers[ranges[b].buffer].name));
        return false;
      }
    return true;
  }

  void number_streams() {
    for (const ProgramSegment& segment : body_.segments)
      for (const Instruction& i : segment.instructions) streams_.try_emplace(i.stream, streams_.size());
  }

  // Stream 0 runs in order: of two instructions that meet, one is on another.
  void find_bytes() {
    std::map<int64_t, int64_t> opened;
    for (const ProgramSegment& segment : body_.segments)
      for (const Instruction& i : segment.instructions) {
        if (i.stream == 0) continue;
        for (const llvm::ArrayRef<View> views : {llvm::ArrayRef<View>(i.ins), llvm::ArrayRef<View>(i.outs)})
          for (const View& view : views)
            for (int64_t copy = 0; copy < body_.buffers[view.buffer].copies; ++copy) {
              const auto [begin, end] = bytes_of_copy(body_, view, copy);
              if (begin >= end) continue;
              ++opened[begin];
              --opened[end];
            }
      }
    int64_t open = 0;
    for (const auto& [at, change] : opened) {
      open += change;
      begins_.push_back(at);
      is_met_.push_back(open > 0);
    }
    bytes_.resize(begins_.size());
  }

  void find_steps(const ProgramSegment& segment) {
    std::vector<Step>& steps = steps_.emplace_back();
    for (size_t at = 0; at < segment.instructions.size(); ++at) {
      const Instruction& i = segment.instructions[at];
      Step step{static_cast<int32_t>(at), streams_.at(i.stream), {}};
      for (const View& view : i.ins) add_touch(step, view, false);
      for (const View& view : i.outs) add_touch(step, view, true);
      const bool is_awaited = runs_->is_awaited(static_cast<int32_t>(steps_.size()) - 1, step.instruction);
      if (!step.touches.empty() || !i.waits.empty() || !i.waits_before.empty() || is_awaited) steps.push_back(std::move(step));
    }
  }

  void add_touch(Step& step, const View& view, bool writes) const {
    Touch touch{view.buffer, writes, {}};
    bool is_met = false;
    for (int64_t copy = 0; copy < body_.buffers[view.buffer].copies; ++copy) {
      const auto [begin, end] = bytes_of_copy(body_, view, copy);
      Stretch stretch{static_cast<int32_t>(std::upper_bound(begins_.begin(), begins_.end(), begin) - begins_.begin()), 0};
      if (stretch.first > 0) --stretch.first;
      for (stretch.end = stretch.first; stretch.end < static_cast<int32_t>(begins_.size()) && begins_[static_cast<size_t>(stretch.end)] < end;
           ++stretch.end)
        is_met |= begin < end && is_met_[static_cast<size_t>(stretch.end)];
      touch.by_copy.push_back(begin < end ? stretch : Stretch());
    }
    if (is_met) step.touches.push_back(std::move(touch));
  }

  bool run(const Step& step) {
    Clock& clock = clocks_[step.stream];
    runs_->for_each_awaited(slot_, step.instruction, [&](int32_t place) {
      const Clock& other = kept_[static_cast<size_t>(place)];
      for (size_t s = 0; s < other.size(); ++s) clock[s] = std::max(clock[s], other[s]);
    });
    const Ran now{step.stream, clock[step.stream] + 1, slot_, step.instruction};
    const int32_t micro_batch = body_.schedule[static_cast<size_t>(slot_)].micro_batch;
    for (const Touch& touch : step.touches) {
      const Stretch& stretch = touch.by_copy[static_cast<size_t>(micro_batch) % touch.by_copy.size()];
      for (int32_t at = stretch.first; at < stretch.end; ++at)
        if (is_met_[static_cast<size_t>(at)] && !meet(bytes_[static_cast<size_t>(at)], now, touch)) return false;
    }
    clock[step.stream] = now.number;
    if (const int32_t place = runs_->place_of(slot_, step.instruction); place >= 0) kept_[static_cast<size_t>(place)] = clock;
    return true;
  }

  bool meet(Bytes& bytes, const Ran& now, const Touch& touch) {
    const auto has_ended = [&](const Ran& other) {
      const bool is_same = other.slot == now.slot && other.instruction == now.instruction;
      return is_same || other.stream == now.stream || clocks_[now.stream][other.stream] >= other.number;
    };
    if (bytes.writer && !has_ended(*bytes.writer)) return refuse(*bytes.writer, now, touch);
    if (touch.writes) {
      for (const Ran& reader : bytes.readers)
        if (!has_ended(reader)) return refuse(reader, now, touch);
      bytes = {now, {}};
      return true;
    }
    const auto of_stream = std::find_if(bytes.readers.begin(), bytes.readers.end(), [&](const Ran& reader) { return reader.stream == now.stream; });
    if (of_stream == bytes.readers.end())
      bytes.readers.push_back(now);
    else
      *of_stream = now;
    return true;
  }

  std::string text_of(const Ran& ran) const {
    const Instruction& i = instruction(ran.slot, ran.instruction);
    return std::string(name_of(i.opcode)) + " of " + quoted(i.origin) + " (segment " +
           body_.segments[static_cast<size_t>(segment_of(ran.slot))].name + ", micro-batch " +
           std::to_string(body_.schedule[static_cast<size_t>(ran.slot)].micro_batch) + ")";
  }

  bool refuse(const Ran& earlier, const Ran& now, const Touch& touch) {
    diagnostics_.error(Code::memory_conflict, {},
                       text_of(earlier) + " and " + text_of(now) + " may run at the same time, and both touch the memory of buffer " +
                           quoted(body_.buffers[touch.buffer].name));
    return false;
  }

  const Body& body_;
  Diagnostics& diagnostics_;
  std::optional<Runs> runs_;
  std::map<int, size_t> streams_;
  std::vector<int64_t> begins_;
  std::vector<bool> is_met_;              // does an instruction that is not on stream 0 touch them?
  std::vector<Bytes> bytes_;              // who has touched them
  std::vector<std::vector<Step>> steps_;  // by segment
  int32_t slot_ = 0;
  std::vector<Clock> clocks_, kept_;  // by stream, so far; of runs that are waited for, by place
};

}  // namespace

bool check_races(const Programs& programs, Diagnostics& diagnostics) {
  bool good = true;
  for (const Body& body : programs.bodies) good &= Checker(body, diagnostics).run();
  return good;
}

}  // namespace sscc
