#include "compiler/simulate/other_order.h"

#include <algorithm>
#include <map>

#include "compiler/program/runs.h"
#include "compiler/program/traffic.h"

namespace sscc {
namespace {

class Adversary {
 public:
  Adversary(const Programs& programs, std::mt19937_64& random)
      : programs_(programs), random_(random), runs_(programs.bodies.begin(), programs.bodies.end()), ranks_(programs.ranks.size()) {}

  std::optional<Programs> run() {
    for (size_t r = 0; r < ranks_.size(); ++r) begin_step(r);
    for (std::optional<Head> next = best(); next; next = best()) begin(*next);
    for (const Rank& rank : ranks_)
      for (const auto& [number, stream] : rank.streams)
        if (stream.next < stream.places.size()) return std::nullopt;
    return reordered();
  }

 private:
  struct Place {
    int32_t slot = 0, instruction = 0;
  };
  struct Stream {
    std::vector<Place> places;
    size_t next = 0;
    uint64_t priority = 0;
  };
  struct Rank {
    std::map<int, Stream> streams;
    std::vector<std::vector<bool>> ended;  // by slot and instruction
    std::vector<Place> done;               // as they began
  };
  // The instruction that a stream comes to next.
  struct Head {
    size_t rank = 0;
    Stream* stream = nullptr;
    const Instruction* what = nullptr;
    int32_t micro_batch = 0;
  };
  using MessageKey = std::tuple<int32_t, int32_t, int32_t, int32_t>;  // from, to, transfer, micro-batch

  const Body& body(size_t rank) const { return programs_.bodies[static_cast<size_t>(programs_.ranks[rank].body)]; }
  const ProgramSlot& slot(size_t rank, int32_t slot) const { return body(rank).schedule[static_cast<size_t>(slot)]; }
  const ProgramSegment& segment(size_t rank, int32_t of_slot) const { return body(rank).segments[static_cast<size_t>(slot(rank, of_slot).segment)]; }

  const Instruction& instruction_at(size_t r, const Place& place) const {
    return segment(r, place.slot).instructions[static_cast<size_t>(place.instruction)];
  }

  void begin_step(size_t r) {
    Rank& rank = ranks_[r];
    for (int32_t t = 0; t < static_cast<int32_t>(body(r).schedule.size()); ++t) {
      const std::vector<Instruction>& instructions = segment(r, t).instructions;
      rank.ended.emplace_back(instructions.size(), false);
      for (size_t i = 0; i < instructions.size(); ++i) rank.streams[instructions[i].stream].places.push_back({t, static_cast<int32_t>(i)});
    }
    for (auto& [number, stream] : rank.streams) stream.priority = random_();
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
  llvm::ArrayRef<Place> next_of(size_t r, const Stream& stream) const {
    const auto goes_on = [&](const Place& place) {
      const Instruction& i = instruction_at(r, place);
      return i.with_next && !is_communication(i.opcode);
    };
    size_t end = stream.next + 1;
    while (end < stream.places.size() && goes_on(stream.places[end - 1])) ++end;
    return llvm::ArrayRef<Place>(stream.places).slice(stream.next, end - stream.next);
  }

  // Of a rank: what its own streams and waits let begin.
  std::vector<Head> heads(size_t r) {
    std::vector<Head> result;
    for (auto& [number, stream] : ranks_[r].streams) {
      if (stream.next == stream.places.size()) continue;
      const llvm::ArrayRef<Place> next = next_of(r, stream);
      const auto may_begin = [&](const Place& place) { return has_what_it_waits_for(r, place, instruction_at(r, place)); };
      if (llvm::all_of(next, may_begin)) result.push_back({r, &stream, &instruction_at(r, next.front()), slot(r, next.front().slot).micro_batch});
    }
    return result;
  }

  bool has_what_it_waits_for(size_t r, const Place& place, const Instruction& i) const {
    const auto has_ended = [&](int32_t slot, int32_t instruction) {
      return slot < 0 || ranks_[r].ended[static_cast<size_t>(slot)][static_cast<size_t>(instruction)];
    };
    const Runs& runs = runs_[static_cast<size_t>(programs_.ranks[r].body)];
    return std::all_of(i.waits.begin(), i.waits.end(), [&](int32_t other) { return has_ended(place.slot, other); }) &&
           std::all_of(i.waits_before.begin(), i.waits_before.end(),
                       [&](const EarlierRun& run) { return has_ended(runs.slot_of(run, place.slot), run.instruction); });
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
    return {sends ? mine : peer, sends ? peer : mine, c.transfer, c.micro_batch_of(head.micro_batch)};
  }

  // The same call of all members of a collective; empty: not all have come to it.
  std::vector<Head> members(const Head& head) {
    const auto group_of = [&](const Head& each) -> const std::vector<int32_t>& {
      return programs_.ranks[each.rank].constants.groups[static_cast<size_t>(std::get<Communication>(each.what->expression).group)];
    };
    const auto is_same_call = [&](const Head& other) {
      return other.what->opcode == head.what->opcode &&
             std::get<Communication>(other.what->expression).transfer == std::get<Communication>(head.what->expression).transfer &&
             other.micro_batch == head.micro_batch && group_of(other) == group_of(head);
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
      const llvm::ArrayRef<Place> begun = next_of(each.rank, *each.stream);
      for (const Place& place : begun) {
        rank.ended[static_cast<size_t>(place.slot)][static_cast<size_t>(place.instruction)] = true;
        rank.done.push_back(place);
      }
      Stream& stream = *each.stream;
      stream.next += begun.size();
      const bool is_in_next_slot = stream.next < stream.places.size() && stream.places[stream.next].slot != begun.back().slot;
      if (is_in_next_slot) stream.priority = random_();
    }
  }

  Programs reordered() const {
    Programs result = programs_;
    result.bodies.clear();
    for (size_t r = 0; r < ranks_.size(); ++r) {
      Body& made = result.bodies.emplace_back(body(r));
      result.ranks[r].body = static_cast<int32_t>(r);
      made.segments.clear();
      made.schedule.clear();
      int32_t last = -1;
      for (const Place& place : ranks_[r].done) {
        const ProgramSegment& from = segment(r, place.slot);
        if (place.slot != last) {
          made.schedule.push_back({static_cast<int32_t>(made.segments.size()), slot(r, place.slot).micro_batch});
          made.segments.push_back({from.name, from.module_segment, {}, from.variant, false});
          last = place.slot;
        }
        Instruction& i = made.segments.back().instructions.emplace_back(instruction_at(r, place));
        if (is_communication(i.opcode)) i.with_next = false;  // others may come between
        i.waits.clear();
        i.waits_before.clear();
      }
    }
    return result;
  }

  const Programs& programs_;
  std::mt19937_64& random_;
  const std::vector<Runs> runs_;  // by body
  std::vector<Rank> ranks_;
  std::map<MessageKey, int64_t> messages_;
};

}  // namespace

std::optional<Programs> in_other_order(const Programs& programs, std::mt19937_64& random) { return Adversary(programs, random).run(); }

}  // namespace sscc
