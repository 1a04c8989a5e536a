// What of a segment may run at the same time, and what must wait.
//
// Kernels share stream 0. Every communicator has a stream of its own: one for each group of collectives, and for each peer one to it and one from it.
// A stream runs its instructions in order; all streams have ended when a segment ends. Across streams an instruction waits for the latest earlier
// ones that touch the same memory, if one of the two writes, and only where no other wait or stream order says so already: buffers have their
// places here, so memory that two values share is seen like memory that one value has. A signal waits for all before it, and all behind it wait for it.
#include <map>

#include "compiler/program/lower.h"
#include "compiler/program/traffic.h"

namespace sscc {
namespace {

// The instructions of a segment that last touched each byte of the arena.
class Memory {
 public:
  // Calls depends(i) for every earlier instruction that must not be overtaken: whoever wrote the bytes and, if these are written, whoever read them.
  template <class Depends>
  void touch(int64_t begin, int64_t end, int32_t instruction, bool writes, const Depends& depends) {
    if (begin >= end) return;
    cut(begin);
    cut(end);
    for (auto it = bytes_.lower_bound(begin); it != bytes_.end() && it->first < end; ++it) {
      Access& access = it->second;
      if (access.writer >= 0) depends(access.writer);
      if (writes) {
        for (const int32_t reader : access.readers) depends(reader);
        access = {instruction, {}};
      } else if (access.readers.empty() || access.readers.back() != instruction) {
        access.readers.push_back(instruction);
      }
    }
  }

 private:
  struct Access {
    int32_t writer = -1;
    llvm::SmallVector<int32_t, 4> readers;  // since then
  };
  void cut(int64_t at) {
    auto it = bytes_.upper_bound(at);
    const Access before = it == bytes_.begin() ? Access{} : std::prev(it)->second;
    bytes_.try_emplace(at, before);
  }
  std::map<int64_t, Access> bytes_;  // from this byte to the next entry
};

class Assigner {
 public:
  explicit Assigner(Body& body) : body_(body) {}

  void run() {
    for (ProgramSegment& segment : body_.segments)
      for (Instruction& i : segment.instructions) i.stream = stream_of(i);
    for (ProgramSegment& segment : body_.segments) add_waits(segment);
  }

 private:
  enum class Way { collective, to, from };

  int stream_of(const Instruction& i) {
    if (!is_communication(i.opcode)) return 0;
    const auto& c = std::get<Communication>(i.expression);
    const Way way = i.opcode == Opcode::send ? Way::to : i.opcode == Opcode::receive ? Way::from : Way::collective;
    return streams_.try_emplace({way, way == Way::collective ? c.group : c.peer}, static_cast<int>(streams_.size()) + 1).first->second;
  }

  void add_waits(ProgramSegment& segment) {
    Memory memory;
    const size_t streams = streams_.size() + 1;
    std::vector<std::vector<int32_t>> ended(segment.instructions.size());  // when an instruction has ended: the last ended one of each stream
    std::vector<int32_t> last(streams, -1);
    std::vector<int32_t> signals;  // that have been received
    for (size_t at = 0; at < segment.instructions.size(); ++at) {
      Instruction& i = segment.instructions[at];
      const auto index = static_cast<int32_t>(at);
      std::vector<int32_t> needed(streams, -1);  // of each stream the latest
      const auto depends = [&](int32_t other) {
        if (other == index) return;
        int32_t& latest = needed[static_cast<size_t>(segment.instructions[static_cast<size_t>(other)].stream)];
        latest = std::max(latest, other);
      };
      const auto touch = [&](const View& view, bool writes) {
        const auto [begin, end] = bytes_of_all_copies(body_, view);  // which copy a micro-batch uses is not known here
        memory.touch(begin, end, index, writes, depends);
      };
      for (const View& view : i.ins) touch(view, false);
      for (const View& view : i.outs) touch(view, true);
      for (const int32_t received : signals) depends(received);
      if (is_signal(i) && i.opcode == Opcode::send)
        for (const int32_t other : last)
          if (other >= 0) depends(other);
      if (is_signal(i) && i.opcode == Opcode::receive) signals.push_back(index);

      int32_t& previous = last[static_cast<size_t>(i.stream)];
      std::vector<int32_t>& known = ended[at];
      known = previous >= 0 ? ended[static_cast<size_t>(previous)] : std::vector<int32_t>(streams, -1);
      std::sort(needed.begin(), needed.end(), std::greater<>());
      i.waits.clear();
      for (const int32_t other : needed) {
        if (other < 0 || known[static_cast<size_t>(segment.instructions[static_cast<size_t>(other)].stream)] >= other) continue;
        i.waits.push_back(other);
        for (size_t s = 0; s < streams; ++s) known[s] = std::max(known[s], ended[static_cast<size_t>(other)][s]);
      }
      known[static_cast<size_t>(i.stream)] = previous = index;
    }
  }

  Body& body_;
  std::map<std::pair<Way, int32_t>, int> streams_;
};

}  // namespace

void assign_streams(Programs& programs) {
  for (Body& body : programs.bodies) Assigner(body).run();
}

}  // namespace sscc
