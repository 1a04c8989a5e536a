// What attention and its gradient compute, found by following their operators one after the other: each takes operands of the instruction, or what
// operators before it make, and makes one of the few things that the kernels know.
#include <cmath>
#include <map>
#include <optional>

#include "compiler/program/computes.h"

namespace sscc {
namespace {

// Operands of the instruction, and what operators make of them.
enum class Role {
  q,
  k,
  v,
  out,
  log_sums,
  out_gradient,
  mask,
  value,
  scores,
  probabilities,
  probability_gradient,
  score_gradient,
  zero,
  result,
  none
};

struct Made {
  Role role = Role::none;
  rt::AttentionRule rule;  // of scores, so far
  double scale = 1;        // of their gradient
  bool is_masked = false;
};

bool is_same(const rt::AttentionRule& a, const rt::AttentionRule& b) {
  return a.scale == b.scale && a.mask == b.mask && a.low == b.low && a.high == b.high;
}
bool is_clamped(const rt::AttentionRule& rule) { return std::isfinite(rule.low) || std::isfinite(rule.high); }
bool chooses(rt::AttentionMask mask) { return mask == rt::AttentionMask::replace || mask == rt::AttentionMask::keep; }

class Computation {
 public:
  Computation(const Module& module, const Instruction& attention)
      : module_(module), opcode_(attention.opcode), e_(std::get<AttentionExpression>(attention.expression)) {
    const std::string& text = e_.equation;
    size_t begin = 0;
    for (size_t i = 0; i + 1 < std::size(labels_); ++i) {
      const size_t end = std::min(text.find_first_of(",-", begin), text.size());
      labels_[i] = text.substr(begin, end - begin);
      begin = std::min(end + (i + 2 == std::size(labels_) ? 2 : 1), text.size());
    }
    labels_[4] = text.substr(begin);
  }

  // False where an operator makes nothing that is known here.
  bool run() {
    for (const FusedOp& op : e_.ops) {
      const auto made = make(op);
      if (!made) return false;
      made_.push_back(*made);
    }
    const bool is_forward = roles.softmax >= 0 && roles.output >= 0;
    return is_forward && (opcode_ == Opcode::attention || (roles.query_gradient >= 0 && roles.key_gradient >= 0 && roles.value_gradient >= 0));
  }

  // Of q, k, v, scores and out.
  const std::string& labels(size_t operand) const { return labels_[operand]; }

  AttentionRoles roles;

 private:
  const std::string& q() const { return labels_[0]; }
  const std::string& k() const { return labels_[1]; }
  const std::string& v() const { return labels_[2]; }
  const std::string& scores() const { return labels_[3]; }
  const std::string& out() const { return labels_[4]; }

  Role operand(int32_t index) const {
    static constexpr Role forward[] = {Role::q, Role::k, Role::v, Role::mask, Role::value};
    static constexpr Role gradient[] = {Role::q, Role::k, Role::v, Role::out, Role::log_sums, Role::out_gradient, Role::mask, Role::value};
    return opcode_ == Opcode::attention ? forward[index] : gradient[index];
  }

  std::optional<Made> make(const FusedOp& fused) {
    const Op& op = module_.ops[fused.op];
    llvm::SmallVector<Made, 3> args;
    for (const int32_t arg : fused.args) args.push_back(arg < 0 ? made_[static_cast<size_t>(~arg)] : Made{operand(arg), {}, 1, false});
    switch (op.kind) {
      case Kind::contract: return contract(std::get<ContractAttributes>(op.attributes), args);
      case Kind::pointwise: return pointwise(std::get<PointwiseAttributes>(op.attributes), args);
      case Kind::softmax:
        if (args[0].role != Role::scores || !is_same(args[0].rule, e_.rule) || !is_along_keys(std::get<DimAttributes>(op.attributes).dim)) return {};
        roles.softmax = here();
        return Made{Role::probabilities, {}, 1, false};
      case Kind::softmax_grad:
        if (args[0].role != Role::probabilities || args[1].role != Role::probability_gradient) return {};
        if (!is_along_keys(std::get<DimAttributes>(op.attributes).dim)) return {};
        return Made{Role::score_gradient, {}, 1, false};
      default: return {};
    }
  }
  int32_t here() const { return static_cast<int32_t>(made_.size()); }

  // Is it the dimension, and the only one, that the product with values sums over?
  bool is_along_keys(int dim) const {
    for (size_t d = 0; d < scores().size(); ++d)
      if ((out().find(scores()[d]) == std::string::npos) != (d == static_cast<size_t>(dim))) return false;
    return true;
  }

  std::optional<Made> contract(const ContractAttributes& a, llvm::ArrayRef<Made> args) {
    const auto is = [&](Role first, const std::string& first_labels, Role second, const std::string& second_labels, const std::string& result) {
      const bool in_order = args[0].role == first && args[1].role == second;
      if (!in_order && (args[0].role != second || args[1].role != first)) return false;
      return are_alike(a.lhs + "," + a.rhs + ">" + a.out,
                       (in_order ? first_labels : second_labels) + "," + (in_order ? second_labels : first_labels) + ">" + result);
    };
    if (is(Role::q, q(), Role::k, k(), scores())) {
      Made made{Role::scores, {}, 1, false};
      made.rule.scale = a.scale;
      return made;
    }
    const Made& gradient = args[args[0].role == Role::score_gradient ? 0 : 1];
    const bool is_due = gradient.is_masked == chooses(e_.rule.mask) && gradient.scale * a.scale == e_.rule.scale;
    const Made result{Role::result, {}, 1, false};
    if (is_due && is(Role::score_gradient, scores(), Role::k, k(), q())) return roles.query_gradient = here(), result;
    if (is_due && is(Role::score_gradient, scores(), Role::q, q(), k())) return roles.key_gradient = here(), result;
    if (a.scale != 1) return {};
    if (is(Role::probabilities, scores(), Role::v, v(), out())) return roles.output = here(), result;
    if (is(Role::probabilities, scores(), Role::out_gradient, out(), v())) return roles.value_gradient = here(), result;
    if (is(Role::out_gradient, out(), Role::v, v(), scores())) return Made{Role::probability_gradient, {}, 1, false};
    return {};
  }

  std::optional<Made> pointwise(const PointwiseAttributes& a, llvm::ArrayRef<Made> args) const {
    const auto scores_at = [&](size_t i) { return i < args.size() && args[i].role == Role::scores && !is_clamped(args[i].rule); };
    const auto unmasked_at = [&](size_t i) { return scores_at(i) && args[i].rule.mask == rt::AttentionMask::none; };
    const auto is = [&](size_t i, Role role) { return i < args.size() && args[i].role == role; };
    const auto masked = [](Made made, rt::AttentionMask mask) {
      made.rule.mask = mask;
      return made;
    };
    switch (a.function) {
      case rt::Scalar::scale_shift: {
        if (a.beta != 0) return {};
        Made made = args[0];
        if (is(0, Role::score_gradient) && a.alpha == 0) return Made{Role::zero, {}, 1, false};
        if (!unmasked_at(0) && !is(0, Role::score_gradient)) return {};
        (is(0, Role::score_gradient) ? made.scale : made.rule.scale) *= a.alpha;
        return made;
      }
      case rt::Scalar::where: {
        if (!is(0, Role::mask)) return {};
        if (is(1, Role::value) && unmasked_at(2)) return masked(args[2], rt::AttentionMask::replace);
        if (is(2, Role::value) && unmasked_at(1)) return masked(args[1], rt::AttentionMask::keep);
        const size_t zero = e_.rule.mask == rt::AttentionMask::replace ? 1 : 2;
        if (!is(zero, Role::zero) || !is(3 - zero, Role::score_gradient) || args[3 - zero].is_masked) return {};
        Made made = args[3 - zero];
        made.is_masked = true;
        return made;
      }
      case rt::Scalar::add:
        if (is(0, Role::mask) && unmasked_at(1)) return masked(args[1], rt::AttentionMask::add);
        if (is(1, Role::mask) && unmasked_at(0)) return masked(args[0], rt::AttentionMask::add);
        return {};
      case rt::Scalar::clip: {
        if (!scores_at(0)) return {};
        Made made = args[0];
        made.rule.low = a.alpha;
        made.rule.high = a.beta;
        return made;
      }
      default: return {};
    }
  }

  // Are two equations one, but for the names of labels?
  static bool are_alike(const std::string& a, const std::string& b) {
    std::map<char, char> forth, back;
    for (size_t i = 0; i < a.size() && a.size() == b.size(); ++i)
      if (forth.try_emplace(a[i], b[i]).first->second != b[i] || back.try_emplace(b[i], a[i]).first->second != a[i]) return false;
    return a.size() == b.size();
  }

  const Module& module_;
  const Opcode opcode_;
  const AttentionExpression& e_;
  std::string labels_[5];
  std::vector<Made> made_;  // by operator
};

// Has each label one length in all operands that have it, and fit the mask and its value to them?
bool lengths_fit(const Computation& computation, const Instruction& attention) {
  std::map<char, int64_t> lengths;
  const auto fits = [&](const View& view, const std::string& labels) {
    if (view.dims.size() != labels.size()) return false;
    for (size_t d = 0; d < labels.size(); ++d)
      if (lengths.try_emplace(labels[d], view.dims[d]).first->second != view.dims[d]) return false;
    return true;
  };
  const bool is_forward = attention.opcode == Opcode::attention;
  for (size_t k = 0; k < 3; ++k)
    if (!fits(attention.ins[k], computation.labels(k)) || (!is_forward && !fits(attention.outs[k], computation.labels(k)))) return false;
  if (!fits(is_forward ? attention.outs[0] : attention.ins[out_of_gradient], computation.labels(4))) return false;
  const size_t mask = is_forward ? 3 : 6;
  if (mask + 1 < attention.ins.size() && elements(attention.ins[mask + 1].dims) != 1) return false;
  if (mask >= attention.ins.size()) return true;
  const std::string& scores = computation.labels(3);
  const auto& dims = attention.ins[mask].dims;
  if (dims.size() > scores.size()) return false;
  for (size_t d = 0; d < dims.size(); ++d)
    if (dims[d] != 1 && dims[d] != lengths[scores[scores.size() - dims.size() + d]]) return false;
  return true;
}

}  // namespace

std::string difference_from_attention(const Module& module, const Instruction& attention) {
  const auto& e = std::get<AttentionExpression>(attention.expression);
  const bool is_forward = attention.opcode == Opcode::attention;
  if (!is_forward && attention.opcode != Opcode::attention_grad) return "is another kernel than its operators'";
  const size_t masks = e.rule.mask == rt::AttentionMask::none ? 0 : chooses(e.rule.mask) ? 2 : 1;
  const size_t outs = attention.outs.size();
  if (attention.ins.size() != (is_forward ? 3 : 6) + masks || (is_forward ? outs < 1 || outs > 2 : outs != 3))
    return "has other operands than its rule";
  for (size_t i = 0; i < e.ops.size(); ++i) {
    const Op& op = module.ops[e.ops[i].op];
    if (op.inputs.size() != e.ops[i].args.size()) return "does not say what its operators read";
    for (const int32_t arg : e.ops[i].args)
      if (arg >= static_cast<int32_t>(attention.ins.size()) || ~arg >= static_cast<int32_t>(i)) return "has an operator that reads nothing";
  }
  Computation computation(module, attention);
  if (!lengths_fit(computation, attention)) return "has operands of other lengths than its labels";
  return computation.run() ? "" : "computes by another equation or rule than its operators";
}

AttentionRoles roles_of(const Module& module, const Instruction& attention) {
  Computation computation(module, attention);
  computation.run();
  return computation.roles;
}

}  // namespace sscc
