// Norms. A group is the elements that share a mean: a row of a layer norm, a channel of a batch norm. A warp or a block works on a group: mean and
// variance in two passes over what is in the cache after the first, then a pass that writes. Where groups are few and large, each is cut into slices:
// blocks find (count, mean, sum of squares) of slices, and those that write join the slices' in order.
//
// The gradients of scale and bias are sums over the dimensions that they have not: a thread for each where they lie side by side in x (layer norm),
// else a block for each (batch norm); cut into slices where they are few.
//
// Where x is bf16 or f16, mean, rstd, scale and bias, and the gradients of these two, are float; otherwise all operands have one type.
#include "../kernels/norm_operands.h"
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

constexpr int64_t shortest_slice = 64 * threads_per_block;

// What this block, or warp, works on: a group, and which of its elements.
struct Work {
  uint32_t group, begin, end;
};
template <class Arguments>
__device__ Work work_of(const Arguments& a) {
  const uint32_t begin = blockIdx.y * a.slice_length;
  return {row_of_group(), begin, min(begin + a.slice_length, a.elements.count)};
}

// -- forward --------------------------------------------------------------------------------------------------------------------------------------

// Of some values: how many, their mean, and the sum of squares of what they differ from it. What is not centred has mean 0.
template <class R>
struct Moments {
  R count, mean, squares;
};
template <class R>
struct JoinMoments {
  __device__ Moments<R> operator()(const Moments<R>& a, const Moments<R>& b) const {
    const R count = a.count + b.count;
    if (count == 0) return a;
    const R difference = b.mean - a.mean, share = b.count / count;
    return {count, a.mean + difference * share, a.squares + b.squares + difference * difference * a.count * share};
  }
};

// `groups` walks over the dimensions that are kept, `elements` over those that are normalised.
template <class T>
struct Forward {
  StridedWalk<6> groups;    // y, x, rstd, mean, scale, bias
  StridedWalk<4> elements;  // y, x, scale, bias
  T* y;
  const T* x;
  Real<T>*rstd, *mean;         // mean may be null: not centred
  const Real<T>*scale, *bias;  // may be null
  double epsilon;
  Moments<Real<T>>* partial;  // of slice s of group g: partial[s * groups + g]
  uint32_t slice_length, slices;
};

template <class T>
__device__ void write_normalised(const Forward<T>& a, const Work& work, const int64_t (&at)[6], Real<T> mean, Real<T> variance) {
  const Real<T> rstd = Real<T>(1) / sqrt(variance + static_cast<Real<T>>(a.epsilon));
  const T* __restrict__ x = a.x + at[1];
  T* __restrict__ y = a.y + at[0];
  const Real<T>* __restrict__ scale = a.scale + at[4], * __restrict__ bias = a.bias + at[5];
  const bool has_scale = a.scale, has_bias = a.bias;
  for_elements(a.elements, work.begin + threadIdx.x, work.end, blockDim.x, [&](const int64_t(&in)[4]) {
    Real<T> value = (static_cast<Real<T>>(x[in[1]]) - mean) * rstd;
    if (has_scale) value *= scale[in[2]];
    if (has_bias) value += bias[in[3]];
    y[in[0]] = static_cast<T>(value);
  });
  if (threadIdx.x != 0 || work.begin != 0) return;
  a.rstd[at[2]] = rstd;
  if (a.mean) a.mean[at[3]] = mean;
}

// For one slice: a group is all of one warp or block.
template <class T>
__global__ void __launch_bounds__(threads_per_block) forward_kernel(const __grid_constant__ Forward<T> a) {
  const Work work = work_of(a);
  const auto count = static_cast<Real<T>>(a.elements.count);
  int64_t at[6] = {};
  a.groups.advance(min(work.group, a.groups.count - 1), at);
  const T* __restrict__ x = a.x + at[1];
  Real<T> mean = 0;
  if (a.mean) {
    for_elements(a.elements, threadIdx.x, work.end, blockDim.x, [&](const int64_t(&in)[4]) { mean += static_cast<Real<T>>(x[in[1]]); });
    mean = joined_in_group(mean, Add()) / count;
  }
  Real<T> squares = 0;
  for_elements(a.elements, threadIdx.x, work.end, blockDim.x, [&](const int64_t(&in)[4]) {
    const Real<T> difference = static_cast<Real<T>>(x[in[1]]) - mean;
    squares += difference * difference;
  });
  squares = joined_in_group(squares, Add());
  if (work.group < a.groups.count) write_normalised(a, work, at, mean, squares / count);
}

template <class T>
__global__ void __launch_bounds__(threads_per_block) moments_kernel(const __grid_constant__ Forward<T> a) {
  const Work work = work_of(a);
  int64_t at[6] = {};
  a.groups.advance(work.group, at);
  const T* __restrict__ x = a.x + at[1];
  const bool is_centred = a.mean;
  Moments<Real<T>> moments{0, 0, 0};
  for_elements(a.elements, work.begin + threadIdx.x, work.end, blockDim.x, [&](const int64_t(&in)[4]) {
    const auto value = static_cast<Real<T>>(x[in[1]]);
    const Real<T> difference = value - moments.mean;
    moments.count += 1;
    if (is_centred) moments.mean += difference / moments.count;
    moments.squares += difference * (value - moments.mean);
  });
  moments = joined_in_group(moments, JoinMoments<Real<T>>());
  if (threadIdx.x == 0) a.partial[blockIdx.y * a.groups.count + work.group] = moments;
}

template <class T>
__global__ void __launch_bounds__(threads_per_block) normalise_slices_kernel(const __grid_constant__ Forward<T> a) {
  const Work work = work_of(a);
  int64_t at[6] = {};
  a.groups.advance(work.group, at);
  Moments<Real<T>> moments{0, 0, 0};
  const JoinMoments<Real<T>> join;
  for (uint32_t s = threadIdx.x; s < a.slices; s += blockDim.x) moments = join(moments, a.partial[s * a.groups.count + work.group]);
  moments = joined_in_group(moments, join);
  write_normalised(a, work, at, moments.mean, moments.squares / moments.count);
}

// -- gradient of x --------------------------------------------------------------------------------------------------------------------------------

// Over a group: of g, and of g xhat.
template <class R>
struct GradientSums {
  R sum, dot;
  __device__ GradientSums operator+(const GradientSums& more) const { return {sum + more.sum, dot + more.dot}; }
};

template <class T>
struct Backward {
  StridedWalk<6> groups;    // dx, dy, x, rstd, mean, scale
  StridedWalk<4> elements;  // dx, dy, x, scale
  T* dx;
  const T *dy, *x;
  const Real<T>*rstd, *mean, *scale;  // mean and scale may be null
  bool accumulate;
  GradientSums<Real<T>>* partial;  // of slice s of group g: partial[s * groups + g]
  uint32_t slice_length, slices;
};

// A group's operands. dx = rstd (g - mean(g) - xhat mean(g xhat)), g = dy scale; what is not centred has no mean(g).
template <class T>
class GroupGradient {
 public:
  __device__ GroupGradient(const Backward<T>& a, uint32_t group) : a_(a) {
    int64_t at[6] = {};
    a.groups.advance(group, at);
    dx_ = a.dx + at[0];
    dy_ = a.dy + at[1];
    x_ = a.x + at[2];
    rstd_ = a.rstd[at[3]];
    mean_ = a.mean ? a.mean[at[4]] : Real<T>(0);
    scale_ = a.scale ? a.scale + at[5] : nullptr;
  }

  // Of this thread's elements.
  __device__ GradientSums<Real<T>> sums(const Work& work) const {
    GradientSums<Real<T>> sums{0, 0};
    for_elements(a_.elements, work.begin + threadIdx.x, work.end, blockDim.x, [&](const int64_t(&in)[4]) {
      const Real<T> g = gradient(in);
      sums.sum += g;
      sums.dot += g * normal(in);
    });
    return sums;
  }
  __device__ void write(const Work& work, const GradientSums<Real<T>>& sums) const {
    const auto count = static_cast<Real<T>>(a_.elements.count);
    const Real<T> sum = a_.mean ? sums.sum / count : Real<T>(0), dot = sums.dot / count;
    for_elements(a_.elements, work.begin + threadIdx.x, work.end, blockDim.x, [&](const int64_t(&in)[4]) {
      const Real<T> before = a_.accumulate ? static_cast<Real<T>>(dx_[in[0]]) : Real<T>(0);
      dx_[in[0]] = static_cast<T>(before + rstd_ * (gradient(in) - sum - normal(in) * dot));
    });
  }

 private:
  __device__ Real<T> gradient(const int64_t (&in)[4]) const {
    const auto d = static_cast<Real<T>>(dy_[in[1]]);
    return scale_ ? d * scale_[in[3]] : d;
  }
  __device__ Real<T> normal(const int64_t (&in)[4]) const { return (static_cast<Real<T>>(x_[in[2]]) - mean_) * rstd_; }

  const Backward<T>& a_;
  T* __restrict__ dx_;
  const T* __restrict__ dy_, * __restrict__ x_;
  Real<T> rstd_, mean_;
  const Real<T>* __restrict__ scale_;
};

template <class T>
__global__ void __launch_bounds__(threads_per_block) backward_kernel(const __grid_constant__ Backward<T> a) {
  const Work work = work_of(a);
  const GroupGradient<T> group(a, min(work.group, a.groups.count - 1));
  const GradientSums<Real<T>> sums = joined_in_group(group.sums(work), Add());
  if (work.group < a.groups.count) group.write(work, sums);
}

template <class T>
__global__ void __launch_bounds__(threads_per_block) gradient_sums_kernel(const __grid_constant__ Backward<T> a) {
  const Work work = work_of(a);
  const GradientSums<Real<T>> sums = joined_in_group(GroupGradient<T>(a, work.group).sums(work), Add());
  if (threadIdx.x == 0) a.partial[blockIdx.y * a.groups.count + work.group] = sums;
}

template <class T>
__global__ void __launch_bounds__(threads_per_block) gradient_slices_kernel(const __grid_constant__ Backward<T> a) {
  const Work work = work_of(a);
  GradientSums<Real<T>> sums{0, 0};
  for (uint32_t s = threadIdx.x; s < a.slices; s += blockDim.x) sums = sums + a.partial[s * a.groups.count + work.group];
  GroupGradient<T>(a, work.group).write(work, joined_in_group(sums, Add()));
}

// -- gradients of scale and bias ------------------------------------------------------------------------------------------------------------------

template <class T>
struct Sums {
  Sum<T> scale, bias;
  __device__ Sums operator+(const Sums& more) const { return {scale + more.scale, bias + more.bias}; }
};

template <class T>
struct ScaleGradient {
  StridedWalk<6> results;   // dy, x, rstd, mean, dscale, dbias
  StridedWalk<4> elements;  // dy, x, rstd, mean
  Real<T>*dscale, *dbias;   // dbias may be null
  const T *dy, *x;
  const Real<T>*rstd, *mean;  // mean may be null
  bool accumulate;
  Sums<T>* partial;  // of slice s of result r: partial[s * results + r]; null: there is one slice
  uint32_t slice_length;
};

// Of the elements begin, begin + step, ... below end of a result.
template <class T>
__device__ Sums<T> sums_of(const ScaleGradient<T>& a, uint32_t result, uint32_t begin, uint32_t end, uint32_t step) {
  int64_t in[6] = {};
  a.results.advance(result, in);
  const T* __restrict__ dy = a.dy + in[0], * __restrict__ x = a.x + in[1];
  const Real<T>* __restrict__ rstd = a.rstd + in[2], * __restrict__ mean = a.mean + in[3];
  const bool is_centred = a.mean;
  Sums<T> sums{0, 0};
  for_elements(a.elements, begin, end, step, [&](const int64_t(&at)[4]) {
    const auto d = static_cast<Real<T>>(dy[at[0]]);
    const Real<T> centred = static_cast<Real<T>>(x[at[1]]) - (is_centred ? mean[at[3]] : Real<T>(0));
    sums.scale += static_cast<Sum<T>>(d * centred * rstd[at[2]]);
    sums.bias += static_cast<Sum<T>>(d);
  });
  return sums;
}

template <class T>
__device__ void write_sums(const ScaleGradient<T>& a, uint32_t result, const Sums<T>& sums) {
  int64_t at[6] = {};
  a.results.advance(result, at);
  const auto write = [&](Real<T>& to, Sum<T> sum) { to = static_cast<Real<T>>(sum) + (a.accumulate ? to : Real<T>(0)); };
  write(a.dscale[at[4]], sums.scale);
  if (a.dbias) write(a.dbias[at[5]], sums.bias);
}
template <class T>
__device__ void finish(const ScaleGradient<T>& a, uint32_t result, const Sums<T>& sums) {
  if (a.partial)
    a.partial[int64_t{blockIdx.y} * a.results.count + result] = sums;
  else
    write_sums(a, result, sums);
}

template <class T>
__global__ void __launch_bounds__(warp* column_lanes) columns_kernel(const __grid_constant__ ScaleGradient<T> a) {
  __shared__ Sums<T> lanes[column_lanes][warp];
  const uint32_t column = blockIdx.x * warp + threadIdx.x;
  const uint32_t begin = blockIdx.y * a.slice_length, end = min(begin + a.slice_length, a.elements.count);
  Sums<T> sums = sums_of(a, min(column, a.results.count - 1), begin + threadIdx.y, end, column_lanes);
  lanes[threadIdx.y][threadIdx.x] = sums;
  __syncthreads();
  if (threadIdx.y != 0 || column >= a.results.count) return;
  for (int lane = 1; lane < column_lanes; ++lane) sums = sums + lanes[lane][threadIdx.x];
  finish(a, column, sums);
}

template <class T>
__global__ void __launch_bounds__(threads_per_block) rows_kernel(const __grid_constant__ ScaleGradient<T> a) {
  const Work work = work_of(a);
  const Sums<T> sums = sums_of(a, min(work.group, a.results.count - 1), work.begin + threadIdx.x, work.end, blockDim.x);
  const Sums<T> all = joined_in_group(sums, Add());
  if (threadIdx.x == 0 && work.group < a.results.count) finish(a, work.group, all);
}

template <class T>
__global__ void __launch_bounds__(threads_per_block) slices_kernel(const __grid_constant__ ScaleGradient<T> a, uint32_t slices) {
  const uint32_t result = blockIdx.x * threads_per_block + threadIdx.x;
  if (result >= a.results.count) return;
  Sums<T> sums{0, 0};
  for (uint32_t s = 0; s < slices; ++s) sums = sums + a.partial[int64_t{s} * a.results.count + result];
  write_sums(a, result, sums);
}

// -- launches -------------------------------------------------------------------------------------------------------------------------------------

template <class T>
T* from(const Tensor& view, int64_t offset = 0) {
  return view.data ? static_cast<T*>(view.data) + offset : nullptr;
}

// What the device counts in 32 bits.
StridedLoop small_loop(const char* kernel, uint32_t mask, std::initializer_list<Tensor> views) {
  const StridedLoop loop = loop_over(mask, views);
  if (loop.rows() * loop.row_length() >= largest_walk) throw std::logic_error(std::string(kernel) + ": groups of 2^31 elements or more");
  return loop;
}

// One kernel, or two where groups are cut into slices: the first makes partial results, the second uses them.
template <class Arguments>
void launch_groups(Arguments& a, void (*whole)(Arguments), void (*partial)(Arguments), void (*rest)(Arguments)) {
  const Slices slices(a.elements.count, shortest_slice, a.groups.count);
  a.slice_length = slices.length;
  a.slices = slices.count;
  const RowLaunch rows(a.groups.count, slices.length);
  if (slices.count == 1) return launch(whole, rows.grid, rows.block, 0, a);
  a.partial = reinterpret_cast<decltype(a.partial)>(device().scratch);
  const dim3 grid(rows.grid.x, slices.count);
  launch(partial, grid, rows.block, 0, a);
  launch(rest, grid, rows.block, 0, a);
}

}  // namespace

void norm(const Tensor& y, const Tensor& rstd, const Tensor& mean, const Tensor& x, const Tensor& scale, const Tensor& bias, uint32_t over,
          uint32_t along, double epsilon) {
  expect_type("norm", y.dtype, {x});
  expect_type("norm", arithmetic_type(y.dtype), {rstd, mean, scale, bias});
  if (y.elements() == 0) return;
  const Tensor gamma = stretched(scale, along, x), beta = stretched(bias, along, x);
  const StridedLoop elements = small_loop("norm", over, {y, x, gamma, beta});
  const StridedLoop kept = loop_over(~over, {y, x, stretched(rstd, ~over, x), stretched(mean, ~over, x), gamma, beta});
  for_any_float_type("norm", y.dtype, [&](auto t) {
    using T = decltype(t);
    for_each_piece(kept, [&](const StridedLoop& groups, const StridedLoop::Offsets& base) {
      Forward<T> arguments{StridedWalk<6>(groups),
                           StridedWalk<4>(elements),
                           from<T>(y, base[0]),
                           from<T>(x, base[1]),
                           from<Real<T>>(rstd, base[2]),
                           from<Real<T>>(mean, base[3]),
                           from<Real<T>>(scale, base[4]),
                           from<Real<T>>(bias, base[5]),
                           epsilon,
                           nullptr,
                           0,
                           0};
      launch_groups(arguments, forward_kernel<T>, moments_kernel<T>, normalise_slices_kernel<T>);
    });
  });
}

void norm_grad(const Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& rstd, const Tensor& mean, const Tensor& scale, uint32_t over,
               uint32_t along, bool accumulate) {
  expect_type("norm_grad", dx.dtype, {dy, x});
  expect_type("norm_grad", arithmetic_type(dx.dtype), {rstd, mean, scale});
  if (dx.elements() == 0) return;
  const Tensor gamma = stretched(scale, along, x);
  const StridedLoop elements = small_loop("norm_grad", over, {dx, dy, x, gamma});
  const StridedLoop kept = loop_over(~over, {dx, dy, x, stretched(rstd, ~over, x), stretched(mean, ~over, x), gamma});
  for_any_float_type("norm_grad", dx.dtype, [&](auto t) {
    using T = decltype(t);
    for_each_piece(kept, [&](const StridedLoop& groups, const StridedLoop::Offsets& base) {
      Backward<T> arguments{StridedWalk<6>(groups),
                            StridedWalk<4>(elements),
                            from<T>(dx, base[0]),
                            from<T>(dy, base[1]),
                            from<T>(x, base[2]),
                            from<Real<T>>(rstd, base[3]),
                            from<Real<T>>(mean, base[4]),
                            from<Real<T>>(scale, base[5]),
                            accumulate,
                            nullptr,
                            0,
                            0};
      launch_groups(arguments, backward_kernel<T>, gradient_sums_kernel<T>, gradient_slices_kernel<T>);
    });
  });
}

void norm_grad_scale(const Tensor& dscale, const Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& rstd, const Tensor& mean,
                     uint32_t over, uint32_t along, bool accumulate) {
  expect_type("norm_grad_scale", x.dtype, {dy});
  expect_type("norm_grad_scale", arithmetic_type(x.dtype), {dscale, dbias, rstd, mean});
  if (x.elements() == 0) {
    if (!accumulate) fill(dscale, 0);
    if (!accumulate && dbias.data) fill(dbias, 0);
    return;
  }
  const Tensor r = stretched(rstd, ~over, x), m = stretched(mean, ~over, x);
  const StridedLoop results = small_loop("norm_grad_scale", along, {dy, x, r, m, stretched(dscale, along, x), stretched(dbias, along, x)});
  const StridedLoop summed = loop_over(~along, {dy, x, r, m});
  const bool by_columns = results.row_stride(1) == 1 && results.row_length() > 1 && summed.row_stride(1) != 1;
  bool adds = accumulate;
  for_any_float_type("norm_grad_scale", x.dtype, [&](auto t) {
    using T = decltype(t);
    for_each_piece(summed, [&](const StridedLoop& elements, const StridedLoop::Offsets& base) {
      ScaleGradient<T> arguments{StridedWalk<6>(results),
                                 StridedWalk<4>(elements),
                                 from<Real<T>>(dscale),
                                 from<Real<T>>(dbias),
                                 from<T>(dy, base[0]),
                                 from<T>(x, base[1]),
                                 from<Real<T>>(rstd, base[2]),
                                 from<Real<T>>(mean, base[3]),
                                 adds,
                                 nullptr,
                                 0};
      const int64_t count = arguments.results.count, blocks = by_columns ? (count + warp - 1) / warp : count;
      const Slices slices(arguments.elements.count, by_columns ? 16 * column_lanes : shortest_slice, blocks);
      arguments.slice_length = slices.length;
      if (slices.count > 1) arguments.partial = reinterpret_cast<Sums<T>*>(device().scratch);
      if (by_columns) {
        launch(columns_kernel<T>, dim3(static_cast<unsigned>(blocks), slices.count), dim3(warp, column_lanes), 0, arguments);
      } else {
        const RowLaunch rows(count, slices.length);
        launch(rows_kernel<T>, dim3(rows.grid.x, slices.count), rows.block, 0, arguments);
      }
      if (slices.count > 1) launch(slices_kernel<T>, blocks_for(count), threads_per_block, 0, arguments, slices.count);
      adds = true;  // elements of one more piece are added
    });
  });
}

}  // namespace sscc::rt
