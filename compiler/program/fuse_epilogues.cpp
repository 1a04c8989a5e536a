// What follows a product alone, element by element, is done before the product is written, where libraries of products can do it.
//
//   p = contract(x, w); t = [add, gelu_tanh](p, bias)      ->      t = contract_epilogue(x, w, bias) gelu_tanh
//   p = contract(x, w); y = [add, add](p, bias, residual)  ->      y = contract_epilogue(x, w, residual, bias)
//   p = contract(g, w); d = [gelu_tanh_grad](before, p)    ->      d = contract_epilogue(g, w, before) gelu_tanh_grad
#include <optional>
#include <set>

#include "compiler/program/fusing.h"
#include "compiler/program/lower.h"
#include "compiler/program/traffic.h"
#include "compiler/program/views.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

class EpilogueFusion {
 public:
  // `apart`: operators that are not to be fused.
  EpilogueFusion(Body& body, const std::set<OpId>& apart) : body_(body), apart_(apart) {}

  void run() {
    count_accesses();
    for (ProgramSegment& segment : body_.segments) {
      std::vector<Instruction>& list = segment.instructions;
      std::set<size_t> left_out;
      for (size_t i = 0; i < list.size(); ++i) {
        if (list[i].opcode != Opcode::contract || list[i].piece < 0 || !can_fuse(list[i])) continue;
        const std::optional<size_t> next = only_reader(list, i);
        if (!next) continue;
        if (std::optional<Instruction> both = fused(list[i], list[*next])) {
          list[*next] = std::move(*both);
          left_out.insert(i);
        }
      }
      if (left_out.empty()) continue;
      std::vector<Instruction> kept;
      for (size_t i = 0; i < list.size(); ++i)
        if (!left_out.contains(i)) kept.push_back(std::move(list[i]));
      list = std::move(kept);
    }
  }

 private:
  struct Accesses {
    int reads = 0, writes = 0;
  };
  void count_accesses() {
    accesses_.resize(static_cast<size_t>(body_.buffers.size()));
    for (const ProgramSegment& segment : body_.segments)
      for (const Instruction& i : segment.instructions) {
        for (const View& view : i.ins) ++accesses_[static_cast<size_t>(view.buffer.index)].reads;
        for (const View& view : i.outs) ++accesses_[static_cast<size_t>(view.buffer.index)].writes;
      }
  }

  DType type_of(const View& view) const { return body_.buffers[view.buffer].dtype; }
  bool can_fuse(const Instruction& i) const { return !i.accumulate && !i.on_host && !apart_.contains(i.op); }

  // The pointwise instruction that reads what instruction i makes, if nothing else does and no communication stands between.
  std::optional<size_t> only_reader(const std::vector<Instruction>& list, size_t i) const {
    const BufferId made = list[i].outs[0].buffer;
    const Accesses& accesses = accesses_[static_cast<size_t>(made.index)];
    if (accesses.reads != 1 || accesses.writes != 1) return std::nullopt;
    for (size_t next = i + 1; next < list.size() && !is_communication(list[next].opcode); ++next) {
      if (llvm::none_of(list[next].ins, [&](const View& view) { return view.buffer == made; })) continue;
      return list[next].opcode == Opcode::pointwise && can_fuse(list[next]) ? std::optional(next) : std::nullopt;
    }
    return std::nullopt;
  }

  bool is_one_row(const View& view, const Shape& dims) const {
    for (size_t d = 0; d + 1 < view.dims.size(); ++d)
      if (view.dims[d] != 1) return false;
    return !view.dims.empty() && !dims.empty() && view.dims.back() == dims.back() && (dims.back() == 1 || view.strides.back() == 1);
  }

  // What follows a product: its scale with it, the function, and which operands of the pointwise instruction take part.
  struct Epilogue {
    double scale = 1;
    rt::Scalar function = rt::Scalar::identity;
    std::optional<int32_t> base, bias, before;
  };

  // Is argument `arg` of step s the value so far: the product, or what the step before makes?
  static bool is_value(const Instruction& product, const Instruction& next, size_t s, int32_t arg) {
    if (s > 0) return arg == ~(static_cast<int32_t>(s) - 1);
    return arg >= 0 && same_place(next.ins[static_cast<size_t>(arg)], product.outs[0]);
  }

  // Nothing if what follows the product is none of what kernels can do with it.
  std::optional<Epilogue> epilogue_of(const Instruction& product, const Instruction& next) const {
    const View& result = next.outs[0];
    const DType type = type_of(result);
    Epilogue e;
    e.scale = std::get<ContractExpression>(product.expression).scale;
    const auto add = [&](int32_t arg) {
      if (arg < 0) return false;
      const View& view = next.ins[static_cast<size_t>(arg)];
      const bool is_base = view.dims == result.dims && type_of(view) == type;
      if (!is_base && (!is_one_row(view, result.dims) || type_of(view) != rt::arithmetic_type(type))) return false;
      std::optional<int32_t>& operand = is_base ? e.base : e.bias;
      if (operand) return false;
      operand = arg;
      return true;
    };
    const auto& steps = std::get<PointwiseExpression>(next.expression).steps;
    for (size_t s = 0; s < steps.size(); ++s) {
      const rt::ScalarStep& step = steps[s];
      const auto reads_value = [&](int a) { return is_value(product, next, s, step.args[a]); };
      if (e.function != rt::Scalar::identity) return std::nullopt;  // nothing follows it
      switch (step.function) {
        case rt::Scalar::scale_shift:
          if (!reads_value(0) || step.beta != 0 || e.base || e.bias) return std::nullopt;
          e.scale *= step.alpha;
          break;
        case rt::Scalar::add: {
          const int value = reads_value(0) ? 0 : 1;
          if (!reads_value(value) || !add(step.args[1 - value])) return std::nullopt;
          break;
        }
        case rt::Scalar::relu:
        case rt::Scalar::gelu_tanh:
          if (!reads_value(0)) return std::nullopt;
          e.function = step.function;
          break;
        case rt::Scalar::gelu_tanh_grad: {
          if (!reads_value(1) || step.args[0] < 0 || e.base || e.bias) return std::nullopt;
          const View& before = next.ins[static_cast<size_t>(step.args[0])];
          if (before.dims != result.dims || type_of(before) != type) return std::nullopt;
          e.before = step.args[0];
          e.function = step.function;
          break;
        }
        default: return std::nullopt;
      }
    }
    return e;
  }

  // Are the results of the pointwise instruction its last step's and, at most, the value that a kept function is of?
  static bool can_write(const PointwiseExpression& steps, rt::Scalar function) {
    const auto last = static_cast<int32_t>(steps.steps.size()) - 1;
    return llvm::is_contained(steps.results, last) &&
           llvm::all_of(steps.results,
                        [&](int32_t step) { return step == last || (function == rt::Scalar::gelu_tanh && last > 0 && step == last - 1); }) &&
           steps.results.size() <= 2;
  }

  // Both as one; nothing if they cannot be.
  std::optional<Instruction> fused(const Instruction& product, const Instruction& next) const {
    const auto& steps = std::get<PointwiseExpression>(next.expression);
    const DType type = type_of(next.outs[0]);
    if (product.outs[0].dims != next.outs[0].dims || type_of(product.outs[0]) != type || !rt::is_float(type)) return std::nullopt;
    if (steps.ops.size() != steps.steps.size() || llvm::any_of(steps.ops, [&](const auto& each) { return apart_.contains(each.first); }))
      return std::nullopt;
    const std::optional<Epilogue> epilogue = epilogue_of(product, next);
    if (!epilogue || !can_write(steps, epilogue->function)) return std::nullopt;

    Instruction both;
    both.opcode = Opcode::contract_epilogue;
    both.op = product.op;
    both.tensor = next.tensor;
    both.origin = product.origin + ", " + next.origin;
    both.ins = product.ins;
    both.reads = product.reads;
    std::vector<int32_t> place(next.ins.size(), -1);  // of each operand of `next`
    for (const std::optional<int32_t>& operand : {epilogue->base, epilogue->bias, epilogue->before}) {
      if (!operand) continue;
      place[static_cast<size_t>(*operand)] = static_cast<int32_t>(both.ins.size());
      both.ins.push_back(next.ins[static_cast<size_t>(*operand)]);
      both.reads.push_back(next.reads[static_cast<size_t>(*operand)]);
    }
    if (place.size() != both.ins.size() - 1) return std::nullopt;  // an operand twice
    EpilogueExpression e{std::get<ContractExpression>(product.expression).equation,
                         epilogue->scale,
                         epilogue->function,
                         epilogue->base.has_value(),
                         epilogue->bias.has_value(),
                         {{product.op, product.piece, {0, 1}}}};
    for (size_t s = 0; s < steps.steps.size(); ++s) {
      FusedOp& op = e.ops.emplace_back(FusedOp{steps.ops[s].first, steps.ops[s].second, {}});
      for (int a = 0; a < rt::arity_of(steps.steps[s].function); ++a) {
        const int32_t arg = steps.steps[s].args[a];
        op.args.push_back(is_value(product, next, s, arg) ? ~static_cast<int32_t>(s) : place[static_cast<size_t>(arg)]);
      }
    }
    // The last step's result first, then the value before its function.
    const auto last = static_cast<int32_t>(steps.steps.size()) - 1;
    for (const int32_t wanted : {last, last - 1})
      for (size_t k = 0; k < steps.results.size(); ++k)
        if (steps.results[k] == wanted) {
          both.outs.push_back(next.outs[k]);
          both.writes.push_back(next.writes[k]);
        }
    both.expression = std::move(e);
    return both;
  }

  Body& body_;
  const std::set<OpId>& apart_;
  std::vector<Accesses> accesses_;  // by buffer
};

}  // namespace

void fuse_epilogues(const Module& module, Programs& programs) {
  const std::set<OpId> apart = named_by_precedences(module);
  for (Body& body : programs.bodies) {
    EpilogueFusion(body, apart).run();
    drop_unused_buffers(body);
  }
}

}  // namespace sscc
