// Who has what of a tensor, and how a need is covered from it (used by materialize and collective_paths).
#pragma once

#include <cstdint>
#include <vector>

#include "compiler/ir/module.h"

namespace sscc {

struct Source {
  int32_t device = 0;
  OpId op;  // invalid: a home, or what an earlier delivery left
  int32_t piece = 0;
  Region region;
  Part part;
};

// What the tensor's producers write, piece by piece; its homes, if it has no producer.
std::vector<Source> sources_of(const Module& module, TensorId tensor);

// A share of a region that nobody gives yet.
struct Uncovered {
  Region region;
  Part part;
};

// Takes from `source` what it has of the uncovered; appends the contributions taken. A source that is a sum of more than is uncovered cannot be taken
// apart and is passed over.
void take(std::vector<Uncovered>& uncovered, const Source& source, Contributions& taken);

// Contributions by device, of one covering. `to`: -1 for the sender itself.
Messages as_messages(llvm::ArrayRef<Contribution> taken, int32_t to);

}  // namespace sscc
