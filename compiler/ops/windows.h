// Kinds whose windows slide over space: which operand (inputs, then outputs) is what (sscc_rt/kernels.h: Window).
#pragma once

#include <cstddef>
#include <optional>

#include "compiler/ir/module.h"

namespace sscc {

// `weight`, `taps`: -1 where the kind has none.
struct WindowOperands {
  int large = 0, small = 0, weight = -1, taps = -1;
};
std::optional<WindowOperands> window_operands(Kind kind);  // none: the kind has no windows

// Does each of so many windows along dimension d of space see one of `length` positions, so that their maximum is one? A dilated kernel may step over all.
bool all_see(const rt::Window& window, size_t d, int64_t windows, int64_t length);

// A product of two of large, small and weight.
inline bool is_convolution(Kind kind) {
  const auto operands = window_operands(kind);
  return operands && operands->weight >= 0;
}

}  // namespace sscc
