#include "products.h"

#include <cblas.h>
#include <dnnl.h>
#include <omp.h>

#include <algorithm>
#include <stdexcept>

namespace sscc::rt {
namespace {

// Products are divided among our own threads, in a way that does not change sums; the library gets one.
[[maybe_unused]] const bool blas_has_one_thread = (openblas_set_num_threads(1), true);

}  // namespace

// oneDNN for float (about a tenth faster than OpenBLAS here), OpenBLAS for double, which oneDNN does not have.
void multiply(bool a_transposed, bool b_transposed, int64_t m, int64_t n, int64_t k, double scale, const float* a, int64_t lda, const float* b,
              int64_t ldb, double beta, float* c, int64_t ldc) {
  omp_set_num_threads(1);  // each time: what is set within a parallel region is forgotten behind it
  const auto stride = [](int64_t of_rows) { return std::max<int64_t>(of_rows, 1); };  // rows may be empty
  const dnnl_status_t status = dnnl_sgemm(a_transposed ? 'T' : 'N', b_transposed ? 'T' : 'N', m, n, k, static_cast<float>(scale), a, stride(lda), b,
                                          stride(ldb), static_cast<float>(beta), c, stride(ldc));
  if (status != dnnl_success) throw std::logic_error("oneDNN refuses a matrix product");
}
void multiply(bool a_transposed, bool b_transposed, int64_t m, int64_t n, int64_t k, double scale, const double* a, int64_t lda, const double* b,
              int64_t ldb, double beta, double* c, int64_t ldc) {
  cblas_dgemm(CblasRowMajor, a_transposed ? CblasTrans : CblasNoTrans, b_transposed ? CblasTrans : CblasNoTrans, static_cast<int>(m),
              static_cast<int>(n), static_cast<int>(k), scale, a, static_cast<int>(lda), b, static_cast<int>(ldb), beta, c, static_cast<int>(ldc));
}

}  // namespace sscc::rt
