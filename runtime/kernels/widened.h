// bf16 and f16 on the processor: a kernel's operands are widened to float, and its results rounded to where they go.
//
//   if (is_small(y.dtype)) return widened([&](Wide& wide) { softmax(wide.out(y), wide.in(x), dim); });
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "sscc_rt/kernels.h"

namespace sscc::rt {

class Wide {
 public:
  // What the kernel reads: the operand itself, if it is wide.
  Tensor in(const Tensor& view) {
    if (!view.data || !is_small(view.dtype)) return view;
    const Tensor wide = like(view);
    if (view.elements() > 0) copy(wide, view, false);
    return wide;
  }
  // What it writes; `keeps`: it adds to what is there.
  Tensor out(const Tensor& view, bool keeps = false) {
    if (!view.data || !is_small(view.dtype)) return view;
    const Tensor wide = like(view);
    if (keeps && view.elements() > 0) copy(wide, view, false);
    results_.push_back({view, wide});
    return wide;
  }
  void finish() {
    for (const auto& [view, wide] : results_)
      if (view.elements() > 0) copy(view, wide, false);
  }

 private:
  // Dense memory of the same dims; a dimension that is repeated stays so.
  Tensor like(const Tensor& view) {
    Tensor wide = view;
    wide.dtype = DType::f32;
    int64_t count = 1;
    for (int d = view.rank; d-- > 0;) {
      wide.strides[d] = view.strides[d] == 0 ? 0 : count;
      if (view.strides[d] != 0) count *= view.dims[d];
    }
    wide.data = memory_.emplace_back(std::make_unique_for_overwrite<float[]>(static_cast<size_t>(count))).get();
    return wide;
  }

  std::deque<std::unique_ptr<float[]>> memory_;
  std::vector<std::pair<Tensor, Tensor>> results_;
};

template <class Kernel>
void widened(const Kernel& kernel) {
  Wide wide;
  kernel(wide);
  wide.finish();
}

}  // namespace sscc::rt
