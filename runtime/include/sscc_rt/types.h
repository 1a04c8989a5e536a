// The value types and scalar functions that the compiler, the interpreter and emitted programs share. Plain C++20 (and CUDA C++);
// includes nothing of the compiler.
#pragma once

#include <cstddef>
#include <cstdint>

// A function that nvcc compiles for both the processor and the GPU.
#ifdef __CUDACC__
#define SSCC_HOST_DEVICE __host__ __device__
#else
#define SSCC_HOST_DEVICE
#endif

namespace sscc::rt {

enum class DType : uint8_t { f32, f64, f16, bf16, i64, i32, i8, u8, b1 };

constexpr size_t size_of(DType type) {
  switch (type) {
    case DType::f64:
    case DType::i64: return 8;
    case DType::f32:
    case DType::i32: return 4;
    case DType::f16:
    case DType::bf16: return 2;
    case DType::i8:
    case DType::u8:
    case DType::b1: return 1;
  }
  return 0;
}
constexpr bool is_float(DType type) { return type <= DType::bf16; }
constexpr bool is_small(DType type) { return type == DType::bf16 || type == DType::f16; }
// What values of the type are computed in.
constexpr DType arithmetic_type(DType type) { return is_small(type) ? DType::f32 : type; }
constexpr const char* name_of(DType type) {  // safetensors' spelling
  switch (type) {
    case DType::f32: return "F32";
    case DType::f64: return "F64";
    case DType::f16: return "F16";
    case DType::bf16: return "BF16";
    case DType::i64: return "I64";
    case DType::i32: return "I32";
    case DType::i8: return "I8";
    case DType::u8: return "U8";
    case DType::b1: return "BOOL";
  }
  return "";
}

constexpr int max_rank = 8;
constexpr int max_operands = 16;  // of a pointwise kernel, results included

// A strided view of memory, in elements. Strides may be 0 (a broadcast dimension of an input).
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  int rank = 0;
  int64_t dims[max_rank] = {};
  int64_t strides[max_rank] = {};

  int64_t elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= dims[i];
    return n;
  }
};

// A list of C++ types: of the operands of a fused pointwise function.
template <class... T>
struct Types {};

// How partial results are joined.
enum class Join : uint8_t { sum, max, min, logsumexp };

// Functions of pointwise operators. (name, arity, how it is written with arguments a, b, c and constants alpha, beta)
// The C++ bodies stand in scalar_functions.h; gradients in compiler/ops/pointwise.cpp.
// clang-format off
#define SSCC_SCALAR_FUNCTIONS(F) \
  F(identity, 1) F(neg, 1) F(abs, 1) F(sign, 1) F(exp, 1) F(log, 1) F(sqrt, 1) F(rsqrt, 1) F(reciprocal, 1) F(square, 1) \
  F(tanh, 1) F(erf, 1) F(sigmoid, 1) F(softplus, 1) F(relu, 1) F(leaky_relu, 1) F(gelu_erf, 1) F(gelu_tanh, 1) \
  F(sin, 1) F(cos, 1) F(floor, 1) F(ceil, 1) F(round, 1) F(clip, 1) F(scale_shift, 1) F(pow_scalar, 1) F(logical_not, 1) \
  F(add, 2) F(sub, 2) F(mul, 2) F(div, 2) F(pow, 2) F(max, 2) F(min, 2) F(mod, 2) \
  F(equal, 2) F(less, 2) F(less_equal, 2) F(greater, 2) F(greater_equal, 2) F(logical_and, 2) F(logical_or, 2) \
  F(equal_scalar, 1) F(not_equal_scalar, 1) \
  F(where, 3) \
  F(tanh_grad, 2) F(sigmoid_grad, 2) F(relu_grad, 2) F(leaky_relu_grad, 2) F(gelu_erf_grad, 2) F(gelu_tanh_grad, 2) \
  F(erf_grad, 2) F(abs_grad, 2) F(clip_grad, 2) F(softplus_grad, 2) F(pow_scalar_grad, 2) F(sqrt_grad, 2) \
  F(max_grad, 3) F(mul_add, 3) F(exp_sub, 2) F(token_loss, 3)
// clang-format on
// identity also converts between types. scale_shift: alpha a + beta. clip: to [alpha, beta]. leaky_relu: slope alpha.
// pow_scalar: a^alpha. where: a ? b : c. mul_add: a b + c. exp_sub: exp(a - b). max_grad(a, b, dy): dy where a >= b else 0.
// token_loss(lse, picked, label): label == alpha ? 0 : lse - picked.
// X_grad(v, dy): v is the forward *output* for tanh, sigmoid, relu, sqrt; the forward *input* for the others.

enum class Scalar : uint8_t {
#define SSCC_SCALAR_ENUM(name, arity) name,
  SSCC_SCALAR_FUNCTIONS(SSCC_SCALAR_ENUM)
#undef SSCC_SCALAR_ENUM
};

constexpr int arity_of(Scalar function) {
  switch (function) {
#define SSCC_SCALAR_ARITY(name, arity) \
  case Scalar::name: return arity;
    SSCC_SCALAR_FUNCTIONS(SSCC_SCALAR_ARITY)
#undef SSCC_SCALAR_ARITY
  }
  return 0;
}
constexpr const char* name_of(Scalar function) {
  switch (function) {
#define SSCC_SCALAR_NAME(name, arity) \
  case Scalar::name: return #name;
    SSCC_SCALAR_FUNCTIONS(SSCC_SCALAR_NAME)
#undef SSCC_SCALAR_NAME
  }
  return "";
}

// One step of a fused pointwise expression. An argument >= 0 is input operand number `arg`; < 0 is the value of step ~arg. Small floats are operands
// only: steps compute in float.
struct ScalarStep {
  Scalar function = Scalar::identity;
  int32_t args[3] = {0, 0, 0};
  double alpha = 0, beta = 0;
  DType dtype = DType::f32;  // type of the value (comparisons: b1)
};

}  // namespace sscc::rt
