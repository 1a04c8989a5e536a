// bf16 and f16: what is small, and what stays float.
//
//   parameters, optimizer state, inputs, constants            as they are: parameters are the masters that updates change
//   activations, and their gradients                          small
//   gradients of parameters                                   float: sums over the batch, over micro-batches and ranks
//   sums that forget a dimension, statistics, losses          float; and what nothing but a sum reads: squares
//   a softmax and its operand, where a logarithm follows      float
//
// What is computed is float in either case; a small tensor is a result that was rounded when it was written. A product reads small ones on both
// sides: where one is float, a parameter above all, it is rounded once a step on each device that reads it (ops.h: operand_type; lower_op.cpp),
// whatever the plan divides.
#include <set>

#include "compiler/ops/build.h"
#include "compiler/ops/ops.h"
#include "compiler/passes/passes.h"
#include "compiler/passes/scale_loss.h"
#include "compiler/support/strings.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

class Precision {
 public:
  Precision(Module& module, DType small) : module_(module), small_(small), readers_(module.consumers()) {}

  void run() {
    for (const Op& op : module_.ops)
      if (op.kind == Kind::norm) stays_.insert(op.inputs.begin() + 1, op.inputs.end());  // scale and bias, computed or not
    find_logarithms();
    for (OpId id : module_.order) {
      const Op& op = module_.ops[id];
      for (size_t o = 0; o < op.outputs.size(); ++o)
        if (op.outputs[o].valid() && tensor(op.outputs[o]).dtype == DType::f32) tensor(op.outputs[o]).dtype = type_of(op, o);
    }
    for (OpId id : std::vector<OpId>(module_.order))
      if (module_.ops[id].kind == Kind::softmax) keep_finite(module_.ops[id].inputs[0]);
  }

 private:
  Tensor& tensor(TensorId id) { return module_.tensors[id]; }
  const Op* maker_of(TensorId id) {
    const auto& makers = tensor(id).producers;
    return makers.size() == 1 ? &module_.ops[makers[0]] : nullptr;
  }
  static const Scalar* function_of(const Op& op) {
    const auto* a = std::get_if<PointwiseAttributes>(&op.attributes);
    return a ? &a->function : nullptr;
  }

  // Of probabilities too small for small floats.
  void find_logarithms() {
    for (OpId id : module_.order) {
      const Op& op = module_.ops[id];
      const Scalar* function = function_of(op);
      if (op.phase != Phase::forward || !function || *function != Scalar::log) continue;
      const Op* softmax = maker_of(op.inputs[0]);
      if (!softmax || softmax->kind != Kind::softmax) continue;
      const Op* before = maker_of(softmax->inputs[0]);
      if (!before || (before->kind != Kind::contract && before->kind != Kind::reduce && !function_of(*before) && !definition(before->kind).is_layout))
        continue;  // its kernel gives what it takes
      stays_.insert({softmax->inputs[0], softmax->outputs[0]});
    }
  }

  bool is_only_summed(TensorId id) const {
    const auto& readers = readers_[static_cast<size_t>(id.index)];
    bool is_summed = false;
    for (const OpId reader : readers) {
      if (module_.ops[reader].phase != Phase::forward) continue;
      const auto* sum = std::get_if<ReduceAttributes>(&module_.ops[reader].attributes);
      if (!sum || sum->join != Join::sum) return false;
      is_summed = true;
    }
    return is_summed && !is_output(module_, id);
  }

  // A mask adds what no small float holds. Infinite, it would leave a row of a softmax without a number where it masks all of it: the sum, a float, is
  // brought to the finite ones.
  void keep_finite(TensorId operand) {
    const Op* maker = maker_of(operand);
    if (!maker || !is_small(operand) || !looked_at_.insert(operand).second) return;
    const Scalar* function = function_of(*maker);
    const bool adds = function && (*function == Scalar::add || *function == Scalar::sub || *function == Scalar::where);
    const auto is_mask = [&](TensorId input) { return tensor(input).dtype == DType::f32 && tensor(input).role != Role::parameter; };
    if (!adds || llvm::none_of(maker->inputs, is_mask)) {
      if (!adds && !definition(maker->kind).is_layout) return;
      for (const TensorId input : llvm::SmallVector<TensorId, 4>(maker->inputs))  // the mask may have been added before
        if (input.valid()) keep_finite(input);
      return;
    }
    const OpId masks = tensor(operand).producers[0];
    Tensor wide = tensor(operand);
    wide.name += ":float";
    wide.dtype = DType::f32;
    const TensorId sum = module_.tensors.add(std::move(wide));
    tensor(operand).producers.clear();
    module_.ops[masks].outputs[0] = sum;
    const Op as = module_.ops[masks];
    const double highest = small_ == DType::f16 ? 65504 : 0x1.FEp127;
    const OpId next = *std::next(llvm::find(module_.order, masks));  // the softmax follows, if nothing else does
    insert_before(module_, next, [&] {
      Builder b(module_, {as.name, as.type, Phase::forward, OpId()});
      b.into(operand).pointwise(Scalar::clip, {sum}, -highest, highest);
      Op& bounded = module_.ops[b.last()];
      bounded.layer = as.layer;
      bounded.roles = as.roles;
      bounded.absorbed = as.absorbed;
    });
  }

  bool is_small(TensorId id) { return id.valid() && tensor(id).dtype == small_; }

  DType type_of(const Op& op, size_t output) {
    const TensorId id = op.outputs[output];
    if (op.phase == Phase::update || id == module_.loss || id == module_.grad_norm || llvm::is_contained(op.roles, "loss")) return DType::f32;
    if (stays_.contains(id)) return DType::f32;
    if (const TensorId of = tensor(id).gradient_of; of.valid()) return tensor(of).dtype;
    switch (op.kind) {
      case Kind::contract:
      case Kind::convolve:
      case Kind::convolve_transposed:
      case Kind::gather: return small_;
      case Kind::reduce:
      case Kind::pick:
      case Kind::norm_grad_scale: return DType::f32;
      case Kind::norm: return output == 0 && is_small(op.inputs[0]) ? small_ : DType::f32;
      case Kind::pointwise:
        if (op.phase == Phase::forward && is_only_summed(id)) return DType::f32;
        [[fallthrough]];
      default: return llvm::any_of(op.inputs, [&](TensorId input) { return is_small(input); }) ? small_ : DType::f32;
    }
  }

  Module& module_;
  const DType small_;
  const std::vector<llvm::SmallVector<OpId, 2>> readers_;
  std::set<TensorId> stays_, looked_at_;
};

}  // namespace

void set_precision(Module& module, const Plan& plan, Diagnostics& diagnostics) {
  if (plan.precision == DType::f32) return;
  for (const Tensor& t : module.tensors)
    if (plan.precision == DType::f16 && t.trainable && t.dtype != DType::f32)
      return diagnostics.error(
          Code::unsupported, plan.precision_where,
          "precision 'f16' is not supported by this version of sscc where parameters are not float32, as " + quoted(t.name) + " is not",
          "use 'bf16' or 'f32'");
  if (plan.precision == DType::f16 && module.loss.valid()) scale_loss(module);
  Precision(module, plan.precision).run();
}

}  // namespace sscc
