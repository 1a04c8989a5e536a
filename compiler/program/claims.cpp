#include "compiler/program/claims.h"

#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "compiler/ops/ops.h"
#include "compiler/program/computes.h"
#include "compiler/support/strings.h"

namespace sscc {
namespace {

class Claims {
 public:
  Claims(const Module& module, const Layouts& layouts, const RankProgram& rank, const Body& body, const Instruction& instruction)
      : module_(module), layouts_(layouts), rank_(rank), body_(body), instruction_(instruction) {}

  // Every input of the operator's piece is read, and every output written, exactly as the rule says.
  std::string of_operator() const {
    const Op& o = module_.ops[instruction_.op];
    const Piece* held = piece_of(instruction_.op, instruction_.piece);
    if (!held) return "has no piece of this operator";
    const Piece& piece = *held;
    std::string difference = difference_from_operator(module_, o, piece, instruction_, rank_.constants);
    if (!difference.empty()) return difference;
    if (instruction_.opcode == Opcode::copy) return of_concat(o, piece);
    size_t read = 0, written = 0;
    for (size_t k = 0; k < o.inputs.size(); ++k) {
      if (!o.inputs[k].valid()) continue;
      const Claim& c = claim(instruction_.reads[read++]);
      if (c.tensor != o.inputs[k] || !(c.region == region_of(module_, o, static_cast<int>(k), piece))) return "does not read what its operator needs";
      if (type_of(instruction_.ins[read - 1]) != operand_type(module_, o, static_cast<int>(k))) return "reads another type than its kernel takes";
    }
    for (size_t k = 0; k < o.outputs.size(); ++k) {
      if (!o.outputs[k].valid()) continue;
      const Claim& c = claim(instruction_.writes[written++]);
      if (c.tensor != o.outputs[k] || !(c.region == region_of(module_, o, static_cast<int>(o.inputs.size() + k), piece)) ||
          !(c.part == part_of(module_, instruction_.op, static_cast<int>(k), piece)))
        return "does not write what its operator makes";
      if (type_of(instruction_.outs[written - 1]) != module_.tensors[o.outputs[k]].dtype) return "writes another type than its operator";
    }
    return "";
  }

  // Every step reads, from the instruction's inputs or earlier steps, what its operator needs; results are the operators' outputs.
  std::string of_fused() const {
    std::string difference = difference_from_operators(module_, instruction_);
    if (!difference.empty()) return difference;
    const auto& e = std::get<PointwiseExpression>(instruction_.expression);
    std::vector<std::pair<TensorId, Region>> made;
    for (size_t s = 0; s < e.steps.size(); ++s) {
      const Op& o = module_.ops[e.ops[s].first];
      const Piece* piece = piece_of(e.ops[s].first, e.ops[s].second);
      if (!piece) return "has no piece of this operator";
      for (int a = 0; a < rt::arity_of(e.steps[s].function); ++a) {
        const int32_t arg = e.steps[s].args[a];
        if (arg >= static_cast<int32_t>(instruction_.reads.size()) || ~arg >= static_cast<int32_t>(s)) return "has a step that reads nothing";
        TensorId tensor;
        Region region;
        if (arg >= 0) {
          const Claim& c = claim(instruction_.reads[static_cast<size_t>(arg)]);
          std::tie(tensor, region) = std::tie(c.tensor, c.region);
          if (type_of(instruction_.ins[static_cast<size_t>(arg)]) != module_.tensors[tensor].dtype)
            return "reads a value in another type than it has";
        } else {
          std::tie(tensor, region) = made[static_cast<size_t>(~arg)];
        }
        if (!serves(tensor, region, o.inputs[static_cast<size_t>(a)], region_of(module_, o, a, *piece)))
          return "does not read what operator " + quoted(o.name) + " needs";
      }
      made.emplace_back(o.outputs[0], region_of(module_, o, static_cast<int>(o.inputs.size()), *piece));
    }
    for (size_t k = 0; k < e.results.size(); ++k) {
      const auto s = static_cast<size_t>(e.results[k]);
      const Claim& c = claim(instruction_.writes[k]);
      if (s >= made.size() || c.tensor != made[s].first || !(c.region == made[s].second) ||
          !(c.part == part_of(module_, e.ops[s].first, 0, *piece_of(e.ops[s].first, e.ops[s].second))))
        return "does not write what its operators make";
      if (type_of(instruction_.outs[k]) != module_.tensors[c.tensor].dtype) return "writes a value in another type than it has";
    }
    return "";
  }

  // Attention, or its gradient, which is given the results of the forward pass: the output, and the softmax's result in its short form.
  std::string of_attention() const {
    std::string difference = difference_from_attention(module_, instruction_);
    if (!difference.empty()) return difference;
    const std::variant<std::vector<Made>, std::string> made = follow(std::get<AttentionExpression>(instruction_.expression).ops);
    if (const auto* problem = std::get_if<std::string>(&made)) return *problem;
    const auto& values = std::get<std::vector<Made>>(made);
    const AttentionRoles roles = roles_of(module_, instruction_);
    const std::vector<int32_t> results = instruction_.opcode == Opcode::attention
                                             ? std::vector<int32_t>{roles.output, roles.softmax}
                                             : std::vector<int32_t>{roles.query_gradient, roles.key_gradient, roles.value_gradient};
    for (size_t k = 0; k < instruction_.outs.size(); ++k)
      if (!holds(instruction_.outs[k], instruction_.writes[k], values[static_cast<size_t>(results[k])], writes_log_sums(instruction_, k)))
        return "does not write what its operators make";
    if (instruction_.opcode == Opcode::attention) return "";
    for (const auto& [k, op] : {std::pair(out_of_gradient, roles.output), std::pair(log_sums_of_gradient, roles.softmax)}) {
      const auto i = static_cast<size_t>(k);
      if (!holds(instruction_.ins[i], instruction_.reads[i], values[static_cast<size_t>(op)], reads_log_sums(instruction_, i)))
        return "is given another result of the forward pass than it computes again";
    }
    return "";
  }

  // A product and what follows it.
  std::string of_epilogue() const {
    std::string difference = difference_from_epilogue(module_, instruction_);
    if (!difference.empty()) return difference;
    const auto& ops = std::get<EpilogueExpression>(instruction_.expression).ops;
    const std::variant<std::vector<Made>, std::string> made = follow(ops);
    if (const auto* problem = std::get_if<std::string>(&made)) return *problem;
    const auto& values = std::get<std::vector<Made>>(made);
    for (size_t k = 0; k < instruction_.outs.size(); ++k)
      if (!holds(instruction_.outs[k], instruction_.writes[k], values[values.size() - 1 - k], false)) return "does not write what its operators make";
    // As its kernel wants them: a base and what a gradient's function is of lie as the result, a bias is one row in the type of sums.
    const auto& e = std::get<EpilogueExpression>(instruction_.expression);
    const View& result = instruction_.outs[0];
    const size_t bias = e.has_base ? 3 : 2;
    for (size_t k = 2; k < instruction_.ins.size(); ++k) {
      const View& in = instruction_.ins[k];
      const bool is_bias = e.has_bias && k == bias;
      const bool is_row = !in.dims.empty() && !result.dims.empty() && in.dims.back() == result.dims.back() && elements(in.dims) == in.dims.back();
      if (is_bias ? !is_row || type_of(in) != rt::arithmetic_type(type_of(result)) : in.dims != result.dims || type_of(in) != type_of(result))
        return "has another operand than its kernel takes";
    }
    return "";
  }

 private:
  struct Made {
    TensorId tensor;
    Region region;
    Part part;
  };

  // What each operator of an instruction makes, if every one reads, from the instruction's operands or from operators before it, what it needs.
  std::variant<std::vector<Made>, std::string> follow(llvm::ArrayRef<FusedOp> ops) const {
    std::vector<Made> made;
    for (const FusedOp& fused : ops) {
      const Op& o = module_.ops[fused.op];
      const Piece* piece = piece_of(fused.op, fused.piece);
      if (!piece) return "has no piece of operator " + quoted(o.name);
      for (size_t a = 0; a < o.inputs.size(); ++a) {
        const int32_t arg = fused.args[a];
        const Region needed = region_of(module_, o, static_cast<int>(a), *piece);
        const Made* inside = arg < 0 ? &made[static_cast<size_t>(~arg)] : nullptr;
        if (inside ? inside->region.local_shape() != needed.local_shape() || !serves(inside->tensor, inside->region, o.inputs[a], needed)
                   : !is_claim_of(instruction_.reads[static_cast<size_t>(arg)], o.inputs[a], needed, Part()))
          return "does not read what operator " + quoted(o.name) + " needs";
        if (!inside && type_of(instruction_.ins[static_cast<size_t>(arg)]) != operand_type(module_, o, static_cast<int>(a)))
          return "reads another type than its kernel takes";
      }
      made.push_back({o.outputs[0], region_of(module_, o, static_cast<int>(o.inputs.size()), *piece), part_of(module_, fused.op, 0, *piece)});
    }
    return made;
  }

  // Is a view said to hold, in the right type, what an operator makes?
  bool holds(const View& view, int32_t claim, const Made& made, bool is_log_sums) const {
    const DType type = module_.tensors[made.tensor].dtype;
    return is_claim_of(claim, made.tensor, made.region, made.part) && type_of(view) == (is_log_sums ? rt::arithmetic_type(type) : type);
  }
  bool is_claim_of(int32_t index, TensorId tensor, const Region& region, const Part& part) const {
    const Claim& c = claim(index);
    return c.tensor == tensor && c.region == region && c.part == part;
  }
  DType type_of(const View& view) const { return body_.buffers[view.buffer].dtype; }
  const Claim& claim(int32_t index) const { return rank_.claims[static_cast<size_t>(index)]; }

  const Piece* piece_of(OpId op, int32_t ordinal) const {
    const auto here = layouts_.pieces_on(rank_.rank, op);
    if (static_cast<size_t>(ordinal) >= here.size()) return nullptr;
    return &module_.ops[op].pieces[static_cast<size_t>(here[static_cast<size_t>(ordinal)].second)];
  }

  // A copy of one operand of a concat to its place in the result.
  std::string of_concat(const Op& o, const Piece& piece) const {
    const Claim& from = claim(instruction_.reads[0]);
    const Claim& to = claim(instruction_.writes[0]);
    const Region out = region_of(module_, o, static_cast<int>(o.inputs.size()), piece);
    int64_t start = 0;
    for (size_t k = 0; o.kind == Kind::concat && k < o.inputs.size(); ++k) {
      const auto dim = static_cast<size_t>(std::get<DimAttributes>(o.attributes).dim);
      const int64_t end = start + module_.tensors[o.inputs[k]].shape[dim];
      Region place = out;
      place.set_dim(dim, intersect(out.dim(dim), Intervals(start, end)));
      if (from.tensor == o.inputs[k] && from.region == region_of(module_, o, static_cast<int>(k), piece) && to.tensor == o.outputs[0] &&
          to.region == place && to.part == part_of(module_, instruction_.op, 0, piece)) {
        const bool is_right = type_of(instruction_.ins[0]) == operand_type(module_, o, static_cast<int>(k)) &&
                              type_of(instruction_.outs[0]) == module_.tensors[o.outputs[0]].dtype;
        return is_right ? "" : "puts together values of another type";
      }
      start = end;
    }
    return "does not put what its operator reads where it belongs";
  }

  // A value that stays in a register is read as itself, or as a layout of itself that has every element at its place.
  bool serves(TensorId has, const Region& has_region, TensorId wants, const Region& region) const {
    if (has == wants) return has_region == region;
    const View view = whole_buffer(BufferId(0), has_region.local_shape());
    return layouts_.share_of(rank_.rank, {has, has_region, view}, as_wide_as(view, region), wants, region).has_value();
  }

  const Module& module_;
  const Layouts& layouts_;
  const RankProgram& rank_;
  const Body& body_;
  const Instruction& instruction_;
};

}  // namespace

std::string difference_from_claims(const Module& module, const Layouts& layouts, const RankProgram& rank, const Body& body,
                                   const Instruction& instruction) {
  const Claims claims(module, layouts, rank, body, instruction);
  if (instruction.opcode == Opcode::pointwise && instruction.piece < 0) return claims.of_fused();
  if (std::holds_alternative<AttentionExpression>(instruction.expression)) return claims.of_attention();
  if (std::holds_alternative<EpilogueExpression>(instruction.expression)) return claims.of_epilogue();
  return instruction.op.valid() && instruction.piece >= 0 ? claims.of_operator() : "";
}

}  // namespace sscc
