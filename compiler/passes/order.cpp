// op-order: what runs as a unit, and each device's timetable.
//
// A stage's forward operators make one segment, its backward operators another; both run once for each micro-batch. What depends on
// parameters and constants alone, or on inputs alone and is needed by all micro-batches (the count of labels that are not ignored), runs once at
// the start of a step (prologue); what needs every micro-batch (updates, norms, the sum of the loss) runs at its end (epilogue).
// The timetable of the segments is made in timetable.cpp. A contradiction (in `before` edges, or between a timetable and data) is a shortest cycle.
#include <algorithm>
#include <map>
#include <set>

#include "compiler/passes/passes.h"
#include "compiler/passes/timetable.h"
#include "compiler/plan/names.h"
#include "compiler/support/check.h"
#include "compiler/support/strings.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

class Ordering {
 public:
  Ordering(Module& module, const Plan& plan, Diagnostics& diagnostics) : module_(module), plan_(plan), diagnostics_(diagnostics) {}

  void run() {
    read_before();
    if (!diagnostics_.has_errors()) apply_before();
    if (diagnostics_.has_errors()) return;
    make_segments();
    make_timetable(module_, plan_.order, diagnostics_);
    if (!diagnostics_.has_errors()) check_timetable(module_, plan_.order, diagnostics_);
  }

 private:
  Op& op(OpId id) { return module_.ops[id]; }

  // -- `before`: a new global order that data and the plan's edges allow --------------------------------------------------------------------------

  // Within each micro-batch, or the one that a selector names; where each names one, between the two.
  void read_before() {
    for (const auto& [first, second] : plan_.order.before) {
      const std::vector<OpId> earlier = selected(first), later = selected(second);
      if (diagnostics_.has_errors()) return;
      const auto add = [&](int of_first, int of_second) {
        if (diagnostics_.has_errors()) return;  // one variant tells
        module_.precedences.push_back({in_variant(earlier, first, of_first), in_variant(later, second, of_second), first.where});
        check_apart(module_.precedences.back());
      };
      if (first.micro_batch && second.micro_batch && first.micro_batch != second.micro_batch) {
        for (const int u : variants_of(first))
          for (const int v : variants_of(second)) add(u, v);
      } else {
        for (const int v : variants_of(first.micro_batch ? first : second)) add(v, v);
      }
    }
  }

  std::vector<OpId> selected(const Selector& selector) {
    std::vector<OpId> result = selector.select(module_);
    if (!selector.phase) std::erase_if(result, [&](OpId id) { return op(id).phase != Phase::forward; });
    if (result.empty())
      diagnostics_.error(Code::no_match, selector.where, "'before' " + selector.text + " matches no operator", nearest_names(module_, selector));
    else if (selector.micro_batch && selector.micro_batch->second >= module_.cut.count)
      diagnostics_.error(Code::no_match, selector.where,
                         "'before' " + selector.text + " names micro-batch " + std::to_string(selector.micro_batch->second) + ", and the last is " +
                             std::to_string(module_.cut.count - 1));
    return result;
  }

  // A micro-batch that a selector names has a variant of its own (make_variants.cpp).
  std::vector<int> variants_of(const Selector& selector) const {
    std::set<int> variants;
    const auto [begin, end] = selector.micro_batch.value_or(std::pair<int64_t, int64_t>{0, module_.cut.count - 1});
    for (int64_t m = begin; m <= end; ++m) variants.insert(module_.cut.variant_at(m));
    return {variants.begin(), variants.end()};
  }

  // The order is that within a micro-batch: of what a selector finds, what runs once a step counts only where nothing else is found, as with updates.
  std::vector<OpId> in_variant(std::vector<OpId> list, const Selector& selector, int variant) {
    const auto in_micro_batch = [&](OpId id) { return op(id).scope == Scope::micro_batch; };
    const bool of_micro_batches = module_.cut.count > 1 && (selector.micro_batch || llvm::any_of(list, in_micro_batch));
    std::erase_if(list, [&](OpId id) { return in_micro_batch(id) ? op(id).variant != variant : of_micro_batches; });
    if (list.empty())
      diagnostics_.error(Code::no_match, selector.where, "'before' " + selector.text + " matches no operator that runs in a micro-batch");
    return list;
  }

  void check_apart(const Precedence& precedence) {
    const std::set<OpId> later(precedence.second.begin(), precedence.second.end());
    for (const OpId id : precedence.first)
      if (later.contains(id))
        return diagnostics_.error(Code::contradictory_order, precedence.where,
                                  "both selectors match " + quoted(op(id).name) + ", which cannot end before it begins",
                                  "leave it out of one of them: {\"name\": .., \"not\": ..}", op(id).name);
  }

  // Why an operator comes after another: it reads what that one makes, updates what that one reads, or (from 0 on) the module's precedence of this
  // index.
  enum Reason : int { reads = -2, updates = -1 };
  struct Edge {
    OpId to;
    int reason;
  };

  void apply_before() {
    if (module_.precedences.empty()) return;
    std::map<OpId, std::vector<Edge>> edges;
    const auto readers = module_.consumers();
    for (OpId id : module_.order)
      for (TensorId output : op(id).outputs)
        for (OpId reader : readers[static_cast<size_t>(output.index)]) edges[id].push_back({reader, reads});
    for (OpId id : module_.order)  // all reads of a step see the values before its updates
      for (TensorId output : op(id).outputs)
        if (const TensorId old = module_.tensors[output].next_version_of; old.valid())
          for (OpId reader : readers[static_cast<size_t>(old.index)])
            if (reader != id) edges[reader].push_back({id, updates});
    for (size_t b = 0; b < module_.precedences.size(); ++b)
      for (OpId a : module_.precedences[b].first)
        for (OpId c : module_.precedences[b].second)
          if (a != c && may_meet(op(a), op(c))) edges[a].push_back({c, static_cast<int>(b)});
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

  // Different micro-batches are in different slots: their order is the timetable's.
  static bool may_meet(const Op& a, const Op& b) { return a.scope != Scope::micro_batch || b.scope != Scope::micro_batch || a.variant == b.variant; }

  // The shortest cycle that a plan's edge closes, by breadth-first search from the ends of an operator's edges back to the operator.
  void report_cycle(const std::map<OpId, std::vector<Edge>>& edges) {
    std::vector<std::pair<OpId, int>> best;  // (operator, why it comes after the one before it)
    struct Step {
      OpId from;
      int reason = 0;
      size_t length = 0;  // of the way from the start; 0: not reached
    };
    std::vector<Step> steps(static_cast<size_t>(module_.ops.size()));
    const auto step = [&](OpId id) -> Step& { return steps[static_cast<size_t>(id.index)]; };
    for (const auto& [start, list] : edges) {
      std::vector<OpId> reached;
      const auto reach = [&](OpId id, OpId from, int reason, size_t length) {
        if (step(id).length > 0) return;
        step(id) = {from, reason, length};
        reached.push_back(id);
      };
      for (const Edge& edge : list)
        if (edge.reason >= 0) reach(edge.to, start, edge.reason, 1);
      for (size_t next = 0; next < reached.size() && step(start).length == 0; ++next) {
        const OpId id = reached[next];
        if (!best.empty() && step(id).length + 1 >= best.size()) break;
        if (const auto it = edges.find(id); it != edges.end())
          for (const Edge& edge : it->second) reach(edge.to, id, edge.reason, step(id).length + 1);
      }
      if (step(start).length > 0) {
        best.clear();
        OpId at = start;
        do {
          best.emplace_back(at, step(at).reason);
          at = step(at).from;
        } while (at != start);
      }
      for (const OpId id : reached) step(id) = {};
    }
    SSCC_CHECK(!best.empty(), "an order that cannot be sorted has a cycle through an edge of the plan");
    std::reverse(best.begin(), best.end());
    std::string story;
    Location where = plan_.order.where;
    for (const auto& [id, reason] : best) {
      story += story.empty() ? "" : "; then ";
      story += (op(id).phase == Phase::backward ? "the backward pass of "
                : op(id).phase == Phase::update ? "the update of "
                                                : "") +
               quoted(op(id).name) + " on rank " + (op(id).pieces.empty() ? std::string("?") : std::to_string(op(id).pieces[0].device));
      if (reason >= 0) {
        where = module_.precedences[static_cast<size_t>(reason)].where;
        story += " (after the one before it by " + where.pointer + ", line " + std::to_string(where.line) + ")";
      } else {
        story += reason == reads ? " (reads what the one before it makes)" : " (updates what the one before it reads)";
      }
    }
    diagnostics_.error(Code::contradictory_order, where, "the order contradicts itself: " + story + "; and so on in a circle",
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
    // What `before` puts behind something does not run ahead of it, with what depends on nothing.
    std::set<OpId> is_behind;
    for (const Precedence& precedence : module_.precedences) is_behind.insert(precedence.second.begin(), precedence.second.end());
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
      if (!cut && is_behind.contains(id)) from_parameters = false;
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
};

}  // namespace

void order(Module& module, const Plan& plan, Diagnostics& diagnostics) { Ordering(module, plan, diagnostics).run(); }

}  // namespace sscc
