// Matrix products by cuBLASLt.
#pragma once

#include <cstdint>

#include "sscc_rt/types.h"

namespace sscc::rt {

// What is done to c before it is written (contract_epilogue). Of one product only: no batch. `base` and `aux` lie as c does.
struct ProductEpilogue {
  Scalar function = Scalar::identity;
  const void* base = nullptr;  // added to c; null: nothing
  const void* bias = nullptr;  // n elements of c's type, added to each row; null: none
  void* aux = nullptr;         // gelu_tanh: what the function is of is written here, too; gelu_tanh_grad: it is read here. Null: not wanted
};

// c (m x n) = a (m x k) b (k x n), for `batch` products whose operands lie a step apart, all row-major: element (i, j) of c at i * c_stride + j. A
// transposed operand is stored as its transpose. Strides and steps in elements; those of a and b may be 0.
struct MatrixProduct {
  DType in, out;  // f32, f64; bf16 or f16 in with the same or f32 out. Sums of small floats are in float.
  int64_t m, n, k;
  bool a_transposed, b_transposed;
  int64_t a_stride, b_stride, c_stride;  // between rows as they are stored
  int64_t batch, a_step, b_step, c_step;
  // If the same product is made at several places, an operand's places lie multiples of this apart, in elements. What is chosen suits them all.
  int64_t a_unit = 0, b_unit = 0, c_unit = 0;
};

// Enqueues c = scale a b, or c += scale a b. False, and nothing done, if cuBLASLt has no kernel for it. What it chooses is kept for the next call.
bool enqueue(const MatrixProduct& product, const void* a, const void* b, void* c, double scale, bool accumulate,
             const ProductEpilogue& epilogue = {});

}  // namespace sscc::rt
