// What is known of each kind of operator: its axis rule, gradient, decomposed form and cost. One file a family in this folder; the table is
// ops.def. ONNX types are mapped to kinds by the importers in compiler/frontend.
#pragma once

#include <functional>
#include <vector>

#include "compiler/ops/build.h"

namespace sscc {

struct OpDefinition {
  Kind kind;
  const char* name;
  bool is_layout;
  // The axis rule of an operator whose operands have their final shapes.
  Rule (*rule)(const Module&, const Op&);
  // Gradients of the inputs given the gradients of the outputs (invalid: not needed or zero). `builder` carries phase backward, the forward
  // operator and its name. Adds operators whose results are addends of `input_gradients[i]` (invalid: not wanted) with builder.into().
  // Returns false where the kind has no gradient.
  bool (*gradient)(Module&, OpId op, llvm::ArrayRef<TensorId> output_gradients, llvm::ArrayRef<TensorId> input_gradients, Builder& builder);
  // For an operator with `%` axes: the same computation from operators without them, appended to `order` with rules whose axes name, in
  // Axis::forward_axis, the axis of `op` that each is. The last operators write op's outputs. Null: the kind has no % axis.
  void (*decompose)(Module&, const Op& op, Builder& builder);
  // Floating-point operations of the whole operator.
  int64_t (*flops)(const Module&, const Op&);
};

const OpDefinition& definition(Kind kind);
// The type in which the operator's kernel takes an operand (inputs, then outputs). Where that is not the tensor's own, the operand is converted first:
// both factors of a product are small floats if one is, or the product; what only moves, or is summed to a small float, has the type of where it goes.
DType operand_type(const Module& module, const Op& op, int operand);
// Attach the rule (again, after shapes changed).
void attach_rule(Module& module, OpId op);

}  // namespace sscc
