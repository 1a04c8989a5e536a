// Regions and parts: which share of a logical tensor somebody has or needs.
//
// A Region is a box with holes allowed: for each dimension a sorted list of disjoint, non-adjacent half-open intervals (one in most cases;
// several when an inner factor of the dimension is split, or pieces are dealt zig-zag). A Part says which share of a *join* (a sum,
// mostly) the values are: a sorted list of disjoint rational intervals of [0, 1); the whole value is [0, 1). Addend a of A is
// [a/A, (a+1)/A); its piece k of n the k-th n-th of that. Two views hold addends of the same value that may be joined exactly if
// their parts are disjoint.
#pragma once

#include <cstdint>
#include <functional>
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
  Intervals from_to(int64_t begin, int64_t end) const;  // its begin-th to (end-1)-th positions
  int64_t count_below(int64_t position) const;          // how many of its positions are < position
  bool operator==(const Intervals&) const = default;

  friend Intervals intersect(const Intervals& a, const Intervals& b);
  friend Intervals subtract(const Intervals& a, const Intervals& b);
  friend Intervals unite(const Intervals& a, const Intervals& b);
  friend bool overlaps(const Intervals& a, const Intervals& b);

 private:
  llvm::SmallVector<Interval, 1> list_;
};

// Positions p of [0, length) with ((p / stride) mod factor) in `piece`: how a piece of a factor looks in the whole dimension.
Intervals spread(const Intervals& piece, int64_t stride, int64_t factor, int64_t length);

// Each interval with `before` more positions in front of it and `after` behind it, of those in [0, length).
Intervals widened(const Intervals& intervals, int64_t before, int64_t after, int64_t length);

// A value, and cheap: equal regions share one immutable description (they are made once and kept), so copies and comparisons cost a pointer's.
class Region {
 public:
  Region() : Region(llvm::ArrayRef<Intervals>()) {}  // of a scalar
  explicit Region(const Shape& whole);               // everything
  explicit Region(llvm::ArrayRef<Intervals> dims);

  size_t rank() const { return data_->dims.size(); }
  const Intervals& dim(size_t d) const { return data_->dims[d]; }
  void set_dim(size_t d, Intervals positions);
  bool empty() const { return data_->elements == 0; }  // a dimension is empty (a scalar's region is never empty)
  int64_t elements() const { return data_->elements; }
  Shape local_shape() const;  // lengths
  bool contains(const Region& other) const;
  bool is_box() const { return data_->is_box; }  // every dimension one interval
  bool operator==(const Region& other) const { return data_ == other.data_; }
  std::string to_string() const;  // NumPy: "[0:4, 8:16]"; several intervals "0:2|4:6"

  friend Region intersect(const Region& a, const Region& b);
  // a minus b as disjoint regions (at most one a dimension).
  friend llvm::SmallVector<Region, 4> subtract(const Region& a, const Region& b);
  friend bool overlaps(const Region& a, const Region& b);
  // The smallest region that has both, dimension by dimension.
  friend Region enclose(const Region& a, const Region& b);
  // Do the regions, which may overlap, have every element of `whole` between them?
  friend bool cover(llvm::ArrayRef<Region> regions, const Region& whole);

 private:
  friend struct std::hash<Region>;
  struct Data {
    llvm::SmallVector<Intervals, 4> dims;
    int64_t elements = 1;
    bool is_box = true;
    bool operator==(const Data& other) const { return dims == other.dims; }
  };
  struct Hash;
  static const Data* shared(Data data);
  const Data* data_;
};

// A value as regions are.
class Part {
 public:
  Part() : data_(whole_data()) {}  // the whole value
  static Part none() { return Part(Spans()); }

  Part piece(int64_t index, int64_t count) const;  // the index-th of `count` equal shares of this part
  bool whole() const { return data_ == whole_data(); }
  bool empty() const { return data_->spans.empty(); }
  const Rational& measure() const { return data_->measure; }  // 1: the whole
  bool contains(const Part& other) const { return whole() || intersect(*this, other) == other; }
  bool operator==(const Part& other) const { return data_ == other.data_; }
  std::string to_string() const;  // "" for the whole, else "{0/1..1/2}"

  friend Part intersect(const Part& a, const Part& b);
  friend Part subtract(const Part& a, const Part& b);
  friend Part unite(llvm::ArrayRef<Part> parts);
  friend bool overlaps(const Part& a, const Part& b);

 private:
  friend struct std::hash<Part>;
  struct Span {
    Rational begin, end;
    bool operator==(const Span&) const = default;
  };
  using Spans = llvm::SmallVector<Span, 1>;
  struct Data {
    Spans spans;
    Rational measure;
    bool operator==(const Data& other) const { return spans == other.spans; }
  };
  struct Hash;
  explicit Part(Spans spans);
  static const Data* shared(Data data);
  static const Data* whole_data();
  const Data* data_;
};

inline Part unite(const Part& a, const Part& b) { return unite(llvm::ArrayRef<Part>({a, b})); }

}  // namespace sscc

template <>
struct std::hash<sscc::Region> {
  size_t operator()(const sscc::Region& region) const { return std::hash<const void*>()(region.data_); }
};
template <>
struct std::hash<sscc::Part> {
  size_t operator()(const sscc::Part& part) const { return std::hash<const void*>()(part.data_); }
};
