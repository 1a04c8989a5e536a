#include "compiler/program/walk.h"

#include <algorithm>
#include <atomic>
#include <functional>
#include <utility>
#include <vector>

#include "compiler/support/parallel.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

class Walker {
 public:
  Walker(const Programs& programs, const Wiring& wiring, const Visitor& visitor, int64_t micro_batches)
      : programs_(programs), wiring_(wiring), visitor_(visitor), micro_batches_(micro_batches), at_(programs.ranks.size()) {}

  // In waves: every rank that can go on runs to its next communication, then those that are there communicate.
  Walked run() {
    Walked result;
    for (size_t r = 0; r < at_.size(); ++r)
      if (is_walked(r)) ready_.push_back(static_cast<int32_t>(r));
    while (!ready_.empty()) {
      const std::vector<int32_t> wave = std::exchange(ready_, {});
      if (!visit_all(wave.size(), [&](size_t i) { return run_alone(wave[i]); })) return {true, {}, 0};
      for (const int32_t rank : wave)
        if (!communicate(rank)) return {true, {}, 0};
      const std::vector<std::vector<Step>> calls = std::exchange(complete_, {});
      if (!visit_all(calls.size(), [&](size_t i) { return visitor_.collective(calls[i]); })) return {true, {}, 0};
      for (const std::vector<Step>& members : calls)
        for (const Step& member : members) go_on(member.rank);
    }
    for (size_t r = 0; r < at_.size(); ++r) {
      Step step;
      if (is_walked(r) && current(static_cast<int32_t>(r), step)) result.stuck.push_back({step, reason(step)});
    }
    for (const auto& [key, messages] : messages_) result.left_over += static_cast<int64_t>(messages.size());
    return result;
  }

 private:
  struct Position {
    size_t slot = 0, instruction = 0;
  };
  // A transfer of a micro-batch over a group, or over a channel from one of its ends.
  using Key = std::pair<uint64_t, uint64_t>;

  bool is_walked(size_t rank) const { return wiring_.representative[rank] == static_cast<int32_t>(rank); }
  const Body& body(int32_t rank) const { return programs_.bodies[static_cast<size_t>(programs_.ranks[static_cast<size_t>(rank)].body)]; }

  // The instruction that a rank is at; false at the end.
  bool current(int32_t rank, Step& step) {
    Position& p = at_[static_cast<size_t>(rank)];
    const Body& b = body(rank);
    while (p.slot < b.schedule.size() && (b.schedule[p.slot].micro_batch >= micro_batches_ ||
                                          p.instruction >= b.segments[static_cast<size_t>(b.schedule[p.slot].segment)].instructions.size())) {
      ++p.slot;
      p.instruction = 0;
    }
    if (p.slot >= b.schedule.size()) return false;
    step.rank = rank;
    step.segment = b.schedule[p.slot].segment;
    step.micro_batch = b.schedule[p.slot].micro_batch;
    step.instruction = static_cast<int32_t>(p.instruction);
    step.what = &b.segments[static_cast<size_t>(step.segment)].instructions[p.instruction];
    step.message = -1;
    return true;
  }

  static const Communication& communication(const Step& step) { return std::get<Communication>(step.what->expression); }
  static uint64_t tag(const Step& step) {
    return static_cast<uint64_t>(communication(step).transfer) << 32 | static_cast<uint32_t>(step.micro_batch);
  }
  int32_t peer(const Step& step) const {
    return programs_.ranks[static_cast<size_t>(step.rank)].constants.peers[static_cast<size_t>(communication(step).peer)];
  }
  Key message_key(const Step& step, int32_t sender) const {
    const auto channel = static_cast<uint64_t>(wiring_.channel[static_cast<size_t>(step.rank)][static_cast<size_t>(communication(step).peer)]);
    return {channel << 32 | static_cast<uint32_t>(wiring_.representative[static_cast<size_t>(sender)]), tag(step)};
  }

  // All of visit(0) to visit(count - 1), whatever they return.
  bool visit_all(size_t count, const std::function<bool(size_t)>& visit) const {
    constexpr size_t worth_threads = 16;
    std::atomic<bool> all = true;
    const auto one = [&](size_t i) {
      if (!visit(i)) all = false;
    };
    if (visitor_.side_by_side && count >= worth_threads) {
      in_parallel(count, one);
    } else {
      for (size_t i = 0; i < count; ++i) one(i);
    }
    return all;
  }

  void go_on(int32_t rank) {
    ++at_[static_cast<size_t>(rank)].instruction;
    ready_.push_back(rank);
  }

  // Up to what concerns other ranks, or the host.
  bool run_alone(int32_t rank) {
    Step step;
    while (current(rank, step) && step.what->opcode < Opcode::send) {
      if (!visitor_.instruction(step)) return false;
      ++at_[static_cast<size_t>(rank)].instruction;
    }
    return true;
  }

  bool communicate(int32_t rank) {
    Step step;
    if (!current(rank, step)) return true;
    switch (step.what->opcode) {
      case Opcode::send: {
        const Key key = message_key(step, rank);
        step.message = ++sent_;
        messages_[key].push_back(step.message);
        if (auto it = receivers_.find(key); it != receivers_.end()) {
          ready_.push_back(it->second);
          receivers_.erase(it);
        }
        break;
      }
      case Opcode::receive: {
        const Key key = message_key(step, peer(step));
        auto it = messages_.find(key);
        if (it == messages_.end()) {
          receivers_[key] = rank;
          return true;
        }
        step.message = it->second.front();
        it->second.erase(it->second.begin());
        if (it->second.empty()) messages_.erase(it);
        break;
      }
      case Opcode::all_reduce:
      case Opcode::all_gather:
      case Opcode::reduce_scatter:
      case Opcode::broadcast:
      case Opcode::all_to_all: arrive(step); return true;
      default: break;
    }
    go_on(rank);
    return visitor_.instruction(step);
  }

  // A member reaches a collective; with the last of them the call is complete.
  void arrive(const Step& step) {
    const int32_t group = wiring_.group[static_cast<size_t>(step.rank)][static_cast<size_t>(communication(step).group)];
    const std::vector<int32_t>& ranks = wiring_.members[static_cast<size_t>(group)];
    const Key key{static_cast<uint64_t>(group) << 8 | static_cast<uint64_t>(step.what->opcode), tag(step)};  // members meet in the same call
    std::vector<Step>& arrived = calls_[key];
    arrived.push_back(step);
    if (arrived.size() < ranks.size()) return;
    std::vector<Step> members = std::move(arrived);
    calls_.erase(key);
    if (!std::is_sorted(ranks.begin(), ranks.end())) {
      std::vector<Step> in_order;
      for (int32_t r : ranks) in_order.push_back(*std::find_if(members.begin(), members.end(), [&](const Step& member) { return member.rank == r; }));
      members = std::move(in_order);
    } else {
      std::sort(members.begin(), members.end(), [](const Step& a, const Step& b) { return a.rank < b.rank; });
    }
    complete_.push_back(std::move(members));
  }

  std::string reason(const Step& step) const {
    if (!std::get_if<Communication>(&step.what->expression)) return "it does not run";
    if (step.what->opcode == Opcode::receive) return "waits for a message from rank " + std::to_string(peer(step));
    return "waits for the other members of its group";
  }

  const Programs& programs_;
  const Wiring& wiring_;
  const Visitor& visitor_;
  const int64_t micro_batches_;
  std::vector<Position> at_;
  std::vector<int32_t> ready_;                                   // to go on in the next wave
  std::vector<std::vector<Step>> complete_;                      // calls that all members have reached in this wave
  llvm::DenseMap<Key, llvm::SmallVector<int64_t, 1>> messages_;  // under way
  llvm::DenseMap<Key, int32_t> receivers_;                       // that wait for one
  llvm::DenseMap<Key, std::vector<Step>> calls_;                 // that some members have reached
  int64_t sent_ = 0;
};

}  // namespace

Walked walk(const Programs& programs, const Wiring& wiring, const Visitor& visitor, int64_t micro_batches) {
  return Walker(programs, wiring, visitor, micro_batches).run();
}

int64_t micro_batches_period(const Programs& programs) {
  int64_t count = 1;
  std::vector<std::vector<std::vector<int32_t>>> of;  // by body and micro-batch: its segments in order
  for (const Body& body : programs.bodies) {
    count = body.micro_batches;
    auto& segments = of.emplace_back(static_cast<size_t>(count));
    bool begun = false, ended = false;
    for (const ProgramSlot& slot : body.schedule) {
      const bool is_once = slot.segment == 0 || slot.segment + 1 == static_cast<int32_t>(body.segments.size());  // prologue, epilogue
      ended |= is_once && begun;
      begun |= !is_once;
      if (is_once) continue;
      if (ended) return count;
      segments[static_cast<size_t>(slot.micro_batch)].push_back(slot.segment);
    }
  }
  for (int64_t period = 1; period < count; ++period)
    if (llvm::all_of(of, [&](const auto& segments) { return std::equal(segments.begin() + period, segments.end(), segments.begin()); }))
      return period;
  return count;
}

}  // namespace sscc
