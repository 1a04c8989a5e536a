// Sends and receives find their order.
//
// A communication library that has no buffers makes a sender wait for its receiver, and knows no tags: what one rank sends another arrives in the
// order in which it is sent. Lowering puts a send where its value is made and a receive where the value is read, which suits a patient postman:
//
//   stage 0   F.0 send  F.1 send  receive B.0            each sends to the other, and nobody receives
//   stage 1   receive F.0  B.0 send  receive F.1
//
// Here the programs run in the mind as such a library runs them (walk.h). Where everybody waits, the send that has waited longest goes first: its
// receiver takes it in where it stands, in a group call with what it does there, and that is where its program has the receive from then on:
//
//   stage 1   receive F.0  B.0 {send, receive F.1}
//
// Nothing else moves, so a program that needs no help keeps its text. A receive that moves to another place for every micro-batch moves within its
// segment; one that moves into another slot becomes a segment of its own, and the segment that it falls into is cut in two.
#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <unordered_map>

#include "compiler/program/lower.h"
#include "compiler/program/walk.h"
#include "compiler/program/wiring.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

// A place in what a rank runs: before this instruction of this slot.
struct Place {
  int32_t slot = 0, instruction = 0;
  auto operator<=>(const Place&) const = default;
};
struct Move {
  Place from, to;
  bool operator==(const Move&) const = default;
};
using Moves = std::vector<Move>;  // of receives; those to one place in the order in which they stand there

// Runs communications alone, and notes the receives that have to move.
class Rehearsal {
 public:
  Rehearsal(const Programs& programs, const Wiring& wiring) : programs_(programs), wiring_(wiring), ranks_(programs.ranks.size()) {
    for (size_t r = 0; r < ranks_.size(); ++r)
      if (wiring.representative[r] == static_cast<int32_t>(r)) list_events(static_cast<int32_t>(r));
  }

  // By rank; of the representatives. False where no order helps: then the programs are wrong, and the checkers will say so.
  bool run(std::vector<Moves>& moves) {
    for (size_t r = 0; r < ranks_.size(); ++r)
      if (!ranks_[r].events.empty()) ready_.push_back(static_cast<int32_t>(r));
    do {
      while (!ready_.empty()) {
        const std::vector<int32_t> wave = std::exchange(ready_, {});
        for (const int32_t rank : wave) advance(rank);
      }
    } while (help());
    for (Rank& rank : ranks_) {
      if (rank.next < rank.events.size()) return false;
      moves.push_back(moves_of(rank));
    }
    return true;
  }

 private:
  struct Event {
    Step step;
    Place place;
    int64_t at = 0;        // how many instructions the rank runs before it
    uint64_t channel = 0;  // and direction of a message; the group of a collective
    uint64_t tag = 0;
    bool is_posted = false, is_over = false;
    bool is_moved = false;   // here from another place
    bool is_behind = false;  // stands at the group's end
  };
  struct Rank {
    std::vector<Event> events;
    size_t next = 0;                              // the first that is not over, and where its group begins
    std::vector<size_t> group;                    // posted, unless it stands at a collective
    size_t waits_for = 0;                         // of the group
    Place end;                                    // behind the group; before a collective
    std::vector<std::pair<size_t, Place>> moved;  // events, and where they move to, in the order in which they are through
  };
  struct End {
    int32_t rank = 0;
    size_t event = 0;
  };

  void list_events(int32_t rank) {
    const RankProgram& program = programs_.ranks[static_cast<size_t>(rank)];
    const Body& body = this->body(rank);
    int64_t at = 0;
    for (size_t s = 0; s < body.schedule.size(); ++s) {
      const ProgramSlot& slot = body.schedule[s];
      const auto& instructions = body.segments[static_cast<size_t>(slot.segment)].instructions;
      for (size_t i = 0; i < instructions.size(); ++i, ++at) {
        const auto* communication = std::get_if<Communication>(&instructions[i].expression);
        if (!communication) continue;
        Event event;
        event.step = {rank, static_cast<int32_t>(s), slot.segment, static_cast<int32_t>(i), slot.micro_batch, &instructions[i]};
        event.place = {static_cast<int32_t>(s), static_cast<int32_t>(i)};
        event.at = at;
        event.tag = static_cast<uint64_t>(communication->transfer) << 32 | static_cast<uint32_t>(communication->micro_batch_of(slot.micro_batch));
        if (communication->peer < 0) {
          event.channel = static_cast<uint64_t>(wiring_.group[static_cast<size_t>(rank)][static_cast<size_t>(communication->group)]);
        } else {
          const auto channel = static_cast<uint64_t>(wiring_.channel[static_cast<size_t>(rank)][static_cast<size_t>(communication->peer)]);
          const bool sends = instructions[i].opcode == Opcode::send;
          const int32_t sender = sends ? rank : program.constants.peers[static_cast<size_t>(communication->peer)];
          event.channel = channel << 32 | static_cast<uint32_t>(wiring_.representative[static_cast<size_t>(sender)]);
          if (!sends) receive_of_.try_emplace({event.channel, event.tag}, End{rank, ranks_[static_cast<size_t>(rank)].events.size()});
        }
        ranks_[static_cast<size_t>(rank)].events.push_back(event);
      }
    }
  }

  const Body& body(int32_t r) const { return programs_.bodies[static_cast<size_t>(programs_.ranks[static_cast<size_t>(r)].body)]; }
  Rank& rank(int32_t r) { return ranks_[static_cast<size_t>(r)]; }
  Event& event(End end) { return rank(end.rank).events[end.event]; }
  static bool sends(const Event& event) { return event.step.what->opcode == Opcode::send; }
  static bool receives(const Event& event) { return event.step.what->opcode == Opcode::receive; }

  // To the next call that waits for somebody.
  void advance(int32_t r) {
    Rank& self = rank(r);
    while (self.next < self.events.size() && self.events[self.next].is_over) ++self.next;
    if (self.next == self.events.size()) return;
    self.group.clear();
    const Event& first = self.events[self.next];
    self.end = first.place;
    if (!sends(first) && !receives(first)) return arrive(r);
    std::vector<Step> steps;
    int64_t at = first.at;  // where the group's next member would stand; what has moved away leaves no gap
    for (size_t e = self.next; e < self.events.size() && self.events[e].at == at; ++e, ++at) {
      Event& each = self.events[e];
      if (each.is_over) continue;
      if (!joins(body(r), steps, each.step)) break;
      steps.push_back(each.step);
      self.group.push_back(e);
      each.is_posted = true;
      self.end = {each.place.slot, each.place.instruction + 1};
    }
    self.waits_for = self.group.size();
    for (const size_t e : self.group) {
      const Event& each = self.events[e];
      if (sends(each)) sent_[each.channel].push_back({r, e});
    }
    for (const size_t e : std::vector<size_t>(self.group)) pass(self.events[e].channel);
  }

  void arrive(int32_t r) {
    const Event& mine = rank(r).events[rank(r).next];
    std::vector<int32_t>& arrived = calls_[{mine.channel, mine.tag}];
    arrived.push_back(r);
    if (arrived.size() < wiring_.members[static_cast<size_t>(mine.channel)].size()) return;
    for (const int32_t member : std::exchange(arrived, {})) {
      rank(member).events[rank(member).next].is_over = true;
      ready_.push_back(member);
    }
  }

  // Messages of a channel whose next receive is posted.
  void pass(uint64_t channel) {
    std::deque<End>& sent = sent_[channel];
    while (!sent.empty()) {
      const auto receive = receive_of_.find({channel, event(sent.front()).tag});
      if (receive == receive_of_.end() || !event(receive->second).is_posted) return;
      keep_order(receive->second);
      for (const End end : {sent.front(), receive->second}) {
        event(end).is_over = true;
        if (!event(end).is_moved && --rank(end.rank).waits_for == 0) ready_.push_back(end.rank);
      }
      sent.pop_front();
    }
  }

  // Of one group and channel, too, receives stand in the order of the sends: one that others overtake moves to the group's end when it is through.
  void keep_order(End end) {
    Rank& self = rank(end.rank);
    Event& through = event(end);
    if (through.is_behind) self.moved.emplace_back(end.event, self.end);
    for (const size_t e : self.group) {
      Event& other = self.events[e];
      const bool is_overtaken = other.channel == through.channel && !other.is_over && &other != &through && (through.is_behind || e < end.event);
      if (receives(other) && is_overtaken) other.is_behind = true;
    }
  }

  // Everybody waits: the sends that have waited longest, by their slots, are received where their receivers stand.
  bool help() {
    int32_t longest = INT32_MAX;
    std::vector<End> waiting;
    for (const auto& [channel, sent] : sent_) {
      if (sent.empty() || !receive_of_.contains({channel, event(sent.front()).tag})) continue;
      const int32_t since = event(sent.front()).place.slot;
      if (since < longest) waiting.clear();
      longest = std::min(longest, since);
      if (since == longest) waiting.push_back(receive_of_.find({channel, event(sent.front()).tag})->second);
    }
    std::sort(waiting.begin(), waiting.end(), [](End a, End b) { return std::pair(a.rank, a.event) < std::pair(b.rank, b.event); });
    for (const End end : waiting) {
      Event& moved = event(end);
      moved.is_posted = moved.is_moved = moved.is_behind = true;
      pass(moved.channel);
    }
    return !waiting.empty();
  }

  // What moves to one place stands there in the order in which it stood before, but for messages of one channel, which stand as they are sent.
  static Moves moves_of(const Rank& rank) {
    std::map<Place, std::map<uint64_t, std::vector<size_t>>> sent;  // by place and channel: events as they are sent
    for (const auto& [e, to] : rank.moved) sent[to][rank.events[e].channel].push_back(e);
    Moves moves;
    for (const auto& [to, channels] : sent) {
      std::map<size_t, size_t> stands;  // in whose place an event stands
      for (const auto& [channel, events] : channels) {
        std::vector<size_t> places = events;
        llvm::sort(places);
        for (size_t i = 0; i < events.size(); ++i) stands[places[i]] = events[i];
      }
      for (const auto& [place, e] : stands) moves.push_back({rank.events[e].place, to});
    }
    return moves;
  }

  const Programs& programs_;
  const Wiring& wiring_;
  std::vector<Rank> ranks_;
  std::vector<int32_t> ready_;
  std::map<uint64_t, std::deque<End>> sent_;                                   // by channel: posted and not through
  llvm::DenseMap<std::pair<uint64_t, uint64_t>, End> receive_of_;              // by channel and tag
  llvm::DenseMap<std::pair<uint64_t, uint64_t>, std::vector<int32_t>> calls_;  // by group and tag: who has arrived
};

// A body with its receives moved.
class Rearrangement {
 public:
  Rearrangement(const Body& body, const Moves& moves) : body_(body), moves_(moves) {}

  Body run() {
    sort_moves();
    Body result = body_;
    result.segments.clear();
    result.schedule.clear();
    for (size_t s = 0; s < body_.segments.size(); ++s) cut_segment(static_cast<int32_t>(s), result);
    for (size_t t = 0; t < body_.schedule.size(); ++t) {
      const ProgramSlot& slot = body_.schedule[t];
      for (const auto& [begin, part] : parts_[static_cast<size_t>(slot.segment)]) {
        for (const Arrival& each : there_[{static_cast<int32_t>(t), begin}])
          result.schedule.push_back({receives_.at({each.receive, each.continues_group}), each.micro_batch});
        if (part >= 0) result.schedule.push_back({part, slot.micro_batch});
      }
    }
    return result;
  }

 private:
  using Instructions = std::pair<int32_t, int32_t>;  // (segment, instruction)
  // A receive that has left its segment, in one slot.
  struct Arrival {
    Instructions receive;
    int32_t micro_batch = 0;
    bool continues_group = true;  // the group call of what stands before it
  };

  int32_t segment_of(const Place& place) const { return body_.schedule[static_cast<size_t>(place.slot)].segment; }

  static constexpr size_t index(int32_t segment) { return static_cast<size_t>(segment); }

  // Where all receives that leave their segment are to be, in every slot, and which move within theirs.
  void sort_moves() {
    std::vector<std::vector<int32_t>> slots(body_.segments.size());
    for (size_t t = 0; t < body_.schedule.size(); ++t) slots[index(body_.schedule[t].segment)].push_back(static_cast<int32_t>(t));
    for (const Move& move : moves_) targets_[{segment_of(move.from), move.from.instruction}][move.from.slot] = move.to;
    find_leaving(slots);
    for (const Move& move : moves_) {
      const Instructions receive{segment_of(move.from), move.from.instruction};
      if (leaves_.contains(receive)) {
        place(receive, move.from.slot, move.to, true);
      } else {
        std::vector<int32_t>& before = within_[{receive.first, move.to.instruction}];
        if (!llvm::is_contained(before, receive.second)) before.push_back(receive.second);
        stays_.insert(receive);
      }
    }
    for (const Instructions& receive : leaves_)
      for (const int32_t t : slots[index(receive.first)])
        if (!moves_in(receive, t)) {
          const Place there{t, place_in(receive, t)};
          place(receive, t, there, follows_in(receive, t) || !is_behind_message(there));
        }
  }

  // Receives that do not move to the same place of their segment in all of its slots, and those that have to go with them.
  void find_leaving(const std::vector<std::vector<int32_t>>& slots) {
    for (const auto& [receive, by_slot] : targets_) {
      const bool stays = by_slot.size() == slots[index(receive.first)].size() && llvm::all_of(by_slot, [&](const auto& each) {
                           return each.second.slot == each.first && each.second.instruction == by_slot.begin()->second.instruction;
                         });
      if (!stays) leaves_.insert(receive);
    }
    for (size_t left = 0; left != leaves_.size();) {
      left = leaves_.size();
      // What moves to one place keeps its order there: all of it leaves, or all of it stays.
      std::set<Instructions> filled;
      for (const Move& move : moves_)
        if (leaves_.contains({segment_of(move.from), move.from.instruction})) filled.insert({segment_of(move.to), move.to.instruction});
      for (const Move& move : moves_)
        if (filled.contains({segment_of(move.to), move.to.instruction})) leaves_.insert({segment_of(move.from), move.from.instruction});
      // Where one that leaves does not move, the group call goes on with those behind it, and with those that move to its end: they leave with it, for a
      // part that a cut begins begins a call.
      for (const Instructions& receive : std::set<Instructions>(leaves_)) {
        if (targets_[receive].size() == slots[index(receive.first)].size()) continue;
        int32_t end = receive.second + 1;
        for (; is_receive(receive.first, end); ++end) leaves_.insert({receive.first, end});
        for (const Move& move : moves_)
          if (segment_of(move.to) == receive.first && move.to.instruction == end) leaves_.insert({segment_of(move.from), move.from.instruction});
      }
    }
  }

  const std::vector<Instruction>& instructions(int32_t segment) const { return body_.segments[static_cast<size_t>(segment)].instructions; }
  static bool is_message(const Instruction& i) { return i.opcode == Opcode::send || i.opcode == Opcode::receive; }
  bool is_receive(int32_t segment, int32_t at) const {
    const auto& list = instructions(segment);
    return at < static_cast<int32_t>(list.size()) && list[static_cast<size_t>(at)].opcode == Opcode::receive;
  }
  bool moves_in(const Instructions& receive, int32_t slot) const {
    const auto it = targets_.find(receive);
    return it != targets_.end() && it->second.contains(slot);
  }
  // Does a message of the same group call stand before it in this slot?
  bool follows_in(const Instructions& receive, int32_t slot) const {
    for (int32_t at = receive.second; at-- > 0 && is_message(instructions(receive.first)[static_cast<size_t>(at)]);)
      if (!moves_in({receive.first, at}, slot)) return true;
    return false;
  }

  // May a message stand right before a place? If none does, a receive there begins a call in any case.
  bool is_behind_message(Place place) const {
    if (there_.contains(place)) return true;
    while (place.instruction == 0) {
      if (place.slot-- == 0) return false;
      place.instruction = static_cast<int32_t>(instructions(segment_of(place)).size());
    }
    return is_message(instructions(segment_of(place))[static_cast<size_t>(place.instruction) - 1]);
  }

  // Where a receive that leaves its segment is in a slot in which it does not move: at the slot's begin, as in other slots, if nothing that stays
  // communicates before it, and nothing has come between or to its group call.
  int32_t place_in(const Instructions& receive, int32_t slot) const {
    int32_t end = receive.second;
    while (is_receive(receive.first, end)) ++end;
    for (int32_t at = 0; at < receive.second; ++at)
      if (std::holds_alternative<Communication>(instructions(receive.first)[static_cast<size_t>(at)].expression) &&
          !leaves_.contains({receive.first, at}))
        return receive.second;
    const auto moved_here = there_.upper_bound(Place{slot, 0});
    return moved_here == there_.end() || moved_here->first > Place{slot, end} ? 0 : receive.second;
  }

  void place(const Instructions& receive, int32_t slot, const Place& there, bool continues_group) {
    there_[there].push_back({receive, body_.schedule[static_cast<size_t>(slot)].micro_batch, continues_group});
    cuts_[segment_of(there)].insert(there.instruction);
    receives_.try_emplace({receive, continues_group}, -1);
  }

  // The receives that leave a segment, then the parts into which it is cut.
  void cut_segment(int32_t s, Body& result) {
    const ProgramSegment& segment = body_.segments[static_cast<size_t>(s)];
    const auto add = [&](const std::string& name, std::vector<Instruction> instructions, bool continues_group = false) {
      result.segments.push_back({name, segment.module_segment, std::move(instructions), segment.variant, continues_group});
      return static_cast<int32_t>(result.segments.size()) - 1;
    };
    int count = 0;
    for (size_t i = 0; i < segment.instructions.size(); ++i)
      for (const bool continues_group : {true, false})
        if (const auto it = receives_.find({{s, static_cast<int32_t>(i)}, continues_group}); it != receives_.end())
          it->second = add(segment.name + ".receive" + (count++ ? std::to_string(count) : ""), {segment.instructions[i]}, continues_group);
    std::vector<std::pair<int32_t, int32_t>>& parts = parts_.emplace_back();
    std::set<int32_t> begins = cuts_[s];
    begins.insert(0);
    count = 0;
    for (auto begin = begins.begin(); begin != begins.end(); ++begin) {
      const int32_t end = std::next(begin) == begins.end() ? static_cast<int32_t>(segment.instructions.size()) : *std::next(begin);
      std::vector<Instruction> part;
      for (int32_t i = *begin; i < end; ++i) {
        for (const int32_t moved : within_[{s, i}]) part.push_back(segment.instructions[static_cast<size_t>(moved)]);
        if (!leaves_.contains({s, i}) && !stays_.contains({s, i})) part.push_back(segment.instructions[static_cast<size_t>(i)]);
      }
      if (std::next(begin) == begins.end())
        for (const int32_t moved : within_[{s, end}]) part.push_back(segment.instructions[static_cast<size_t>(moved)]);
      const bool is_needed = !part.empty() || begins.size() == 1;
      parts.emplace_back(*begin, is_needed ? add(segment.name + (count ? "." + std::to_string(count) : ""), std::move(part)) : -1);
      count += is_needed;
    }
  }

  const Body& body_;
  const Moves& moves_;
  std::set<Instructions> leaves_, stays_;                        // receives that move out of their segment, or within it
  std::map<Instructions, std::vector<int32_t>> within_;          // before an instruction: those that move there from behind it
  std::map<Instructions, std::map<int32_t, Place>> targets_;     // of receives, by slot: where they move
  std::map<Place, std::vector<Arrival>> there_;                  // at a place: receives that have left their segments
  std::map<int32_t, std::set<int32_t>> cuts_;                    // by segment
  std::map<std::pair<Instructions, bool>, int32_t> receives_;    // new segments of those that leave, as they continue a group or begin one
  std::vector<std::vector<std::pair<int32_t, int32_t>>> parts_;  // by segment: where a part begins, and its new segment (-1: empty)
};

// Among neighbours sends come first, then receives: one group call. A send that passes on what has just come begins another.
void group_neighbours(Body& body) {
  for (ProgramSegment& segment : body.segments) {
    auto& list = segment.instructions;
    for (auto begin = list.begin(); begin != list.end();) {
      std::set<BufferId> received;
      const auto end = std::find_if(begin, list.end(), [&](const Instruction& i) {
        if (i.opcode == Opcode::receive) return received.insert(i.outs[0].buffer), false;
        return i.opcode != Opcode::send || received.contains(i.ins[0].buffer);
      });
      std::stable_partition(begin, end, [](const Instruction& i) { return i.opcode == Opcode::send; });
      begin = begin == end ? std::next(end) : end;
    }
  }
}

}  // namespace

void order_transfers(Programs& programs) {
  for (Body& body : programs.bodies) group_neighbours(body);
  const std::optional<Wiring> classes = folded(programs);
  const Wiring wiring = classes ? *classes : wiring_of(programs);
  std::vector<Moves> moves;
  if (!Rehearsal(programs, wiring).run(moves)) return;
  // Ranks that share a body move the same receives, mostly; where they don't, each way is a body.
  std::vector<Body> bodies;
  std::vector<std::vector<std::pair<Moves, int32_t>>> made(programs.bodies.size());
  for (RankProgram& rank : programs.ranks) {
    const Moves& mine = moves[static_cast<size_t>(wiring.representative[static_cast<size_t>(rank.rank)])];
    auto& ways = made[static_cast<size_t>(rank.body)];
    auto way = llvm::find_if(ways, [&](const auto& each) { return each.first == mine; });
    if (way == ways.end()) {
      ways.emplace_back(mine, static_cast<int32_t>(bodies.size()));
      way = ways.end() - 1;
      const Body& body = programs.bodies[static_cast<size_t>(rank.body)];
      bodies.push_back(mine.empty() ? body : Rearrangement(body, mine).run());
    }
    rank.body = way->second;
  }
  programs.bodies = std::move(bodies);
}

}  // namespace sscc
