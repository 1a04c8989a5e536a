// How a convolution is put to cuDNN: as a graph of one operation.
#pragma once

#include <optional>
#include <vector>

#include "../kernels/convolution.h"
#include "descriptor.h"

namespace sscc::rt {

struct Graph {
  std::vector<Descriptor> parts;
  Descriptor graph;  // not finalised: it may get a handle
};

// Nothing where cuDNN has no words for it. The tensors' ids are the numbers of the operands.
std::optional<Graph> describe(const Convolution& convolution, bool accumulate);

// What a graph depends on.
std::vector<int64_t> key_of(const Convolution& convolution, bool accumulate);

}  // namespace sscc::rt
