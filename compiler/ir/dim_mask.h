// Sets of a tensor's dimensions, as kernels take them: bit d stands for dimension d.
#pragma once

#include <cstdint>

#include "compiler/ir/region.h"

namespace sscc {

using DimMask = uint32_t;

inline bool has_dim(DimMask mask, size_t dim) { return mask >> dim & 1; }
// Dimensions [first, end).
inline DimMask dims_between(size_t first, size_t end) { return (DimMask{1} << end) - (DimMask{1} << first); }
inline llvm::SmallVector<int, 4> dims_in(DimMask mask) {
  llvm::SmallVector<int, 4> dims;
  for (int d = 0; mask >> d; ++d)
    if (has_dim(mask, static_cast<size_t>(d))) dims.push_back(d);
  return dims;
}
// The lengths of those that the shape has, in order.
inline Shape lengths_in(DimMask mask, llvm::ArrayRef<int64_t> shape) {
  Shape lengths;
  for (size_t d = 0; d < shape.size(); ++d)
    if (has_dim(mask, d)) lengths.push_back(shape[d]);
  return lengths;
}

}  // namespace sscc
