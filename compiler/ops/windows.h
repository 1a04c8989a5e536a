// Kinds whose windows slide over space: which operand (inputs, then outputs) is what (sscc_rt/kernels.h: Window).
#pragma once

#include <optional>

#include "compiler/ir/module.h"

namespace sscc {

// `weight`, `taps`: -1 where the kind has none.
struct WindowOperands {
  int large = 0, small = 0, weight = -1, taps = -1;
};
std::optional<WindowOperands> window_operands(Kind kind);  // none: the kind has no windows

// A product of two of large, small and weight.
inline bool is_convolution(Kind kind) {
  const auto operands = window_operands(kind);
  return operands && operands->weight >= 0;
}

}  // namespace sscc
