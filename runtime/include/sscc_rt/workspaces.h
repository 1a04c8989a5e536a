// Memory of a GPU that kernels take beside a program's arena.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sscc::rt {

// What cuBLAS recommends for compute capability 9.0.
inline constexpr size_t blas_workspace_bytes = size_t{32} << 20;
// Each kernel that needs scratch fits its work to this, or refuses it: partial sums (reduce.cu, norm.cu, sum_of_squares.cu), sorted indices
// (scatter_add.cu), what is known of tiles and rows (attention.cu), a bias in another type (contract.cpp), a result that cuDNN
// cannot write in its place (../cudnn).
inline constexpr size_t scratch_bytes = size_t{64} << 20;
// At most, where a program has convolutions: enough for engines of cuDNN that bring images of a large batch into another layout.
inline constexpr int64_t most_convolution_workspace_bytes = int64_t{256} << 20;

}  // namespace sscc::rt
