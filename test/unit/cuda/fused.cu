#include "fused.h"

#include "sscc_rt/cuda_pointwise.cuh"

namespace sscc::rt::test {

void add_gelu_where(std::initializer_list<Tensor> outs, std::initializer_list<Tensor> ins, bool accumulate) {
  pointwise_loop(Types<float, float>(), Types<float, float, bool>(), outs, ins, accumulate,
                 [] SSCC_HOST_DEVICE(float& out0, float& out1, float in0, float in1, bool in2) {
                   const float t0 = scalar::add<float>(in0, in1);
                   const float t1 = scalar::gelu_tanh<float>(t0);
                   const float t2 = scalar::where<float>(in2, t1, in1);
                   out0 = t0;
                   out1 = t2;
                 });
}

void mul_add_small(std::initializer_list<Tensor> outs, std::initializer_list<Tensor> ins, bool accumulate) {
  pointwise_loop(Types<bf16>(), Types<bf16, float, bf16>(), outs, ins, accumulate,
                 [] SSCC_HOST_DEVICE(float& out0, float in0, float in1, float in2) { out0 = scalar::mul_add<float>(in0, in1, in2); });
}

void less(std::initializer_list<Tensor> outs, std::initializer_list<Tensor> ins, bool accumulate) {
  pointwise_loop(Types<bool>(), Types<float, float>(), outs, ins, accumulate,
                 [] SSCC_HOST_DEVICE(bool& out0, float in0, float in1) { out0 = scalar::less<bool>(in0, in1); });
}

}  // namespace sscc::rt::test
