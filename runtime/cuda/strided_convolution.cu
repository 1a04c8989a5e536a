// A convolution as a product of matrices that are nowhere in memory, for each group: a block makes a tile of the result, as of a contraction (tile_product.cuh).
// `left` lies as it is; an element of `right` is where a column and an index of the sum together say, if there is such a position.
//
//   result    rows    columns      summed over    left      right
//   small     m       n, y         c, kernel      weight    large at y * stride + k * dilation - pad
//   large     c       n, x         m, kernel      weight    small at (x - k * dilation + pad) / stride, where that is whole
//   weight    m       c, kernel    n, y           small     large at k * dilation + y * stride - pad
#include <algorithm>
#include <vector>

#include "dispatch.cuh"
#include "sscc_rt/cuda_launch.cuh"
#include "strided_convolution.h"
#include "tile_product.cuh"

namespace sscc::rt {
namespace {

template <class In, class Out>
struct Arguments {
  StridedWalk<2> rows;     // left, out
  StridedWalk<5> columns;  // out, right beside space, position in space
  StridedWalk<5> sums;     // left, right beside space, position in space
  StridedWalk<3> groups;   // left, right, out
  const In *left, *right;
  Out* out;
  int64_t origin[max_space];  // of positions
  uint32_t lengths[max_space];
  int64_t strides[max_space];
  Divisor steps[max_space];  // positions that are no multiples are none
  bool accumulate;
  uint32_t column_tiles;
};

// Where the position lies in `right`, or -1: nowhere.
template <class In, class Out>
__device__ int64_t offset_of_position(const Arguments<In, Out>& a, const int64_t* position) {
  int64_t offset = 0;
#pragma unroll
  for (int d = 0; d < max_space; ++d) {
    if (position[d] < 0) return -1;
    const auto at = static_cast<uint32_t>(position[d]);
    const uint32_t index = a.steps[d].quotient(at);
    if (index >= a.lengths[d] || index * a.steps[d].divisor != at) return -1;
    offset += index * a.strides[d];
  }
  return offset;
}

template <class In, class Out>
__global__ void __launch_bounds__(tile_threads) strided_kernel(const __grid_constant__ Arguments<In, Out> a) {
  using Real = Arithmetic<In>;
  const uint32_t row = blockIdx.x / a.column_tiles * tile_side, column = blockIdx.x % a.column_tiles * tile_side;
  const uint32_t loaded = loaded_in_tile();
  const bool has_row = row + loaded < a.rows.count, has_column = column + loaded < a.columns.count;
  int64_t loaded_row[2] = {}, loaded_column[5] = {0, 0, a.origin[0], a.origin[1], a.origin[2]};
  if (has_row) a.rows.advance(row + loaded, loaded_row);
  if (has_column) a.columns.advance(column + loaded, loaded_column);

  for (uint32_t g = blockIdx.y; g < a.groups.count; g += gridDim.y) {
    int64_t base[3] = {};
    a.groups.advance(g, base);
    Real sums[tile_each][tile_each] = {};
    const auto load = [&](uint32_t k, Real& l, Real& r) {
      int64_t at[5] = {0, loaded_column[1], loaded_column[2], loaded_column[3], loaded_column[4]};
      a.sums.advance(k, at);
      if (has_row) l = static_cast<Real>(a.left[base[0] + loaded_row[0] + at[0]]);
      const int64_t position = has_column ? offset_of_position(a, at + 2) : -1;
      if (position >= 0) r = static_cast<Real>(a.right[base[1] + at[1] + position]);
    };
    add_products(a.sums.count, load, sums);
#pragma unroll
    for (int i = 0; i < tile_each; ++i) {
#pragma unroll
      for (int j = 0; j < tile_each; ++j) {
        const uint32_t to_row = row + row_in_tile(i), to_column = column + column_in_tile(j);
        if (to_row >= a.rows.count || to_column >= a.columns.count) continue;
        int64_t in_row[2] = {}, in_column[5] = {};
        a.rows.advance(to_row, in_row);
        a.columns.advance(to_column, in_column);
        Out& to = a.out[base[2] + in_row[1] + in_column[0]];
        to = static_cast<Out>(a.accumulate ? static_cast<Real>(to) + sums[i][j] : sums[i][j]);
      }
    }
  }
}

// -- walks ----------------------------------------------------------------------------------------------------------------------------------------

// Dimensions that are walked together, and the steps of each operand along them.
template <int operands>
class Dimensions {
 public:
  Dimensions& add(int64_t length, std::initializer_list<int64_t> steps) {
    lengths_.push_back(length);
    for (size_t o = 0; o < operands; ++o) strides_[o].push_back(steps.begin()[o]);
    return *this;
  }
  StridedWalk<operands> walk() const {
    const int64_t* strides[operands];
    for (size_t o = 0; o < operands; ++o) strides[o] = strides_[o].data();
    const StridedLoop loop = StridedLoop::make(lengths_, strides);
    if (loop.rows() * loop.row_length() >= largest_walk) throw std::logic_error("convolve: 2^31 rows, columns or products, or more");
    return StridedWalk<operands>(loop);
  }

 private:
  std::vector<int64_t> lengths_, strides_[operands];
};

template <class In, class Out>
void convolve_as(const Convolution& convolution, bool accumulate) {
  const ConvolutionOperand result = convolution.result;
  const ConvolutionOperand left = result == weight_operand ? small_operand : weight_operand,
                           right = result == large_operand ? small_operand : large_operand;
  const Tensor &left_view = convolution[left], &right_view = convolution[right], &out_view = convolution.out();
  const Tensor l = convolution.channels(left), r = convolution.channels(right), out = convolution.channels(result);
  const int group = 1, row = result == large_operand ? 3 : 2, column = result == weight_operand ? 3 : 0, sum = convolution.summed();
  Dimensions<5> columns, sums;
  columns.add(out.dims[column], {out.strides[column], r.strides[column], 0, 0, 0});
  sums.add(l.dims[sum], {l.strides[sum], r.strides[sum], 0, 0, 0});

  Arguments<In, Out> a{};
  for (int d = 0; d < max_space; ++d) {
    const WindowAxis& axis = convolution.axes[d];
    const int64_t sign = result == large_operand ? -1 : 1;
    // In positions, a step along an operand's space.
    const auto add = [&](Dimensions<5>& dimensions, ConvolutionOperand which, const Tensor& view) {
      const int64_t step = which == large_operand ? 1 : which == small_operand ? axis.stride : sign * axis.dilation;
      dimensions.add(view.dims[2 + d], {view.strides[2 + d], 0, d == 0 ? step : 0, d == 1 ? step : 0, d == 2 ? step : 0});
    };
    add(columns, result, out_view);
    add(sums, left, left_view);
    a.origin[d] = -sign * axis.pad;
    a.lengths[d] = static_cast<uint32_t>(right_view.dims[2 + d]);
    a.strides[d] = right_view.strides[2 + d];
    a.steps[d] = Divisor(static_cast<uint32_t>(result == large_operand ? axis.stride : 1));
  }
  a.rows = Dimensions<2>().add(l.dims[row], {l.strides[row], out.strides[row]}).walk();
  a.groups = Dimensions<3>().add(l.dims[group], {l.strides[group], r.strides[group], out.strides[group]}).walk();
  a.columns = columns.walk();
  a.sums = sums.walk();
  a.left = static_cast<const In*>(left_view.data);
  a.right = static_cast<const In*>(right_view.data);
  a.out = static_cast<Out*>(out_view.data);
  a.accumulate = accumulate;
  const int64_t row_tiles = (int64_t{a.rows.count} + tile_side - 1) / tile_side,
                column_tiles = (int64_t{a.columns.count} + tile_side - 1) / tile_side;
  if (row_tiles * column_tiles >= largest_walk) throw std::logic_error("convolve: too large a result");
  a.column_tiles = static_cast<uint32_t>(column_tiles);
  const dim3 grid(static_cast<unsigned>(row_tiles * column_tiles), std::min(a.groups.count, 65535u));
  launch(strided_kernel<In, Out>, grid, tile_threads, 0, a);
}

}  // namespace

void convolve_strided(const Convolution& convolution, bool accumulate) {
  const DType out = convolution.out().dtype;
  const DType in = convolution.input_type();
  for_any_float_type("convolve", in, [&](auto t) {
    using In = decltype(t);
    if (out == in)
      convolve_as<In, In>(convolution, accumulate);
    else
      convolve_as<In, Arithmetic<In>>(convolution, accumulate);
  });
}

}  // namespace sscc::rt
