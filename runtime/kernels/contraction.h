// What a contraction is, for whoever computes it: its labels in four groups, and of each group the stretches of memory that are walked with one stride.
//
//   "bhmk,bhnk->bhmn", lhs dense 2x3x4x5    ->    batch {6: 20 30 24}, m {4: 5 0 6}, n {6: 0 5 1}, k {5: 1 1 0}     {length: strides of lhs, rhs, out}
#pragma once

#include <cstdint>
#include <vector>

#include "sscc_rt/types.h"

namespace sscc::rt {

enum Operand { lhs_operand, rhs_operand, out_operand };

// One or several labels that are walked with one stride in each operand, in elements.
struct Stretch {
  int64_t length = 1;
  int64_t strides[3] = {0, 0, 0};
};
using Group = std::vector<Stretch>;

// batch: in all operands; m: lhs and out; n: rhs and out; k: not in out. What is summed in one operand only is in k and steps by 0 in the other.
// Stretches of length 1 are left out; the others are in the order of their strides in out (k: in lhs), the longest stride first.
struct Groups {
  Group batch, m, n, k;
};

// The equation as `contract` takes it. Throws std::logic_error if labels and dimensions do not fit.
Groups groups_of(const Tensor& out, const Tensor& lhs, const Tensor& rhs, const char* equation);
// Orders the stretches and joins them where strides have changed.
void join_all(Groups& groups);
int64_t length_of(const Group& group);

// Whether (row, column) is a matrix of a BLAS in this operand: one of them steps by 1, the other over at least the whole of it.
bool is_matrix(const Stretch& row, const Stretch& column, int operand);
// A dimension of length 1 may be given any stride: the one that makes a matrix.
void settle(Stretch& row, Stretch& column, int operand);

}  // namespace sscc::rt
