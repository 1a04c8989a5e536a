// Regions and parts: which share of a logical tensor somebody has or needs.
//
// A Region is a box with holes allowed: for each dimension a sorted list of disjoint, non-adjacent half-open intervals (one in most cases;
// several when an inner factor of the dimension is split, or pieces are dealt zig-zag). A Part says which share of a *join* (a sum,
// mostly) the values are: a sorted list of disjoint rational intervals of [0, 1); the whole value is [0, 1). Addend a of A is
// [a/A, (a+1)/A); its piece k of n the k-th n-th of that. Two views hold addends of the same value that may be joined exactly if
// their parts are disjoint.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "compiler/support/rational.h"
#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/SmallVector.h"

namespace sscc {

using Shape = llvm::SmallVector<int64_t, 5>;
int64_t elements(const Shape& shape);
std::string to_string(const Shape& shape);  // "8x32x64"

struct Interval {
  int64_t begin = 0, end = 0;  // half-open
  int64_t length() const { return end - begin; }
  bool operator==(const Interval&) const = default;
};

// Sorted, disjoint, maximal (no two adjacent). Empty list: nothing.
class Intervals {
 public:
  Intervals() = default;
  Intervals(int64_t begin, int64_t end) {
    if (begin < end) list_.push_back({begin, end});
  }
  explicit Intervals(llvm::ArrayRef<Interval> any_order);  // normalises

  bool empty() const { return list_.empty(); }
  int64_t length() const;
  bool is_single() const { return list_.size() == 1; }
  int64_t begin_position() const { return list_.front().begin; }
  int64_t end_position() const { return list_.back().end; }
  llvm::ArrayRef<Interval> list() const { return list_; }
  bool contains(const Intervals& other) const;
  int64_t count_below(int64_t position) const;  // how many of its positions are < position
  bool operator==(const Intervals&) const = default;

  friend Intervals intersect(const Intervals& a, const Intervals& b);
  friend Intervals subtract(const Intervals& a, const Intervals& b);
  friend Intervals unite(const Intervals& a, const Intervals& b);

 private:
  llvm::SmallVector<Interval, 1> list_;
};

// Positions p of [0, length) with ((p / stride) mod factor) in `piece`: how a piece of a factor looks in the whole dimension.
Intervals spread(const Intervals& piece, int64_t stride, int64_t factor, int64_t length);

class Region {
 public:
  Region() = default;
  explicit Region(const Shape& whole);  // everything

  size_t rank() const { return dims_.size(); }
  Intervals& dim(size_t d) { return dims_[d]; }
  const Intervals& dim(size_t d) const { return dims_[d]; }
  bool empty() const;  // a dimension is empty (a scalar's region is never empty)
  int64_t elements() const;
  Shape local_shape() const;  // lengths
  bool contains(const Region& other) const;
  bool is_box() const;  // every dimension one interval
  bool operator==(const Region&) const = default;
  std::string to_string() const;  // NumPy: "[0:4, 8:16]"; several intervals "0:2|4:6"

  friend Region intersect(const Region& a, const Region& b);
  // a minus b as disjoint regions (at most one a dimension).
  friend llvm::SmallVector<Region, 4> subtract(const Region& a, const Region& b);

 private:
  llvm::SmallVector<Intervals, 4> dims_;
};

class Part {
 public:
  Part() { list_.push_back({0, 1}); }  // the whole value
  static Part none() {
    Part p;
    p.list_.clear();
    return p;
  }

  Part piece(int64_t index, int64_t count) const;  // the index-th of `count` equal shares of this part
  bool whole() const { return list_.size() == 1 && list_[0].begin == Rational(0) && list_[0].end == Rational(1); }
  bool empty() const { return list_.empty(); }
  bool contains(const Part& other) const;
  bool operator==(const Part&) const = default;
  std::string to_string() const;  // "" for the whole, else "{0/1..1/2}"

  friend Part intersect(const Part& a, const Part& b);
  friend Part subtract(const Part& a, const Part& b);
  friend Part unite(const Part& a, const Part& b);

 private:
  struct Span {
    Rational begin, end;
    bool operator==(const Span&) const = default;
  };
  llvm::SmallVector<Span, 1> list_;
};

}  // namespace sscc
