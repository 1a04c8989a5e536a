#include "compiler/program/walk.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <functional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "compiler/program/traffic.h"
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
      if (!visit_all(wave.size(), [&](size_t i) { return run_alone(wave[i]); })) return {true, {}};
      for (const int32_t rank : wave)
        if (!communicate(rank)) return {true, {}};
      const std::vector<std::vector<Step>> calls = std::exchange(complete_, {});
      if (!visit_all(calls.size(), [&](size_t i) { return visitor_.collective(calls[i]); })) return {true, {}};
      for (const std::vector<Step>& members : calls)
        for (const Step& member : members) go_on(member.rank);
    }
    for (size_t r = 0; r < at_.size(); ++r) {
      Stuck stuck;
      if (is_walked(r) && stands_at(static_cast<int32_t>(r), stuck)) result.stuck.push_back(std::move(stuck));
    }
    return result;
  }

 private:
  struct Position {
    size_t slot = 0, instruction = 0;
  };
  struct At {
    Position position;
    std::vector<Step> group;  // of sends and receives that it stands in
    size_t waits_for = 0;     // how many of them are not through
  };
  // What ranks have posted on a channel in one direction and is not through.
  struct Posted {
    std::deque<Step> sends, receives;
  };
  // A transfer of a micro-batch over a group.
  using Key = std::pair<uint64_t, uint64_t>;

  bool is_walked(size_t rank) const { return wiring_.representative[rank] == static_cast<int32_t>(rank); }
  const Body& body(int32_t rank) const { return programs_.bodies[static_cast<size_t>(programs_.ranks[static_cast<size_t>(rank)].body)]; }

  // The instruction at a position, which moves on to the next slot that has one; false at the end.
  bool instruction_at(int32_t rank, Position& p, Step& step) const {
    const Body& b = body(rank);
    while (p.slot < b.schedule.size() && (b.schedule[p.slot].micro_batch >= micro_batches_ ||
                                          p.instruction >= b.segments[static_cast<size_t>(b.schedule[p.slot].segment)].instructions.size())) {
      ++p.slot;
      p.instruction = 0;
    }
    if (p.slot >= b.schedule.size()) return false;
    step.rank = rank;
    step.slot = static_cast<int32_t>(p.slot);
    step.segment = b.schedule[p.slot].segment;
    step.micro_batch = b.schedule[p.slot].micro_batch;
    step.instruction = static_cast<int32_t>(p.instruction);
    step.what = &b.segments[static_cast<size_t>(step.segment)].instructions[p.instruction];
    step.message = -1;
    return true;
  }
  bool current(int32_t rank, Step& step) { return instruction_at(rank, at_[static_cast<size_t>(rank)].position, step); }

  static const Communication& communication(const Step& step) { return std::get<Communication>(step.what->expression); }
  static uint64_t tag(const Step& step) {
    const Communication& c = communication(step);
    return static_cast<uint64_t>(c.transfer) << 32 | static_cast<uint32_t>(c.micro_batch_of(step.micro_batch));
  }
  int32_t peer(const Step& step) const {
    return programs_.ranks[static_cast<size_t>(step.rank)].constants.peers[static_cast<size_t>(communication(step).peer)];
  }
  // The channel to or from a rank, in the direction of its sender.
  Posted& posted(const Step& step, int32_t sender) {
    const auto channel = static_cast<uint64_t>(wiring_.channel[static_cast<size_t>(step.rank)][static_cast<size_t>(communication(step).peer)]);
    return posted_[channel << 32 | static_cast<uint32_t>(wiring_.representative[static_cast<size_t>(sender)])];
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
    ++at_[static_cast<size_t>(rank)].position.instruction;
    ready_.push_back(rank);
  }

  // Up to what concerns other ranks, or the host.
  bool run_alone(int32_t rank) {
    Step step;
    while (current(rank, step) && step.what->opcode < Opcode::send) {
      if (!visitor_.instruction(step)) return false;
      ++at_[static_cast<size_t>(rank)].position.instruction;
    }
    return true;
  }

  bool communicate(int32_t rank) {
    Step step;
    if (!current(rank, step)) return true;
    switch (step.what->opcode) {
      case Opcode::send:
      case Opcode::receive: return post_group(rank);
      case Opcode::all_reduce:
      case Opcode::all_gather:
      case Opcode::reduce_scatter:
      case Opcode::broadcast:
      case Opcode::all_to_all: arrive(step); return true;
      default: go_on(rank); return visitor_.instruction(step);
    }
  }

  bool post_group(int32_t rank) {
    At& at = at_[static_cast<size_t>(rank)];
    at.group.clear();
    Step step;
    for (Position p = at.position; instruction_at(rank, p, step) && joins(body(rank), at.group, step); ++p.instruction, at.position = p)
      at.group.push_back(step);
    at.waits_for = at.group.size();
    for (const Step& each : at.group) {
      const bool sends = each.what->opcode == Opcode::send;
      Posted& channel = posted(each, sends ? rank : peer(each));
      (sends ? channel.sends : channel.receives).push_back(each);
      if (!pass(channel)) return false;
    }
    return true;
  }

  // Messages of a channel that both ends have posted are through.
  bool pass(Posted& channel) {
    while (!channel.sends.empty() && !channel.receives.empty() && tag(channel.sends.front()) == tag(channel.receives.front())) {
      Step sent = channel.sends.front(), received = channel.receives.front();
      channel.sends.pop_front();
      channel.receives.pop_front();
      sent.message = received.message = ++passed_;
      if (!visitor_.instruction(sent) || !visitor_.instruction(received)) return false;
      for (const Step* step : {&sent, &received})
        if (--at_[static_cast<size_t>(step->rank)].waits_for == 0) ready_.push_back(step->rank);
    }
    return true;
  }

  // A member reaches a collective; with the last of them the call is complete.
  void arrive(const Step& step) {
    const int32_t group = wiring_.group[static_cast<size_t>(step.rank)][static_cast<size_t>(communication(step).group)];
    const std::vector<int32_t>& ranks = wiring_.members[static_cast<size_t>(group)];
    // Members meet in the same call, which goes on with the next one for all of them, or for none.
    const Key key{static_cast<uint64_t>(group) << 8 | static_cast<uint64_t>(step.what->opcode) << 1 | step.what->with_next, tag(step)};
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

  // Where a rank stands that could not go on; false if it has ended.
  bool stands_at(int32_t rank, Stuck& stuck) {
    const At& at = at_[static_cast<size_t>(rank)];
    if (at.waits_for == 0) {
      if (!current(rank, stuck.step)) return false;
      stuck.reason = "waits for the other members of its group";
      return true;
    }
    for (const Step& step : at.group) {
      const bool sends = step.what->opcode == Opcode::send;
      const Posted& channel = posted(step, sends ? rank : peer(step));
      const std::deque<Step>&mine = sends ? channel.sends : channel.receives, &other = sends ? channel.receives : channel.sends;
      if (mine.empty() || mine.front().what != step.what || mine.front().micro_batch != step.micro_batch) continue;
      stuck.step = step;
      const std::string name = "rank " + std::to_string(peer(step));
      stuck.reason = sends ? "waits for " + name + " to receive it" : "waits for a message from " + name;
      if (!other.empty())
        stuck.reason =
            "meets " + name + ", which stands at '" + other.front().what->origin + "' of micro-batch " + std::to_string(other.front().micro_batch);
      return true;
    }
    return false;
  }

  const Programs& programs_;
  const Wiring& wiring_;
  const Visitor& visitor_;
  const int64_t micro_batches_;
  std::vector<At> at_;
  std::vector<int32_t> ready_;                    // to go on in the next wave
  std::vector<std::vector<Step>> complete_;       // calls that all members have reached in this wave
  std::unordered_map<uint64_t, Posted> posted_;   // by channel and sender
  llvm::DenseMap<Key, std::vector<Step>> calls_;  // that some members have reached
  int64_t passed_ = 0;                            // messages
};

// The arena's bytes that a contiguous view takes up; none before buffers have their places.
std::pair<int64_t, int64_t> bytes_at(const Body& body, const View& view, int32_t micro_batch) {
  const Buffer& buffer = body.buffers[view.buffer];
  if (buffer.offset < 0) return {0, 0};
  const int64_t begin = buffer.offset + micro_batch % buffer.copies * buffer.stride + view.offset * static_cast<int64_t>(rt::size_of(buffer.dtype));
  return {begin, begin + bytes_of(body, view)};
}

}  // namespace

bool joins(const Body& body, llvm::ArrayRef<Step> group, const Step& next) {
  if (!group.empty()) {
    const bool same_slot = group.back().segment == next.segment && group.back().micro_batch == next.micro_batch;
    if (!same_slot && !body.segments[static_cast<size_t>(next.segment)].continues_group) return false;
  }
  if (next.what->opcode == Opcode::send) return group.empty() || group.back().what->opcode == Opcode::send;
  if (next.what->opcode != Opcode::receive) return false;
  const auto written = bytes_at(body, next.what->outs[0], next.micro_batch);
  return llvm::none_of(group, [&](const Step& member) {
    if (member.what->opcode != Opcode::send) return false;
    const auto read = bytes_at(body, member.what->ins[0], member.micro_batch);
    return read.first < written.second && written.first < read.second;
  });
}

Walked walk(const Programs& programs, const Wiring& wiring, const Visitor& visitor, int64_t micro_batches) {
  return Walker(programs, wiring, visitor, micro_batches).run();
}

bool runs_once(const Body& body, int32_t segment) {
  const int of = body.segments[static_cast<size_t>(segment)].module_segment;
  return of == body.segments.front().module_segment || of == body.segments.back().module_segment;
}

int64_t micro_batches_period(const Programs& programs) {
  int64_t count = 1;
  std::vector<std::vector<std::vector<int32_t>>> of;  // by body and micro-batch: its segments in order
  for (const Body& body : programs.bodies) {
    count = body.micro_batches;
    auto& segments = of.emplace_back(static_cast<size_t>(count));
    std::vector<std::vector<int32_t>> received(segments.size());
    bool begun = false, ended = false;
    for (const ProgramSlot& slot : body.schedule) {
      const auto m = static_cast<size_t>(slot.micro_batch);
      const bool is_once = runs_once(body, slot.segment);
      const std::vector<Instruction>& instructions = body.segments[static_cast<size_t>(slot.segment)].instructions;
      if (llvm::all_of(instructions, [](const Instruction& i) { return i.opcode == Opcode::receive; })) {
        for (const Instruction& i : instructions)
          if (!is_once) received[m].push_back(std::get<Communication>(i.expression).transfer);
        continue;
      }
      ended |= is_once && begun;
      begun |= !is_once;
      if (is_once) continue;
      if (ended) return count;
      segments[m].push_back(slot.segment);
    }
    // Where among them receives stand plays no part, nor whether they begin a group call there.
    for (size_t m = 0; m < segments.size(); ++m) {
      llvm::sort(received[m]);
      segments[m].push_back(-1);  // here segments end, and numbers of transfers begin
      llvm::append_range(segments[m], received[m]);
    }
  }
  for (int64_t period = 1; period < count; ++period)
    if (llvm::all_of(of, [&](const auto& segments) { return std::equal(segments.begin() + period, segments.end(), segments.begin()); }))
      return period;
  return count;
}

}  // namespace sscc
