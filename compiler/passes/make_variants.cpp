// A stage held at several coordinates takes turns: micro-batch m runs at the (m mod length)-th. Micro-batches of one turn are one *variant*, with
// operators and micro-batch tensors of its own, so that each later pass sees operators that are always on the same devices:
//
//   %5 micro_batch = contract @3 (%4)          ->   %5 = contract @3 (%4),  %25 = contract @33 (%24)      micro-batches 0 2 4 .., 1 3 5 ..
//   %9 = contract @7 (%5)    a sum over them   ->   %9 = @7 (%5) + @37 (%25)                               two addends
//
// What runs once a step, and slices of inputs and labels, are shared. The gradients of copies are thus addends of one sum, joined like those of any
// replicas.
#include "compiler/passes/make_variants.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

namespace sscc {
namespace {

// As many as there are turns of all stages together.
int64_t variants_of(const Module& module) {
  int64_t variants = 1;
  for (const OpId id : module.order) {
    const Op& op = module.ops[id];
    if (op.scope != Scope::micro_batch) continue;
    for (const auto& [axis, coordinates] : module.placements[static_cast<size_t>(op.placement)].fixed)
      variants = std::min(std::lcm(variants, static_cast<int64_t>(coordinates.size())), module.cut.count);
  }
  return variants;
}

class Copier {
 public:
  Copier(Module& module, int variant) : module_(module), variant_(variant) {
    for (int64_t i = 0; i < module.ops.size(); ++i) ops_.push_back(OpId(i));
    for (int64_t t = 0; t < module.tensors.size(); ++t) tensors_.push_back(TensorId(t));
  }

  // Operators that others have replaced, too: their gradients are theirs.
  void run() {
    const int64_t tensors = module_.tensors.size(), ops = module_.ops.size();
    for (int64_t t = 0; t < tensors; ++t) copy_tensor(TensorId(t));
    for (int64_t i = 0; i < ops; ++i)
      if (module_.ops[OpId(i)].scope == Scope::micro_batch && module_.ops[OpId(i)].variant == 0) copy_op(OpId(i));
    for (int64_t t = 0; t < tensors; ++t) connect(TensorId(t));
    std::vector<OpId> order;
    for (const OpId id : module_.order) {
      order.push_back(id);
      if (copy_of(id) != id) order.push_back(copy_of(id));
    }
    module_.order = std::move(order);
  }

 private:
  OpId copy_of(OpId id) const { return id.valid() ? ops_[static_cast<size_t>(id.index)] : id; }
  TensorId copy_of(TensorId id) const { return id.valid() ? tensors_[static_cast<size_t>(id.index)] : id; }

  void copy_tensor(TensorId id) {
    Tensor t = module_.tensors[id];
    if (t.scope != Scope::micro_batch || t.micro_batch_of.valid() || t.variant_of.valid()) return;
    t.name += ":variant_" + std::to_string(variant_);
    t.variant_of = id;
    tensors_[static_cast<size_t>(id.index)] = module_.add_tensor(std::move(t));
  }

  void copy_op(OpId id) {
    Op op = module_.ops[id];
    op.variant = variant_;
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
  std::vector<OpId> ops_;          // by operator: its copy, or itself
  std::vector<TensorId> tensors_;  // by tensor: its copy, or itself
};

}  // namespace

void make_variants(Module& module) {
  module.cut.variants = variants_of(module);
  for (int64_t variant = module.cut.variants - 1; variant > 0; --variant)
    Copier(module, static_cast<int>(variant)).run();  // each stands behind the first
}

}  // namespace sscc
