// op-order: what runs as a unit, and each device's timetable.
//
// A stage's forward operators make one segment, its backward operators another; both run once for each micro-batch. What depends on
// parameters and constants alone, or on inputs alone and is needed by all micro-batches (the count of labels that are not ignored), runs once at
// the start of a step (prologue); what needs every micro-batch (updates, norms, the sum of the loss) runs at its end (epilogue).
// The timetable of the segments is made in timetable.cpp. A contradiction (in `before` edges, or between a timetable and data) is a shortest cycle.
#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "compiler/passes/passes.h"
#include "compiler/passes/timetable.h"
#include "compiler/support/check.h"
#include "compiler/support/strings.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

class Ordering {
 public:
  Ordering(Module& module, const Plan& plan, Diagnostics& diagnostics) : module_(module), plan_(plan), diagnostics_(diagnostics) {}

  void run() {
    apply_before();
    if (diagnostics_.has_errors()) return;
    make_segments();
    make_timetable(module_, plan_.order, diagnostics_);
    if (!diagnostics_.has_errors()) check_timetable(module_, plan_.order, diagnostics_);
    if (!diagnostics_.has_errors()) check_before();
  }

 private:
  Op& op(OpId id) { return module_.ops[id]; }

  // -- `before`: a new global order that data and the plan's edges allow --------------------------------------------------------------------------

  struct Edge {
    OpId to;
    int before = -1;
  };  // before: index of the plan's edge, -1: data

  void apply_before() {
    if (plan_.order.before.empty()) return;
    std::map<OpId, std::vector<Edge>> edges;
    const auto readers = module_.consumers();
    for (OpId id : module_.order)
      for (TensorId output : op(id).outputs)
        for (OpId reader : readers[static_cast<size_t>(output.index)]) edges[id].push_back({reader, -1});
    for (size_t b = 0; b < plan_.order.before.size(); ++b) {
      const auto& [first, second] = plan_.order.before[b];
      const std::vector<OpId> earlier = selected(first), later = selected(second);
      if (first.micro_batch && second.micro_batch && first.micro_batch != second.micro_batch)
        diagnostics_.error(Code::unsupported, second.where, "a 'before' between different micro-batches is not supported by this version of sscc",
                           "write a timetable");
      if (diagnostics_.has_errors()) return;
      for (OpId a : earlier)
        for (OpId c : later)
          if (a != c && may_meet(op(a), op(c))) edges[a].push_back({c, static_cast<int>(b)});
    }
    std::map<OpId, int> waiting;
    for (const auto& [from, list] : edges)
      for (const Edge& edge : list) ++waiting[edge.to];
    std::map<OpId, size_t> position;
    for (size_t i = 0; i < module_.order.size(); ++i) position[module_.order[i]] = i;
    std::set<std::pair<size_t, OpId>> ready;
    for (OpId id : module_.order)
      if (waiting[id] == 0) ready.insert({position[id], id});
    std::vector<OpId> result;
    while (!ready.empty()) {
      const OpId id = ready.begin()->second;
      ready.erase(ready.begin());
      result.push_back(id);
      for (const Edge& edge : edges[id])
        if (--waiting[edge.to] == 0) ready.insert({position[edge.to], edge.to});
    }
    if (result.size() != module_.order.size()) return report_cycle(edges);
    module_.order = std::move(result);
  }

  // `before` holds within each micro-batch.
  static bool may_meet(const Op& a, const Op& b) { return a.scope != Scope::micro_batch || b.scope != Scope::micro_batch || a.variant == b.variant; }

  std::vector<OpId> selected(const Selector& selector) {
    std::vector<OpId> result = selector.select(module_);
    if (!selector.phase) std::erase_if(result, [&](OpId id) { return op(id).phase != Phase::forward; });
    const bool is_beyond = selector.micro_batch && selector.micro_batch->first >= module_.cut.count;
    if (result.empty() || is_beyond) diagnostics_.error(Code::no_match, selector.where, "'before' " + selector.text + " matches no operator");
    return result;
  }

  // The module's order keeps an edge within a slot. Between slots of a rank the timetable must, and between ranks data: nobody sends a message that
  // says nothing.
  void check_before() {
    std::map<OpId, int> segment;
    for (size_t s = 0; s < module_.segments.size(); ++s)
      for (OpId id : module_.segments[s].ops) segment[id] = static_cast<int>(s);
    for (const auto& [first, second] : plan_.order.before) {
      const std::vector<OpId> later = selected(second);
      const auto& named = first.micro_batch ? first.micro_batch : second.micro_batch;
      std::map<std::tuple<int32_t, int, int>, bool> known;  // of a device and two segments, which many operators share
      const auto is_kept = [&](int32_t device, int a, int c) {
        const auto [it, fresh] = known.try_emplace({device, a, c});
        if (fresh) it->second = runs_first(device, a, c, named);
        return it->second;
      };
      for (OpId a : selected(first)) {
        std::optional<std::set<OpId>> downstream;
        for (OpId c : later) {
          if (a == c || !may_meet(op(a), op(c))) continue;
          for (const Piece& piece : op(c).pieces) {
            const bool is_here = llvm::any_of(op(a).pieces, [&](const Piece& each) { return each.device == piece.device; });
            if (is_here && is_kept(piece.device, segment.at(a), segment.at(c))) continue;
            if (!downstream) downstream = reached_by_data(a);
            if (downstream->contains(c)) continue;
            return report_before(first, a, c, piece.device, is_here);
          }
        }
      }
    }
  }

  // In every micro-batch (of these, if some are named), or step, that runs both on the device.
  bool runs_first(int32_t device, int a, int c, const std::optional<std::pair<int64_t, int64_t>>& named) const {
    if (a == c) return true;
    const auto of_step = [&](int s) { return module_.segments[static_cast<size_t>(s)].stage < 0; };
    std::set<int> begun;  // micro-batches of c
    for (const Slot& slot : module_.timetable[static_cast<size_t>(device)]) {
      if (named && !of_step(slot.segment) && (slot.micro_batch < named->first || slot.micro_batch > named->second)) continue;
      if (slot.segment == c) begun.insert(slot.micro_batch);
      if (slot.segment == a && (of_step(a) || of_step(c) ? !begun.empty() : begun.contains(slot.micro_batch))) return false;
    }
    return true;
  }

  std::set<OpId> reached_by_data(OpId from) {
    if (readers_.empty()) readers_ = module_.consumers();
    std::set<OpId> result;
    std::deque<OpId> queue{from};
    while (!queue.empty()) {
      const OpId id = queue.front();
      queue.pop_front();
      for (TensorId output : op(id).outputs)
        if (output.valid())
          for (OpId reader : readers_[static_cast<size_t>(output.index)])
            if (result.insert(reader).second) queue.push_back(reader);
    }
    return result;
  }

  void report_before(const Selector& first, OpId a, OpId c, int32_t device, bool is_here) {
    const std::string what = quoted(op(a).name) + " is to end before " + quoted(op(c).name) + " begins on rank " + std::to_string(device);
    if (is_here)
      diagnostics_.error(Code::contradictory_order, first.where, what + ", whose timetable runs them the other way",
                         "change the timetable or the schedule", op(c).name);
    else
      diagnostics_.error(
          Code::unsupported, first.where,
          what + ", which does not run the one and gets no data that depends on it: a message without data is not supported by this version of sscc",
          "", op(c).name);
  }

  // The shortest cycle that a plan's edge closes, by breadth-first search from the edge's end back to its beginning.
  void report_cycle(const std::map<OpId, std::vector<Edge>>& edges) {
    std::vector<std::pair<OpId, int>> best;  // (operator, the plan's edge that leads to it or -1)
    for (const auto& [start, list] : edges)
      for (const Edge& first : list) {
        if (first.before < 0) continue;
        std::map<OpId, std::pair<OpId, int>> from{{first.to, {start, first.before}}};
        std::deque<OpId> queue{first.to};
        while (!queue.empty() && !from.contains(start)) {
          const OpId id = queue.front();
          queue.pop_front();
          if (auto it = edges.find(id); it != edges.end())
            for (const Edge& edge : it->second)
              if (from.try_emplace(edge.to, id, edge.before).second) queue.push_back(edge.to);
        }
        if (!from.contains(start)) continue;
        std::vector<std::pair<OpId, int>> cycle;
        OpId at = start;
        do {
          cycle.push_back({at, from[at].second});
          at = from[at].first;
        } while (at != start);
        if (best.empty() || cycle.size() < best.size()) best = cycle;
        if (best.size() == 2) break;
      }
    SSCC_CHECK(!best.empty(), "an order that cannot be sorted has a cycle through an edge of the plan");
    std::reverse(best.begin(), best.end());
    std::string story;
    Location where = plan_.order.where;
    for (const auto& [id, before] : best) {
      story += story.empty() ? "" : "; then ";
      story += quoted(op(id).name) + " on rank " + (op(id).pieces.empty() ? std::string("?") : std::to_string(op(id).pieces[0].device));
      if (before >= 0) {
        where = plan_.order.before[static_cast<size_t>(before)].first.where;
        story += " (after the one before it by " + where.pointer + ", line " + std::to_string(where.line) + ")";
      } else {
        story += " (reads what the one before it makes)";
      }
    }
    diagnostics_.error(Code::contradictory_order, where, "the order contradicts itself, in every micro-batch: " + story + "; and so on in a circle",
                       "remove one of these edges", op(best[0].first).name);
  }

  // -- segments -----------------------------------------------------------------------------------------------------------------------------------

  void make_segments() {
    int stages = 1;
    for (OpId id : module_.order) stages = std::max(stages, op(id).stage + 1);
    std::vector<Segment> segments;
    segments.push_back({-1, SegmentKind::prologue, {}});
    const auto variants = static_cast<int>(module_.cut.variants);
    for (const SegmentKind kind : {SegmentKind::forward, SegmentKind::backward})
      for (int s = 0; s < stages; ++s)
        for (int v = 0; v < variants; ++v) segments.push_back({s, kind, {}, v});
    segments.push_back({-1, SegmentKind::epilogue, {}});
    const size_t epilogue = segments.size() - 1;

    // What a step operator may run before the micro-batches: nothing upstream belongs to a micro-batch.
    std::vector<char> early(static_cast<size_t>(module_.tensors.size()), 1), alone(static_cast<size_t>(module_.tensors.size()), 1);
    std::vector<char> late(static_cast<size_t>(module_.tensors.size()), 0);  // made at the end of the step
    for (int64_t t = 0; t < module_.tensors.size(); ++t) {
      const Tensor& tensor = module_.tensors[TensorId(t)];
      if (!tensor.producers.empty()) continue;
      alone[static_cast<size_t>(t)] = tensor.role == Role::parameter || tensor.role == Role::constant;
    }
    for (OpId id : module_.order) {
      Op& o = op(id);
      const bool of_step = o.scope == Scope::step && std::all_of(o.outputs.begin(), o.outputs.end(), [&](TensorId output) {
                             return !output.valid() || module_.tensors[output].scope == Scope::step;
                           });
      bool from_step = of_step, from_parameters = o.phase == Phase::forward, from_end = false;
      for (TensorId input : o.inputs) {
        if (!input.valid()) continue;
        from_step &= early[static_cast<size_t>(input.index)] != 0;
        from_parameters &= alone[static_cast<size_t>(input.index)] != 0;
        from_end |= late[static_cast<size_t>(input.index)] != 0;
      }
      const bool cut = module_.cut.count > 1;
      size_t segment;
      if (o.phase == Phase::update) {
        segment = epilogue;
      } else if (from_parameters || (cut && from_step)) {
        segment = 0;
      } else if (cut && of_step) {
        segment = epilogue;
      } else if (o.phase == Phase::backward && (prologue_.contains(o.forward) || (!cut && from_end))) {
        segment = epilogue;
      } else {
        const int stage = o.stage + (o.phase == Phase::backward ? stages : 0);
        segment = 1 + static_cast<size_t>(stage * variants + o.variant);
      }
      if (segment == 0) prologue_.insert(id);
      segments[segment].ops.push_back(id);
      for (TensorId output : o.outputs) {
        if (!output.valid()) continue;
        early[static_cast<size_t>(output.index)] &= segment == 0;
        alone[static_cast<size_t>(output.index)] &= from_parameters;
        late[static_cast<size_t>(output.index)] |= segment == epilogue;
      }
    }
    // From here on the module's order is the order of execution: what runs before and after all micro-batches stands at its ends.
    const std::set<OpId> last(segments[epilogue].ops.begin(), segments[epilogue].ops.end());
    std::stable_partition(module_.order.begin(), module_.order.end(), [&](OpId id) { return !last.contains(id); });
    std::stable_partition(module_.order.begin(), module_.order.end(), [&](OpId id) { return prologue_.contains(id); });
    module_.segments = std::move(segments);
  }

  Module& module_;
  const Plan& plan_;
  Diagnostics& diagnostics_;
  std::set<OpId> prologue_;
  std::vector<llvm::SmallVector<OpId, 2>> readers_;
};

}  // namespace

void order(Module& module, const Plan& plan, Diagnostics& diagnostics) { Ordering(module, plan, diagnostics).run(); }

}  // namespace sscc
