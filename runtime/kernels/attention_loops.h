// What an attention is, for whoever computes it: the role of each label of its equation, and for each role how the operands are walked.
//
//   "bxhz,byhz,byhw,bhxy->bxhw", all dense    ->    batch bh, queries x, keys y, summed z, values w, each a StridedLoop over all operands
#pragma once

#include <span>
#include <vector>

#include "sscc_rt/kernels.h"
#include "sscc_rt/strided_loop.h"

namespace sscc::rt {

// The labels that an operand has. sums: those of the scores, the same for all keys. Masks have the scores' labels, too, and repeat along dimensions
// that they lack or that have length 1 there.
enum class AttentionLabels : uint8_t { q, k, v, scores, sums, out };

struct AttentionOperand {
  Tensor tensor;  // of scores and sums data may be null: left out, it steps by 0
  AttentionLabels labels;
};

// A role's labels are walked in the order of the scores; summed and values in the order of q and out. An operand without a label steps by 0.
struct AttentionLoops {
  StridedLoop batch, queries, keys, summed, values;
};

// Operand i of the loops is operands[i]. Throws std::logic_error where a label has no role (kernels.h), or labels and dimensions do not fit.
AttentionLoops attention_loops(const char* equation, std::span<const AttentionOperand> operands);

inline int64_t length_of(const StridedLoop& loop) { return loop.rows() * loop.row_length(); }

// Where each position of a loop lies in one operand, in elements.
inline std::vector<int64_t> offsets_of(const StridedLoop& loop, int operand) {
  std::vector<int64_t> offsets;
  offsets.reserve(static_cast<size_t>(length_of(loop)));
  if (loop.row_length() == 0) return offsets;
  loop.for_rows(0, loop.rows(), [&](const StridedLoop::Offsets& at) {
    for (int64_t i = 0; i < loop.row_length(); ++i) offsets.push_back(at[static_cast<size_t>(operand)] + i * loop.row_stride(operand));
  });
  return offsets;
}

// The types of one call: throws std::logic_error where q, k, ... are not of one float type, sums not of its arithmetic type, or mask and value no
// mask's.
void expect_attention_types(const char* kernel, std::initializer_list<Tensor> operands, const Tensor& log_sums, const Tensor& mask,
                            const Tensor& value, const AttentionRule& rule);

// exp of anything lower is 0 in this type, subnormal numbers included.
template <class Real>
inline constexpr Real lowest_exponent = sizeof(Real) == 8 ? Real(-746) : Real(-104);

}  // namespace sscc::rt
