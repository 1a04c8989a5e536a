// Each view is cut into blocks, which threads add up by themselves; the blocks' sums are then added in order.
#include <algorithm>
#include <vector>

#include "dispatch.h"
#include "sscc_rt/kernels.h"
#include "sscc_rt/strided_loop.h"

namespace sscc::rt {
namespace {

template <class T>
double squares_of_row(const T* row, int64_t n, int64_t stride) {
  constexpr int64_t lanes = 8;
  double sums[lanes] = {};
  const auto square = [](T value) { return static_cast<double>(value) * static_cast<double>(value); };
  int64_t i = 0;
  if (stride == 1) {
    for (; i + lanes <= n; i += lanes)
      for (int64_t lane = 0; lane < lanes; ++lane) sums[lane] += square(row[i + lane]);
  }
  for (; i < n; ++i) sums[0] += square(row[i * stride]);
  for (int64_t step = lanes / 2; step > 0; step /= 2)
    for (int64_t lane = 0; lane < step; ++lane) sums[lane] += sums[lane + step];
  return sums[0];
}

template <class T>
double squares_of(const Tensor& in) {
  const int64_t* strides[] = {in.strides};
  const StridedLoop loop = StridedLoop::make(std::span(in.dims, static_cast<size_t>(in.rank)), strides);
  const int64_t rows = loop.rows(), length = loop.row_length(), stride = loop.row_stride(0);
  if (rows * length == 0) return 0;
  // A block is a part of a row, or several rows.
  constexpr int64_t block = int64_t{1} << 14;  // elements
  const int64_t parts = (length + block - 1) / block, rows_each = std::max<int64_t>(1, block / length);
  std::vector<double> sums(static_cast<size_t>((rows + rows_each - 1) / rows_each * parts));
  parallel_ranges(static_cast<int64_t>(sums.size()), 2, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      const int64_t row = b / parts * rows_each, begin = b % parts * block;
      loop.for_rows(row, std::min(rows, row + rows_each), [&](const auto& at) {
        sums[static_cast<size_t>(b)] +=
            squares_of_row(static_cast<const T*>(in.data) + at[0] + begin * stride, std::min(block, length - begin), stride);
      });
    }
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace

void sum_of_squares(const Tensor& out, std::span<const Tensor> ins, bool accumulate) {
  for_float_type("sum_of_squares", out.dtype, [&](auto type) {
    using T = decltype(type);
    T& place = *static_cast<T*>(out.data);
    double total = accumulate ? static_cast<double>(place) : 0;
    for (const Tensor& in : ins) {
      expect_type("sum_of_squares", out.dtype, {in});
      total += squares_of<T>(in);
    }
    place = static_cast<T>(total);
  });
}

}  // namespace sscc::rt
