// Values that a step hands to the host. While the step is given to the processor they are views and where their bytes will be; when it is done they
// are numbers and dense blocks.
#pragma once

#include <optional>

#include "sscc_rt/rank.h"

namespace sscc::rt {

// A view of the arena, and the bytes from its first to its last element as the processor fetches them.
struct FetchedView {
  Tensor view;
  const std::byte* bytes = nullptr;

  std::optional<double> scalar() const;  // none where nothing was fetched
  std::vector<std::byte> dense() const;  // the elements, row-major; small floats as f32
};

// A region of an output or a gradient.
struct CapturedBlock {
  std::string tensor;
  const Region* region = nullptr;  // of the rank's constants
  FetchedView value;
  std::vector<std::byte> data{};  // once the step is done
  FetchedView scale{};            // by which it is to be divided

  void finish();  // sets `data`
};

struct Rank::Captures {
  bool wants_outputs = false, wants_gradients = false;
  FetchedView loss, grad_norm;
  std::vector<CapturedBlock> outputs, gradients;
};

}  // namespace sscc::rt
