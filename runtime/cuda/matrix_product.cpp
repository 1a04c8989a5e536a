// cuBLASLt's matrices are column-major: a row-major c = a b is its c^T = b^T a^T, and a stored row its column. So its A is our b, its B our a, and what
// is not transposed here is not transposed there.
#include "matrix_product.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <stdexcept>

#include "device.h"

namespace sscc::rt {
namespace {

cudaDataType_t blas_type(DType type) {
  switch (type) {
    case DType::f32: return CUDA_R_32F;
    case DType::f64: return CUDA_R_64F;
    case DType::bf16: return CUDA_R_16BF;
    case DType::f16: return CUDA_R_16F;
    default: throw std::logic_error("matrix products are of floats");
  }
}

// Everything that the choice of a kernel depends on.
using Key = std::array<int64_t, 21>;

// The largest power of two, up to 256, that the addresses of all products are multiples of.
int64_t alignment_of(const void* memory, DType type, int64_t step, int64_t unit) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(memory) | static_cast<uint64_t>(step | unit) * size_of(type) | 256;
  return static_cast<int64_t>(bits & (~bits + 1));
}

struct Choice {
  bool exists = false;
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

cublasLtMatrixLayout_t layout(DType type, int64_t rows, int64_t row_length, int64_t stride, int64_t batch, int64_t step) {
  cublasLtMatrixLayout_t made = nullptr;
  check(cublasLtMatrixLayoutCreate(&made, blas_type(type), static_cast<uint64_t>(row_length), static_cast<uint64_t>(rows), stride),
        "describe a matrix to cuBLASLt");
  const auto count = static_cast<int32_t>(batch);
  check(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count), "describe a matrix to cuBLASLt");
  check(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step), "describe a matrix to cuBLASLt");
  return made;
}

template <class Value>
void prefer(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, Value value) {
  check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value), "tell cuBLASLt what is wanted");
}

template <class Value>
void describe(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, Value value) {
  check(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof value), "describe a product to cuBLASLt");
}

// Nothing: cuBLASLt has no such epilogue.
std::optional<cublasLtEpilogue_t> epilogue_of(const ProductEpilogue& e) {
  const bool has_bias = e.bias != nullptr;
  switch (e.function) {
    case Scalar::identity: return has_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    case Scalar::relu: return has_bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
    case Scalar::gelu_tanh:
      if (e.aux) return has_bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
      return has_bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    case Scalar::gelu_tanh_grad: return has_bias ? std::nullopt : std::optional(CUBLASLT_EPILOGUE_DGELU);
    default: return std::nullopt;
  }
}

// The memory that this call's epilogue uses.
void set_memory(cublasLtMatmulDesc_t operation, const ProductEpilogue& e) {
  if (e.bias) describe(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, e.bias);
  if (e.aux) describe(operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, e.aux);
}

Choice choose(const MatrixProduct& p, const ProductEpilogue& epilogue, int64_t a_alignment, int64_t b_alignment, int64_t c_alignment) {
  Choice choice;
  const bool is_double = p.in == DType::f64;
  const cublasComputeType_t compute = is_double                             ? CUBLAS_COMPUTE_64F
                                      : p.in == DType::f32 && device().tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                                            : CUBLAS_COMPUTE_32F;
  check(cublasLtMatmulDescCreate(&choice.operation, compute, is_double ? CUDA_R_64F : CUDA_R_32F), "describe a product to cuBLASLt");
  const cublasOperation_t a = p.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N, b = p.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  describe(choice.operation, CUBLASLT_MATMUL_DESC_TRANSA, a);
  describe(choice.operation, CUBLASLT_MATMUL_DESC_TRANSB, b);
  const std::optional<cublasLtEpilogue_t> behind = epilogue_of(epilogue);
  if (!behind) return choice;
  if (*behind != CUBLASLT_EPILOGUE_DEFAULT) describe(choice.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, *behind);
  if (epilogue.bias) describe(choice.operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, blas_type(p.out));
  if (epilogue.aux) {
    describe(choice.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.c_stride);
    describe(choice.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, blas_type(p.out));
  }
  set_memory(choice.operation, epilogue);
  choice.a = p.b_transposed ? layout(p.in, p.n, p.k, p.b_stride, p.batch, p.b_step) : layout(p.in, p.k, p.n, p.b_stride, p.batch, p.b_step);
  choice.b = p.a_transposed ? layout(p.in, p.k, p.m, p.a_stride, p.batch, p.a_step) : layout(p.in, p.m, p.k, p.a_stride, p.batch, p.a_step);
  choice.c = layout(p.out, p.m, p.n, p.c_stride, p.batch, p.c_step);

  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "tell cuBLASLt what is wanted");
  prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{blas_workspace_bytes});
  // Parts of a sum are joined in the type of the sum, in a fixed order.
  prefer(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(b_alignment));
  prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(a_alignment));
  prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(c_alignment));
  prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(c_alignment));
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(device().blas, choice.operation, choice.a, choice.b, choice.c, choice.c, preference, 1, &found, &count);
  cublasLtMatmulPreferenceDestroy(preference);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED && status != CUBLAS_STATUS_INVALID_VALUE) check(status, "choose a matrix product of cuBLASLt");
  choice.exists = status == CUBLAS_STATUS_SUCCESS && count > 0 && found.state == CUBLAS_STATUS_SUCCESS;
  choice.algorithm = found.algo;
  return choice;
}

// Kept for the life of the process: a program has few products, and calls them again and again.
std::map<Key, Choice> choices;

}  // namespace

bool enqueue(const MatrixProduct& p, const void* a, const void* b, void* c, double scale, bool accumulate, const ProductEpilogue& epilogue) {
  const void* const addend = epilogue.base ? epilogue.base : c;
  const int64_t a_alignment = alignment_of(a, p.in, p.a_step, p.a_unit), b_alignment = alignment_of(b, p.in, p.b_step, p.b_unit),
                c_alignment = std::min(alignment_of(c, p.out, p.c_step, p.c_unit), alignment_of(addend, p.out, p.c_step, p.c_unit));
  // Kernels load a bias in words of 16 bytes, which no preference tells of.
  if (epilogue.bias && alignment_of(epilogue.bias, p.out, 0, 0) < 16) return false;
  // As cuBLASLt has it of what it keeps beside a result.
  if (epilogue.aux && (p.c_stride % 8 != 0 || alignment_of(epilogue.aux, p.out, 0, 0) < 16)) return false;
  const Key key{static_cast<int64_t>(p.in),
                static_cast<int64_t>(p.out),
                p.m,
                p.n,
                p.k,
                p.a_transposed,
                p.b_transposed,
                p.a_stride,
                p.b_stride,
                p.c_stride,
                p.batch,
                p.a_step,
                p.b_step,
                p.c_step,
                a_alignment,
                b_alignment,
                c_alignment,
                device().tf32,
                static_cast<int64_t>(epilogue.function),
                epilogue.bias != nullptr,
                epilogue.aux != nullptr};
  auto found = choices.find(key);
  if (found == choices.end()) found = choices.emplace(key, choose(p, epilogue, a_alignment, b_alignment, c_alignment)).first;
  const Choice& choice = found->second;
  if (!choice.exists) return false;
  set_memory(choice.operation, epilogue);
  const double double_factors[] = {scale, accumulate || epilogue.base ? 1.0 : 0.0};
  const float float_factors[] = {static_cast<float>(scale), accumulate || epilogue.base ? 1.0f : 0.0f};
  const bool is_double = p.in == DType::f64;
  const void* alpha = is_double ? static_cast<const void*>(&double_factors[0]) : &float_factors[0];
  const void* beta = is_double ? static_cast<const void*>(&double_factors[1]) : &float_factors[1];
  check(cublasLtMatmul(device().blas, choice.operation, alpha, b, choice.a, a, choice.b, beta, addend, choice.c, c, choice.c, &choice.algorithm,
                       device().blas_workspace, blas_workspace_bytes, compute_stream()),
        "multiply matrices");
  return true;
}

}  // namespace sscc::rt
