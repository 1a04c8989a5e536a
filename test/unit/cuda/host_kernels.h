// The processor's kernels beside the GPU's, which have the same names: the reference.
#pragma once

#include "sscc_rt/kernels.h"

namespace sscc::rt::test {

struct Kernels {
  decltype(&rt::contract) contract;
  decltype(&rt::contract_epilogue) contract_epilogue;
  decltype(&rt::pointwise) pointwise;
  decltype(&rt::reduce) reduce;
  decltype(&rt::copy) copy;
  decltype(&rt::fill) fill;
  decltype(&rt::gather) gather;
  decltype(&rt::scatter_add) scatter_add;
  decltype(&rt::softmax) softmax;
  decltype(&rt::softmax_grad) softmax_grad;
  decltype(&rt::attention) attention;
  decltype(&rt::attention_grad) attention_grad;
  decltype(&rt::norm) norm;
  decltype(&rt::norm_grad) norm_grad;
  decltype(&rt::norm_grad_scale) norm_grad_scale;
  decltype(&rt::pick) pick;
  decltype(&rt::cross_entropy_grad) cross_entropy_grad;
  decltype(&rt::pad) pad;
  decltype(&rt::update) update;
  decltype(&rt::sum_of_squares) sum_of_squares;
  decltype(&rt::convolve) convolve;
  decltype(&rt::convolve_transposed) convolve_transposed;
  decltype(&rt::convolve_grad_weight) convolve_grad_weight;
  decltype(&rt::max_pool) max_pool;
  decltype(&rt::max_pool_grad) max_pool_grad;
  decltype(&rt::sum_pool) sum_pool;
  decltype(&rt::sum_pool_grad) sum_pool_grad;
};

}  // namespace sscc::rt::test

extern "C" const sscc::rt::test::Kernels* host_kernels();
