// A warp or a block for each row: one pass for the largest element and the sum, one that writes. What it reads again is in the cache.
#include "../kernels/rows.h"
#include "dispatch.cuh"
#include "group.cuh"
#include "joins.cuh"
#include "sscc_rt/cuda_launch.cuh"
#include "sscc_rt/kernels.h"

namespace sscc::rt {
namespace {

// `rows` walks over all dimensions but one, along which operand o steps by strides[o].
template <int operands>
struct Rows {
  StridedWalk<operands> rows;
  int64_t length;
  int64_t strides[operands];
};

template <class T>
__global__ void __launch_bounds__(threads_per_block)
    softmax_kernel(const __grid_constant__ Rows<2> rows, T* __restrict__ out, const T* __restrict__ in) {
  using Real = Arithmetic<T>;
  const uint32_t row = row_of_group();
  int64_t at[2] = {};
  rows.rows.advance(min(row, rows.rows.count - 1), at);
  const T* x = in + at[1];
  const LogSumExpJoin<T, Real> join;
  auto state = join.identity();
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < rows.length; i += blockDim.x) state = join.enter(state, x[i * rows.strides[1]]);
  state = joined_in_group(state, join);
  if (row >= rows.rows.count) return;
  // A row of -infinity alone gives not a number, as everywhere.
  const Real scale = Real(1) / state.sum;
  T* y = out + at[0];
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < rows.length; i += blockDim.x)
    y[i * rows.strides[0]] = static_cast<T>(scalar::exp_of(static_cast<Real>(x[i * rows.strides[1]]) - state.largest) * scale);
}

template <class T>
__global__ void __launch_bounds__(threads_per_block)
    softmax_grad_kernel(const __grid_constant__ Rows<3> rows, T* __restrict__ dx, const T* __restrict__ y, const T* __restrict__ dy) {
  using Real = Arithmetic<T>;
  const uint32_t row = row_of_group();
  int64_t at[3] = {};
  rows.rows.advance(min(row, rows.rows.count - 1), at);
  const T *p = y + at[1], *g = dy + at[2];
  Real dot = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < rows.length; i += blockDim.x)
    dot += static_cast<Real>(p[i * rows.strides[1]]) * static_cast<Real>(g[i * rows.strides[2]]);
  dot = joined_in_group(dot, Add());
  if (row >= rows.rows.count) return;
  T* d = dx + at[0];
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < rows.length; i += blockDim.x)
    d[i * rows.strides[0]] = static_cast<T>(static_cast<Real>(p[i * rows.strides[1]]) * (static_cast<Real>(g[i * rows.strides[2]]) - dot));
}

// visit(rows, base, shape) for rows along `dim` of views of equal dims.
template <int operands, class Visit>
void for_rows_along(const Tensor (&views)[operands], int dim, const Visit& visit) {
  if (views[0].elements() == 0) return;
  Tensor around[operands];
  const int64_t* strides[operands];
  for (int o = 0; o < operands; ++o) {
    around[o] = without(views[o], dim);
    strides[o] = around[o].strides;
  }
  const StridedLoop whole = StridedLoop::make(std::span(around[0].dims, static_cast<size_t>(around[0].rank)), strides);
  for_each_piece(whole, [&](const StridedLoop& loop, const StridedLoop::Offsets& base) {
    Rows<operands> rows{StridedWalk<operands>(loop), views[0].dims[dim], {}};
    for (int o = 0; o < operands; ++o) rows.strides[o] = views[o].strides[dim];
    visit(rows, base, RowLaunch(rows.rows.count, rows.length));
  });
}

}  // namespace

void softmax(const Tensor& out, const Tensor& in, int dim) {
  expect_type("softmax", out.dtype, {in});
  for_any_float_type("softmax", out.dtype, [&](auto t) {
    using T = decltype(t);
    for_rows_along({out, in}, dim, [&](const Rows<2>& rows, const StridedLoop::Offsets& base, const RowLaunch& shape) {
      launch(softmax_kernel<T>, shape.grid, shape.block, 0, rows, static_cast<T*>(out.data) + base[0], static_cast<const T*>(in.data) + base[1]);
    });
  });
}

void softmax_grad(const Tensor& dx, const Tensor& y, const Tensor& dy, int dim) {
  expect_type("softmax_grad", dx.dtype, {y, dy});
  for_any_float_type("softmax_grad", dx.dtype, [&](auto t) {
    using T = decltype(t);
    for_rows_along({dx, y, dy}, dim, [&](const Rows<3>& rows, const StridedLoop::Offsets& base, const RowLaunch& shape) {
      launch(softmax_grad_kernel<T>, shape.grid, shape.block, 0, rows, static_cast<T*>(dx.data) + base[0], static_cast<const T*>(y.data) + base[1],
             static_cast<const T*>(dy.data) + base[2]);
    });
  });
}

}  // namespace sscc::rt
