#include "host_kernels.h"

using namespace sscc;

extern "C" const rt::test::Kernels* host_kernels() {
  static const rt::test::Kernels kernels{rt::contract,
                                         rt::contract_epilogue,
                                         rt::pointwise,
                                         rt::reduce,
                                         rt::copy,
                                         rt::fill,
                                         rt::gather,
                                         rt::scatter_add,
                                         rt::softmax,
                                         rt::softmax_grad,
                                         rt::attention,
                                         rt::attention_grad,
                                         rt::norm,
                                         rt::norm_grad,
                                         rt::norm_grad_scale,
                                         rt::pick,
                                         rt::cross_entropy_grad,
                                         rt::pad,
                                         rt::update,
                                         rt::sum_of_squares,
                                         rt::convolve,
                                         rt::convolve_transposed,
                                         rt::convolve_grad_weight,
                                         rt::max_pool,
                                         rt::max_pool_grad,
                                         rt::sum_pool,
                                         rt::sum_pool_grad};
  return &kernels;
}
