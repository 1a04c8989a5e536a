// Contractions of any strides, integers included.
#pragma once

#include "../kernels/contraction.h"

namespace sscc::rt {

// out (+)= scale * sum over groups.k of lhs rhs. lhs and rhs have one type; out has it, too, or is f32 where they are bf16 or f16. Sums are in the order
// of k, in the type of the operands (float for small ones).
void contract_strided(const Tensor& out, const Tensor& lhs, const Tensor& rhs, const Groups& groups, double scale, bool accumulate);

}  // namespace sscc::rt
