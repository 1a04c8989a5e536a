// Fused functions as an emitted program has them.
#pragma once

#include <initializer_list>

#include "sscc_rt/types.h"

namespace sscc::rt::test {

// (in0 + in1, gelu_tanh(in0 + in1) where in2, else in1), float.
void add_gelu_where(std::initializer_list<Tensor> outs, std::initializer_list<Tensor> ins, bool accumulate);
// in0 * in1 + in2: bf16, float -> bf16.
void mul_add_small(std::initializer_list<Tensor> outs, std::initializer_list<Tensor> ins, bool accumulate);
// in0 < in1, float -> truth value.
void less(std::initializer_list<Tensor> outs, std::initializer_list<Tensor> ins, bool accumulate);

}  // namespace sscc::rt::test
