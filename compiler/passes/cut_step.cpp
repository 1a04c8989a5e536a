// Cutting the step along an axis, in five moves (along several, one after another: the first outermost):
//   1 the class of the named dimension, and which axes of every operator hold it (backward operators through their forward axes)
//   2 what holds it only where it cannot be cut is refused
//   3 values that micro-batches need and that depend on inputs alone (the count of labels) are computed once, before the micro-batches
//   4 a micro-batch that needs what only all micro-batches together give is refused: micro-batches meet there
//   5 shapes, scopes and rules are rewritten to those of the largest micro-batch (make_variants adds the others); inputs and labels get a tensor for
//     the micro-batch's slice
#include "compiler/passes/cut_step.h"

#include <algorithm>
#include <optional>
#include <set>

#include "compiler/ops/ops.h"
#include "compiler/passes/pieces.h"
#include "compiler/passes/requests.h"
#include "compiler/support/check.h"
#include "compiler/support/strings.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

// One axis along which the step is cut: all rules that name it, in the plan's order.
struct Cut {
  const TransformRule* rule = nullptr;  // the first
  std::vector<const SplitOver*> splits;

  int64_t pieces() const {
    int64_t pieces = 1;
    for (const SplitOver* split : splits) pieces *= split->pieces;
    return pieces;
  }
};

class Cutter {
 public:
  Cutter(Module& module, const Cut& cut, Diagnostics& diagnostics) : module_(module), cut_(cut), rule_(*cut.rule), diagnostics_(diagnostics) {}

  void run() {
    find_holders();
    if (diagnostics_.has_errors()) return;
    hoist_input_values();
    check_earlier_cut();
    if (diagnostics_.has_errors()) return;
    check_meetings();
    if (diagnostics_.has_errors()) return;
    rewrite();
  }

 private:
  using Held = std::map<int, Factor>;  // axis of an operator -> the factor of it that is the batch

  const Location& where() const { return rule_.where; }

  // -- 1, 2 ---------------------------------------------------------------------------------------------------------------------------------------

  void find_holders() {
    const AxisClasses classes(module_);
    const std::vector<Request> requests = requests_of(module_, classes, rule_, diagnostics_);
    if (diagnostics_.has_errors() || requests.empty()) return;
    const Request& request = requests[0];
    if (requests.size() > 1) {
      diagnostics_.error(
          Code::unsupported, where(),
          "axis " + quoted(rule_.axis->text) + " names " + std::to_string(requests.size()) + " different axes, and the step can be cut along one",
          "name one dimension of one input");
      return;
    }
    if (cut_.pieces() > request.length) {
      diagnostics_.error(Code::too_many_pieces, where(),
                         "cannot cut " + quoted(request.name) + " (" + std::to_string(request.length) + " positions) into " +
                             std::to_string(cut_.pieces()) + " micro-batches",
                         "use at most " + std::to_string(request.length) + ", " + even_divisors(request.length));
      return;
    }
    if (!find_pieces(request)) return;
    for (OpId id : module_.order) {
      const Op& op = module_.ops[id];
      if (op.phase == Phase::forward) {
        const std::vector<Hit> found = hits(op, id, classes, request);
        if (found.size() > 1) return refuse(op, "holds the axis twice (every position needs every other)");
        for (const Hit& hit : found) {
          const Mark mark = op.rule.axes[static_cast<size_t>(hit.axis)].mark;
          if (mark != Mark::plain && mark != Mark::sum) return refuse(op, "needs all of it at once");
          if (llvm::any_of(axis_.begins, [&](int64_t begin) { return begin * hit.factor.length % axis_.length() != 0; }))
            return refuse(op, "sees only " + std::to_string(hit.factor.length) + " units of it");
          if (const Tensor* weight = weight_with(op, hit.axis))
            return refuse(op, "would use another part of " + quoted(weight->name) + " in each of them");
          held_[id][hit.axis] = hit.factor;
        }
      } else if (op.forward.valid()) {
        auto it = held_.find(op.forward);
        if (it == held_.end()) continue;
        for (size_t a = 0; a < op.rule.axes.size(); ++a)
          if (auto axis = it->second.find(op.rule.axes[a].forward_axis); axis != it->second.end()) held_[id][static_cast<int>(a)] = axis->second;
      }
    }
  }

  // Each split divides what those before it left. False, and an error: a piece without positions.
  bool find_pieces(const Request& request) {
    std::set<int64_t> units = {request.length};
    for (const auto& [range, count] : request.units) units.insert(count);
    axis_.begins = {0, request.length};
    for (const SplitOver* split : cut_.splits) {
      Shape finer = {0};
      for (size_t k = 0; k + 1 < axis_.begins.size(); ++k) {
        const int64_t begin = axis_.begins[k], end = axis_.begins[k + 1];
        const std::vector<int64_t> cuts = split->sizes.empty() ? even_cuts(begin, end, split->pieces, request.length, {units.begin(), units.end()})
                                                               : proportional_cuts(begin, end, split->sizes);
        finer.append(cuts.begin() + 1, cuts.end());
      }
      axis_.begins = std::move(finer);
    }
    if (std::adjacent_find(axis_.begins.begin(), axis_.begins.end()) == axis_.begins.end()) return true;
    diagnostics_.error(Code::too_many_pieces, where(),
                       "a micro-batch would have none of the " + std::to_string(request.length) + " positions of " + quoted(request.name),
                       "use fewer micro-batches, or sizes that are closer to each other");
    return false;
  }

  void refuse(const Op& op, const std::string& why) {
    diagnostics_.error(Code::micro_batches_meet, where(), "micro-batches meet at " + quoted(op.name) + ", which " + why,
                       "cut along another axis, or use one micro-batch", op.name);
  }

  // A parameter or constant that has this axis of the operator; null: none.
  const Tensor* weight_with(const Op& op, int axis) const {
    for (const Occurrence& o : op.rule.occurrences) {
      if (o.axis != axis) continue;
      const Tensor& t = module_.tensors[operand(op, o.operand)];
      if (t.producers.empty() && t.role != Role::input && t.role != Role::label) return &t;
    }
    return nullptr;
  }

  bool in_micro_batch(OpId id) const { return held_.contains(id); }

  // Of a second cut: what runs for some of the slices of the first, and not for each of the second, or the other way, would live over several
  // micro-batches.
  void check_earlier_cut() {
    if (module_.cut.count == 1) return;
    for (OpId id : module_.order) {
      const Op& op = module_.ops[id];
      if ((op.scope == Scope::micro_batch) != in_micro_batch(id))
        return refuse(op, in_micro_batch(id) ? "is not cut by the rules before" : "needs all of " + quoted(rule_.axis->text) + " of each of them");
      for (TensorId output : op.outputs)
        if (output.valid() && in_micro_batch(id) && (module_.tensors[output].scope == Scope::micro_batch) != holds_batch(id, output))
          return refuse(op, "sums over one of the axes along which the step is cut, and not over the other");
    }
  }

  // -- 3 ------------------------------------------------------------------------------------------------------------------------------------------

  // Operators that depend on inputs, labels and constants alone.
  std::set<OpId> from_inputs() const {
    std::set<OpId> result;
    for (OpId id : module_.order) {
      const Op& op = module_.ops[id];
      if (op.phase != Phase::forward) continue;
      bool alone = true;
      for (TensorId input : op.inputs) {
        if (!input.valid()) continue;
        const Tensor& t = module_.tensors[input];
        if (t.producers.empty()) alone &= t.role == Role::input || t.role == Role::label || t.role == Role::constant;
        for (OpId producer : t.producers) alone &= result.contains(producer);
      }
      if (alone) result.insert(id);
    }
    return result;
  }

  // A step value that is summed over micro-batches of input values: its operators are copied to the step, where they see all of the inputs.
  void hoist_input_values() {
    const std::set<OpId> alone = from_inputs();
    const std::vector<OpId> order = module_.order;
    for (OpId id : order) {
      if (!in_micro_batch(id) || !alone.contains(id)) continue;
      const Op& op = module_.ops[id];
      bool sums = false;
      for (const auto& [axis, factor] : held_[id]) sums |= op.rule.axes[static_cast<size_t>(axis)].mark == Mark::sum;
      if (!sums) continue;
      // The sum and what it is made of, as step operators.
      std::map<TensorId, TensorId> copies;
      const std::vector<OpId> upstream = upstream_of(id);
      std::vector<OpId> added;
      for (OpId each : upstream) {
        Op copy = module_.ops[each];
        for (TensorId& input : copy.inputs)
          if (auto it = copies.find(input); it != copies.end()) input = it->second;
        for (TensorId& output : copy.outputs) {
          Tensor& old = module_.tensors[output];
          if (each == id) {  // the result itself: now made by the copy
            llvm::erase(old.producers, id);
            continue;
          }
          Tensor t = old;
          t.name += ":step";
          t.producers.clear();
          copies[output] = module_.tensors.add(std::move(t));
          output = copies[output];
        }
        added.push_back(module_.add_op(std::move(copy)));
        module_.order.pop_back();
      }
      auto at = std::find(module_.order.begin(), module_.order.end(), id);
      at = module_.order.erase(at);
      module_.order.insert(at, added.begin(), added.end());
      held_.erase(id);
    }
    drop_unread();
  }

  std::vector<OpId> upstream_of(OpId id) const {
    std::set<OpId> wanted = {id};
    std::vector<OpId> result;
    for (auto it = module_.order.rbegin(); it != module_.order.rend(); ++it) {
      if (!wanted.contains(*it)) continue;
      result.push_back(*it);
      for (TensorId input : module_.ops[*it].inputs)
        if (input.valid())
          for (OpId producer : module_.tensors[input].producers)
            if (in_micro_batch(producer)) wanted.insert(producer);
    }
    std::reverse(result.begin(), result.end());
    return result;
  }

  // Originals whose only readers were hoisted.
  void drop_unread() {
    for (bool changed = true; changed;) {
      changed = false;
      const auto readers = module_.consumers();
      for (size_t i = module_.order.size(); i-- > 0;) {
        const OpId id = module_.order[i];
        const Op& op = module_.ops[id];
        if (op.phase != Phase::forward) continue;
        bool read = false;
        for (TensorId output : op.outputs)
          read |= output == module_.loss || !readers[static_cast<size_t>(output.index)].empty() ||
                  std::find(module_.outputs.begin(), module_.outputs.end(), output) != module_.outputs.end();
        if (read) continue;
        for (TensorId output : op.outputs) llvm::erase(module_.tensors[output].producers, id);
        module_.order.erase(module_.order.begin() + static_cast<std::ptrdiff_t>(i));
        held_.erase(id);
        changed = true;
      }
    }
  }

  // -- 4 ------------------------------------------------------------------------------------------------------------------------------------------

  void check_meetings() {
    std::map<TensorId, OpId> late;  // step values that need micro-batches -> who makes them
    for (OpId id : module_.order) {
      const Op& op = module_.ops[id];
      OpId because;
      for (TensorId input : op.inputs) {
        if (!input.valid()) continue;
        if (auto it = late.find(input); it != late.end()) because = it->second;
        if (!in_micro_batch(id) && is_cut(input))
          return refuse(op, op.phase == Phase::update ? "takes its new value once a step" : "divides it at other places");
      }
      if (in_micro_batch(id)) {
        if (because.valid()) {
          const Op& meeting = module_.ops[because];
          diagnostics_.error(Code::micro_batches_meet, where(),
                             "micro-batches meet at " + quoted(meeting.name) + ", which is not linear in the sum over " + quoted(rule_.axis->text),
                             "use one micro-batch, or leave the operator out of the loss", meeting.name);
          return;
        }
        for (TensorId output : op.outputs) {
          if (!output.valid() || holds_batch(id, output)) continue;
          if (module_.tensors[output].join != Join::sum) return refuse(op, "joins them otherwise than by a sum");
          late[output] = id;
        }
      } else if (because.valid()) {
        for (TensorId output : op.outputs)
          if (output.valid()) late[output] = id;
      }
    }
  }

  // Has each micro-batch a part of its own of the tensor?
  bool is_cut(TensorId tensor) const {
    return llvm::any_of(module_.tensors[tensor].producers, [&](OpId maker) { return in_micro_batch(maker) && holds_batch(maker, tensor); });
  }

  bool holds_batch(OpId id, TensorId tensor) const {
    const Op& op = module_.ops[id];
    for (const Occurrence& o : op.rule.occurrences)
      if (held_.at(id).contains(o.axis) && operand(op, o.operand) == tensor) return true;
    return false;
  }

  // -- 5 ------------------------------------------------------------------------------------------------------------------------------------------

  void rewrite() {
    const int number = static_cast<int>(module_.cut.axes.size());
    std::map<TensorId, std::map<int, StepCut::Where>> cut;  // tensor -> dimension -> where
    for (const auto& [id, held] : held_) {
      const Op& op = module_.ops[id];
      for (const Occurrence& o : op.rule.occurrences)
        if (auto it = held.find(o.axis); it != held.end())
          cut[operand(op, o.operand)][o.dim] = {o.dim, o.stride * it->second.stride, it->second.length, number};
    }
    module_.cut.count *= axis_.pieces();
    for (StepCut::Axis& earlier : module_.cut.axes) earlier.every *= axis_.pieces();
    module_.cut.axes.push_back(axis_);
    std::map<TensorId, TensorId> slices;
    for (const auto& [id, dims] : cut) {
      const Tensor& tensor = module_.tensors[id];
      const TensorId named = tensor.micro_batch_of.valid() ? tensor.micro_batch_of : id;
      TensorId shrunk = id;
      if (tensor.producers.empty() && named == id) {  // an input: the step's tensor stays, readers in micro-batches get a slice
        Tensor slice = tensor;
        slice.name += ":micro_batch";
        slice.micro_batch_of = id;
        shrunk = slices[id] = module_.tensors.add(std::move(slice));
      }
      for (const auto& [dim, where] : dims) shrink(module_.tensors[shrunk], module_.cut.where[named], where);
    }
    for (OpId id : module_.order) {
      Op& op = module_.ops[id];
      if (in_micro_batch(id)) {
        op.scope = Scope::micro_batch;
        shrink_starts(op, held_.at(id));
        for (TensorId& input : op.inputs)
          if (auto it = slices.find(input); it != slices.end()) input = it->second;
      }
    }
    attach_rules_again(module_, module_.order);
  }

  // A slice, or the gradient of one, begins where whole blocks of the axis begin: in a micro-batch each of them is shorter.
  void shrink_starts(Op& op, const Held& held) const {
    auto* slice = std::get_if<SliceAttributes>(&op.attributes);
    if (!slice) return;
    const int whole = op.kind == Kind::pad ? static_cast<int>(op.inputs.size()) : 0;  // the operand in which it begins there
    for (const Occurrence& o : op.rule.occurrences) {
      if (o.operand != whole || !held.contains(o.axis)) continue;
      int64_t& start = slice->starts[static_cast<size_t>(o.dim)];
      SSCC_CHECK(start * axis_.largest() % axis_.length() == 0, "a slice of micro-batches begins with a whole block: " + op.name);
      start = start * axis_.largest() / axis_.length();
    }
  }

  // The factor is one of the tensor's present shape; `known`, the cuts before this one, tells where it is in the whole step's.
  void shrink(Tensor& tensor, llvm::SmallVector<StepCut::Where, 1>& known, StepCut::Where where) {
    tensor.scope = Scope::micro_batch;
    int64_t& length = tensor.shape[static_cast<size_t>(where.dim)];
    length = length / where.length * module_.cut.largest_of(where);
    auto inner = known.begin();
    for (; inner != known.end(); ++inner) {
      if (inner->dim != where.dim) continue;
      const int64_t block = inner->stride * module_.cut.largest_of(*inner);
      if (where.stride < block) break;
      where.stride = where.stride / block * inner->stride * inner->length;
    }
    const bool overlaps = inner != known.end() && where.stride * where.length > inner->stride;
    if (overlaps && !(axis_.is_even() && module_.cut.axes[static_cast<size_t>(inner->axis)].is_even())) return cut_twice(tensor);
    known.insert(inner, where);
  }

  void cut_twice(const Tensor& tensor) {
    if (diagnostics_.has_errors()) return;
    diagnostics_.error(Code::micro_batches_meet, where(),
                       quoted(tensor.name) + " would be cut twice along " + quoted(rule_.axis->text) + ", into micro-batches of different size",
                       "cut it by one rule");
  }

  Module& module_;
  const Cut& cut_;
  const TransformRule& rule_;
  Diagnostics& diagnostics_;
  StepCut::Axis axis_;
  std::map<OpId, Held> held_;
};

// Do two rules name the same axis? (by whatever tensors; what is wrong with a rule is reported when its cut is made)
bool name_same_axis(const Module& module, const AxisClasses& classes, const TransformRule& a, const TransformRule& b, const Diagnostics& settings) {
  if (a.axis->text == b.axis->text) return true;
  Diagnostics unheard = settings.same_settings();
  const std::vector<Request> first = requests_of(module, classes, a, unheard), second = requests_of(module, classes, b, unheard);
  if (unheard.has_errors() || first.size() != 1 || second.size() != 1) return false;
  return llvm::any_of(first[0].units, [&](const auto& range) {
    const auto same = second[0].units.find(range.first);
    return range.second == first[0].length && same != second[0].units.end() && same->second == second[0].length;
  });
}

}  // namespace

// In a micro-batch of one position the axis is none any more: those after it have other numbers, by which gradients know them.
void attach_rules_again(Module& module, llvm::ArrayRef<OpId> ops) {
  std::map<OpId, Rule> before;
  for (OpId id : ops) {
    before[id] = module.ops[id].rule;
    attach_rule(module, id);
  }
  for (OpId id : ops) {
    Op& op = module.ops[id];
    const auto forward = before.find(op.forward);
    if (forward == before.end() || (op.kind == Kind::reshape && module.ops[op.forward].kind == Kind::reshape)) continue;  // as attach_rule has it
    const std::vector<Axis>& now = module.ops[op.forward].rule.axes;
    for (Axis& axis : op.rule.axes) {
      if (axis.forward_axis < 0) continue;
      const std::string& name = forward->second.axes[static_cast<size_t>(axis.forward_axis)].name;
      const auto found = llvm::find_if(now, [&](const Axis& each) { return each.name == name; });
      axis.forward_axis = found == now.end() ? -1 : static_cast<int>(found - now.begin());
    }
  }
}

bool cuts_the_step(const Module& module, const TransformRule& rule) {
  if (!rule.axis || rule.within) return false;
  if (std::none_of(rule.splits.begin(), rule.splits.end(), [](const SplitOver& s) { return s.is_time; })) return false;
  for (const auto& [tensor, dim] : resolve_axis(module, *rule.axis))
    if (module.tensors[tensor].role == Role::input || module.tensors[tensor].role == Role::label) return true;
  return false;
}

void cut_step(Module& module, const Plan& plan, Diagnostics& diagnostics) {
  std::vector<Cut> cuts;
  std::optional<AxisClasses> classes;
  for (const TransformRule& rule : plan.transform) {
    if (!cuts_the_step(module, rule)) continue;
    if (!cuts.empty() && !classes) classes.emplace(module);
    auto cut = llvm::find_if(cuts, [&](const Cut& each) { return name_same_axis(module, *classes, *each.rule, rule, diagnostics); });
    if (cut == cuts.end()) cut = cuts.insert(cut, {&rule, {}});
    for (const SplitOver& split : rule.splits) {
      if (!split.is_time) continue;
      cut->splits.push_back(&split);
      if (!split.rotate.empty())
        diagnostics.error(Code::unsupported, split.where,
                          "'rotate' is for pieces within a micro-batch, and this rule cuts the step into micro-batches",
                          "restrict the rule with 'within'");
    }
  }
  const std::string& schedule = plan.order.schedule;
  if (cuts.size() > 1 && !schedule.empty() && schedule != "gpipe")
    diagnostics.error(Code::unsupported, cuts[1].rule->where,
                      "schedule " + quoted(schedule) +
                          " takes the micro-batches of a second cut of the step as a unit, which is not supported by this "
                          "version of sscc",
                      "use 'gpipe'");
  for (const Cut& cut : cuts)
    if (!diagnostics.has_errors() && cut.pieces() > 1) Cutter(module, cut, diagnostics).run();
}

}  // namespace sscc
