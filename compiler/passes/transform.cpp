// op-trans: the step is cut into micro-batches, then every operator is divided, over the axes of the mesh that it will be on. Micro-batches that differ in
// size or place get operators of their own before.
#include <algorithm>

#include "compiler/passes/cut_step.h"
#include "compiler/passes/divide.h"
#include "compiler/passes/make_variants.h"
#include "compiler/passes/passes.h"
#include "compiler/passes/places.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {

namespace {

// The axes of all operators have been found by now: those whose results nobody reads have no more part to play.
void drop_unread(Module& module) {
  std::vector<char> is_read(static_cast<size_t>(module.tensors.size()), 0);
  for (int64_t t = 0; t < module.tensors.size(); ++t) is_read[static_cast<size_t>(t)] = is_output(module, TensorId(t));
  for (const TensorId scalar : {module.loss, module.grad_norm})
    if (scalar.valid()) is_read[static_cast<size_t>(scalar.index)] = 1;
  std::vector<OpId> kept;
  for (size_t i = module.order.size(); i-- > 0;) {
    const Op& op = module.ops[module.order[i]];
    const bool stays = std::any_of(op.outputs.begin(), op.outputs.end(), [&](TensorId output) {
      return output.valid() && (is_read[static_cast<size_t>(output.index)] || module.tensors[output].next_version_of.valid() ||
                                module.tensors[output].gradient_of.valid());
    });
    if (stays) {
      for (const TensorId input : op.inputs)
        if (input.valid()) is_read[static_cast<size_t>(input.index)] = 1;
      kept.push_back(module.order[i]);
    } else {
      for (const TensorId output : op.outputs)
        if (output.valid()) llvm::erase(module.tensors[output].producers, module.order[i]);
    }
  }
  module.order.assign(kept.rbegin(), kept.rend());
}

}  // namespace

void transform(Module& module, const Plan& plan, Diagnostics& diagnostics) {
  cut_step(module, plan, diagnostics);
  if (!diagnostics.has_errors()) find_places(module, plan, diagnostics);
  if (diagnostics.has_errors()) return;
  make_variants(module, plan.order);
  divide(module, plan, diagnostics);
  if (!diagnostics.has_errors()) drop_unread(module);
}

}  // namespace sscc
