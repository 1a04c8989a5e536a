// Products of two matrices in memory, for kernels that bring their work into that form. Each uses the calling thread alone.
#pragma once

#include <cstdint>

namespace sscc::rt {

// c (m x n) = scale * a (m x k) b (k x n) + beta * c. Row-major, rows lda, ldb, ldc elements apart; transposed: a lies in memory as k x m, b as n x k.
void multiply(bool a_transposed, bool b_transposed, int64_t m, int64_t n, int64_t k, double scale, const float* a, int64_t lda, const float* b,
              int64_t ldb, double beta, float* c, int64_t ldc);
void multiply(bool a_transposed, bool b_transposed, int64_t m, int64_t n, int64_t k, double scale, const double* a, int64_t lda, const double* b,
              int64_t ldb, double beta, double* c, int64_t ldc);

}  // namespace sscc::rt
