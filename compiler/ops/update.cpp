// One parameter's update: `d*, d*, .. -> d*, ..`; a clipping factor is a scalar.
#include "compiler/ops/ops.h"
#include "compiler/ops/rule_builder.h"

namespace sscc {
namespace {

Rule rule(const Module& module, const Op& op) {
  RuleBuilder r(module, op);
  const Shape& shape = r.shape(0);
  const int operands = static_cast<int>(op.inputs.size() + op.outputs.size());
  for (size_t d = 0; d < shape.size(); ++d) {
    const int axis = r.axis("d" + std::to_string(d), shape[d]);
    for (int i = 0; i < operands; ++i)
      if (r.shape(i).size() == shape.size()) r.at(axis, i, d);
  }
  return r.take();
}

int64_t flops(const Module& module, const Op& op) { return 10 * elements(module.tensors[op.inputs[0]].shape); }

}  // namespace

extern const OpDefinition update_definition;
const OpDefinition update_definition = {Kind::update, "update", false, rule, no_gradient, nullptr, flops};

}  // namespace sscc
