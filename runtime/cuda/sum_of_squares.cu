// Blocks add up the squares of stretches of many tensors (tensor_table.cuh) in double; one block adds up what they found, in order.
#include <algorithm>

#include "device.h"
#include "dispatch.cuh"
#include "group.cuh"
#include "sscc_rt/cuda_launch.cuh"
#include "sscc_rt/kernels.h"
#include "tensor_table.cuh"

namespace sscc::rt {
namespace {

constexpr int64_t elements_of_block = int64_t{1} << 15;
constexpr int threads_at_the_end = 1024;

template <class T>
__device__ double square(T value) {
  return static_cast<double>(value) * static_cast<double>(value);
}

// Called by all threads of a block.
__device__ void write_sum(double sum, double* to) {
  sum = joined_in_group(sum, Add());
  if (threadIdx.x == 0) *to = sum;
}

template <class T>
__global__ void __launch_bounds__(threads_per_block) squares_kernel(const __grid_constant__ TensorTable<1> table, double* sums) {
  constexpr int pack = 16 / sizeof(T);
  const int tensor = table.tensor_of(blockIdx.x);
  const int64_t begin = int64_t{blockIdx.x - table.first_block[tensor]} * elements_of_block;
  const T* from = static_cast<const T*>(table.memory[0][tensor]) + begin;
  const int count = static_cast<int>(std::min(int64_t{elements_of_block}, table.elements[tensor] - begin));
  const int in_packs = table.is_aligned[tensor] ? count / pack * pack : 0;
  double sum = 0;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x) * pack; i < in_packs; i += threads_per_block * pack) {
    const auto values = *reinterpret_cast<const Pack<T, pack>*>(from + i);
#pragma unroll
    for (int k = 0; k < pack; ++k) sum += square(values.values[k]);
  }
#pragma unroll 4
  for (int i = in_packs + static_cast<int>(threadIdx.x); i < count; i += threads_per_block) sum += square(from[i]);
  write_sum(sum, sums + blockIdx.x);
}

template <class T>
__global__ void __launch_bounds__(threads_per_block) strided_kernel(const __grid_constant__ StridedWalk<1> walk, const T* from, double* sums) {
  const auto begin = static_cast<uint32_t>(blockIdx.x * elements_of_block);
  const auto end = static_cast<uint32_t>(std::min(int64_t{walk.count}, begin + elements_of_block));
  double sum = 0;
  for_elements(walk, begin + threadIdx.x, end, threads_per_block, [&](const int64_t(&at)[1]) { sum += square(from[at[0]]); });
  write_sum(sum, sums + blockIdx.x);
}

template <class T>
__global__ void __launch_bounds__(threads_at_the_end) end_kernel(const double* sums, int64_t count, T* out, bool accumulate) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += threads_at_the_end) sum += sums[i];
  sum = joined_in_group(sum, Add());
  if (threadIdx.x == 0) *out = static_cast<T>(accumulate ? static_cast<double>(*out) + sum : sum);
}

template <class T>
void sum_all(T* out, std::span<const Tensor> ins, bool accumulate) {
  double* const sums = reinterpret_cast<double*>(device().scratch);
  int64_t count = 0;  // of sums that were asked for
  const auto take = [&](int64_t blocks) {
    count += blocks;
    if (count * static_cast<int64_t>(sizeof(double)) > static_cast<int64_t>(scratch_bytes))
      throw std::logic_error("sum_of_squares: too many elements");
    return sums + count - blocks;
  };
  TensorTable<1> table;
  const auto flush = [&] {
    if (table.count > 0) launch(squares_kernel<T>, table.blocks, threads_per_block, 0, table, take(table.blocks));
    table.clear();
  };
  for (const Tensor& in : ins) {
    const int64_t* const strides[] = {in.strides};
    const StridedLoop whole = StridedLoop::make(std::span(in.dims, static_cast<size_t>(in.rank)), strides);
    const int64_t elements = whole.rows() * whole.row_length();
    if (elements == 0) continue;
    if (whole.rank == 1 && (whole.row_stride(0) == 1 || elements == 1)) {
      if (table.is_full()) flush();
      table.add({in.data}, elements, elements_of_block);
      continue;
    }
    for_each_piece(whole, [&](const StridedLoop& loop, const StridedLoop::Offsets& base) {
      const StridedWalk<1> walk(loop);
      const auto blocks = static_cast<unsigned>((walk.count + elements_of_block - 1) / elements_of_block);
      launch(strided_kernel<T>, blocks, threads_per_block, 0, walk, static_cast<const T*>(in.data) + base[0], take(blocks));
    });
  }
  flush();
  launch(end_kernel<T>, 1, threads_at_the_end, 0, sums, count, out, accumulate);
}

}  // namespace

void sum_of_squares(const Tensor& out, std::span<const Tensor> ins, bool accumulate) {
  for (const Tensor& in : ins) expect_type("sum_of_squares", out.dtype, {in});
  for_float_type("sum_of_squares", out.dtype, [&](auto type) {
    using T = decltype(type);
    sum_all(static_cast<T*>(out.data), ins, accumulate);
  });
}

}  // namespace sscc::rt
