// clang-format off: the loop first, which the epilogue calls
#include "epilogue.h"
#include "sscc_rt/kernels.h"
#include "sscc_rt/pointwise_loop.h"
// clang-format on

namespace sscc::rt {

void contract_epilogue(const Tensor& out, const Tensor& pre, const Tensor& lhs, const Tensor& rhs, const Tensor& base, const Tensor& bias,
                       const Tensor& before, const char* equation, double scale, Scalar function) {
  const Tensor& product = pre.data ? pre : out;
  contract(product, lhs, rhs, equation, scale, false);
  if (out.elements() == 0) return;
  double anything = 0;
  apply_epilogue(out, pre, product, base, bias, before, function, &anything);
}

}  // namespace sscc::rt
