// Walking several strided views of equal dims together, a row at a time, on the threads that a rank may use.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "sscc_rt/types.h"

namespace sscc::rt {

inline constexpr int max_operands = 16;

// Threads that one rank's kernels may use.
int kernel_threads();

// work(begin, end) over disjoint ranges that make up [0, count), on several threads if there is at least twice `grain` to do. Which range an index falls in
// must not matter to its result. `work` must not throw.
template <class Work>
void parallel_ranges(int64_t count, int64_t grain, const Work& work) {
  const int64_t threads = std::min<int64_t>(kernel_threads(), count / std::max<int64_t>(grain, 1));
  if (threads <= 1) {
    if (count > 0) work(int64_t{0}, count);
    return;
  }
#pragma omp parallel for num_threads(static_cast<int>(threads)) schedule(static, 1)
  for (int64_t t = 0; t < threads; ++t) {
    const int64_t begin = count * t / threads, end = count * (t + 1) / threads;
    if (begin < end) work(begin, end);
  }
}

// A loop over dims for several operands. Dimensions of length 1 are dropped, and neighbours that all operands step through evenly are joined, so that
// rows (the last dimension) are as long as they can be.
struct StridedLoop {
  int rank = 0;  // at least 1 after make()
  int operands = 0;
  int64_t dims[max_rank] = {};
  int64_t strides[max_operands][max_rank] = {};

  static StridedLoop make(std::span<const int64_t> dims, std::span<const int64_t* const> strides) {
    StridedLoop loop;
    loop.operands = static_cast<int>(strides.size());
    for (size_t d = 0; d < dims.size(); ++d) {
      if (dims[d] == 1) continue;
      const int last = loop.rank - 1;
      bool joins = loop.rank > 0;
      for (int i = 0; i < loop.operands && joins; ++i) joins = loop.strides[i][last] == strides[static_cast<size_t>(i)][d] * dims[d];
      if (joins) {
        loop.dims[last] *= dims[d];
        for (int i = 0; i < loop.operands; ++i) loop.strides[i][last] = strides[static_cast<size_t>(i)][d];
      } else {
        loop.dims[loop.rank] = dims[d];
        for (int i = 0; i < loop.operands; ++i) loop.strides[i][loop.rank] = strides[static_cast<size_t>(i)][d];
        ++loop.rank;
      }
    }
    if (loop.rank == 0) {
      loop.dims[0] = 1;
      loop.rank = 1;
    }
    return loop;
  }

  int64_t row_length() const { return dims[rank - 1]; }
  int64_t row_stride(int operand) const { return strides[operand][rank - 1]; }
  int64_t rows() const {
    int64_t n = 1;
    for (int d = 0; d + 1 < rank; ++d) n *= dims[d];
    return n;
  }

  // row(offsets) for rows [begin, end): offsets[i] is where the row begins in operand i, in elements.
  template <class Row>
  void for_rows(int64_t begin, int64_t end, const Row& row) const {
    int64_t index[max_rank] = {};
    std::array<int64_t, max_operands> offsets{};
    int64_t rest = begin;
    for (int d = rank - 2; d >= 0; --d) {
      index[d] = rest % dims[d];
      rest /= dims[d];
      for (int i = 0; i < operands; ++i) offsets[static_cast<size_t>(i)] += index[d] * strides[i][d];
    }
    for (int64_t r = begin; r < end; ++r) {
      row(offsets);
      for (int d = rank - 2; d >= 0; --d) {
        for (int i = 0; i < operands; ++i) offsets[static_cast<size_t>(i)] += strides[i][d];
        if (++index[d] < dims[d]) break;
        for (int i = 0; i < operands; ++i) offsets[static_cast<size_t>(i)] -= strides[i][d] * dims[d];
        index[d] = 0;
      }
    }
  }

  // row(offsets, length) over all elements, on several threads: whole rows, or parts of the only row.
  template <class Row>
  void parallel_for_rows(int64_t grain_elements, const Row& row) const {
    const int64_t count = rows(), length = row_length();
    if (count == 0 || length == 0) return;
    if (count == 1) {
      parallel_ranges(length, grain_elements, [&](int64_t begin, int64_t end) {
        std::array<int64_t, max_operands> offsets{};
        for (int i = 0; i < operands; ++i) offsets[static_cast<size_t>(i)] = begin * row_stride(i);
        row(offsets, end - begin);
      });
    } else {
      parallel_ranges(count, std::max<int64_t>(1, grain_elements / length),
                      [&](int64_t begin, int64_t end) { for_rows(begin, end, [&](const auto& offsets) { row(offsets, length); }); });
    }
  }
};

// A view's strides against the dims of a result: aligned at the right, 0 where the view has length 1 or no dimension.
struct BroadcastStrides {
  int64_t values[max_rank] = {};
  BroadcastStrides(const Tensor& view, const Tensor& result) {
    for (int d = 0; d < view.rank; ++d) {
      const int at = d + result.rank - view.rank;
      if (at >= 0) values[at] = view.dims[d] == 1 ? 0 : view.strides[d];
    }
  }
};

}  // namespace sscc::rt
