// What the lineage check knows of the values that views hold: fragments of logical tensors.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "compiler/ir/region.h"

namespace sscc {

struct Fragment {
  Region region;
  Part part;
  Intervals micro_batches;  // summed into it; of a micro-batch tensor: the one it belongs to
};

// No two have a share of an element, of one micro-batch, in common.
using Fragments = llvm::SmallVector<Fragment, 1>;

// What of them lies in a region.
Fragments restricted(const Fragments& fragments, const Region& region);

// Adds fragments. The first of which a share is there already, and which is then not added; null: none.
const Fragment* merge(Fragments& into, const Fragments& fragments);

// The fragments of all, put together, in the form of one where they differ in one respect alone: as shares of a sum, or as blocks of a region. The
// first of which a share is there already goes to `doubled`.
Fragments put_together(llvm::ArrayRef<const Fragments*> all, std::optional<Fragment>& doubled);

// What of a region no fragment has.
std::vector<std::pair<Region, Part>> missing_of(const Fragments& fragments, const Region& wanted);

}  // namespace sscc
