#include <cblas.h>

#include "sscc_rt/kernels.h"
#include "sscc_rt/strided_loop.h"

namespace sscc::rt {
namespace {

// Matrix products are divided among our own threads, in a way that does not change sums; the library gets one.
int count = (openblas_set_num_threads(1), 1);

}  // namespace

int kernel_threads() { return count; }
void set_kernel_threads(int threads) { count = threads < 1 ? 1 : threads; }

}  // namespace sscc::rt
