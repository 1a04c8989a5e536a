#include "attention_loops.h"

#include <array>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "dispatch.h"

namespace sscc::rt {
namespace {

[[noreturn]] void wrong(const char* equation, const std::string& what) {
  throw std::logic_error("attention: " + std::string(equation) + ": " + what);
}

// q, k, v, the scores, out.
enum Part { q_part, k_part, v_part, scores_part, out_part };
using Parts = std::array<std::string_view, 5>;

Parts parts_of(const char* equation) {
  Parts parts;
  std::string_view rest(equation);
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string_view separator = i == 3 ? "->" : ",";
    const size_t end = i == 4 ? rest.size() : rest.find(separator);
    if (end == std::string_view::npos) wrong(equation, "not of the form q,k,v,scores->out");
    parts[i] = rest.substr(0, end);
    for (size_t d = 0; d < parts[i].size(); ++d)
      if (parts[i].find(parts[i][d], d + 1) != std::string_view::npos) wrong(equation, "a label stands twice in one operand");
    rest.remove_prefix(i == 4 ? end : end + separator.size());
  }
  return parts;
}

StridedLoop AttentionLoops::*role_of(const Parts& parts, char label, const char* equation) {
  unsigned where = 0;
  for (size_t i = 0; i < parts.size(); ++i) where |= static_cast<unsigned>(parts[i].find(label) != std::string_view::npos) << i;
  constexpr auto in = [](auto... part) { return ((1u << part) | ...); };
  switch (where) {
    case in(q_part, k_part, v_part, scores_part, out_part): return &AttentionLoops::batch;
    case in(q_part, scores_part, out_part): return &AttentionLoops::queries;
    case in(k_part, v_part, scores_part): return &AttentionLoops::keys;
    case in(q_part, k_part): return &AttentionLoops::summed;
    case in(v_part, out_part): return &AttentionLoops::values;
    default: wrong(equation, std::string("label ") + label + " has no role");
  }
}

bool is_of_scores(AttentionLabels labels) { return labels == AttentionLabels::scores || labels == AttentionLabels::sums; }

std::string_view labels_of(const Parts& parts, AttentionLabels labels) {
  switch (labels) {
    case AttentionLabels::q: return parts[q_part];
    case AttentionLabels::k: return parts[k_part];
    case AttentionLabels::v: return parts[v_part];
    case AttentionLabels::scores:
    case AttentionLabels::sums: return parts[scores_part];
    case AttentionLabels::out: return parts[out_part];
  }
  return {};
}

}  // namespace

AttentionLoops attention_loops(const char* equation, std::span<const AttentionOperand> operands) {
  const Parts parts = parts_of(equation);
  std::map<char, int64_t> lengths;
  for (const AttentionOperand& operand : operands) {
    if (is_of_scores(operand.labels)) continue;
    const std::string_view labels = labels_of(parts, operand.labels);
    if (labels.size() != static_cast<size_t>(operand.tensor.rank)) wrong(equation, "labels and dimensions of an operand do not fit");
    for (size_t d = 0; d < labels.size(); ++d) {
      const auto [entry, is_new] = lengths.emplace(labels[d], operand.tensor.dims[d]);
      if (!is_new && entry->second != operand.tensor.dims[d]) wrong(equation, std::string("lengths of label ") + labels[d] + " differ");
    }
  }

  const auto stride_of = [&](const AttentionOperand& operand, char label, bool is_key) -> int64_t {
    const std::string_view labels = labels_of(parts, operand.labels);
    const size_t at = labels.find(label);
    if (at == std::string_view::npos) return 0;
    if (!is_of_scores(operand.labels)) return operand.tensor.strides[at];
    if (!operand.tensor.data || (is_key && operand.labels == AttentionLabels::sums)) return 0;
    const int d = operand.tensor.rank - static_cast<int>(labels.size() - at);  // aligned at the right
    if (d < 0 || operand.tensor.dims[d] == 1) return 0;
    if (operand.tensor.dims[d] != lengths.at(label)) wrong(equation, std::string("mask or log_sums has another length along label ") + label);
    return operand.tensor.strides[d];
  };
  for (const AttentionOperand& operand : operands)
    if (is_of_scores(operand.labels) && operand.tensor.data && operand.tensor.rank > static_cast<int>(parts[scores_part].size()))
      wrong(equation, "mask or log_sums has more dimensions than the scores");

  struct Role {
    StridedLoop AttentionLoops::*loop;
    std::string_view order;
  };
  AttentionLoops loops;
  for (const Role& role : {Role{&AttentionLoops::batch, parts[scores_part]}, Role{&AttentionLoops::queries, parts[scores_part]},
                           Role{&AttentionLoops::keys, parts[scores_part]}, Role{&AttentionLoops::summed, parts[q_part]},
                           Role{&AttentionLoops::values, parts[out_part]}}) {
    std::vector<int64_t> dims;
    std::vector<std::vector<int64_t>> strides(operands.size());
    for (const char label : role.order) {
      if (role_of(parts, label, equation) != role.loop) continue;
      dims.push_back(lengths.at(label));
      for (size_t o = 0; o < operands.size(); ++o) strides[o].push_back(stride_of(operands[o], label, role.loop == &AttentionLoops::keys));
    }
    std::vector<const int64_t*> pointers;
    for (const std::vector<int64_t>& list : strides) pointers.push_back(list.data());
    loops.*role.loop = StridedLoop::make(dims, pointers);
  }
  // Labels of the others, which no order above names, have no role.
  for (const std::string_view part : parts)
    for (const char label : part) role_of(parts, label, equation);
  return loops;
}

void expect_attention_types(const char* kernel, std::initializer_list<Tensor> operands, const Tensor& log_sums, const Tensor& mask,
                            const Tensor& value, const AttentionRule& rule) {
  const DType type = operands.begin()->dtype;
  if (!is_float(type)) no_kernel(kernel, type);
  expect_type(kernel, type, operands);
  expect_type(kernel, arithmetic_type(type), {log_sums});
  if (rule.mask == AttentionMask::none) return;
  const bool adds = rule.mask == AttentionMask::add;
  if (!mask.data || (!adds && !value.data)) throw std::logic_error(std::string(kernel) + ": a mask or its value is missing");
  if (adds ? !is_float(mask.dtype) : mask.dtype != DType::b1) no_kernel(kernel, mask.dtype);
  if (!adds && !is_float(value.dtype)) no_kernel(kernel, value.dtype);
}

}  // namespace sscc::rt
