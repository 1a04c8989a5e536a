// Walking several strided views of equal dims together, a row at a time, on the threads that a rank may use.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "sscc_rt/types.h"

namespace sscc::rt {

// A function that is called while the call that it is given to lasts. (Loops take their bodies as this, so that each is compiled once and not for
// every body: rows are long enough for the indirect call not to matter.)
template <class Signature>
class FunctionRef;
template <class... Arguments>
class FunctionRef<void(Arguments...)> {
 public:
  template <class Function>
  FunctionRef(const Function& function)  // NOLINT: converts
      : object_(&function), call_([](const void* object, Arguments... arguments) { (*static_cast<const Function*>(object))(arguments...); }) {}
  void operator()(Arguments... arguments) const { call_(object_, arguments...); }

 private:
  const void* object_;
  void (*call_)(const void*, Arguments...);
};

// Threads that one rank's kernels may use.
int kernel_threads();

// work(begin, end) over disjoint ranges that make up [0, count), on several threads if there is at least twice `grain` to do. Which range an index
// falls in must not matter to its result. `work` must not throw.
void parallel_ranges(int64_t count, int64_t grain, FunctionRef<void(int64_t, int64_t)> work);

// A loop over dims for several operands. Dimensions of length 1 are dropped, and neighbours that all operands step through evenly are joined, so that
// rows (the last dimension) are as long as they can be.
struct StridedLoop {
  int rank = 0;  // at least 1 after make()
  int operands = 0;
  int64_t dims[max_rank] = {};
  int64_t strides[max_operands][max_rank] = {};

  static StridedLoop make(std::span<const int64_t> dims, std::span<const int64_t* const> strides);

  int64_t row_length() const { return dims[rank - 1]; }
  int64_t row_stride(int operand) const { return strides[operand][rank - 1]; }
  int64_t rows() const {
    int64_t n = 1;
    for (int d = 0; d + 1 < rank; ++d) n *= dims[d];
    return n;
  }

  // Where a row begins in each operand, in elements.
  using Offsets = std::array<int64_t, max_operands>;
  // row(offsets) for rows [begin, end).
  void for_rows(int64_t begin, int64_t end, FunctionRef<void(const Offsets&)> row) const;
  // row(offsets, length) over all elements, on several threads: whole rows, or parts of the only row.
  void parallel_for_rows(int64_t grain_elements, FunctionRef<void(const Offsets&, int64_t)> row) const;
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
