// Layout operators have no instruction: a view that is read as tensor B may be held as A, where B is a layout of A. The view that A's address gives B
// is then computed again here and must be the one that is read.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "compiler/program/views.h"

namespace sscc {

// A region of a tensor, and where it lies.
struct Placed {
  TensorId tensor;
  Region region;
  View view;
};

class Layouts {
 public:
  explicit Layouts(const Module& module);

  // The rank's pieces of an operator, as (rank, index in op.pieces).
  llvm::ArrayRef<std::pair<int32_t, int32_t>> pieces_on(int32_t rank, OpId op) const;

  // Does what is held serve `view` as `region` of `wants`, directly or through layout operators? The share of the join that it is then. One memory may be
  // several addends (x + x): `share`, where it is not whole, says which.
  std::optional<Part> share_of(int32_t rank, const Placed& held, const View& view, TensorId wants, const Region& region,
                               const Part& share = Part()) const;

 private:
  // Where `region` of `wants` lies on a rank, given what is held: at most one place for each way in which layouts lead there.
  std::vector<View> places(int32_t rank, const Placed& held, TensorId wants, const Region& region, int depth) const;
  // What a layout operator's piece makes of its input's view; none where it would have to be copied.
  std::optional<View> layout_view(const Op& op, int output, const Piece& piece, const View& from) const;

  const Module& module_;
  std::vector<std::vector<std::pair<int32_t, int32_t>>> pieces_;  // by operator, sorted
};

}  // namespace sscc
