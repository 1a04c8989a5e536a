// Micro-batches are of one *variant* if they have the same size and, where a stage is held at several coordinates (micro-batch m at the (m mod
// length)-th), the same turn; one that a `before` names is of a variant of its own. Each variant has operators and micro-batch tensors of its own, so
// that each later pass sees operators that always have the same shapes and are always on the same devices:
//
//   sizes 3 3 2, and turns of 2:  micro-batches 0, 1, 2 are of variants 0, 1, 2
//   %5 micro_batch = contract @3 (%4)          ->   %5 = contract @3 (%4),  %25 = contract @33 (%24), ...
//   %9 = contract @7 (%5)    a sum over them   ->   %9 = @7 (%5) + @37 (%25) + ...                       addends
//
// What runs once a step is shared. The gradients of copies are thus addends of one sum, joined like those of any replicas.
#include "compiler/passes/make_variants.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "compiler/passes/cut_step.h"

namespace sscc {
namespace {

// How many micro-batches it takes until every stage is again where it was.
int64_t turns_of(const Module& module) {
  int64_t turns = 1;
  for (const OpId id : module.order) {
    const Op& op = module.ops[id];
    if (op.scope != Scope::micro_batch) continue;
    for (const auto& [axis, coordinates] : module.placements[static_cast<size_t>(op.placement)].fixed)
      turns = std::min(std::lcm(turns, static_cast<int64_t>(coordinates.size())), module.cut.count);
  }
  return turns;
}

// Those that `before` names.
std::set<int64_t> named_by(const Order& order, int64_t count) {
  std::set<int64_t> named;
  for (const auto& [first, second] : order.before)
    for (const Selector* selector : {&first, &second})
      if (selector->micro_batch)
        for (int64_t m = selector->micro_batch->first; m <= selector->micro_batch->second && m < count; ++m) named.insert(m);
  return named;
}

// The first variant is the one for which the operators have been made: that of the first of the largest micro-batches.
void find_variants(StepCut& cut, int64_t turns, const std::set<int64_t>& named) {
  const auto kind_of = [&](int64_t m) {
    std::vector<int64_t> kind = {m % turns, named.contains(m) ? m : -1};
    for (const StepCut::Axis& axis : cut.axes) kind.push_back(axis.size_of(m));
    return kind;
  };
  const auto is_largest = [&](int64_t m) {
    return llvm::all_of(cut.axes, [&](const StepCut::Axis& axis) { return axis.size_of(m) == axis.largest(); });
  };
  int64_t first = 0;
  while (!is_largest(first)) ++first;
  std::map<std::vector<int64_t>, int32_t> variants = {{kind_of(first), 0}};
  std::vector<int32_t> variant_of;
  for (int64_t m = 0; m < cut.count; ++m) variant_of.push_back(variants.try_emplace(kind_of(m), static_cast<int32_t>(variants.size())).first->second);
  cut.variants = static_cast<int64_t>(variants.size());
  if (cut.variants > 1) cut.variant_of = std::move(variant_of);
}

class Copier {
 public:
  Copier(Module& module, int variant) : module_(module), variant_(variant), micro_batch_(module.cut.micro_batches_of(variant)[0]) {
    for (int64_t i = 0; i < module.ops.size(); ++i) ops_.push_back(OpId(i));
    for (int64_t t = 0; t < module.tensors.size(); ++t) tensors_.push_back(TensorId(t));
  }

  // Operators that others have replaced, too: gradients are known by them.
  void run() {
    const int64_t tensors = module_.tensors.size(), ops = module_.ops.size();
    for (int64_t t = 0; t < tensors; ++t) copy_tensor(TensorId(t));
    for (int64_t i = 0; i < ops; ++i)
      if (module_.ops[OpId(i)].scope == Scope::micro_batch && module_.ops[OpId(i)].variant == 0) copy_op(OpId(i));
    for (int64_t t = 0; t < tensors; ++t) connect(TensorId(t));
    std::vector<OpId> order, copied;
    for (const OpId id : module_.order) {
      order.push_back(id);
      if (copy_of(id) == id) continue;
      order.push_back(copy_of(id));
      copied.push_back(copy_of(id));
    }
    module_.order = std::move(order);
    attach_rules_again(module_, copied);
  }

 private:
  OpId copy_of(OpId id) const { return id.valid() ? ops_[static_cast<size_t>(id.index)] : id; }
  TensorId copy_of(TensorId id) const { return id.valid() ? tensors_[static_cast<size_t>(id.index)] : id; }

  void copy_tensor(TensorId id) {
    Tensor t = module_.tensors[id];
    if (t.scope != Scope::micro_batch || t.variant > 0) return;
    for (const StepCut::Where& where : cuts_of(module_, id)) resize(t.shape[static_cast<size_t>(where.dim)], where);
    t.name += ":variant_" + std::to_string(variant_);
    t.variant = variant_;
    t.variant_of = id;
    tensors_[static_cast<size_t>(id.index)] = module_.add_tensor(std::move(t));
  }

  // From that of the largest micro-batch to that of this variant's.
  void resize(int64_t& length, const StepCut::Where& where) const {
    const int64_t largest = module_.cut.largest_of(where), size = module_.cut.size_of(where, micro_batch_);
    if (size != largest) length = length / largest * size;  // where they are equal, another cut of the same factor may have left less of it
  }

  void copy_op(OpId id) {
    Op op = module_.ops[id];
    op.variant = variant_;
    if (auto* slice = std::get_if<SliceAttributes>(&op.attributes))  // begins where whole blocks of the axis begin
      for (const StepCut::Where& where : cuts_of(module_, op.kind == Kind::pad ? op.outputs[0] : op.inputs[0]))
        resize(slice->starts[static_cast<size_t>(where.dim)], where);
    op.forward = copy_of(op.forward);
    for (TensorId& input : op.inputs) input = copy_of(input);
    for (TensorId& output : op.outputs) output = copy_of(output);
    ops_[static_cast<size_t>(id.index)] = OpId(module_.ops.size());
    module_.ops.add(std::move(op));
  }

  // A micro-batch tensor's copy is made by the copies of its makers; a sum over the step by all of them.
  void connect(TensorId id) {
    Tensor& tensor = module_.tensors[copy_of(id)];
    if (copy_of(id) != id) tensor.gradient_of = copy_of(tensor.gradient_of);
    llvm::SmallVector<OpId, 1> made_by;
    for (const OpId producer : tensor.producers) {
      if (copy_of(id) == id) made_by.push_back(producer);
      if (copy_of(producer) != producer) made_by.push_back(copy_of(producer));
    }
    tensor.producers = made_by;
  }

  Module& module_;
  const int variant_;
  const int64_t micro_batch_;      // the first of the variant
  std::vector<OpId> ops_;          // by operator: its copy, or itself
  std::vector<TensorId> tensors_;  // by tensor: its copy, or itself
};

}  // namespace

void make_variants(Module& module, const Order& order) {
  find_variants(module.cut, turns_of(module), named_by(order, module.cut.count));
  for (int64_t variant = module.cut.variants - 1; variant > 0; --variant)
    Copier(module, static_cast<int>(variant)).run();  // each stands behind the first
}

}  // namespace sscc
