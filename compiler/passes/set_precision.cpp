// bf16 and f16: what is small, and what stays float.
//
//   parameters, optimizer state, inputs, constants            as they are: parameters are the masters that updates change
//   activations, and their gradients                          small
//   gradients of parameters                                   float: sums over the batch, over micro-batches and ranks
//   sums that forget a dimension, statistics, losses          float
//
// What is computed is float in either case; a small tensor is a result that was rounded when it was written. A product reads small ones on both
// sides: where one is float, a parameter above all, it is rounded once a step on each device that reads it (ops.h: operand_type; lower_op.cpp),
// whatever the plan divides.
#include <set>

#include "compiler/passes/passes.h"
#include "compiler/passes/scale_loss.h"
#include "compiler/support/strings.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

class Precision {
 public:
  Precision(Module& module, DType small) : module_(module), small_(small) {}

  void run() {
    for (const Op& op : module_.ops)
      if (op.kind == Kind::layer_norm) stays_.insert(op.inputs.begin() + 1, op.inputs.end());  // scale and bias, computed or not
    for (OpId id : module_.order) {
      const Op& op = module_.ops[id];
      for (size_t o = 0; o < op.outputs.size(); ++o)
        if (op.outputs[o].valid() && tensor(op.outputs[o]).dtype == DType::f32) tensor(op.outputs[o]).dtype = type_of(op, o);
    }
  }

 private:
  Tensor& tensor(TensorId id) { return module_.tensors[id]; }
  bool is_small(TensorId id) { return id.valid() && tensor(id).dtype == small_; }

  DType type_of(const Op& op, size_t output) {
    const TensorId id = op.outputs[output];
    if (op.phase == Phase::update || id == module_.loss || id == module_.grad_norm || llvm::is_contained(op.roles, "loss")) return DType::f32;
    if (stays_.contains(id)) return DType::f32;
    if (const TensorId of = tensor(id).gradient_of; of.valid()) return tensor(of).dtype;
    switch (op.kind) {
      case Kind::contract:
      case Kind::gather: return small_;
      case Kind::reduce:
      case Kind::pick:
      case Kind::layer_norm_grad_scale: return DType::f32;
      case Kind::layer_norm: return output == 0 && is_small(op.inputs[0]) ? small_ : DType::f32;
      default: return llvm::any_of(op.inputs, [&](TensorId input) { return is_small(input); }) ? small_ : DType::f32;
    }
  }

  Module& module_;
  const DType small_;
  std::set<TensorId> stays_;
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
