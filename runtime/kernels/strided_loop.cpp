#include "sscc_rt/strided_loop.h"

#include "sscc_rt/kernels.h"

namespace sscc::rt {
namespace {

int threads_of_kernels = 1;

}  // namespace

int kernel_threads() { return threads_of_kernels; }
void set_kernel_threads(int threads) { threads_of_kernels = threads < 1 ? 1 : threads; }

void parallel_ranges(int64_t count, int64_t grain, FunctionRef<void(int64_t, int64_t)> work) {
  const int64_t threads = std::min<int64_t>(kernel_threads(), count / std::max<int64_t>(grain, 1));
  if (threads <= 1) {
    if (count > 0) work(0, count);
    return;
  }
#pragma omp parallel for num_threads(static_cast <int>(threads)) schedule(static, 1)
  for (int64_t t = 0; t < threads; ++t) {
    const int64_t begin = count * t / threads, end = count * (t + 1) / threads;
    if (begin < end) work(begin, end);
  }
}

StridedLoop StridedLoop::make(std::span<const int64_t> dims, std::span<const int64_t* const> strides) {
  StridedLoop loop;
  loop.operands = static_cast<int>(strides.size());
  for (size_t d = 0; d < dims.size(); ++d) {
    if (dims[d] == 1) continue;
    const int last = loop.rank - 1;
    bool joins = loop.rank > 0;
    for (int i = 0; i < loop.operands && joins; ++i) joins = loop.strides[i][last] == strides[static_cast<size_t>(i)][d] * dims[d];
    const int at = joins ? last : loop.rank++;
    loop.dims[at] = joins ? loop.dims[at] * dims[d] : dims[d];
    for (int i = 0; i < loop.operands; ++i) loop.strides[i][at] = strides[static_cast<size_t>(i)][d];
  }
  if (loop.rank == 0) {
    loop.dims[0] = 1;
    loop.rank = 1;
  }
  return loop;
}

void StridedLoop::for_rows(int64_t begin, int64_t end, FunctionRef<void(const Offsets&)> row) const {
  int64_t index[max_rank] = {};
  Offsets offsets{};
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

void StridedLoop::parallel_for_rows(int64_t grain_elements, FunctionRef<void(const Offsets&, int64_t)> row) const {
  const int64_t count = rows(), length = row_length();
  if (count == 0 || length == 0) return;
  if (count == 1) {
    parallel_ranges(length, grain_elements, [&](int64_t begin, int64_t end) {
      Offsets offsets{};
      for (int i = 0; i < operands; ++i) offsets[static_cast<size_t>(i)] = begin * row_stride(i);
      row(offsets, end - begin);
    });
  } else {
    parallel_ranges(count, std::max<int64_t>(1, grain_elements / length),
                    [&](int64_t begin, int64_t end) { for_rows(begin, end, [&](const Offsets& offsets) { row(offsets, length); }); });
  }
}

}  // namespace sscc::rt
