#include "compiler/ops/ops.h"

#include "compiler/ops/windows.h"

namespace sscc {

#define SSCC_OP(kind) extern const OpDefinition kind##_definition;
#include "compiler/ops/ops.def"
#undef SSCC_OP

const OpDefinition& definition(Kind kind) {
  switch (kind) {
#define SSCC_OP(name) \
  case Kind::name:    \
    return name##_definition;
#include "compiler/ops/ops.def"
#undef SSCC_OP
  }
  return pointwise_definition;
}

DType operand_type(const Module& module, const Op& op, int index) {
  const auto type_of = [&](TensorId id) { return module.tensors[id].dtype; };
  const DType own = type_of(operand(op, index));
  if (rt::arithmetic_type(own) != DType::f32 || index >= static_cast<int>(op.inputs.size())) return own;
  const DType result = type_of(op.outputs[0]);
  if (definition(op.kind).is_layout || (op.kind == Kind::reduce && rt::is_small(result))) return result;
  if (op.kind != Kind::contract && !is_convolution(op.kind)) return own;
  for (const TensorId id : {op.inputs[0], op.inputs[1], op.outputs[0]})
    if (rt::is_small(type_of(id))) return type_of(id);
  return own;
}

void attach_rule(Module& module, OpId id) {
  Op& op = module.ops[id];
  Rule rule = definition(op.kind).rule(module, op);
  for (Axis& axis : rule.axes)  // a changed shape does not change which forward axis it is
    for (const Axis& old : op.rule.axes)
      if (old.name == axis.name) axis.forward_axis = old.forward_axis;
  // A reshape and its inverse have the same axes in the same order, under names that depend on lengths.
  if (op.kind == Kind::reshape && op.forward.valid() && module.ops[op.forward].kind == Kind::reshape)
    for (size_t a = 0; a < rule.axes.size(); ++a) rule.axes[a].forward_axis = static_cast<int>(a);
  op.rule = std::move(rule);
}

}  // namespace sscc
