// clang-format off
#include "sscc_rt/pointwise_loop.h"   // first: the epilogue calls its loop
#include "epilogue.h"
#include "sscc_rt/kernels.h"
// clang-format on

namespace sscc::rt {

void contract_epilogue(const Tensor& out, const Tensor& pre, const Tensor& lhs, const Tensor& rhs, const Tensor& base, const Tensor& bias,
                       const Tensor& before, const char* equation, double scale, Scalar function) {
  contract(place_of_product(out, pre), lhs, rhs, equation, scale, false);
  if (out.elements() == 0) return;
  double anything = 0;
  apply_epilogue(out, pre, base, bias, before, function, &anything);
}

}  // namespace sscc::rt
