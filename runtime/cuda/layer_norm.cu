// Layer norm and its gradients. A warp or a block for each row; mean and variance in two passes over a row that is in the cache after the first. The
// gradients of scale and bias are sums over rows, a thread for each column.
//
// Where x is bf16 or f16, mean, rstd, scale and bias, and the gradients of these two, are float; otherwise all operands have one type.
#include "device.h"
#include "dispatch.cuh"
#include "group.cuh"
#include "joins.cuh"
#include "sscc_rt/cuda_launch.cuh"
#include "sscc_rt/kernels.h"

namespace sscc::rt {
namespace {

template <class T>
using Real = Arithmetic<T>;

// `rows` walks over the leading dimensions, `elements` over the normalised ones.
template <class T>
struct Forward {
  StridedWalk<4> rows;      // y, x, mean, rstd
  StridedWalk<4> elements;  // y, x, scale, bias
  T* y;
  Real<T>*mean, *rstd;
  const T* x;
  const Real<T>*scale, *bias;  // bias may be null
  double epsilon;
};

template <class T>
__global__ void __launch_bounds__(threads_per_block) forward_kernel(const __grid_constant__ Forward<T> a) {
  const uint32_t row = row_of_group(), n = a.elements.count;
  int64_t at[4] = {};
  a.rows.advance(min(row, a.rows.count - 1), at);
  const T* __restrict__ x = a.x + at[1];
  Real<T> sum = 0;
  for_elements(a.elements, threadIdx.x, n, blockDim.x, [&](const int64_t(&in)[4]) { sum += static_cast<Real<T>>(x[in[1]]); });
  const Real<T> mean = joined_in_group(sum, Add()) / static_cast<Real<T>>(n);
  Real<T> squares = 0;
  for_elements(a.elements, threadIdx.x, n, blockDim.x, [&](const int64_t(&in)[4]) {
    const Real<T> difference = static_cast<Real<T>>(x[in[1]]) - mean;
    squares += difference * difference;
  });
  const Real<T> variance = joined_in_group(squares, Add()) / static_cast<Real<T>>(n);
  if (row >= a.rows.count) return;
  const Real<T> rstd = Real<T>(1) / sqrt(variance + static_cast<Real<T>>(a.epsilon));
  T* __restrict__ y = a.y + at[0];
  const Real<T>* __restrict__ scale = a.scale, * __restrict__ bias = a.bias;
  for_elements(a.elements, threadIdx.x, n, blockDim.x, [&](const int64_t(&in)[4]) {
    Real<T> value = (static_cast<Real<T>>(x[in[1]]) - mean) * rstd * scale[in[2]];
    if (bias) value += bias[in[3]];
    y[in[0]] = static_cast<T>(value);
  });
  if (threadIdx.x == 0) {
    a.mean[at[2]] = mean;
    a.rstd[at[3]] = rstd;
  }
}

template <class T>
struct Backward {
  StridedWalk<5> rows;      // dx, dy, x, mean, rstd
  StridedWalk<4> elements;  // dx, dy, x, scale
  T* dx;
  const T *dy, *x;
  const Real<T>*scale, *mean, *rstd;
  bool accumulate;
};

// dx = rstd (g - mean(g) - xhat mean(g xhat)), g = dy scale.
template <class T>
__global__ void __launch_bounds__(threads_per_block) backward_kernel(const __grid_constant__ Backward<T> a) {
  const uint32_t row = row_of_group(), n = a.elements.count;
  int64_t at[5] = {};
  a.rows.advance(min(row, a.rows.count - 1), at);
  const Real<T> mean = a.mean[at[3]], rstd = a.rstd[at[4]];
  const T* __restrict__ dy = a.dy + at[1], * __restrict__ x = a.x + at[2];
  const Real<T>* __restrict__ scale = a.scale;
  Real<T> sum = 0, dot = 0;
  for_elements(a.elements, threadIdx.x, n, blockDim.x, [&](const int64_t(&in)[4]) {
    const Real<T> g = static_cast<Real<T>>(dy[in[1]]) * scale[in[3]];
    sum += g;
    dot += g * (static_cast<Real<T>>(x[in[2]]) - mean) * rstd;
  });
  sum = joined_in_group(sum, Add()) / static_cast<Real<T>>(n);
  dot = joined_in_group(dot, Add()) / static_cast<Real<T>>(n);
  if (row >= a.rows.count) return;
  T* __restrict__ dx = a.dx + at[0];
  for_elements(a.elements, threadIdx.x, n, blockDim.x, [&](const int64_t(&in)[4]) {
    const Real<T> g = static_cast<Real<T>>(dy[in[1]]) * scale[in[3]];
    const Real<T> normalised = (static_cast<Real<T>>(x[in[2]]) - mean) * rstd;
    const Real<T> before = a.accumulate ? static_cast<Real<T>>(dx[in[0]]) : Real<T>(0);
    dx[in[0]] = static_cast<T>(before + rstd * (g - sum - normalised * dot));
  });
}

// -- gradients of scale and bias ------------------------------------------------------------------------------------------------------------------

template <class T>
struct Sums {
  Sum<T> scale, bias;
};

template <class T>
struct ScaleGradient {
  StridedWalk<4> rows;      // dy, x, mean, rstd
  StridedWalk<4> elements;  // dscale, dbias, dy, x
  Real<T>*dscale, *dbias;   // dbias may be null
  const T *dy, *x;
  const Real<T>*mean, *rstd;
  bool accumulate;
  Sums<T>* partial;  // of slice s and column c: partial[s * columns + c]; null: there is one slice
  uint32_t slice_length;
};

template <class T>
__device__ void write_sums(const ScaleGradient<T>& a, uint32_t column, Sums<T> sums) {
  int64_t at[4] = {};
  a.elements.advance(column, at);
  const auto write = [&](Real<T>& to, Sum<T> sum) { to = static_cast<Real<T>>(sum) + (a.accumulate ? to : Real<T>(0)); };
  write(a.dscale[at[0]], sums.scale);
  if (a.dbias) write(a.dbias[at[1]], sums.bias);
}

template <class T>
__global__ void __launch_bounds__(warp* column_lanes) scale_gradient_kernel(const __grid_constant__ ScaleGradient<T> a) {
  __shared__ Sums<T> lanes[column_lanes][warp];
  const uint32_t column = blockIdx.x * warp + threadIdx.x;
  const uint32_t begin = blockIdx.y * a.slice_length, end = min(begin + a.slice_length, a.rows.count);
  int64_t in[4] = {};
  a.elements.advance(min(column, a.elements.count - 1), in);
  Sums<T> sums{0, 0};
  const T* __restrict__ dy = a.dy + in[2], * __restrict__ x = a.x + in[3];
  for_elements(a.rows, begin + threadIdx.y, end, column_lanes, [&](const int64_t(&at)[4]) {
    const auto d = static_cast<Real<T>>(dy[at[0]]);
    sums.scale += static_cast<Sum<T>>(d * (static_cast<Real<T>>(x[at[1]]) - a.mean[at[2]]) * a.rstd[at[3]]);
    sums.bias += static_cast<Sum<T>>(d);
  });
  lanes[threadIdx.y][threadIdx.x] = sums;
  __syncthreads();
  if (threadIdx.y != 0 || column >= a.elements.count) return;
  for (int lane = 1; lane < column_lanes; ++lane) {
    sums.scale += lanes[lane][threadIdx.x].scale;
    sums.bias += lanes[lane][threadIdx.x].bias;
  }
  if (a.partial)
    a.partial[int64_t{blockIdx.y} * a.elements.count + column] = sums;
  else
    write_sums(a, column, sums);
}

template <class T>
__global__ void __launch_bounds__(threads_per_block) slices_kernel(const __grid_constant__ ScaleGradient<T> a, uint32_t slices) {
  const uint32_t column = blockIdx.x * threads_per_block + threadIdx.x;
  if (column >= a.elements.count) return;
  Sums<T> sums{0, 0};
  for (uint32_t s = 0; s < slices; ++s) {
    const Sums<T> more = a.partial[int64_t{s} * a.elements.count + column];
    sums.scale += more.scale;
    sums.bias += more.bias;
  }
  write_sums(a, column, sums);
}

// -- walks ----------------------------------------------------------------------------------------------------------------------------------------

// Over the first dimensions of views.
StridedLoop loop_over_leading(std::initializer_list<Tensor> views, int count) {
  const int64_t* strides[max_operands];
  size_t operands = 0;
  for (const Tensor& view : views) strides[operands++] = view.strides;
  return StridedLoop::make(std::span(views.begin()->dims, static_cast<size_t>(count)), std::span(strides, operands));
}

// Over the dims of a row: views that have leading dimensions before them, and views that have none.
struct RowOperand {
  const Tensor& view;
  int first;
};
StridedLoop loop_over_row(std::initializer_list<RowOperand> operands) {
  const int64_t* strides[max_operands];
  size_t count = 0;
  for (const RowOperand& operand : operands) strides[count++] = operand.view.strides + operand.first;
  const RowOperand& first = *operands.begin();
  const StridedLoop loop =
      StridedLoop::make(std::span(first.view.dims + first.first, static_cast<size_t>(first.view.rank - first.first)), std::span(strides, count));
  if (loop.rows() * loop.row_length() >= largest_walk) throw std::logic_error("layer_norm: rows of 2^31 elements or more");
  return loop;
}

template <class T>
T* from(const Tensor& view, int64_t offset = 0) {
  return static_cast<T*>(view.data) + offset;
}

}  // namespace

void layer_norm(const Tensor& y, const Tensor& mean, const Tensor& rstd, const Tensor& x, const Tensor& scale, const Tensor& bias, int first_dim,
                double epsilon) {
  expect_type("layer_norm", y.dtype, {x});
  expect_type("layer_norm", arithmetic_type(y.dtype), {mean, rstd, scale, bias});
  if (y.elements() == 0) return;
  const StridedLoop row = loop_over_row({{y, first_dim}, {x, first_dim}, {scale, 0}, {bias.data ? bias : scale, 0}});
  for_any_float_type("layer_norm", y.dtype, [&](auto t) {
    using T = decltype(t);
    for_each_piece(loop_over_leading({y, x, mean, rstd}, first_dim), [&](const StridedLoop& rows, const StridedLoop::Offsets& base) {
      const Forward<T> arguments{StridedWalk<4>(rows),         StridedWalk<4>(row),          from<T>(y, base[0]),
                                 from<Real<T>>(mean, base[2]), from<Real<T>>(rstd, base[3]), from<T>(x, base[1]),
                                 from<Real<T>>(scale),         from<Real<T>>(bias),          epsilon};
      const RowLaunch shape(arguments.rows.count, arguments.elements.count);
      launch(forward_kernel<T>, shape.grid, shape.block, 0, arguments);
    });
  });
}

void layer_norm_grad(const Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& scale, const Tensor& mean, const Tensor& rstd, int first_dim,
                     bool accumulate) {
  expect_type("layer_norm_grad", dx.dtype, {dy, x});
  expect_type("layer_norm_grad", arithmetic_type(dx.dtype), {scale, mean, rstd});
  if (dx.elements() == 0) return;
  const StridedLoop row = loop_over_row({{dx, first_dim}, {dy, first_dim}, {x, first_dim}, {scale, 0}});
  for_any_float_type("layer_norm_grad", dx.dtype, [&](auto t) {
    using T = decltype(t);
    for_each_piece(loop_over_leading({dx, dy, x, mean, rstd}, first_dim), [&](const StridedLoop& rows, const StridedLoop::Offsets& base) {
      const Backward<T> arguments{StridedWalk<5>(rows),         StridedWalk<4>(row),          from<T>(dx, base[0]),
                                  from<T>(dy, base[1]),         from<T>(x, base[2]),          from<Real<T>>(scale),
                                  from<Real<T>>(mean, base[3]), from<Real<T>>(rstd, base[4]), accumulate};
      const RowLaunch shape(arguments.rows.count, arguments.elements.count);
      launch(backward_kernel<T>, shape.grid, shape.block, 0, arguments);
    });
  });
}

void layer_norm_grad_scale(const Tensor& dscale, const Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd,
                           int first_dim, bool accumulate) {
  expect_type("layer_norm_grad_scale", x.dtype, {dy});
  expect_type("layer_norm_grad_scale", arithmetic_type(x.dtype), {dscale, dbias, mean, rstd});
  if (x.elements() == 0) {
    if (!accumulate) fill(dscale, 0);
    if (!accumulate && dbias.data) fill(dbias, 0);
    return;
  }
  const StridedLoop row = loop_over_row({{dscale, 0}, {dbias.data ? dbias : dscale, 0}, {dy, first_dim}, {x, first_dim}});
  bool adds = accumulate;
  for_any_float_type("layer_norm_grad_scale", x.dtype, [&](auto t) {
    using T = decltype(t);
    for_each_piece(loop_over_leading({dy, x, mean, rstd}, first_dim), [&](const StridedLoop& rows, const StridedLoop::Offsets& base) {
      ScaleGradient<T> arguments{StridedWalk<4>(rows),
                                 StridedWalk<4>(row),
                                 from<Real<T>>(dscale),
                                 from<Real<T>>(dbias),
                                 from<T>(dy, base[0]),
                                 from<T>(x, base[1]),
                                 from<Real<T>>(mean, base[2]),
                                 from<Real<T>>(rstd, base[3]),
                                 adds,
                                 nullptr,
                                 0};
      const int64_t columns = arguments.elements.count, blocks = (columns + warp - 1) / warp;
      const Slices slices(arguments.rows.count, 16 * column_lanes, blocks);
      arguments.slice_length = slices.length;
      if (slices.count > 1) arguments.partial = reinterpret_cast<Sums<T>*>(device().scratch);
      launch(scale_gradient_kernel<T>, dim3(static_cast<unsigned>(blocks), slices.count), dim3(warp, column_lanes), 0, arguments);
      if (slices.count > 1) launch(slices_kernel<T>, blocks_for(columns), threads_per_block, 0, arguments, slices.count);
      adds = true;  // rows of one more piece are added
    });
  });
}

}  // namespace sscc::rt
