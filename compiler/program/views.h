// Strided views: what part of a buffer is which region, and which layout operators need no copy.
#pragma once

#include <optional>

#include "compiler/program/program.h"

namespace sscc {

View whole_buffer(BufferId buffer, const Shape& dims);

// The view of `part` in a buffer view that holds `whole` (dims: its local shape). None where the positions are not evenly spaced in a dimension.
std::optional<View> subview(const View& view, const Region& whole, const Region& part);

// Boxes of `region` that are contiguous ranges of local positions both in `a` and in `b` (each contains `region`).
struct BoxPair {
  View a, b;
  Region region;
};
std::vector<BoxPair> matching_boxes(const View& a, const Region& region_a, const View& b, const Region& region_b, const Region& region);

// The view with other dims and the same elements in row-major order, where strides allow it.
std::optional<View> reshaped(const View& view, const Shape& dims);

View transposed(const View& view, llvm::ArrayRef<int> permutation);
// Right-aligned broadcast: dimensions of length 1, and missing ones, get stride 0.
View broadcast(const View& view, const Shape& dims);
View sliced(const View& view, llvm::ArrayRef<int64_t> starts, const Shape& dims, llvm::ArrayRef<int64_t> steps);
// Does the operator only say where elements are: can its result be a view of its input? (A cast cannot: elements become others.)
bool is_layout(const Module& module, const Op& op);
// Without the dimensions set in `mask` (their lengths must be 1).
View without_dims(const View& view, uint32_t mask);
// Kernels leave out dimensions of length 1 that they reduce; the region has them.
View as_wide_as(const View& view, const Region& region);
// Block `index` of blocks that lie one after the other, each with the shape of `region`.
View block_of(const View& all, int64_t index, const Region& region);

// Are the elements of both views, in their order, at the same places?
bool same_place(const View& a, const View& b);
// Do two views of a buffer surely share no element? By extent; else as two boxes of one row-major layout, apart in some dimension.
bool are_apart(const View& a, const View& b);

}  // namespace sscc
