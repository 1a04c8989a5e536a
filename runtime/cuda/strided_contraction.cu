// A block makes a tile of the result: it brings tiles of both operands to shared memory, from wherever their elements lie, and each thread sums a few
// elements in registers.
#include <algorithm>

#include "dispatch.cuh"
#include "sscc_rt/cuda_launch.cuh"
#include "strided_contraction.h"
#include "tile_product.cuh"

namespace sscc::rt {
namespace {

template <class In, class Out>
struct Arguments {
  StridedWalk<2> m;      // lhs, out
  StridedWalk<2> n;      // rhs, out
  StridedWalk<2> k;      // lhs, rhs
  StridedWalk<3> batch;  // lhs, rhs, out
  const In *lhs, *rhs;
  Out* out;
  Arithmetic<In> scale;
  bool accumulate;
  uint32_t column_tiles;
};

// Where element `i` lies, or -1 beyond the end.
__device__ __noinline__ int64_t offset_in(const StridedWalk<2>& walk, uint32_t i, int operand) {
  if (i >= walk.count) return -1;
  int64_t at[2] = {};
  walk.advance(i, at);
  return operand == 0 ? at[0] : at[1];
}

template <class In, class Out>
__global__ void __launch_bounds__(tile_threads) strided_kernel(const __grid_constant__ Arguments<In, Out> a) {
  using Real = Arithmetic<In>;
  const uint32_t row = blockIdx.x / a.column_tiles * tile_side, column = blockIdx.x % a.column_tiles * tile_side;
  const int64_t lhs_row = offset_in(a.m, row + loaded_in_tile(), 0), rhs_column = offset_in(a.n, column + loaded_in_tile(), 0);
  int64_t out_rows[tile_each], out_columns[tile_each];
#pragma unroll
  for (int i = 0; i < tile_each; ++i) {
    out_rows[i] = offset_in(a.m, row + row_in_tile(i), 1);
    out_columns[i] = offset_in(a.n, column + column_in_tile(i), 1);
  }

  for (uint32_t b = blockIdx.y; b < a.batch.count; b += gridDim.y) {
    int64_t base[3] = {};
    a.batch.advance(b, base);
    Real sums[tile_each][tile_each] = {};
    const auto load = [&](uint32_t k, Real& l, Real& r) {
      int64_t at[2] = {};
      a.k.advance(k, at);
      if (lhs_row >= 0) l = static_cast<Real>(a.lhs[base[0] + lhs_row + at[0]]);
      if (rhs_column >= 0) r = static_cast<Real>(a.rhs[base[1] + rhs_column + at[1]]);
    };
    add_products(a.k.count, load, sums);
#pragma unroll
    for (int i = 0; i < tile_each; ++i) {
#pragma unroll
      for (int j = 0; j < tile_each; ++j) {
        if (out_rows[i] < 0 || out_columns[j] < 0) continue;
        Out& to = a.out[base[2] + out_rows[i] + out_columns[j]];
        const Real value = sums[i][j] * a.scale;
        to = static_cast<Out>(a.accumulate ? static_cast<Real>(to) + value : value);
      }
    }
  }
}

// The given operands of a group, as a walk.
template <size_t operands>
StridedWalk<static_cast<int>(operands)> walk_of(const Group& group, const Operand (&which)[operands]) {
  StridedLoop loop;
  loop.operands = static_cast<int>(operands);
  loop.rank = 1;
  loop.dims[0] = 1;
  if (group.size() > max_rank) throw std::logic_error("contract: too many dimensions");
  for (size_t d = 0; d < group.size(); ++d) {
    loop.rank = static_cast<int>(d) + 1;
    loop.dims[d] = group[d].length;
    for (size_t o = 0; o < operands; ++o) loop.strides[o][d] = group[d].strides[which[o]];
  }
  if (loop.rows() * loop.row_length() >= largest_walk) throw std::logic_error("contract: 2^31 rows, columns or products, or more");
  return StridedWalk<static_cast<int>(operands)>(loop);
}

template <class In, class Out>
void contract_as(const Tensor& out, const Tensor& lhs, const Tensor& rhs, const Groups& groups, double scale, bool accumulate) {
  Arguments<In, Out> a{walk_of(groups.m, {lhs_operand, out_operand}),
                       walk_of(groups.n, {rhs_operand, out_operand}),
                       walk_of(groups.k, {lhs_operand, rhs_operand}),
                       walk_of(groups.batch, {lhs_operand, rhs_operand, out_operand}),
                       static_cast<const In*>(lhs.data),
                       static_cast<const In*>(rhs.data),
                       static_cast<Out*>(out.data),
                       static_cast<Arithmetic<In>>(scale),
                       accumulate,
                       0};
  const int64_t row_tiles = (int64_t{a.m.count} + tile_side - 1) / tile_side, column_tiles = (int64_t{a.n.count} + tile_side - 1) / tile_side;
  if (row_tiles * column_tiles >= largest_walk) throw std::logic_error("contract: too large a result");
  a.column_tiles = static_cast<uint32_t>(column_tiles);
  const dim3 grid(static_cast<unsigned>(row_tiles * column_tiles), std::min(a.batch.count, 65535u));
  launch(strided_kernel<In, Out>, grid, tile_threads, 0, a);
}

}  // namespace

void contract_strided(const Tensor& out, const Tensor& lhs, const Tensor& rhs, const Groups& groups, double scale, bool accumulate) {
  for_device_number_type("contract", lhs.dtype, [&](auto in) {
    using In = decltype(in);
    if constexpr (is_small_float<In>) {
      if (out.dtype == DType::f32) return contract_as<In, float>(out, lhs, rhs, groups, scale, accumulate);
    }
    contract_as<In, In>(out, lhs, rhs, groups, scale, accumulate);
  });
}

}  // namespace sscc::rt
