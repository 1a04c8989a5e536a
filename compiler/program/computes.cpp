#include "compiler/program/computes.h"

#include <algorithm>

#include "compiler/ops/windows.h"
#include "compiler/support/strings.h"

namespace sscc {
namespace {

// The instruction's expression, if it is of this sort.
template <class Expression>
const Expression* expression_of(const Instruction& instruction) {
  return std::get_if<Expression>(&instruction.expression);
}

bool is_same(const rt::UpdateRule& a, const rt::UpdateRule& b) {
  return a.optimizer == b.optimizer && a.lr == b.lr && a.momentum == b.momentum && a.beta1 == b.beta1 && a.beta2 == b.beta2 && a.eps == b.eps &&
         a.weight_decay == b.weight_decay;
}

class Comparison {
 public:
  Comparison(const Module& module, const Op& op, const Piece& piece, const Instruction& instruction, const Constants& constants)
      : module_(module), op_(op), piece_(piece), instruction_(instruction), constants_(constants) {}

  std::string run() const {
    switch (op_.kind) {
      case Kind::pointwise: return is(Opcode::pointwise, pointwise());
      case Kind::contract: return is(Opcode::contract, contract());
      case Kind::reduce: return is(Opcode::reduce, reduce());
      case Kind::gather: return is(Opcode::gather, lookup(0, std::get<DimAttributes>(op_.attributes).dim, INT64_MIN));
      case Kind::scatter_add: return is(Opcode::scatter_add, lookup(inputs(), std::get<DimAttributes>(op_.attributes).dim, INT64_MIN));
      case Kind::pick: return is(Opcode::pick, classes());
      case Kind::cross_entropy_grad: return is(Opcode::cross_entropy_grad, classes());
      case Kind::softmax: return is(Opcode::softmax, dimension());
      case Kind::softmax_grad: return is(Opcode::softmax_grad, dimension());
      case Kind::norm: return is(Opcode::norm, norm());
      case Kind::norm_grad: return is(Opcode::norm_grad, norm());
      case Kind::norm_grad_scale: return is(Opcode::norm_grad_scale, norm());
      case Kind::convolve: return is(Opcode::convolve, windows());
      case Kind::convolve_transposed: return is(Opcode::convolve_transposed, windows());
      case Kind::convolve_grad_weight: return is(Opcode::convolve_grad_weight, windows());
      case Kind::max_pool: return is(Opcode::max_pool, windows());
      case Kind::max_pool_grad: return is(Opcode::max_pool_grad, windows());
      case Kind::sum_pool: return is(Opcode::sum_pool, windows());
      case Kind::sum_pool_grad: return is(Opcode::sum_pool_grad, windows());
      case Kind::pad: return is(Opcode::pad, pad());
      case Kind::update: return is(Opcode::update, update());
      default: return is(Opcode::copy, "");  // layout operators, where they are not views
    }
  }

 private:
  int inputs() const { return static_cast<int>(op_.inputs.size()); }
  std::string is(Opcode opcode, const std::string& difference) const {
    return instruction_.opcode == opcode ? difference : "is another kernel than its operator's";
  }

  std::string pointwise() const {
    const auto* e = expression_of<PointwiseExpression>(instruction_);
    if (!e || e->steps.size() != 1 || e->results.size() != 1 || e->results[0] != 0) return "is another expression than its operator's";
    return difference_of_step(e->steps[0], true);
  }

 public:
  // One step of an expression; `reads_in_order`: its arguments are the instruction's inputs, one after another.
  std::string difference_of_step(const rt::ScalarStep& step, bool reads_in_order) const {
    const auto& a = std::get<PointwiseAttributes>(op_.attributes);
    if (step.function != a.function)
      return std::string("computes ") + rt::name_of(step.function) + " where its operator is " + rt::name_of(a.function);
    if (step.alpha != a.alpha || step.beta != a.beta) return "has another constant than its operator";
    if (step.dtype != rt::arithmetic_type(module_.tensors[op_.outputs[0]].dtype)) return "computes in another type than its operator";
    for (int i = 0; reads_in_order && i < rt::arity_of(step.function); ++i)
      if (step.args[i] != i) return "reads its operands in another order than its operator";
    return "";
  }

 private:
  std::string contract() const {
    const auto* e = expression_of<ContractExpression>(instruction_);
    const auto& a = std::get<ContractAttributes>(op_.attributes);
    if (!e || e->equation != a.lhs + "," + a.rhs + "->" + a.out) return "sums over other dimensions than its operator";
    return e->scale == a.scale ? "" : "is scaled otherwise than its operator";
  }

  std::string reduce() const {
    const auto* e = expression_of<ReduceExpression>(instruction_);
    const auto& a = std::get<ReduceAttributes>(op_.attributes);
    uint32_t dims = 0;
    for (const int d : a.dims) dims |= uint32_t{1} << d;
    if (!e || e->reduced != dims || e->join != a.join) return "joins over other dimensions, or otherwise, than its operator";
    return e->scale == a.scale ? "" : "is scaled otherwise than its operator";
  }

  // `index`: the operand of which the piece has a range of the dimension that indices look up in.
  std::string lookup(int index, int dim, int64_t ignored) const {
    const auto* e = expression_of<IndexExpression>(instruction_);
    const auto d = static_cast<size_t>(dim);
    if (!e || e->dim != dim || e->length != module_.tensors[operand(op_, index)].shape[d]) return "looks up in another dimension than its operator";
    const Region region = region_of(module_, op_, index, piece_);
    const int64_t begin = e->offset < 0 ? 0 : constants_.offsets.at(static_cast<size_t>(e->offset));
    if (!region.dim(d).is_single() || region.dim(d).begin_position() != begin)
      return "takes its piece to begin at index " + std::to_string(begin) + ", and it is " + region.to_string();
    return e->ignore_index == ignored ? "" : "ignores another label than its operator";
  }

  std::string classes() const {
    const auto& a = std::get<ClassAttributes>(op_.attributes);
    return lookup(0, a.dim, a.ignore_index);
  }

  std::string dimension() const {
    const auto* e = expression_of<DimExpression>(instruction_);
    return e && e->dim == std::get<DimAttributes>(op_.attributes).dim ? "" : "works along another dimension than its operator";
  }

  std::string norm() const {
    const auto* e = expression_of<NormExpression>(instruction_);
    return e && *e == std::get<NormAttributes>(op_.attributes) ? "" : "normalises otherwise than its operator";
  }

  std::string windows() const {
    const auto* e = expression_of<WindowExpression>(instruction_);
    const auto& a = std::get<WindowAttributes>(op_.attributes);
    if (!e || e->scale != a.scale) return "is scaled otherwise than its operator";
    const WindowOperands at = *window_operands(op_.kind);
    const Region large = region_of(module_, op_, at.large, piece_), small = region_of(module_, op_, at.small, piece_);
    rt::Window expected = a.window;
    for (size_t d = 2; d < large.rank(); ++d) {
      if (!large.dim(d).is_single() || !small.dim(d).is_single()) return "slides windows over what is in several places: " + large.to_string();
      // Where the first window of the piece begins, before where the piece's own positions do.
      const int64_t window_begin = small.dim(d).begin_position() * a.window.stride[d - 2] - a.window.pad[d - 2];
      expected.pad[d - 2] = large.dim(d).begin_position() - window_begin;
    }
    return e->window == expected ? "" : "slides other windows than its operator";
  }

  std::string pad() const {
    const auto* e = expression_of<PadExpression>(instruction_);
    const auto& a = std::get<SliceAttributes>(op_.attributes);
    const Region out = region_of(module_, op_, inputs(), piece_);
    if (!e || e->starts.size() != out.rank() || e->steps.size() != out.rank()) return "pads other dimensions than its operator";
    for (size_t d = 0; d < out.rank(); ++d)
      if (e->starts[d] != out.dim(d).count_below(a.starts[d]) || e->steps[d] != a.steps[d]) return "puts its operand elsewhere than its operator";
    return "";
  }

  std::string update() const {
    const auto* e = expression_of<UpdateExpression>(instruction_);
    return e && is_same(e->rule, std::get<UpdateAttributes>(op_.attributes).rule) ? "" : "updates otherwise than its operator";
  }

  const Module& module_;
  const Op& op_;
  const Piece& piece_;
  const Instruction& instruction_;
  const Constants& constants_;
};

}  // namespace

std::string difference_from_operator(const Module& module, const Op& op, const Piece& piece, const Instruction& instruction,
                                     const Constants& constants) {
  return Comparison(module, op, piece, instruction, constants).run();
}

std::string difference_from_operators(const Module& module, const Instruction& fused) {
  const auto& e = std::get<PointwiseExpression>(fused.expression);
  if (e.ops.size() != e.steps.size() || e.results.size() != fused.outs.size()) return "does not say which operators it fuses";
  for (size_t s = 0; s < e.steps.size(); ++s) {
    const Op& op = module.ops[e.ops[s].first];
    if (op.kind != Kind::pointwise) return "fuses what is not pointwise";
    const std::string difference = Comparison(module, op, {}, fused, {}).difference_of_step(e.steps[s], false);
    if (!difference.empty()) return difference;
  }
  return "";
}

}  // namespace sscc
