// Programs under damage, and the small changes of which the kinds of damage are made (damage.cpp).
#pragma once

#include <functional>
#include <optional>
#include <set>

#include "compiler/program/traffic.h"
#include "test/equivalence/random_model.h"

namespace sscc::equivalence {

inline std::function<bool(const Instruction&)> is_opcode(Opcode opcode) {
  return [=](const Instruction& i) { return i.opcode == opcode; };
}

// An instruction of a rank.
struct Site {
  size_t rank = 0, segment = 0, instruction = 0;
};

// The instructions of a segment. Waits name instructions by their place: they go with them.
class Instructions {
 public:
  Instructions(Body& body, size_t segment) : body_(body), segment_(segment) {}

  size_t size() const { return list().size(); }
  Instruction& operator[](size_t at) const { return list()[at]; }
  void push_back(Instruction instruction) const { list().push_back(std::move(instruction)); }

  void erase(size_t at) const {
    std::vector<int32_t> place = places();
    for (size_t i = at; i < place.size(); ++i) --place[i];
    place[at] = -1;
    list().erase(list().begin() + static_cast<std::ptrdiff_t>(at));
    relocate(place);
  }
  void insert(size_t at, Instruction instruction) const {
    std::vector<int32_t> place = places();
    for (size_t i = at; i < place.size(); ++i) ++place[i];
    list().insert(list().begin() + static_cast<std::ptrdiff_t>(at), std::move(instruction));
    relocate(place, at);
  }
  // What waits for it, and what it waits for, goes along.
  void move(size_t from, size_t to) const {
    std::vector<int32_t> place = places();
    for (size_t i = 0; i < place.size(); ++i) {
      const size_t without = i - (i > from);
      place[i] = static_cast<int32_t>(i == from ? to : without + (without >= to));
    }
    Instruction moved = std::move(list()[from]);
    list().erase(list().begin() + static_cast<std::ptrdiff_t>(from));
    list().insert(list().begin() + static_cast<std::ptrdiff_t>(to), std::move(moved));
    relocate(place);
    for (size_t i = 0; i < size(); ++i) llvm::erase_if(list()[i].waits, [&](int32_t other) { return other >= static_cast<int32_t>(i); });
  }

 private:
  std::vector<Instruction>& list() const { return body_.segments[segment_].instructions; }
  std::vector<int32_t> places() const {
    std::vector<int32_t> place(size());
    for (size_t i = 0; i < place.size(); ++i) place[i] = static_cast<int32_t>(i);
    return place;
  }

  // `place`: of every instruction that was there, where it is now; -1: it is gone. `fresh`: one that knows where the others are.
  void relocate(const std::vector<int32_t>& place, size_t fresh = SIZE_MAX) const {
    const auto place_of = [&](int32_t other) { return place[static_cast<size_t>(other)]; };
    for (size_t s = 0; s < body_.segments.size(); ++s)
      for (size_t at = 0; at < body_.segments[s].instructions.size(); ++at) {
        Instruction& i = body_.segments[s].instructions[at];
        if (s == segment_ && at != fresh) {
          llvm::erase_if(i.waits, [&](int32_t other) { return place_of(other) < 0; });
          for (int32_t& other : i.waits) other = place_of(other);
        }
        llvm::erase_if(i.waits_before, [&](const EarlierRun& run) { return is_here(run) && place_of(run.instruction) < 0; });
        for (EarlierRun& run : i.waits_before)
          if (is_here(run)) run.instruction = place_of(run.instruction);
      }
  }
  bool is_here(const EarlierRun& run) const { return static_cast<size_t>(run.segment) == segment_; }

  Body& body_;
  size_t segment_;
};

// Programs under damage. A rank that is changed gets a body of its own.
class Patient {
 public:
  Patient(Programs& programs, Random& random) : programs(programs), random_(random) {}

  Programs& programs;

  size_t below(size_t n) { return static_cast<size_t>(equivalence::below(random_, static_cast<int64_t>(n))); }
  const Body& body(size_t rank) const { return programs.bodies[static_cast<size_t>(programs.ranks[rank].body)]; }
  Body& own(size_t rank) {
    programs.bodies.push_back(Body(body(rank)));
    programs.ranks[rank].body = static_cast<int32_t>(programs.bodies.size()) - 1;
    return programs.bodies.back();
  }
  Instructions own_list(const Site& site) { return {own(site.rank), site.segment}; }
  Instruction& own_at(const Site& site) { return own_list(site)[site.instruction]; }
  const Instruction& at(const Site& site) const { return body(site.rank).segments[site.segment].instructions[site.instruction]; }

  // Another buffer of a rank that is as long, at random; invalid: there is none.
  BufferId as_long_as(size_t rank, BufferId buffer) {
    std::vector<BufferId> others;
    for (int64_t b = 0; b < body(rank).buffers.size(); ++b)
      if (BufferId(b) != buffer && body(rank).buffers[BufferId(b)].elements == body(rank).buffers[buffer].elements) others.push_back(BufferId(b));
    return others.empty() ? BufferId() : others[below(others.size())];
  }

  // A random instruction that fits, of a segment that runs.
  std::optional<Site> find(const std::function<bool(const Instruction&)>& fits) {
    return find([&](const Body&, const Instruction& i) { return fits(i); });
  }
  std::optional<Site> find(const std::function<bool(const Body&, const Instruction&)>& fits) {
    std::vector<Site> all;
    for (size_t r = 0; r < programs.ranks.size(); ++r) {
      std::set<int32_t> runs;
      for (const ProgramSlot& slot : body(r).schedule) runs.insert(slot.segment);
      for (const int32_t s : runs)
        for (size_t i = 0; i < body(r).segments[static_cast<size_t>(s)].instructions.size(); ++i)
          if (fits(body(r), body(r).segments[static_cast<size_t>(s)].instructions[i])) all.push_back({r, static_cast<size_t>(s), i});
    }
    if (all.empty()) return std::nullopt;
    return all[below(all.size())];
  }
  std::optional<Site> find(Opcode opcode) { return find(is_opcode(opcode)); }

 private:
  Random& random_;
};

inline bool is_collective(const Instruction& i) {
  return i.opcode == Opcode::all_reduce || i.opcode == Opcode::all_gather || i.opcode == Opcode::reduce_scatter || i.opcode == Opcode::all_to_all;
}
inline bool is_kernel(const Instruction& i) { return i.op.valid() && i.opcode != Opcode::capture; }

template <class Expression>
std::function<bool(const Instruction&)> has() {
  return [](const Instruction& i) { return std::holds_alternative<Expression>(i.expression); };
}

inline bool drop(Patient& p, const std::optional<Site>& site) {
  if (!site) return false;
  p.own_list(*site).erase(site->instruction);
  return true;
}
inline bool repeat(Patient& p, const std::optional<Site>& site) {
  if (!site) return false;
  const Instructions list = p.own_list(*site);
  list.insert(site->instruction, Instruction(list[site->instruction]));
  return true;
}
template <class Change>
bool change(Patient& p, const std::optional<Site>& site, const Change& change) {
  if (!site) return false;
  change(p.own_at(*site));
  return true;
}
// The same instruction of all ranks that have it: a change that agrees with itself.
template <class Change>
bool change_everywhere(Patient& p, const std::optional<Site>& site, const Change& change) {
  if (!site) return false;
  const Instruction sample = p.at(*site);
  const int32_t transfer = std::get<Communication>(sample.expression).transfer;
  for (size_t r = 0; r < p.programs.ranks.size(); ++r) {
    Body& body = p.own(r);
    for (size_t s = 0; s < body.segments.size(); ++s) {
      const Instructions list(body, s);
      for (size_t i = 0; i < list.size(); ++i) {
        const auto* communication = std::get_if<Communication>(&list[i].expression);
        if (communication && communication->transfer == transfer && list[i].opcode == sample.opcode) i += change(list, i);
      }
    }
  }
  return true;
}

// A rank's next communication after this one that fits together with it.
inline std::optional<size_t> next(Patient& p, const Site& site, const std::function<bool(const Instruction&)>& fits) {
  const auto& list = p.body(site.rank).segments[site.segment].instructions;
  for (size_t i = site.instruction + 1; i < list.size(); ++i)
    if (fits(list[i])) return i;
  return std::nullopt;
}
// It comes after the next one.
inline bool cross(Patient& p, const std::optional<Site>& site, const std::function<bool(const Instruction&)>& fits) {
  const std::optional<size_t> other = site ? next(p, *site, fits) : std::nullopt;
  if (other) p.own_list(*site).move(site->instruction, *other);
  return other.has_value();
}
// The same with the same peer.
inline std::function<bool(const Instruction&)> like(const Patient& p, const std::optional<Site>& site) {
  if (!site) return {};
  const auto peer = [peers = p.programs.ranks[site->rank].constants.peers](const Instruction& i) {
    return peers[static_cast<size_t>(std::get<Communication>(i.expression).peer)];
  };
  return [peer, first = p.at(*site)](const Instruction& i) { return i.opcode == first.opcode && peer(i) == peer(first); };
}

// May a view begin one element later and stay in its buffer?
inline bool can_shift(const Body& body, const View& view) {
  int64_t last = view.offset;
  for (size_t d = 0; d < view.dims.size(); ++d) last += (view.dims[d] - 1) * view.strides[d];
  return last + 1 < body.buffers[view.buffer].elements;
}
// What an instruction that fits reads first, or writes first, begins one element later.
inline bool shift(Patient& p, const std::function<bool(const Instruction&)>& fits, bool reads) {
  const auto site = p.find([&](const Body& body, const Instruction& i) {
    return fits(i) && !(reads ? i.ins.empty() : i.outs.empty()) && can_shift(body, reads ? i.ins[0] : i.outs[0]);
  });
  if (!site) return false;
  Instruction& i = p.own_at(*site);
  (reads ? i.ins[0] : i.outs[0]).offset += 1;
  return true;
}

// What an instruction that fits writes goes to another buffer of the same length.
inline bool write_elsewhere(Patient& p, const std::function<bool(const Instruction&)>& fits) {
  const auto site = p.find(fits);
  const BufferId other = site ? p.as_long_as(site->rank, p.at(*site).outs[0].buffer) : BufferId();
  return other.valid() && change(p, site, [&](Instruction& i) { i.outs[0].buffer = other; });
}

// An instruction that fits runs before the one that wrote last what it reads.
inline bool run_early(Patient& p, const std::function<bool(const Instruction&)>& fits) {
  const auto site = p.find([&](const Instruction& i) { return fits(i) && !i.ins.empty(); });
  if (!site) return false;
  const auto& list = p.body(site->rank).segments[site->segment].instructions;
  const size_t operand = p.at(*site).opcode == Opcode::update;  // its gradient
  for (size_t i = site->instruction; i-- > 0;)
    for (const View& written : list[i].outs)
      if (written.buffer == p.at(*site).ins[operand].buffer) return p.own_list(*site).move(site->instruction, i), true;
  return false;
}

// An end of a signal moves to where it says less: a send to the beginning of its segment, a receive to the end.
inline bool move_to_end(Patient& p, const std::optional<Site>& site, Opcode opcode) {
  if (!site || p.at(*site).opcode != opcode) return false;
  const Instructions list = p.own_list(*site);
  list.move(site->instruction, opcode == Opcode::send ? 0 : list.size() - 1);
  return true;
}

// Every member of a call makes another call.
inline bool call_otherwise(Patient& p, Opcode right, Opcode wrong) {
  return change_everywhere(p, p.find(right), [&](const Instructions& list, size_t i) {
    list[i].opcode = wrong;
    list[i].ins.resize(1, list[i].outs[0]);
    return 0;
  });
}

// A loaded buffer of a rank is loaded from one element further in its first dimension.
inline bool load_elsewhere(Patient& p, Buffer::Source source) {
  const size_t rank = p.below(p.programs.ranks.size());
  for (const Buffer& buffer : p.body(rank).buffers) {
    if (buffer.source != source || buffer.regions < 0) continue;
    Region& region = p.programs.ranks[rank].constants.regions[static_cast<size_t>(buffer.regions)];
    if (region.rank() == 0) continue;
    region.set_dim(0, Intervals(region.dim(0).begin_position() + 1, region.dim(0).end_position() + 1));
    return true;
  }
  return false;
}

// The segment that runs once at the end (gradients are joined, parameters updated) runs at `place` of the schedule, on all ranks.
inline bool end_at(Patient& p, const std::function<size_t(size_t last)>& place) {
  bool moved = false;
  for (size_t rank = 0; rank < p.programs.ranks.size(); ++rank) {
    auto& schedule = p.own(rank).schedule;
    const size_t last = schedule.size() - 1, to = place(last);
    if (to >= last) continue;
    std::rotate(schedule.begin() + static_cast<std::ptrdiff_t>(to), schedule.begin() + static_cast<std::ptrdiff_t>(last), schedule.end());
    moved = true;
  }
  return moved;
}

}  // namespace sscc::equivalence
