// Contractions: sums of products over labelled dimensions. MatMul, Gemm and Einsum are contractions, and so are all their gradients:
//   C[out] = sum A[lhs] B[rhs]      dA[lhs] = sum dC[out] B[rhs]      dB[rhs] = sum A[lhs] dC[out]
// with the same labels, so that every axis keeps its name and only its role changes.
#include <set>

#include "compiler/ops/ops.h"
#include "compiler/ops/rule_builder.h"

namespace sscc {
namespace {

// The contract's names: m (left only), n (right only), k (summed), b0 b1 .. (in all three) where m, n and k are single; else, and for Einsum, the
// letters themselves. A gradient has its forward operator's names: the label decides.
std::map<char, std::string> axis_names(const Module& module, const Op& op) {
  const Op& named = op.phase == Phase::backward && op.forward.valid() && module.ops[op.forward].kind == Kind::contract ? module.ops[op.forward] : op;
  const auto& a = std::get<ContractAttributes>(named.attributes);
  const std::set<char> lhs(a.lhs.begin(), a.lhs.end()), rhs(a.rhs.begin(), a.rhs.end()), out(a.out.begin(), a.out.end());
  std::string m, n, k, b;
  for (char label : a.out + a.lhs + a.rhs) {
    if ((m + n + k + b).find(label) != std::string::npos) continue;
    const bool left = lhs.contains(label), right = rhs.contains(label), made = out.contains(label);
    (left && right && !made ? k : left && right ? b : left ? m : n) += label;
  }
  std::map<char, std::string> names;
  if (named.type == "Einsum") {
    for (char label : m + n + k + b) names[label] = std::string(1, label);
    return names;
  }
  // Leading dimensions of MatMul that only one operand has are batch dimensions as well.
  auto leading = [&](std::string& group) {
    while (group.size() > 1) {
      b += group[0];
      group.erase(0, 1);
    }
  };
  leading(m);
  leading(n);
  for (size_t i = 0; i < m.size(); ++i) names[m[i]] = "m";
  for (size_t i = 0; i < n.size(); ++i) names[n[i]] = "n";
  for (size_t i = 0; i < k.size(); ++i) names[k[i]] = k.size() == 1 ? "k" : "k" + std::to_string(i);
  size_t next = 0;
  for (char label : a.out)
    if (b.find(label) != std::string::npos) names[label] = "b" + std::to_string(next++);
  for (char label : b) names.try_emplace(label, "b" + std::to_string(next++));
  return names;
}

Rule rule(const Module& module, const Op& op) {
  const auto& a = std::get<ContractAttributes>(op.attributes);
  const std::map<char, std::string> names = axis_names(module, op);
  RuleBuilder r(module, op);
  std::map<char, int> axes;
  auto visit = [&](const std::string& labels, int index) {
    for (size_t d = 0; d < labels.size(); ++d) {
      const char label = labels[d];
      if (!axes.contains(label)) {
        const bool summed = a.out.find(label) == std::string::npos;
        axes[label] = r.axis(names.contains(label) ? names.at(label) : std::string(1, label), r.shape(index)[d], summed ? Mark::sum : Mark::plain);
      }
      r.at(axes[label], index, d);
    }
  };
  visit(a.out, 2);
  visit(a.lhs, 0);
  visit(a.rhs, 1);
  return r.take();
}

bool gradient(Module& module, OpId id, llvm::ArrayRef<TensorId> output_gradients, llvm::ArrayRef<TensorId> input_gradients, Builder& b) {
  const Op op = module.ops[id];
  const auto a = std::get<ContractAttributes>(op.attributes);
  const TensorId dy = output_gradients[0];
  // A label of one operand alone that the result has not was summed away: its gradient is the same along it, which a contraction cannot make.
  auto covered = [](const std::string& wanted, const std::string& x, const std::string& y) {
    for (char label : wanted)
      if (x.find(label) == std::string::npos && y.find(label) == std::string::npos) return false;
    return true;
  };
  if (input_gradients[0].valid()) {
    if (!covered(a.lhs, a.out, a.rhs)) return false;
    b.into(input_gradients[0]).contract(dy, a.out, op.inputs[1], a.rhs, a.lhs, a.scale);
  }
  if (input_gradients[1].valid()) {
    if (!covered(a.rhs, a.lhs, a.out)) return false;
    b.into(input_gradients[1]).contract(op.inputs[0], a.lhs, dy, a.out, a.rhs, a.scale);
  }
  return true;
}

int64_t flops(const Module& module, const Op& op) {
  const auto& a = std::get<ContractAttributes>(op.attributes);
  std::map<char, int64_t> lengths;
  for (size_t d = 0; d < a.lhs.size(); ++d) lengths[a.lhs[d]] = module.tensors[op.inputs[0]].shape[d];
  for (size_t d = 0; d < a.rhs.size(); ++d) lengths[a.rhs[d]] = module.tensors[op.inputs[1]].shape[d];
  int64_t flops = 2;
  for (const auto& [label, length] : lengths) flops *= length;
  return flops;
}

}  // namespace

extern const OpDefinition contract_definition;
const OpDefinition contract_definition = {Kind::contract, "contract", false, rule, gradient, nullptr, flops};

}  // namespace sscc
