// Lookup along a dimension, and its gradient. `a* v+ c*, i* -> a* i* c*`: the looked-up axis v is a masked sum, since a piece gives 0 for indices
// that another piece has.
#include "compiler/ops/ops.h"
#include "compiler/ops/rule_builder.h"

namespace sscc {
namespace {

// `data` holds the looked-up dimension, `indices` the positions, `rows` the looked-up rows. The operand that the operator writes has no summed axes.
Rule lookup_rule(const Module& module, const Op& op, int data, int indices, int rows, bool scatters) {
  const size_t dim = static_cast<size_t>(std::get<DimAttributes>(op.attributes).dim);
  RuleBuilder r(module, op);
  const size_t index_rank = r.shape(indices).size();
  size_t d = 0;  // of rows
  auto plain = [&](size_t data_dim) {
    const int axis = r.axis("d" + std::to_string(d), r.shape(data)[data_dim]);
    r.at(axis, data, data_dim);
    r.at(axis, rows, d++);
  };
  for (size_t a = 0; a < dim; ++a) plain(a);
  for (size_t i = 0; i < index_rank; ++i) {
    const int axis = r.axis("d" + std::to_string(d), r.shape(indices)[i], scatters ? Mark::sum : Mark::plain);
    r.at(axis, indices, i);
    r.at(axis, rows, d++);
  }
  r.at(r.axis("v", r.shape(data)[dim], scatters ? Mark::plain : Mark::sum), data, dim);
  for (size_t c = dim + 1; c < r.shape(data).size(); ++c) plain(c);
  return r.take();
}

Rule gather_rule(const Module& module, const Op& op) { return lookup_rule(module, op, 0, 1, 2, false); }
Rule scatter_add_rule(const Module& module, const Op& op) { return lookup_rule(module, op, 2, 0, 1, true); }

bool gradient(Module& module, OpId id, llvm::ArrayRef<TensorId> output_gradients, llvm::ArrayRef<TensorId> input_gradients, Builder& b) {
  if (!input_gradients[0].valid()) return true;
  const Op op = module.ops[id];
  b.into(input_gradients[0])
      .scatter_add(op.inputs[1], output_gradients[0], std::get<DimAttributes>(op.attributes).dim, module.tensors[op.inputs[0]].shape);
  return true;
}

}  // namespace

extern const OpDefinition gather_definition, scatter_add_definition;
const OpDefinition gather_definition = {Kind::gather, "gather", false, gather_rule, gradient, nullptr, no_flops};
const OpDefinition scatter_add_definition = {Kind::scatter_add, "scatter_add", false, scatter_add_rule, no_gradient, nullptr, no_flops};

}  // namespace sscc
