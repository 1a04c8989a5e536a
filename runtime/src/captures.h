// Values that a step handed to the host.
#pragma once

#include <optional>

#include "sscc_rt/rank.h"

namespace sscc::rt {

// A copy of a region of an output or a gradient.
struct CapturedBlock {
  std::string tensor;
  const Region* region = nullptr;  // of the rank's constants
  std::vector<std::byte> data;
};

struct Rank::Captures {
  bool wants_outputs = false, wants_gradients = false;
  std::optional<double> loss, grad_norm;
  std::vector<CapturedBlock> outputs, gradients;
};

}  // namespace sscc::rt
