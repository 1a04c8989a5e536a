#include "compiler/ir/cluster.h"

#include "llvm/ADT/STLExtras.h"

namespace sscc {

size_t Cluster::level_of(llvm::ArrayRef<int32_t> of) const {
  for (size_t level = 0; level + 1 < levels.size(); ++level) {
    const std::vector<int32_t>& group = levels[level].group;
    if (llvm::all_of(of, [&](int32_t device) { return group[static_cast<size_t>(device)] == group[static_cast<size_t>(of[0])]; })) return level;
  }
  return levels.size() - 1;
}

}  // namespace sscc
