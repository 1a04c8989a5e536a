#include "test/equivalence/shrink.h"

#include <algorithm>
#include <cctype>
#include <set>

#include "compiler/passes/passes.h"

namespace sscc::equivalence {
namespace {

// -- models -----------------------------------------------------------------------------------------------------------------------------------------

// Only what the outputs depend on, numbered anew.
Module compact(const Module& module) {
  std::set<TensorId> needed(module.outputs.begin(), module.outputs.end());
  std::set<OpId> kept;
  for (auto it = module.order.rbegin(); it != module.order.rend(); ++it) {
    const Op& op = module.ops[*it];
    if (llvm::none_of(op.outputs, [&](TensorId output) { return needed.contains(output); })) continue;
    kept.insert(*it);
    needed.insert(op.inputs.begin(), op.inputs.end());
    needed.insert(op.outputs.begin(), op.outputs.end());
  }
  Module result;
  result.name = module.name;
  std::map<TensorId, TensorId> renumbered;
  for (const TensorId id : needed) {
    Tensor tensor = module.tensors[id];
    tensor.producers.clear();
    renumbered[id] = result.add_tensor(std::move(tensor));
  }
  for (const TensorId id : module.inputs)
    if (needed.contains(id)) result.inputs.push_back(renumbered[id]);
  for (const TensorId id : module.outputs) result.outputs.push_back(renumbered[id]);
  for (const OpId id : module.order) {
    if (!kept.contains(id)) continue;
    Op op = module.ops[id];
    for (TensorId& input : op.inputs) input = renumbered[input];
    for (TensorId& output : op.outputs) output = renumbered[output];
    result.add_op(std::move(op));
  }
  find_blocks(result);
  return result;
}

// Without an operator: its result is the operand of the same shape, if there is one, or else an input of the model.
Module without(Module module, OpId id) {
  const Op op = module.ops[id];
  std::erase(module.order, id);
  for (const TensorId output : op.outputs) {
    Tensor& result = module.tensors[output];
    result.producers.clear();
    std::erase(module.outputs, output);
    const auto same = llvm::find_if(op.inputs, [&](TensorId input) {
      const Tensor& t = module.tensors[input];
      return t.role != Role::parameter && t.shape == result.shape && t.dtype == result.dtype;
    });
    if (same == op.inputs.end()) {
      result.role = Role::input;
      module.inputs.push_back(output);
      continue;
    }
    for (const OpId reader : module.order) std::replace(module.ops[reader].inputs.begin(), module.ops[reader].inputs.end(), output, *same);
  }
  return compact(module);
}

// -- plans ------------------------------------------------------------------------------------------------------------------------------------------

// A text with one of its numbers smaller by one; `at` goes on to the next number, and to npos after the last. Numbers in names stay.
std::string with_less(const std::string& text, size_t& at) {
  const auto is_digit = [&](size_t i) { return i < text.size() && std::isdigit(static_cast<unsigned char>(text[i])); };
  for (; at < text.size(); ++at) {
    if (!is_digit(at) || (at > 0 && text[at - 1] != ' ' && text[at - 1] != '[' && text[at - 1] != '.')) continue;
    size_t end = at;
    while (is_digit(end)) ++end;
    const int64_t number = std::stoll(text.substr(at, end - at));
    const size_t begin = at;
    at = end;
    if (number > 0) return text.substr(0, begin) + std::to_string(number - 1) + text.substr(end);
  }
  at = std::string::npos;
  return text;
}

class Shrinker {
 public:
  Shrinker(Pair pair, const std::function<bool(const Pair&)>& fails) : pair_(std::move(pair)), fails_(fails) {}

  Pair run() {
    do {
      is_smaller_ = false;
      leave_out(&RandomPlan::transform);
      leave_out(&RandomPlan::assign);
      leave_out(&RandomPlan::communication);
      if (!pair_.plan.cluster.empty()) attempt([](Pair& pair) { pair.plan.cluster.clear(); });
      if (!pair_.plan.order.empty()) attempt([](Pair& pair) { pair.plan.order.clear(); });
      leave_out_operators();
      lessen([](RandomPlan& plan) { return &plan.mesh; });
      for (size_t r = 0; r < pair_.plan.transform.size(); ++r) lessen([r](RandomPlan& plan) { return &plan.transform[r]; });
      for (size_t r = 0; r < pair_.plan.assign.size(); ++r) lessen([r](RandomPlan& plan) { return &plan.assign[r]; });
    } while (is_smaller_);
    return std::move(pair_);
  }

 private:
  bool attempt(const std::function<void(Pair&)>& change) {
    Pair candidate = pair_;
    change(candidate);
    if (!fails_(candidate)) return false;
    pair_ = std::move(candidate);
    return is_smaller_ = true;
  }

  void leave_out(std::vector<std::string> RandomPlan::*rules) {
    for (size_t r = 0; r < (pair_.plan.*rules).size();)
      r += !attempt([&](Pair& pair) { (pair.plan.*rules).erase((pair.plan.*rules).begin() + static_cast<std::ptrdiff_t>(r)); });
  }

  // From the last one, but for what makes the loss; then further outputs.
  void leave_out_operators() {
    for (size_t i = pair_.model.module.order.size(); i-- > 0;) {
      if (i >= pair_.model.module.order.size()) continue;
      const OpId id = pair_.model.module.order[i];
      if (llvm::is_contained(pair_.model.module.ops[id].outputs, pair_.model.module.outputs[0])) continue;
      attempt([&](Pair& pair) { pair.model.module = without(std::move(pair.model.module), id); });
    }
    for (size_t o = pair_.model.module.outputs.size(); o-- > 1;)
      attempt([&](Pair& pair) {
        pair.model.module.outputs.erase(pair.model.module.outputs.begin() + static_cast<std::ptrdiff_t>(o));
        pair.model.module = compact(pair.model.module);
      });
  }

  void lessen(const std::function<std::string*(RandomPlan&)>& text) {
    for (size_t at = 0; at != std::string::npos;) {
      const size_t here = at;
      const std::string less = with_less(*text(pair_.plan), at);
      if (at != std::string::npos && attempt([&](Pair& pair) { *text(pair.plan) = less; })) at = here;
    }
  }

  Pair pair_;
  const std::function<bool(const Pair&)>& fails_;
  bool is_smaller_ = false;
};

}  // namespace

Pair shrunk(Pair pair, const std::function<bool(const Pair&)>& fails) { return Shrinker(std::move(pair), fails).run(); }

}  // namespace sscc::equivalence
