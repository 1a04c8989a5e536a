#include "compiler/program/walk.h"

#include <deque>
#include <map>

#include "llvm/ADT/DenseMap.h"

namespace sscc {
namespace {

class Walker {
 public:
  Walker(const Programs& programs, const Visitor& visitor) : programs_(programs), visitor_(visitor), at_(programs.ranks.size()) {}

  std::vector<Stuck> run(int64_t* left_over) {
    for (size_t r = 0; r < at_.size(); ++r) ready_.push_back(static_cast<int32_t>(r));
    while (!ready_.empty()) {
      const int32_t rank = ready_.front();
      ready_.pop_front();
      advance(rank);
    }
    std::vector<Stuck> stuck;
    for (size_t r = 0; r < at_.size(); ++r) {
      Step step;
      if (current(static_cast<int32_t>(r), step)) stuck.push_back({step, reason(step)});
    }
    if (left_over) {
      *left_over = 0;
      for (const auto& [key, count] : messages_) *left_over += static_cast<int64_t>(count.size());
    }
    return stuck;
  }

 private:
  struct Position {
    size_t slot = 0, instruction = 0;
    bool waiting = false;
  };
  using MessageKey = std::tuple<int32_t, int32_t, int64_t>;  // from, to, tag
  using CallKey = std::pair<std::vector<int32_t>, int64_t>;  // group, tag

  const Body& body(int32_t rank) const { return programs_.bodies[static_cast<size_t>(programs_.ranks[static_cast<size_t>(rank)].body)]; }

  // The instruction that a rank is at; false at the end.
  bool current(int32_t rank, Step& step) {
    Position& p = at_[static_cast<size_t>(rank)];
    const Body& b = body(rank);
    while (p.slot < b.schedule.size() && p.instruction >= b.segments[static_cast<size_t>(b.schedule[p.slot].segment)].instructions.size()) {
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

  static int64_t tag(const Step& step) {
    return static_cast<int64_t>(std::get<Communication>(step.what->expression).transfer) * 65536 + step.micro_batch;
  }
  int32_t peer(const Step& step) const {
    return programs_.ranks[static_cast<size_t>(step.rank)].constants.peers[static_cast<size_t>(std::get<Communication>(step.what->expression).peer)];
  }

  void advance(int32_t rank) {
    Step step;
    while (current(rank, step)) {
      Position& p = at_[static_cast<size_t>(rank)];
      switch (step.what->opcode) {
        case Opcode::send: {
          step.message = ++sent_;
          messages_[{rank, peer(step), tag(step)}].push_back(step.message);
          visitor_.instruction(step);
          if (auto it = receivers_.find({rank, peer(step), tag(step)}); it != receivers_.end()) {
            ready_.push_back(it->second);
            receivers_.erase(it);
          }
          break;
        }
        case Opcode::receive: {
          const MessageKey key{peer(step), rank, tag(step)};
          auto it = messages_.find(key);
          if (it == messages_.end() || it->second.empty()) {
            receivers_[key] = rank;
            return;
          }
          step.message = it->second.front();
          it->second.pop_front();
          visitor_.instruction(step);
          break;
        }
        case Opcode::all_reduce:
        case Opcode::all_gather:
        case Opcode::reduce_scatter: {
          if (!p.waiting && !arrive(step)) {
            p.waiting = true;
            return;
          }
          p.waiting = false;
          break;
        }
        default: visitor_.instruction(step);
      }
      ++p.instruction;
    }
  }

  // A member reaches a collective; true if it was the last and the call is done (the others are woken).
  bool arrive(const Step& step) {
    const RankProgram& rank = programs_.ranks[static_cast<size_t>(step.rank)];
    const auto& group = rank.constants.groups[static_cast<size_t>(std::get<Communication>(step.what->expression).group)];
    const CallKey key{group, tag(step)};
    std::vector<Step>& members = calls_[key];
    members.push_back(step);
    if (members.size() < group.size()) return false;
    std::vector<Step> in_order;
    for (int32_t r : group)
      for (const Step& member : members)
        if (member.rank == r) in_order.push_back(member);
    if (in_order.size() < group.size()) return false;
    calls_.erase(key);
    visitor_.collective(in_order);
    for (const Step& member : in_order)
      if (member.rank != step.rank) ready_.push_back(member.rank);
    return true;
  }

  std::string reason(const Step& step) const {
    const auto* c = std::get_if<Communication>(&step.what->expression);
    if (!c) return "it does not run";
    if (step.what->opcode == Opcode::receive) return "waits for a message from rank " + std::to_string(peer(step));
    return "waits for the other members of its group";
  }

  const Programs& programs_;
  const Visitor& visitor_;
  std::vector<Position> at_;
  std::deque<int32_t> ready_;
  std::map<MessageKey, std::deque<int64_t>> messages_;
  std::map<MessageKey, int32_t> receivers_;
  std::map<CallKey, std::vector<Step>> calls_;
  int64_t sent_ = 0;
};

}  // namespace

std::vector<Stuck> walk(const Programs& programs, const Visitor& visitor, int64_t* left_over) { return Walker(programs, visitor).run(left_over); }

}  // namespace sscc
