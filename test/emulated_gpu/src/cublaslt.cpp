#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "emulated_gpu/gpu.h"
#include "memory.h"

using namespace emulated_gpu;

struct cublasLtContext {};
struct cublasLtMatmulDescOpaque_t {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  cublasOperation_t a = CUBLAS_OP_N, b = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  void* bias = nullptr;
  void* aux = nullptr;
  int64_t aux_leading = 0, aux_step = 0, bias_step = 0;
  std::optional<int32_t> bias_type = {}, aux_type = {};  // else that of D
};
struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType_t type;
  int64_t rows, columns, leading;
  int32_t batch = 1;
  int64_t step = 0;

  size_t element_bytes() const { return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2; }
  // From the first element to the end of the last.
  size_t bytes() const {
    return rows == 0 || columns == 0 ? 0 : static_cast<size_t>((batch - 1) * step + (columns - 1) * leading + rows) * element_bytes();
  }
};
struct cublasLtMatmulPreferenceOpaque_t {
  std::array<uint32_t, 4> alignments{256, 256, 256, 256};  // of A, B, C, D
};

namespace {

// An epilogue is these, joined.
enum : unsigned { relu = 2, bias = 4, relu_gradient = 8, bias_gradient = 16, gelu = 32, gelu_gradient = 64, aux = 128, a_sums = 256, b_sums = 512 };

double load(const void* memory, int type, int64_t at) {
  switch (type) {
    case CUDA_R_64F: return static_cast<const double*>(memory)[at];
    case CUDA_R_32F: return static_cast<double>(static_cast<const float*>(memory)[at]);
    case CUDA_R_16BF: return static_cast<double>(static_cast<const __nv_bfloat16*>(memory)[at]);
    default: return static_cast<double>(static_cast<const __half*>(memory)[at]);
  }
}
void store(void* memory, int type, int64_t at, double value) {
  switch (type) {
    case CUDA_R_64F: static_cast<double*>(memory)[at] = value; return;
    case CUDA_R_32F: static_cast<float*>(memory)[at] = static_cast<float>(value); return;
    case CUDA_R_16BF: static_cast<__nv_bfloat16*>(memory)[at] = value; return;
    default: static_cast<__half*>(memory)[at] = value;
  }
}

double tanh_part(double x) { return std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)); }
double gelu_of(double x) { return 0.5 * x * (1 + tanh_part(x)); }
double gelu_slope(double x) {
  const double t = tanh_part(x);
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
}

struct Product {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t a, b, c, d;
  double alpha, beta;
  const void *a_memory, *b_memory, *c_memory;
  void* d_memory;

  int64_t k() const { return operation.a == CUBLAS_OP_N ? a.columns : a.rows; }
};

// Of one matrix of the batch; `sums`: op(A) op(B), column-major without gaps.
template <class Real>
void finish(const Product& p, int64_t batch, const std::vector<Real>& sums) {
  const auto steps = static_cast<unsigned>(p.operation.epilogue);
  const cublasLtMatmulDescOpaque_t& o = p.operation;
  const int bias_type = o.bias_type.value_or(p.d.type), aux_type = o.aux_type.value_or(p.d.type);
  std::vector<Real> row_sums(static_cast<size_t>(p.d.rows));
  for (int64_t column = 0; column < p.d.columns; ++column) {
    for (int64_t row = 0; row < p.d.rows; ++row) {
      Real value = static_cast<Real>(p.alpha) * sums[static_cast<size_t>(column * p.d.rows + row)];
      if (p.beta != 0) value += static_cast<Real>(p.beta * load(p.c_memory, p.c.type, batch * p.c.step + column * p.c.leading + row));
      if (steps & bias) value += static_cast<Real>(load(o.bias, bias_type, batch * o.bias_step + row));
      const int64_t at = batch * o.aux_step + column * o.aux_leading + row;
      auto* const bits = static_cast<uint8_t*>(o.aux) + at / 8;
      const auto bit = static_cast<uint8_t>(1u << at % 8);
      if ((steps & aux) && (steps & gelu)) store(o.aux, aux_type, at, value);
      if ((steps & aux) && (steps & relu)) *bits = static_cast<uint8_t>(value > 0 ? *bits | bit : *bits & ~bit);
      if (steps & relu) value = value > 0 ? value : 0;
      if (steps & gelu) value = static_cast<Real>(gelu_of(value));
      if (steps & gelu_gradient) value *= static_cast<Real>(gelu_slope(load(o.aux, aux_type, at)));
      if ((steps & relu_gradient) && !(*bits & bit)) value = 0;
      store(p.d_memory, p.d.type, batch * p.d.step + column * p.d.leading + row, value);
      row_sums[static_cast<size_t>(row)] += value;
    }
  }
  if (steps & bias_gradient)
    for (int64_t row = 0; row < p.d.rows; ++row) store(o.bias, bias_type, batch * o.bias_step + row, row_sums[static_cast<size_t>(row)]);
}

template <class Real>
void multiply(const Product& p) {
  const int64_t m = p.d.rows, n = p.d.columns, k = p.k();
  std::vector<Real> a(static_cast<size_t>(m * k)), sums(static_cast<size_t>(m * n));
  const auto steps = static_cast<unsigned>(p.operation.epilogue);
  const int bias_type = p.operation.bias_type.value_or(p.d.type);
  for (int64_t batch = 0; batch < p.d.batch; ++batch) {
    const auto a_at = [&](int64_t row, int64_t column) {
      return static_cast<Real>(
          load(p.a_memory, p.a.type, batch * p.a.step + (p.operation.a == CUBLAS_OP_N ? column * p.a.leading + row : row * p.a.leading + column)));
    };
    const auto b_at = [&](int64_t row, int64_t column) {
      return static_cast<Real>(
          load(p.b_memory, p.b.type, batch * p.b.step + (p.operation.b == CUBLAS_OP_N ? column * p.b.leading + row : row * p.b.leading + column)));
    };
    for (int64_t l = 0; l < k; ++l)
      for (int64_t row = 0; row < m; ++row) a[static_cast<size_t>(l * m + row)] = a_at(row, l);
    std::fill(sums.begin(), sums.end(), Real(0));
    for (int64_t column = 0; column < n; ++column) {
      Real* const to = sums.data() + column * m;
      for (int64_t l = 0; l < k; ++l) {
        const Real factor = b_at(l, column);
        const Real* const from = a.data() + l * m;
        for (int64_t row = 0; row < m; ++row) to[row] += from[row] * factor;
      }
    }
    finish(p, batch, sums);
    if (!(steps & (a_sums | b_sums))) continue;
    for (int64_t i = 0; i < (steps & a_sums ? m : n); ++i) {
      Real sum = 0;
      for (int64_t l = 0; l < k; ++l) sum += steps & a_sums ? a_at(i, l) : b_at(l, i);
      store(p.operation.bias, bias_type, batch * p.operation.bias_step + i, sum);
    }
  }
}

// What is wrong; empty: nothing.
std::string mistake_in(const cublasLtMatmulDescOpaque_t& o, const cublasLtMatrixLayoutOpaque_t& a, const cublasLtMatrixLayoutOpaque_t& b,
                       const cublasLtMatrixLayoutOpaque_t& c, const cublasLtMatrixLayoutOpaque_t& d) {
  const int64_t m = o.a == CUBLAS_OP_N ? a.rows : a.columns, k = o.a == CUBLAS_OP_N ? a.columns : a.rows;
  const int64_t b_rows = o.b == CUBLAS_OP_N ? b.rows : b.columns, n = o.b == CUBLAS_OP_N ? b.columns : b.rows;
  if (k != b_rows || d.rows != m || d.columns != n || c.rows != m || c.columns != n) return "sizes do not fit";
  for (const cublasLtMatrixLayoutOpaque_t* each : {&a, &b, &c, &d}) {
    if (each->leading < each->rows) return "a leading dimension is shorter than a column";
    if (each->batch != d.batch) return "batches differ";
  }
  const int64_t size = (d.columns - 1) * d.leading + d.rows, step = d.step < 0 ? -d.step : d.step;
  if (d.batch > 1 && step < d.rows && size > step) return "matrices of the result overlap";
  const auto steps = static_cast<unsigned>(o.epilogue);
  if ((steps & (bias | bias_gradient | a_sums | b_sums)) && !o.bias) return "an epilogue without its bias";
  // No document says so: what calls cuBLASLt elsewhere keeps to it, for kernels load a bias in words of 16 bytes.
  if ((steps & bias) && reinterpret_cast<uintptr_t>(o.bias) % 16 != 0) return "a bias that is not aligned to 16 bytes";
  if (steps & aux) {
    const int64_t unit = steps & (relu | relu_gradient) ? 128 : 8;
    if (!o.aux || o.aux_leading < m || o.aux_leading % unit != 0 || o.aux_step % unit != 0)
      return "an epilogue without its auxiliary matrix, or one that is laid out wrongly";
  }
  return "";
}

bool is_supported(const cublasLtMatmulDescOpaque_t& o, const cublasLtMatrixLayoutOpaque_t& a, const cublasLtMatrixLayoutOpaque_t& b,
                  const cublasLtMatrixLayoutOpaque_t& c, const cublasLtMatrixLayoutOpaque_t& d) {
  if (a.type != b.type || c.type != d.type) return false;
  if (o.compute == CUBLAS_COMPUTE_64F)
    return a.type == CUDA_R_64F && d.type == CUDA_R_64F && o.scale == CUDA_R_64F && o.epilogue == CUBLASLT_EPILOGUE_DEFAULT;
  if (o.scale != CUDA_R_32F || a.type == CUDA_R_64F) return false;
  return d.type == a.type || d.type == CUDA_R_32F;
}

template <class Value, class Place>
cublasStatus_t set(Place& place, const void* value, size_t bytes) {
  if (bytes != sizeof(Value)) return CUBLAS_STATUS_INVALID_VALUE;
  Value read;
  std::memcpy(&read, value, sizeof read);
  place = read;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t refuse(const std::string& why) {
  std::fprintf(stderr, "emulated GPU: cublasLtMatmul: %s\n", why.c_str());
  return CUBLAS_STATUS_INVALID_VALUE;
}

}  // namespace

const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "unknown";
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description, cublasComputeType_t compute, cudaDataType_t scale) {
  *description = new cublasLtMatmulDescOpaque_t{compute, scale};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  delete description;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return set<cublasOperation_t>(description->a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB: return set<cublasOperation_t>(description->b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return set<cublasLtEpilogue_t>(description->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return set<void*>(description->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE: return set<int64_t>(description->bias_step, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return set<int32_t>(description->bias_type, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: return set<void*>(description->aux, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: return set<int64_t>(description->aux_leading, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE: return set<int64_t>(description->aux_step, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE: return set<int32_t>(description->aux_type, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type, uint64_t rows, uint64_t columns, int64_t leading) {
  *layout = new cublasLtMatrixLayoutOpaque_t{type, static_cast<int64_t>(rows), static_cast<int64_t>(columns), leading};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute, const void* value,
                                                size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return set<int32_t>(layout->batch, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: return set<int64_t>(layout->step, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  uint64_t workspace = 0;
  uint32_t schemes = 0;
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return set<uint64_t>(workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return set<uint32_t>(schemes, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return set<uint32_t>(preference->alignments[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return set<uint32_t>(preference->alignments[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return set<uint32_t>(preference->alignments[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return set<uint32_t>(preference->alignments[3], value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* count) {
  *count = 0;
  if (wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
  if (const std::string mistake = mistake_in(*operation, *a, *b, *c, *d); !mistake.empty()) return refuse(mistake);
  if (!is_supported(*operation, *a, *b, *c, *d)) return CUBLAS_STATUS_NOT_SUPPORTED;
  results[0] = {};
  for (size_t i = 0; i < 4; ++i) results[0].algo.data[i] = preference->alignments[i];
  *count = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t operation, const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                              const void* b, cublasLtMatrixLayout_t b_layout, const void* beta, const void* c, cublasLtMatrixLayout_t c_layout,
                              void* d, cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm, void*, size_t, cudaStream_t stream) {
  if (const std::string mistake = mistake_in(*operation, *a_layout, *b_layout, *c_layout, *d_layout); !mistake.empty()) return refuse(mistake);
  if (!is_supported(*operation, *a_layout, *b_layout, *c_layout, *d_layout)) return CUBLAS_STATUS_NOT_SUPPORTED;
  const Product product{*operation, *a_layout, *b_layout, *c_layout, *d_layout, load(alpha, operation->scale, 0), load(beta, operation->scale, 0),
                        a,          b,         c,         d};
  if (c == d && product.beta != 0 && (c_layout->leading != d_layout->leading || c_layout->step != d_layout->step))
    return refuse("C and D are in place and laid out differently");
  const void* const memory[] = {a, b, product.beta == 0 ? d : c, d};
  const cublasLtMatrixLayoutOpaque_t* const layouts[] = {a_layout, b_layout, c_layout, d_layout};
  for (size_t i = 0; i < 4; ++i) {
    const uint64_t alignment = algorithm ? algorithm->data[i] : layouts[i]->element_bytes();
    if (reinterpret_cast<uintptr_t>(memory[i]) % alignment != 0)
      return refuse("an operand is not aligned to the " + std::to_string(alignment) + " bytes that were promised");
    try {
      if (kind_of(memory[i], layouts[i]->bytes()) == Kind::pageable) return refuse("an operand is not in memory that the GPU reaches");
    } catch (const Fault& fault) { return refuse(fault.what()); }
  }
  const cudaError_t status = enqueue(stream, "a matrix product", [product] {
    if (product.operation.compute == CUBLAS_COMPUTE_64F)
      multiply<double>(product);
    else
      multiply<float>(product);
    return true;
  });
  return status == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
