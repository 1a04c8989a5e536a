// Timetables. A schedule is a closed form: the list of (segment, micro-batch) of each device. With S stages and n micro-batches, stage s:
//   (none)  F0 B0 F1 B1 ...              each device runs its stages in order, micro-batch by micro-batch
//   gpipe   F0 .. F(n-1), B0 .. B(n-1)   2(n+S-1) steps, n micro-batches live
//   1f1b    min(S-1-s, n) forwards, then F B alternating, then the backwards that are left; min(S-s, n) live
// An explicit timetable lists the slots of each device; `blocks` say when each (segment, micro-batch) begins, on all of its devices, and which steps
// repeat. Both must name every slot once.
#include "compiler/passes/timetable.h"

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "compiler/support/strings.h"

namespace sscc {
namespace {

using Key = std::pair<int, int>;  // (segment, micro-batch)

// What every function below asks of the module's segments.
class Segments {
 public:
  explicit Segments(const Module& module) : module_(module), runs_(static_cast<size_t>(module.devices())) {
    stages_ = (static_cast<int>(module.segments.size()) - 2) / (2 * variants());
    for (size_t s = 0; s < module.segments.size(); ++s)
      for (OpId id : module.segments[s].ops)
        for (const Piece& piece : module.ops[id].pieces) runs_[static_cast<size_t>(piece.device)].insert(static_cast<int>(s));
  }

  int stages() const { return stages_; }
  int micro_batches() const { return static_cast<int>(module_.cut.count); }
  int devices() const { return static_cast<int>(runs_.size()); }
  int forward_of(int stage, int micro_batch) const { return 1 + stage * variants() + module_.cut.variant_at(micro_batch); }
  int backward_of(int stage, int micro_batch) const { return forward_of(stages_ + stage, micro_batch); }
  int epilogue() const { return 1 + 2 * stages_ * variants(); }
  bool runs(int device, int segment) const { return runs_[static_cast<size_t>(device)].contains(segment); }
  bool holds(int device, int stage) const {
    bool holds = false;
    for (int v = 0; v < variants(); ++v) holds |= runs(device, 1 + stage * variants() + v);
    return holds;
  }
  std::string name(const Key& key) const { return module_.segments[static_cast<size_t>(key.first)].name() + std::to_string(key.second); }

 private:
  int variants() const { return static_cast<int>(module_.cut.variants); }

  const Module& module_;
  int stages_ = 1;
  std::vector<std::set<int>> runs_;  // of each device
};

// -- schedules ------------------------------------------------------------------------------------------------------------------------------------

// Forward of micro-batch m in stage s at step m + s, backward at (n + S - 1) + m + (S - 1 - s).
template <class Add>
void gpipe(const Segments& segments, const Add& add) {
  const int n = segments.micro_batches(), stages = segments.stages();
  for (int step = 0; step < n + stages - 1; ++step)
    for (int s = 0; s < stages; ++s)
      if (step - s >= 0 && step - s < n) add(segments.forward_of(s, step - s), step - s);
  for (int step = 0; step < n + stages - 1; ++step)
    for (int s = stages; s-- > 0;)
      if (const int m = step - (stages - 1 - s); m >= 0 && m < n) add(segments.backward_of(s, m), m);
}

template <class Add>
void one_forward_one_backward(const Segments& segments, int device, const Add& add) {
  const int n = segments.micro_batches(), stages = segments.stages();
  int stage = 0;
  while (stage < stages - 1 && !segments.holds(device, stage)) ++stage;
  const int warm_up = std::min(stages - 1 - stage, n);
  const auto forward = [&](int m) { add(segments.forward_of(stage, m), m); };
  const auto backward = [&](int m) { add(segments.backward_of(stage, m), m); };
  for (int m = 0; m < warm_up; ++m) forward(m);
  for (int m = warm_up; m < n; ++m) {
    forward(m);
    backward(m - warm_up);
  }
  for (int m = n - warm_up; m < n; ++m) backward(m);
}

template <class Add>
void one_after_another(const Segments& segments, const Add& add) {
  for (int m = 0; m < segments.micro_batches(); ++m) {
    for (int s = 0; s < segments.stages(); ++s) add(segments.forward_of(s, m), m);
    for (int s = segments.stages(); s-- > 0;) add(segments.backward_of(s, m), m);
  }
}

// Returns false, and says why, where the schedule does not fit the stages.
bool fits(const Segments& segments, const Order& order, Diagnostics& diagnostics) {
  if (order.schedule != "1f1b") return true;
  for (int d = 0; d < segments.devices(); ++d) {
    int held = 0;
    for (int s = 0; s < segments.stages(); ++s) held += segments.holds(d, s);
    if (held <= 1) continue;
    diagnostics.error(Code::schedule_does_not_fit, order.where,
                      "schedule '1f1b' runs one stage a device, and rank " + std::to_string(d) + " has " + std::to_string(held),
                      "use 'gpipe', or give each device one stage");
    return false;
  }
  return true;
}

// -- as the plan lists it ---------------------------------------------------------------------------------------------------------------------------

// Steps [a, b) repeat until all micro-batches are there: each time with micro-batch numbers higher by as many as begin in them; what follows is shifted
// by as much. Nothing, and a report, where that does not come out.
std::optional<std::vector<BlockAtStep>> unrolled(const Order& order, int64_t micro_batches, Diagnostics& diagnostics) {
  if (!order.repetend) return order.blocks;
  const auto [begin, end] = *order.repetend;
  std::map<int64_t, int64_t> first_step;
  for (const BlockAtStep& each : order.blocks) {
    if (each.block.kind == 'U') continue;
    auto [it, fresh] = first_step.try_emplace(each.block.micro_batch, each.step);
    if (!fresh) it->second = std::min(it->second, each.step);
  }
  int64_t in_each = 0;
  for (const auto& [micro_batch, step] : first_step) in_each += begin <= step && step < end;
  const auto listed = static_cast<int64_t>(first_step.size());
  if (in_each == 0 || micro_batches < listed || (micro_batches - listed) % in_each != 0) {
    diagnostics.error(Code::schedule_does_not_fit, order.where,
                      "the blocks hold " + std::to_string(listed) + " micro-batches, of which " + std::to_string(in_each) + " begin in steps [" +
                          std::to_string(begin) + ", " + std::to_string(end) + ") that repeat: they do not make " + std::to_string(micro_batches),
                      in_each == 0
                          ? "let a micro-batch begin in the steps that repeat"
                          : "cut the step into " + std::to_string(listed) + " micro-batches, or that and a multiple of " + std::to_string(in_each));
    return {};
  }
  const int64_t more = (micro_batches - listed) / in_each, period = end - begin;
  std::vector<BlockAtStep> result;
  for (const BlockAtStep& each : order.blocks)
    for (int64_t k = each.step < begin ? 0 : each.step >= end ? more : 0; k <= (each.step < begin ? 0 : more); ++k) {
      BlockAtStep copy = each;
      copy.step += k * period;
      if (copy.block.kind != 'U') copy.block.micro_batch += k * in_each;
      result.push_back(std::move(copy));
    }
  return result;
}

class Listed {
 public:
  Listed(const Module& module, const Segments& segments, const Order& order, Diagnostics& diagnostics)
      : segments_(segments), order_(order), diagnostics_(diagnostics), lists_(static_cast<size_t>(module.devices())) {}

  // One list a device, without prologue and epilogue.
  std::vector<std::vector<Slot>> read() {
    if (!order_.timetable.empty())
      read_timetable();
    else
      read_blocks();
    if (!diagnostics_.has_errors()) find_missing();
    return std::move(lists_);
  }

 private:
  void read_timetable() {
    if (order_.timetable.size() != lists_.size()) {
      diagnostics_.error(Code::schedule_does_not_fit, order_.where,
                         "the timetable has " + std::to_string(order_.timetable.size()) + " lists for " + std::to_string(lists_.size()) + " devices");
      return;
    }
    for (size_t d = 0; d < lists_.size(); ++d)
      for (const Block& block : order_.timetable[d])
        if (const auto key = key_of(block)) {
          if (!segments_.runs(static_cast<int>(d), key->first)) {
            diagnostics_.error(Code::schedule_does_not_fit, block.where,
                               "rank " + std::to_string(d) + " has nothing of " + segments_.name(*key) + " to run");
            continue;
          }
          add(d, *key, block.where);
        } else if (block.kind == 'U') {
          updated_.insert(static_cast<int32_t>(d));
        }
  }

  void read_blocks() {
    auto blocks = unrolled(order_, segments_.micro_batches(), diagnostics_);
    if (!blocks) return;
    std::stable_sort(blocks->begin(), blocks->end(), [](const BlockAtStep& a, const BlockAtStep& b) { return a.step < b.step; });
    struct Busy {
      int64_t until = 0;
      Key with;
    };
    std::vector<Busy> busy(lists_.size());
    for (const BlockAtStep& each : *blocks) {
      const auto key = key_of(each.block);
      if (!key) continue;
      bool runs = false;
      for (size_t d = 0; d < lists_.size(); ++d) {
        if (!segments_.runs(static_cast<int>(d), key->first)) continue;
        runs = true;
        if (each.step < busy[d].until) {
          diagnostics_.error(Code::schedule_does_not_fit, each.block.where,
                             "rank " + std::to_string(d) + " runs " + segments_.name(busy[d].with) + " when " + segments_.name(*key) +
                                 " begins, at step " + std::to_string(each.step));
          return;
        }
        busy[d] = {each.step + each.span, *key};
        add(d, *key, each.block.where);
      }
      if (!runs) diagnostics_.error(Code::schedule_does_not_fit, each.block.where, "no rank has anything of " + segments_.name(*key) + " to run");
    }
  }

  // Nothing for an update (it is at the end anyway) and for what does not exist.
  std::optional<Key> key_of(const Block& block) {
    if (block.stage >= segments_.stages()) {
      diagnostics_.error(Code::schedule_does_not_fit, block.where, "there is no stage " + std::to_string(block.stage),
                         "stages are 0 to " + std::to_string(segments_.stages() - 1));
      return {};
    }
    if (block.kind == 'U') return {};
    if (block.micro_batch >= segments_.micro_batches()) {
      diagnostics_.error(Code::schedule_does_not_fit, block.where, "there is no micro-batch " + std::to_string(block.micro_batch),
                         "the step is cut into " + std::to_string(segments_.micro_batches()));
      return {};
    }
    const int stage = static_cast<int>(block.stage), m = static_cast<int>(block.micro_batch);
    return Key{block.kind == 'F' ? segments_.forward_of(stage, m) : segments_.backward_of(stage, m), m};
  }

  void add(size_t device, const Key& key, const Location& where) {
    if (updated_.contains(static_cast<int32_t>(device))) {
      diagnostics_.error(Code::unsupported, where, "an update before the end of the step is not supported by this version of sscc",
                         "let the updates of a device stand last");
      return;
    }
    if (!seen_.emplace(static_cast<int32_t>(device), key).second) {
      diagnostics_.error(Code::schedule_does_not_fit, where, "rank " + std::to_string(device) + " runs " + segments_.name(key) + " twice");
      return;
    }
    lists_[device].push_back({key.first, key.second});
  }

  void find_missing() {
    for (size_t d = 0; d < lists_.size(); ++d)
      for (int stage = 0; stage < 2 * segments_.stages(); ++stage)  // backwards follow forwards
        for (int m = 0; m < segments_.micro_batches(); ++m) {
          const int segment = segments_.forward_of(stage, m);
          if (!segments_.runs(static_cast<int>(d), segment) || seen_.contains({static_cast<int32_t>(d), {segment, m}})) continue;
          diagnostics_.error(Code::schedule_does_not_fit, order_.where, "rank " + std::to_string(d) + " never runs " + segments_.name({segment, m}));
          return;
        }
  }

  const Segments& segments_;
  const Order& order_;
  Diagnostics& diagnostics_;
  std::vector<std::vector<Slot>> lists_;
  std::set<std::pair<int32_t, Key>> seen_;
  std::set<int32_t> updated_;
};

// -- what needs what --------------------------------------------------------------------------------------------------------------------------------

// Why a segment needs another: an operator of it that reads what the other makes, or the plan's `before`.
struct Need {
  OpId reader;
  const Precedence* before = nullptr;
};

// What each segment needs of others, one reason for each.
std::vector<std::map<int, Need>> segment_needs(const Module& module) {
  std::map<OpId, int> segment_of;
  for (size_t s = 0; s < module.segments.size(); ++s)
    for (OpId id : module.segments[s].ops) segment_of[id] = static_cast<int>(s);
  std::vector<std::map<int, Need>> needs(module.segments.size());
  for (size_t s = 0; s < module.segments.size(); ++s)
    for (OpId id : module.segments[s].ops)
      for (TensorId input : module.ops[id].inputs) {
        if (!input.valid()) continue;
        for (OpId producer : module.tensors[input].producers)
          if (auto it = segment_of.find(producer); it != segment_of.end() && it->second != static_cast<int>(s))
            needs[s].try_emplace(it->second, Need{id});
      }
  const auto segments_of = [&](const std::vector<OpId>& ops) {
    std::set<int> segments;
    for (OpId id : ops) segments.insert(segment_of.at(id));
    return segments;
  };
  for (const Precedence& precedence : module.precedences)
    for (const int later : segments_of(precedence.second))
      for (const int earlier : segments_of(precedence.first))
        if (earlier != later) needs[static_cast<size_t>(later)].try_emplace(earlier, Need{OpId(), &precedence});
  return needs;
}

class Checker {
 public:
  Checker(const Module& module, const Order& order, Diagnostics& diagnostics)
      : module_(module), order_(order), diagnostics_(diagnostics), needs_(segment_needs(module)), next_(module.timetable.size(), 0) {
    std::set<std::vector<Key>> lists;  // devices with one list go in step: the first stands for all
    for (size_t d = 0; d < module.timetable.size(); ++d) {
      std::vector<Key> list;
      for (const Slot& slot : module.timetable[d]) list.push_back(key(slot));
      if (!lists.insert(list).second) {
        next_[d] = static_cast<int>(list.size());
        continue;
      }
      for (size_t i = 0; i < list.size(); ++i) slots_[list[i]].push_back({static_cast<int>(d), static_cast<int>(i)});
    }
  }

  // A device takes its next slot when everything that the slot's operators read, or are to come after, has run, on all devices that run it.
  void run() {
    std::map<Key, size_t> left;
    for (const auto& [slot, places] : slots_) left[slot] = places.size();
    bool moved = true;
    while (moved) {
      moved = false;
      for (size_t d = 0; d < next_.size(); ++d)
        while (next_[d] < static_cast<int>(module_.timetable[d].size())) {
          const Key mine = key(module_.timetable[d][static_cast<size_t>(next_[d])]);
          bool ready = true;
          for (const auto& [needed, need] : needs_[static_cast<size_t>(mine.first)])
            for (const Key& each : slots_needed(needed, mine)) ready &= left[each] == 0;
          if (!ready) break;
          --left[mine];
          ++next_[d];
          moved = true;
        }
    }
    for (size_t d = 0; d < next_.size(); ++d)
      if (next_[d] < static_cast<int>(module_.timetable[d].size())) return report();
  }

 private:
  using Place = std::pair<int, int>;  // (device, index in its list)
  struct Edge {
    Place to;   // what must have run before
    Need need;  // none: it stands before it in the device's list
  };

  static Key key(const Slot& slot) { return {slot.segment, slot.micro_batch}; }
  const Segment& segment(int s) const { return module_.segments[static_cast<size_t>(s)]; }

  std::vector<Key> slots_needed(int needed, const Key& by) const {
    const auto once = [](SegmentKind kind) { return kind == SegmentKind::prologue || kind == SegmentKind::epilogue; };
    if (once(segment(needed).kind)) return {{needed, 0}};
    if (!once(segment(by.first).kind) && segment(needed).variant == segment(by.first).variant) return {{needed, by.second}};
    std::vector<Key> all;
    for (const int64_t m : module_.cut.micro_batches_of(segment(needed).variant)) all.push_back({needed, static_cast<int>(m)});
    return all;
  }

  std::vector<Edge> edges_of(const Place& place) const {
    std::vector<Edge> edges;
    const auto [device, index] = place;
    if (index > next_[static_cast<size_t>(device)]) edges.push_back({{device, index - 1}, {}});
    const Key mine = key(module_.timetable[static_cast<size_t>(device)][static_cast<size_t>(index)]);
    for (const auto& [needed, need] : needs_[static_cast<size_t>(mine.first)])
      for (const Key& each : slots_needed(needed, mine))
        if (const auto it = slots_.find(each); it != slots_.end())
          for (const Place& other : it->second)
            if (other.second >= next_[static_cast<size_t>(other.first)]) edges.push_back({other, need});
    return edges;
  }

  using Circle = std::vector<std::pair<Place, Need>>;  // each with why it needs the next

  // What stands after something that stands after a third stands after the third.
  static void shorten(Circle& circle) {
    const auto only_stands = [](const Need& need) { return !need.before && !need.reader.valid(); };
    for (size_t i = 1; i < circle.size();) {
      if (only_stands(circle[i - 1].second) && only_stands(circle[i].second))
        circle.erase(circle.begin() + static_cast<std::ptrdiff_t>(i));
      else
        ++i;
    }
  }

  // The shortest circle through a slot at which a device is stuck.
  void report() {
    Circle best;
    for (size_t d = 0; d < next_.size(); ++d) {
      if (next_[d] >= static_cast<int>(module_.timetable[d].size())) continue;
      const Place start{static_cast<int>(d), next_[d]};
      std::map<Place, std::pair<Place, Need>> from;
      std::deque<Place> queue = {start};
      while (!queue.empty() && !from.contains(start)) {
        const Place at = queue.front();
        queue.pop_front();
        for (const Edge& edge : edges_of(at))
          if (from.try_emplace(edge.to, at, edge.need).second) queue.push_back(edge.to);
      }
      if (!from.contains(start)) continue;  // it waits for a circle, and is not in it
      Circle circle;
      Place at = start;
      do {
        const auto& [previous, need] = from.at(at);
        circle.push_back({previous, need});
        at = previous;
      } while (at != start);
      std::reverse(circle.begin(), circle.end());
      shorten(circle);
      if (best.empty() || circle.size() < best.size()) best = std::move(circle);
    }
    std::string story;
    const Precedence* before = nullptr;
    for (size_t i = 0; i < best.size(); ++i) {
      const auto& [place, need] = best[i];
      const Place& needed = best[(i + 1) % best.size()].first;
      story += (i ? "; " : "") + name(place) + " on rank " + std::to_string(place.first);
      if (need.before) before = need.before;
      if (need.before || need.reader.valid())
        story += " needs " + name(needed) + " of rank " + std::to_string(needed.first) + " (" +
                 (need.before ? told(*need.before) : quoted(module_.ops[need.reader].name) + " reads it") + ")";
      else
        story += " stands after " + name(needed) + line_of(place);
    }
    diagnostics_.error(Code::contradictory_order, before ? before->where : order_.where,
                       std::string("the order contradicts ") + (before ? "itself: " : "the data: ") + story + "; and so on in a circle",
                       before ? "change the timetable or the schedule, or remove the edge"
                              : "assign operators so that stages follow one another, or change the order");
  }

  // "'/Right' before '/Left' by /order/before/0, line 5"
  std::string told(const Precedence& precedence) const {
    const auto first = [&](const std::vector<OpId>& ops) { return quoted(module_.ops[ops[0]].name) + (ops.size() > 1 ? " and others" : ""); };
    std::string pointer = precedence.where.pointer;
    pointer.erase(pointer.rfind('/'));
    return first(precedence.first) + " before " + first(precedence.second) + " by " + pointer + ", line " + std::to_string(precedence.where.line);
  }

  std::string name(const Place& place) const {
    const Slot& slot = module_.timetable[static_cast<size_t>(place.first)][static_cast<size_t>(place.second)];
    const std::string name = segment(slot.segment).name();
    return name.back() == 'F' || name.back() == 'B' ? name + std::to_string(slot.micro_batch) : name;
  }

  // Where an explicit timetable says so. (The device's list begins with the prologue.)
  std::string line_of(const Place& place) const {
    if (order_.timetable.empty()) return "";
    const std::vector<Block>& list = order_.timetable[static_cast<size_t>(place.first)];
    const auto index = static_cast<size_t>(place.second - 1);
    return index < list.size() ? " (line " + std::to_string(list[index].where.line) + ")" : "";
  }

  const Module& module_;
  const Order& order_;
  Diagnostics& diagnostics_;
  std::vector<std::map<int, Need>> needs_;
  std::vector<int> next_;  // of each device
  std::map<Key, std::vector<Place>> slots_;
};

}  // namespace

void make_timetable(Module& module, const Order& order, Diagnostics& diagnostics) {
  const Segments segments(module);
  module.timetable.assign(static_cast<size_t>(segments.devices()), {});
  const bool is_listed = !order.timetable.empty() || !order.blocks.empty();
  std::vector<std::vector<Slot>> listed;
  if (is_listed) listed = Listed(module, segments, order, diagnostics).read();
  if (diagnostics.has_errors() || !fits(segments, order, diagnostics)) return;
  for (int d = 0; d < segments.devices(); ++d) {
    std::vector<Slot>& list = module.timetable[static_cast<size_t>(d)];
    const auto add = [&](int segment, int micro_batch) {
      if (segments.runs(d, segment)) list.push_back({segment, micro_batch});
    };
    list.push_back({0, 0});
    if (is_listed)
      list.insert(list.end(), listed[static_cast<size_t>(d)].begin(), listed[static_cast<size_t>(d)].end());
    else if (order.schedule == "gpipe")
      gpipe(segments, add);
    else if (order.schedule == "1f1b")
      one_forward_one_backward(segments, d, add);
    else
      one_after_another(segments, add);
    list.push_back({segments.epilogue(), 0});
  }
}

void check_timetable(const Module& module, const Order& order, Diagnostics& diagnostics) { Checker(module, order, diagnostics).run(); }

}  // namespace sscc
