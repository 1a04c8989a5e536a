// Cutting the step along an axis, in five moves (along several, one after another: the first outermost):
//   1 the class of the named dimension, and which axes of every operator hold it (backward operators through their forward axes)
//   2 what holds it only where it cannot be cut is refused
//   3 values that micro-batches need and that depend on inputs alone (the count of labels) are computed once, before the micro-batches
//   4 a micro-batch that needs what only all micro-batches together give is refused: micro-batches meet there
//   5 shapes, scopes and rules are rewritten; inputs and labels get a tensor for the micro-batch's slice
#include "compiler/passes/cut_step.h"

#include <algorithm>
#include <set>

#include "compiler/ops/ops.h"
#include "compiler/passes/requests.h"
#include "compiler/support/check.h"
#include "compiler/support/strings.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

class Cutter {
 public:
  Cutter(Module& module, const TransformRule& rule, int64_t count, Diagnostics& diagnostics)
      : module_(module), rule_(rule), count_(count), diagnostics_(diagnostics) {}

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
    if (count_ > request.length) {
      diagnostics_.error(Code::too_many_pieces, where(),
                         "cannot cut " + quoted(request.name) + " (" + std::to_string(request.length) + " positions) into " + std::to_string(count_) +
                             " micro-batches",
                         "use at most " + std::to_string(request.length) + ", " + even_divisors(request.length));
      return;
    }
    if (request.length % count_ != 0) {
      diagnostics_.error(Code::unsupported, where(),
                         "micro-batches of different size: " + std::to_string(request.length) + " positions of " + quoted(request.name) + " in " +
                             std::to_string(count_),
                         "use a number that divides, " + even_divisors(request.length));
      return;
    }
    for (OpId id : module_.order) {
      const Op& op = module_.ops[id];
      if (op.phase == Phase::forward) {
        const std::vector<Hit> found = hits(op, id, classes, request);
        if (found.size() > 1) return refuse(op, "holds the axis twice (every position needs every other)");
        for (const Hit& hit : found) {
          const Mark mark = op.rule.axes[static_cast<size_t>(hit.axis)].mark;
          if (mark != Mark::plain && mark != Mark::sum) return refuse(op, "needs all of it at once");
          if (hit.factor.length % count_ != 0) return refuse(op, "sees only " + std::to_string(hit.factor.length) + " units of it");
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
        if (!in_micro_batch(id) && is_cut(input)) return refuse(op, "divides it at other places");
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
    std::map<TensorId, std::map<int, StepCut::Where>> cut;  // tensor -> dimension -> where
    for (const auto& [id, held] : held_) {
      const Op& op = module_.ops[id];
      for (const Occurrence& o : op.rule.occurrences)
        if (auto it = held.find(o.axis); it != held.end())
          cut[operand(op, o.operand)][o.dim] = {o.dim, o.stride * it->second.stride, it->second.length, count_, 1};
    }
    module_.cut.count *= count_;
    for (auto& [id, wheres] : module_.cut.where)
      for (StepCut::Where& each : wheres) each.every *= count_;
    std::map<TensorId, TensorId> slices;
    for (const auto& [id, dims] : cut) {
      llvm::SmallVector<StepCut::Where, 1> wheres;
      for (const auto& [dim, each] : dims) wheres.push_back(each);
      const Tensor& tensor = module_.tensors[id];
      const TensorId named = tensor.micro_batch_of.valid() ? tensor.micro_batch_of : id;
      if (tensor.producers.empty() && named == id) {  // an input: the step's tensor stays, readers in micro-batches get a slice
        Tensor slice = tensor;
        slice.name += ":micro_batch";
        slice.micro_batch_of = id;
        shrink(slice, wheres);
        slices[id] = module_.tensors.add(std::move(slice));
      } else {
        shrink(module_.tensors[id], wheres);
      }
      if (module_.tensors[named].producers.empty() || is_output(module_, named)) llvm::append_range(module_.cut.where[named], wheres);
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
    attach_rules();
  }

  // In a micro-batch of one position the axis is none any more: those after it have other numbers, by which gradients know them.
  void attach_rules() {
    std::map<OpId, Rule> before;
    for (OpId id : module_.order) {
      before[id] = module_.ops[id].rule;
      attach_rule(module_, id);
    }
    for (OpId id : module_.order) {
      Op& op = module_.ops[id];
      const auto forward = before.find(op.forward);
      if (forward == before.end() || (op.kind == Kind::reshape && module_.ops[op.forward].kind == Kind::reshape)) continue;  // as attach_rule has it
      const std::vector<Axis>& now = module_.ops[op.forward].rule.axes;
      for (Axis& axis : op.rule.axes) {
        if (axis.forward_axis < 0) continue;
        const std::string& name = forward->second.axes[static_cast<size_t>(axis.forward_axis)].name;
        const auto found = llvm::find_if(now, [&](const Axis& each) { return each.name == name; });
        axis.forward_axis = found == now.end() ? -1 : static_cast<int>(found - now.begin());
      }
    }
  }

  // A slice, or the gradient of one, begins where whole blocks of the axis begin: in a micro-batch each of them is shorter.
  void shrink_starts(Op& op, const Held& held) const {
    auto* slice = std::get_if<SliceAttributes>(&op.attributes);
    if (!slice) return;
    const int whole = op.kind == Kind::pad ? static_cast<int>(op.inputs.size()) : 0;  // the operand in which it begins there
    for (const Occurrence& o : op.rule.occurrences) {
      if (o.operand != whole || !held.contains(o.axis)) continue;
      int64_t& start = slice->starts[static_cast<size_t>(o.dim)];
      SSCC_CHECK(start % count_ == 0, "a slice of micro-batches begins with a whole block: " + op.name);
      start /= count_;
    }
  }

  void shrink(Tensor& tensor, const llvm::SmallVector<StepCut::Where, 1>& wheres) {
    tensor.scope = Scope::micro_batch;
    for (const StepCut::Where& each : wheres) tensor.shape[static_cast<size_t>(each.dim)] /= count_;
  }

  Module& module_;
  const TransformRule& rule_;
  int64_t count_;
  Diagnostics& diagnostics_;
  std::map<OpId, Held> held_;
};

}  // namespace

bool cuts_the_step(const Module& module, const TransformRule& rule) {
  if (!rule.axis || rule.within) return false;
  if (std::none_of(rule.splits.begin(), rule.splits.end(), [](const SplitOver& s) { return s.is_time; })) return false;
  for (const auto& [tensor, dim] : resolve_axis(module, *rule.axis))
    if (module.tensors[tensor].role == Role::input || module.tensors[tensor].role == Role::label) return true;
  return false;
}

void cut_step(Module& module, const Plan& plan, Diagnostics& diagnostics) {
  struct Cut {
    const TransformRule* rule = nullptr;
    int64_t count = 1;
  };
  std::vector<Cut> cuts;  // one for each axis
  for (const TransformRule& rule : plan.transform) {
    if (!cuts_the_step(module, rule)) continue;
    auto cut = llvm::find_if(cuts, [&](const Cut& each) { return each.rule->axis->text == rule.axis->text; });
    if (cut == cuts.end()) cut = cuts.insert(cut, {&rule, 1});
    for (const SplitOver& split : rule.splits) {
      if (!split.is_time) continue;
      cut->count *= split.pieces;
      if (!llvm::all_equal(split.sizes))
        diagnostics.error(Code::unsupported, split.where, "micro-batches of different size are not supported by this version of sscc",
                          "use {\"time\": " + std::to_string(split.pieces) + "}");
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
    if (!diagnostics.has_errors() && cut.count > 1) Cutter(module, *cut.rule, cut.count, diagnostics).run();
}

}  // namespace sscc
