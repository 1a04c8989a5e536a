// What may run at the same time, and what must wait.
//
// Kernels share stream 0. Every communicator has a stream of its own: one for each group of collectives, and for each peer one to it and one from it.
// A stream runs its instructions in order, from slot to slot; at a step's end all have ended. Across streams an instruction waits for the latest earlier
// ones that touch the same memory, if one of the two writes. Buffers have their places here, so memory that two values share is seen like memory that
// one value has. A signal waits for all before it, and all behind it wait for it.
//
//   slot            0F, micro-batch 0        0F, micro-batch 1        0F, micro-batch 2
//   kernels         matmul writes y          matmul writes y          matmul writes y
//   to rank 1            send y                   send y
//   0F              send waits for the matmul of its run; the matmul waits for the send of the run before: 0F:1
//   y has 2 copies  the matmul waits for the send of the run before that: 0F:1-1
//
// What an instruction waits for is the same in all of its runs. So the rank's schedule is walked with the bytes that each slot touches, and what any run
// needs is waited for by all: of an instruction's runs the later one stands for the earlier ones. A second walk, by these waits alone, drops those that
// no run needs, since the order of streams and the other waits say them already.
//
// Kernels are in order among themselves, so only bytes matter that some communication touches, and only instructions that touch these.
#include <algorithm>
#include <map>
#include <memory>

#include "compiler/program/lower.h"
#include "compiler/program/traffic.h"
#include "compiler/support/parallel.h"

namespace sscc {
namespace {

// A stretch of memory that an instruction touches, as cells: in the copy that a micro-batch uses.
struct Touch {
  bool writes = false;
  llvm::SmallVector<std::pair<int32_t, int32_t>, 1> cells;  // by copy: first, end
};
// An instruction that somebody on another stream may have to wait for, or that may have to wait.
struct Crossing {
  int32_t instruction = 0;
  std::vector<Touch> touches;
};

// Of each stream, by its number, the last run that has ended; -1: none is known to have.
using Known = std::vector<int32_t>;

// A crossing instruction in a slot. Runs are numbered in the program's order.
struct Run {
  int32_t slot = 0, instruction = 0;
  int stream = 0;
  std::shared_ptr<const Known> known;  // when it begins, beside what its own stream has run
};

// Who last touched the bytes of a cell.
struct Access {
  int32_t writer = -1;
  llvm::SmallVector<int32_t, 2> readers;  // since then, of each stream the last
};

class Assigner {
 public:
  explicit Assigner(Body& body) : body_(body) {}

  void run() {
    bool has_signals = false;
    for (ProgramSegment& segment : body_.segments)
      for (Instruction& i : segment.instructions) {
        i.stream = stream_of(i);
        has_signals |= is_signal(i);
      }
    find_cells();
    for (const ProgramSegment& segment : body_.segments) find_crossing(segment, has_signals);
    walk([&](const Crossing& c, int32_t micro_batch) { return dependencies_of(c, micro_batch); });
    walk([&](const Crossing& c, int32_t) { return awaited_by(instruction_at(c)); });
  }

 private:
  enum class Way { collective, to, from };

  int stream_of(const Instruction& i) {
    if (!is_communication(i.opcode)) return 0;
    const auto& c = std::get<Communication>(i.expression);
    const Way way = i.opcode == Opcode::send ? Way::to : i.opcode == Opcode::receive ? Way::from : Way::collective;
    return streams_.try_emplace({way, way == Way::collective ? c.group : c.peer}, static_cast<int>(streams_.size()) + 1).first->second;
  }

  // -- memory -------------------------------------------------------------------------------------------------------------------------------------

  // Cells lie between the ends of what communication touches. A kernel that touches some of a cell's bytes may be taken to touch all of them: whom else
  // it would meet there is a kernel.
  void find_cells() {
    std::vector<std::pair<int64_t, int64_t>> touched;
    for (const ProgramSegment& segment : body_.segments)
      for (const Instruction& i : segment.instructions)
        if (is_communication(i.opcode))
          for (const llvm::ArrayRef<View> views : {llvm::ArrayRef<View>(i.ins), llvm::ArrayRef<View>(i.outs)})
            for (const View& view : views)
              for (int64_t copy = 0; copy < body_.buffers[view.buffer].copies; ++copy) touched.push_back(bytes_of_copy(body_, view, copy));
    for (const auto& [begin, end] : touched) cuts_.insert(cuts_.end(), {begin, end});
    std::sort(cuts_.begin(), cuts_.end());
    cuts_.erase(std::unique(cuts_.begin(), cuts_.end()), cuts_.end());
    std::vector<int32_t> begun(cuts_.size() + 1);
    for (const auto& [begin, end] : touched) {
      ++begun[static_cast<size_t>(cell_at(begin))];
      --begun[static_cast<size_t>(cell_at(end))];
    }
    is_shared_.resize(cuts_.size());
    for (size_t c = 0, open = 0; c < cuts_.size(); ++c) is_shared_[c] = (open += static_cast<size_t>(begun[c])) > 0;
    cells_.resize(cuts_.size());
  }
  int32_t cell_at(int64_t cut) const { return static_cast<int32_t>(std::lower_bound(cuts_.begin(), cuts_.end(), cut) - cuts_.begin()); }

  void find_crossing(const ProgramSegment& segment, bool are_all) {
    std::vector<Crossing>& crossing = crossing_.emplace_back();
    std::vector<int32_t>& place = place_.emplace_back(segment.instructions.size(), -1);
    for (size_t at = 0; at < segment.instructions.size(); ++at) {
      const Instruction& i = segment.instructions[at];
      Crossing c{static_cast<int32_t>(at), {}};
      for (const View& view : i.ins) add_touch(c, view, false);
      for (const View& view : i.outs) add_touch(c, view, true);
      if (!are_all && c.touches.empty() && !is_communication(i.opcode)) continue;
      place[at] = static_cast<int32_t>(crossing.size());
      crossing.push_back(std::move(c));
    }
  }

  void add_touch(Crossing& crossing, const View& view, bool writes) const {
    Touch touch{writes, {}};
    bool is_shared = false;
    for (int64_t copy = 0; copy < body_.buffers[view.buffer].copies; ++copy) {
      const auto [begin, end] = bytes_of_copy(body_, view, copy);
      const auto after = static_cast<int32_t>(std::upper_bound(cuts_.begin(), cuts_.end(), begin) - cuts_.begin());
      const int32_t first = std::max(after - 1, 0), last = begin < end ? std::max(cell_at(end), first) : first;
      touch.cells.emplace_back(first, last);
      for (int32_t c = first; c < last; ++c) is_shared |= is_shared_[static_cast<size_t>(c)];
    }
    if (is_shared) crossing.touches.push_back(std::move(touch));
  }

  // -- the schedule ---------------------------------------------------------------------------------------------------------------------------------

  const ProgramSlot& slot(int32_t t) const { return body_.schedule[static_cast<size_t>(t)]; }
  const Instruction& instruction_at(const Crossing& c) const {
    return body_.segments[static_cast<size_t>(slot(now_).segment)].instructions[static_cast<size_t>(c.instruction)];
  }

  // Gives every instruction the waits that some run of it needs, so that what `dependencies(crossing, micro_batch)` gives (runs) has ended.
  template <class Dependencies>
  void walk(const Dependencies& dependencies) {
    std::vector<std::vector<Waits>> found;
    for (const std::vector<Crossing>& crossing : crossing_) found.emplace_back(crossing.size());
    last_.assign(streams_.size() + 1, -1);
    runs_.clear();
    first_run_.clear();
    signals_.clear();
    slots_.assign(body_.segments.size(), {});
    ordinals_.clear();
    for (now_ = 0; now_ < static_cast<int32_t>(body_.schedule.size()); ++now_) {
      const auto segment = static_cast<size_t>(slot(now_).segment);
      first_run_.push_back(static_cast<int32_t>(runs_.size()));
      ordinals_.push_back(static_cast<int32_t>(slots_[segment].size()));
      for (size_t c = 0; c < crossing_[segment].size(); ++c) {
        const Crossing& crossing = crossing_[segment][c];
        begin(crossing, dependencies(crossing, slot(now_).micro_batch), found[segment][c]);
      }
      slots_[segment].push_back(now_);
    }
    for (size_t s = 0; s < found.size(); ++s)
      for (size_t c = 0; c < found[s].size(); ++c) found[s][c].give(body_.segments[s].instructions[static_cast<size_t>(crossing_[s][c].instruction)]);
  }

  struct Waits {
    std::vector<int32_t> here;
    std::map<std::pair<int32_t, int32_t>, int32_t> before;  // (segment, instruction) -> age

    void give(Instruction& i) {
      std::sort(here.begin(), here.end(), std::greater<>());
      i.waits.assign(here.begin(), here.end());
      i.waits_before.clear();
      for (const auto& [run, age] : before) i.waits_before.push_back({run.first, run.second, age});
    }
  };

  // A run begins: it waits for what it depends on and is not known to have ended.
  void begin(const Crossing& crossing, std::vector<int32_t> needed, Waits& waits) {
    const int stream = instruction_at(crossing).stream;
    const int32_t previous = last_[static_cast<size_t>(stream)];
    std::shared_ptr<const Known> known = previous >= 0 ? runs_[static_cast<size_t>(previous)].known : std::make_shared<const Known>(last_.size(), -1);
    std::sort(needed.begin(), needed.end(), std::greater<>());  // later ones may know of earlier ones
    for (const int32_t other : needed) {
      const Run& run = runs_[static_cast<size_t>(other)];
      if (run.stream == stream || (*known)[static_cast<size_t>(run.stream)] >= other) continue;
      auto more = std::make_shared<Known>(*known);
      for (size_t s = 0; s < more->size(); ++s) (*more)[s] = std::max((*more)[s], (*run.known)[s]);
      (*more)[static_cast<size_t>(run.stream)] = other;
      known = std::move(more);
      add(waits, run);
    }
    last_[static_cast<size_t>(stream)] = static_cast<int32_t>(runs_.size());
    runs_.push_back({now_, crossing.instruction, stream, std::move(known)});
  }

  void add(Waits& waits, const Run& run) const {
    if (run.slot == now_) {
      if (!llvm::is_contained(waits.here, run.instruction)) waits.here.push_back(run.instruction);
      return;
    }
    const int32_t segment = slot(run.slot).segment;
    const int32_t age = static_cast<int32_t>(slots_[static_cast<size_t>(segment)].size()) - 1 - ordinals_[static_cast<size_t>(run.slot)];
    int32_t& least = waits.before.try_emplace({segment, run.instruction}, age).first->second;
    least = std::min(least, age);
  }

  // Whoever wrote the bytes that the next run touches and, if it writes, whoever read them. It is noted as the one who touched them last.
  std::vector<int32_t> dependencies_of(const Crossing& crossing, int32_t micro_batch) {
    const Instruction& i = instruction_at(crossing);
    const auto me = static_cast<int32_t>(runs_.size());
    std::vector<int32_t> needed(last_.size(), -1);  // of each stream the last
    const auto depends = [&](int32_t other) {
      if (other < 0 || other == me) return;
      int32_t& latest = needed[static_cast<size_t>(runs_[static_cast<size_t>(other)].stream)];
      latest = std::max(latest, other);
    };
    for (const Touch& touch : crossing.touches) {
      const auto [first, end] = touch.cells[static_cast<size_t>(micro_batch) % touch.cells.size()];
      for (int32_t c = first; c < end; ++c) {
        Access& access = cells_[static_cast<size_t>(c)];
        depends(access.writer);
        if (touch.writes) {
          for (const int32_t reader : access.readers) depends(reader);
          access = {me, {}};
        } else {
          note_reader(access, me, i.stream);
        }
      }
    }
    for (const auto& [stream, received] : signals_) depends(received);
    if (is_signal(i) && i.opcode == Opcode::send)
      for (const int32_t other : last_) depends(other);
    if (is_signal(i) && i.opcode == Opcode::receive) signals_[i.stream] = me;
    llvm::erase(needed, -1);
    return needed;
  }

  void note_reader(Access& access, int32_t me, int stream) const {
    for (int32_t& reader : access.readers)
      if (reader == me || runs_[static_cast<size_t>(reader)].stream == stream) return void(reader = me);
    access.readers.push_back(me);
  }

  // The runs that the waits of an instruction name, in the slot that is walked.
  std::vector<int32_t> awaited_by(const Instruction& i) const {
    std::vector<int32_t> runs;
    for (const int32_t other : i.waits) runs.push_back(run_of(now_, other));
    for (const EarlierRun& run : i.waits_before) {
      const std::vector<int32_t>& slots = slots_[static_cast<size_t>(run.segment)];
      if (run.age < static_cast<int32_t>(slots.size()))
        runs.push_back(run_of(slots[slots.size() - 1 - static_cast<size_t>(run.age)], run.instruction));
    }
    return runs;
  }
  int32_t run_of(int32_t t, int32_t instruction) const {
    return first_run_[static_cast<size_t>(t)] + place_[static_cast<size_t>(slot(t).segment)][static_cast<size_t>(instruction)];
  }

  Body& body_;
  std::map<std::pair<Way, int32_t>, int> streams_;
  std::vector<int64_t> cuts_;                    // cell c: from cuts_[c] to the next
  std::vector<bool> is_shared_;                  // by cell: does some communication touch it?
  std::vector<Access> cells_;                    //
  std::vector<std::vector<Crossing>> crossing_;  // by segment
  std::vector<std::vector<int32_t>> place_;      // by segment and instruction: which of the crossing ones it is

  // As far as the schedule is walked:
  int32_t now_ = 0;  // the slot
  std::vector<Run> runs_;
  std::vector<int32_t> first_run_;           // by slot
  std::vector<int32_t> last_;                // by stream: its last run
  std::map<int, int32_t> signals_;           // that have been received: by stream the last
  std::vector<std::vector<int32_t>> slots_;  // by segment: before this one
  std::vector<int32_t> ordinals_;            // by slot: how many before it run the same segment
};

}  // namespace

void assign_streams(Programs& programs) {
  in_parallel(programs.bodies.size(), [&](size_t b) { Assigner(programs.bodies[b]).run(); });
}

}  // namespace sscc
