#include "compiler/simulate/other_order.h"

#include <algorithm>
#include <map>

#include "compiler/program/traffic.h"

namespace sscc {
namespace {

class Adversary {
 public:
  Adversary(const Programs& programs, std::mt19937_64& random) : programs_(programs), random_(random), ranks_(programs.ranks.size()) {}

  std::optional<Programs> run() {
    for (size_t r = 0; r < ranks_.size(); ++r) begin_slot(r);
    for (std::optional<Head> next = best(); next; next = best()) begin(*next);
    for (size_t r = 0; r < ranks_.size(); ++r)
      if (ranks_[r].slot < body(r).schedule.size()) return std::nullopt;
    return reordered();
  }

 private:
  struct Stream {
    std::vector<int32_t> instructions;
    size_t next = 0;
    uint64_t priority = 0;
  };
  struct Rank {
    size_t slot = 0;
    std::map<int, Stream> streams;           // of the slot
    std::vector<bool> ended;                 // of the slot's instructions
    std::vector<std::vector<int32_t>> done;  // by slot: its instructions as they began
  };
  // The instruction that a stream comes to next.
  struct Head {
    size_t rank = 0;
    Stream* stream = nullptr;
    const Instruction* what = nullptr;
  };
  using MessageKey = std::tuple<int32_t, int32_t, int32_t, int32_t>;  // from, to, transfer, micro-batch

  const Body& body(size_t rank) const { return programs_.bodies[static_cast<size_t>(programs_.ranks[rank].body)]; }
  const ProgramSlot& slot(size_t rank) const { return body(rank).schedule[ranks_[rank].slot]; }
  const std::vector<Instruction>& instructions(size_t rank) const {
    return body(rank).segments[static_cast<size_t>(slot(rank).segment)].instructions;
  }

  // The next slot that has an instruction.
  void begin_slot(size_t r) {
    Rank& rank = ranks_[r];
    for (rank.streams.clear(); rank.slot < body(r).schedule.size() && rank.streams.empty();) {
      rank.done.emplace_back();
      rank.ended.assign(instructions(r).size(), false);
      for (size_t i = 0; i < instructions(r).size(); ++i) rank.streams[instructions(r)[i].stream].instructions.push_back(static_cast<int32_t>(i));
      for (auto& [number, stream] : rank.streams) stream.priority = random_();
      rank.slot += rank.streams.empty();
    }
  }

  // What can begin, on the stream of the highest priority.
  std::optional<Head> best() {
    std::optional<Head> result;
    for (size_t r = 0; r < ranks_.size(); ++r)
      for (const Head& head : heads(r))
        if ((!result || head.stream->priority > result->stream->priority) && peers_are_ready(head)) result = head;
    return result;
  }

  // What a stream does next: an instruction, or all kernels of a call.
  llvm::ArrayRef<int32_t> next_of(size_t r, const Stream& stream) const {
    const auto goes_on = [&](int32_t i) {
      const Instruction& instruction = instructions(r)[static_cast<size_t>(i)];
      return instruction.with_next && !is_communication(instruction.opcode);
    };
    size_t end = stream.next + 1;
    while (end < stream.instructions.size() && goes_on(stream.instructions[end - 1])) ++end;
    return llvm::ArrayRef<int32_t>(stream.instructions).slice(stream.next, end - stream.next);
  }

  // Of a rank: what its own streams and waits let begin.
  std::vector<Head> heads(size_t r) {
    std::vector<Head> result;
    Rank& rank = ranks_[r];
    for (auto& [number, stream] : rank.streams) {
      if (stream.next == stream.instructions.size()) continue;
      const llvm::ArrayRef<int32_t> next = next_of(r, stream);
      const auto has_ended = [&](int32_t other) { return rank.ended[static_cast<size_t>(other)]; };
      const auto may_begin = [&](int32_t i) { return llvm::all_of(instructions(r)[static_cast<size_t>(i)].waits, has_ended); };
      if (llvm::all_of(next, may_begin)) result.push_back({r, &stream, &instructions(r)[static_cast<size_t>(next.front())]});
    }
    return result;
  }

  bool peers_are_ready(const Head& head) {
    if (head.what->opcode == Opcode::receive) {
      const auto found = messages_.find(message(head));
      return found != messages_.end() && found->second > 0;
    }
    return !is_communication(head.what->opcode) || head.what->opcode == Opcode::send || !members(head).empty();
  }

  MessageKey message(const Head& head) const {
    const auto& c = std::get<Communication>(head.what->expression);
    const int32_t mine = programs_.ranks[head.rank].rank, peer = programs_.ranks[head.rank].constants.peers[static_cast<size_t>(c.peer)];
    const bool sends = head.what->opcode == Opcode::send;
    return {sends ? mine : peer, sends ? peer : mine, c.transfer, c.micro_batch_of(slot(head.rank).micro_batch)};
  }

  // The same call of all members of a collective; empty: not all have come to it.
  std::vector<Head> members(const Head& head) {
    const auto group_of = [&](const Head& each) -> const std::vector<int32_t>& {
      return programs_.ranks[each.rank].constants.groups[static_cast<size_t>(std::get<Communication>(each.what->expression).group)];
    };
    const auto is_same_call = [&](const Head& other) {
      return other.what->opcode == head.what->opcode &&
             std::get<Communication>(other.what->expression).transfer == std::get<Communication>(head.what->expression).transfer &&
             slot(other.rank).micro_batch == slot(head.rank).micro_batch && group_of(other) == group_of(head);
    };
    std::vector<Head> all;
    for (const int32_t member : group_of(head)) {
      const std::vector<Head> there = heads(static_cast<size_t>(member));
      const auto found = std::find_if(there.begin(), there.end(), is_same_call);
      if (found == there.end()) return {};
      all.push_back(*found);
    }
    return all;
  }

  void begin(const Head& head) {
    if (head.what->opcode == Opcode::send) ++messages_[message(head)];
    if (head.what->opcode == Opcode::receive) --messages_[message(head)];
    const bool is_collective = is_communication(head.what->opcode) && head.what->opcode != Opcode::send && head.what->opcode != Opcode::receive;
    for (const Head& each : is_collective ? members(head) : std::vector<Head>{head}) {
      Rank& rank = ranks_[each.rank];
      const llvm::ArrayRef<int32_t> begun = next_of(each.rank, *each.stream);
      for (const int32_t instruction : begun) {
        rank.ended[static_cast<size_t>(instruction)] = true;
        rank.done.back().push_back(instruction);
      }
      each.stream->next += begun.size();
      if (rank.done.back().size() < rank.ended.size()) continue;
      ++rank.slot;
      begin_slot(each.rank);
    }
  }

  Programs reordered() const {
    Programs result = programs_;
    result.bodies.clear();
    for (size_t r = 0; r < ranks_.size(); ++r) {
      Body& made = result.bodies.emplace_back(body(r));
      result.ranks[r].body = static_cast<int32_t>(r);
      made.segments.clear();
      for (size_t s = 0; s < made.schedule.size(); ++s) {
        ProgramSegment segment = body(r).segments[static_cast<size_t>(made.schedule[s].segment)];
        std::vector<Instruction> before(std::move(segment.instructions));
        std::vector<int32_t> place(before.size());
        segment.instructions.clear();
        for (const int32_t i : ranks_[r].done[s]) {
          place[static_cast<size_t>(i)] = static_cast<int32_t>(segment.instructions.size());
          segment.instructions.push_back(std::move(before[static_cast<size_t>(i)]));
        }
        for (Instruction& i : segment.instructions) {
          if (is_communication(i.opcode)) i.with_next = false;  // others may come between
          for (int32_t& other : i.waits) other = place[static_cast<size_t>(other)];
        }
        made.schedule[s].segment = static_cast<int32_t>(made.segments.size());
        made.segments.push_back(std::move(segment));
      }
    }
    return result;
  }

  const Programs& programs_;
  std::mt19937_64& random_;
  std::vector<Rank> ranks_;
  std::map<MessageKey, int64_t> messages_;
};

}  // namespace

std::optional<Programs> in_other_order(const Programs& programs, std::mt19937_64& random) { return Adversary(programs, random).run(); }

}  // namespace sscc
