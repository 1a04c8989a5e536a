// What a product with an epilogue computes, found by following its operators: the product, what is added to it, and a function.
#include <algorithm>

#include "compiler/program/computes.h"

namespace sscc {
namespace {

enum class Operand { lhs, rhs, base, bias, before };

// Of each operand.
std::vector<Operand> roles_of_operands(const Instruction& i) {
  const auto& e = std::get<EpilogueExpression>(i.expression);
  std::vector<Operand> roles = {Operand::lhs, Operand::rhs};
  if (e.has_base) roles.push_back(Operand::base);
  if (e.has_bias) roles.push_back(Operand::bias);
  while (roles.size() < i.ins.size()) roles.push_back(Operand::before);
  return roles;
}

}  // namespace

std::string difference_from_epilogue(const Module& module, const Instruction& product) {
  const auto& e = std::get<EpilogueExpression>(product.expression);
  if (product.opcode != Opcode::contract_epilogue || e.ops.empty()) return "is another kernel than its operators'";
  const std::vector<Operand> roles = roles_of_operands(product);
  const bool is_gradient = e.function == rt::Scalar::gelu_tanh_grad, keeps_value = product.outs.size() == 2;
  const size_t operands = 2 + static_cast<size_t>(e.has_base) + static_cast<size_t>(e.has_bias) + static_cast<size_t>(is_gradient);
  if (product.ins.size() != operands || product.outs.empty() || product.outs.size() > 2 || (keeps_value && e.function != rt::Scalar::gelu_tanh))
    return "has other operands than what it computes";
  const char* const otherwise = "computes otherwise than its operators";
  double scale = 1;
  size_t added = 0;
  bool is_done = false;  // the function is the last
  for (size_t k = 0; k < e.ops.size(); ++k) {
    const Op& op = module.ops[e.ops[k].op];
    const llvm::ArrayRef<int32_t> args = e.ops[k].args;
    const auto reads = [&](size_t a, Operand role) {
      return a < args.size() && args[a] >= 0 && args[a] < static_cast<int32_t>(roles.size()) && roles[static_cast<size_t>(args[a])] == role;
    };
    const auto reads_value = [&](size_t a) { return a < args.size() && args[a] == ~(static_cast<int32_t>(k) - 1) && k > 0; };
    if (op.inputs.size() != args.size() || is_done) return otherwise;
    if (k == 0) {
      const auto* a = std::get_if<ContractAttributes>(&op.attributes);
      if (op.kind != Kind::contract || !reads(0, Operand::lhs) || !reads(1, Operand::rhs) || e.equation != a->lhs + "," + a->rhs + "->" + a->out)
        return "sums over other dimensions than its operator";
      scale = a->scale;
      continue;
    }
    if (op.kind != Kind::pointwise) return otherwise;
    const auto& a = std::get<PointwiseAttributes>(op.attributes);
    switch (a.function) {
      case rt::Scalar::scale_shift:
        if (!reads_value(0) || added > 0 || a.beta != 0) return otherwise;
        scale *= a.alpha;
        break;
      case rt::Scalar::add: {
        const size_t value = reads_value(0) ? 0 : 1;
        if (!reads_value(value) || (!reads(1 - value, Operand::base) && !reads(1 - value, Operand::bias))) return otherwise;
        ++added;
        break;
      }
      case rt::Scalar::relu:
      case rt::Scalar::gelu_tanh:
        if (a.function != e.function || !reads_value(0)) return otherwise;
        is_done = true;
        break;
      case rt::Scalar::gelu_tanh_grad:
        if (a.function != e.function || !reads(0, Operand::before) || !reads_value(1)) return otherwise;
        is_done = true;
        break;
      default: return otherwise;
    }
  }
  // Two additions of one operand would leave another out: each has one.
  llvm::SmallVector<int32_t, 4> taken;
  for (const FusedOp& op : e.ops)
    for (const int32_t arg : op.args)
      if (arg >= 0) taken.push_back(arg);
  std::sort(taken.begin(), taken.end());
  const bool takes_each_once = taken.size() == product.ins.size() && std::adjacent_find(taken.begin(), taken.end()) == taken.end();
  const bool is_right = takes_each_once && is_done == (e.function != rt::Scalar::identity);
  return is_right && scale == e.scale ? "" : otherwise;
}

}  // namespace sscc
