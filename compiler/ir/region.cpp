#include "compiler/ir/region.h"

#include <algorithm>

#include "compiler/support/check.h"

namespace sscc {

int64_t elements(const Shape& shape) {
  int64_t count = 1;
  for (int64_t length : shape) count *= length;
  return count;
}

std::string to_string(const Shape& shape) {
  std::string text;
  for (size_t d = 0; d < shape.size(); ++d) text += (d ? "x" : "") + std::to_string(shape[d]);
  return text;
}

// -- intervals ------------------------------------------------------------------------------------------------------------------------------------

Intervals::Intervals(llvm::ArrayRef<Interval> any_order) {
  llvm::SmallVector<Interval, 8> sorted;
  for (const Interval& each : any_order)
    if (each.begin < each.end) sorted.push_back(each);
  std::sort(sorted.begin(), sorted.end(), [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
  for (const Interval& each : sorted) {
    if (!list_.empty() && each.begin <= list_.back().end)
      list_.back().end = std::max(list_.back().end, each.end);
    else
      list_.push_back(each);
  }
}

int64_t Intervals::length() const {
  int64_t total = 0;
  for (const Interval& each : list_) total += each.length();
  return total;
}

int64_t Intervals::count_below(int64_t position) const {
  int64_t count = 0;
  for (const Interval& each : list_) {
    if (each.begin >= position) break;
    count += std::min(each.end, position) - each.begin;
  }
  return count;
}

bool Intervals::contains(const Intervals& other) const {
  size_t i = 0;
  for (const Interval& each : other.list_) {
    while (i < list_.size() && list_[i].end < each.end) ++i;
    if (i == list_.size() || list_[i].begin > each.begin) return false;
  }
  return true;
}

Intervals intersect(const Intervals& a, const Intervals& b) {
  Intervals result;
  for (size_t i = 0, j = 0; i < a.list_.size() && j < b.list_.size();) {
    const int64_t begin = std::max(a.list_[i].begin, b.list_[j].begin), end = std::min(a.list_[i].end, b.list_[j].end);
    if (begin < end) result.list_.push_back({begin, end});
    if (a.list_[i].end < b.list_[j].end)
      ++i;
    else
      ++j;
  }
  return result;
}

Intervals subtract(const Intervals& a, const Intervals& b) {
  Intervals result;
  size_t j = 0;
  for (const Interval& each : a.list_) {
    int64_t begin = each.begin;
    while (j < b.list_.size() && b.list_[j].end <= begin) ++j;
    for (size_t k = j; k < b.list_.size() && b.list_[k].begin < each.end; ++k) {
      if (begin < b.list_[k].begin) result.list_.push_back({begin, b.list_[k].begin});
      begin = std::max(begin, b.list_[k].end);
    }
    if (begin < each.end) result.list_.push_back({begin, each.end});
  }
  return result;
}

Intervals unite(const Intervals& a, const Intervals& b) {
  llvm::SmallVector<Interval, 8> all(a.list_.begin(), a.list_.end());
  all.append(b.list_.begin(), b.list_.end());
  return Intervals(all);
}

Intervals spread(const Intervals& piece, int64_t stride, int64_t factor, int64_t length) {
  llvm::SmallVector<Interval, 8> all;
  const int64_t block = stride * factor;
  for (int64_t base = 0; base < length; base += block)
    for (const Interval& each : piece.list()) all.push_back({base + each.begin * stride, std::min(base + each.end * stride, length)});
  return Intervals(all);
}

// -- regions --------------------------------------------------------------------------------------------------------------------------------------

Region::Region(const Shape& whole) {
  for (int64_t length : whole) dims_.push_back(Intervals(0, length));
}

bool Region::empty() const {
  return std::any_of(dims_.begin(), dims_.end(), [](const Intervals& each) { return each.empty(); });
}

int64_t Region::elements() const {
  int64_t count = 1;
  for (const Intervals& each : dims_) count *= each.length();
  return count;
}

Shape Region::local_shape() const {
  Shape shape;
  for (const Intervals& each : dims_) shape.push_back(each.length());
  return shape;
}

bool Region::contains(const Region& other) const {
  if (other.empty()) return true;
  SSCC_CHECK(rank() == other.rank(), "regions of one tensor");
  for (size_t d = 0; d < rank(); ++d)
    if (!dims_[d].contains(other.dims_[d])) return false;
  return true;
}

bool Region::is_box() const {
  return std::all_of(dims_.begin(), dims_.end(), [](const Intervals& each) { return each.is_single(); });
}

std::string Region::to_string() const {
  std::string text = "[";
  for (size_t d = 0; d < rank(); ++d) {
    text += d ? ", " : "";
    for (size_t i = 0; i < dims_[d].list().size(); ++i)
      text += (i ? "|" : "") + std::to_string(dims_[d].list()[i].begin) + ":" + std::to_string(dims_[d].list()[i].end);
    if (dims_[d].empty()) text += "0:0";
  }
  return text + "]";
}

Region intersect(const Region& a, const Region& b) {
  SSCC_CHECK(a.rank() == b.rank(), "regions of one tensor");
  Region result;
  for (size_t d = 0; d < a.rank(); ++d) result.dims_.push_back(intersect(a.dims_[d], b.dims_[d]));
  return result;
}

// Dimension by dimension: what lies outside b there, with the dimensions before it inside b.
llvm::SmallVector<Region, 4> subtract(const Region& a, const Region& b) {
  llvm::SmallVector<Region, 4> result;
  Region rest = a;
  for (size_t d = 0; d < a.rank(); ++d) {
    Intervals outside = subtract(rest.dims_[d], b.dims_[d]);
    if (!outside.empty()) {
      Region piece = rest;
      piece.dims_[d] = std::move(outside);
      if (!piece.empty()) result.push_back(std::move(piece));
    }
    rest.dims_[d] = intersect(rest.dims_[d], b.dims_[d]);
    if (rest.dims_[d].empty()) break;
  }
  return result;
}

// -- parts ----------------------------------------------------------------------------------------------------------------------------------------

Part Part::piece(int64_t index, int64_t count) const {
  Part result = none();
  for (const Span& span : list_) {
    const Rational width = (span.end - span.begin) * Rational(1, count);
    result.list_.push_back({span.begin + width * Rational(index), span.begin + width * Rational(index + 1)});
  }
  return result;
}

bool Part::contains(const Part& other) const { return intersect(*this, other) == other; }

std::string Part::to_string() const {
  if (whole()) return "";
  std::string text = "{";
  for (size_t i = 0; i < list_.size(); ++i) text += (i ? "|" : "") + list_[i].begin.to_string() + ".." + list_[i].end.to_string();
  return text + "}";
}

Part intersect(const Part& a, const Part& b) {
  Part result = Part::none();
  for (size_t i = 0, j = 0; i < a.list_.size() && j < b.list_.size();) {
    const Rational begin = std::max(a.list_[i].begin, b.list_[j].begin), end = std::min(a.list_[i].end, b.list_[j].end);
    if (begin < end) result.list_.push_back({begin, end});
    if (a.list_[i].end < b.list_[j].end)
      ++i;
    else
      ++j;
  }
  return result;
}

Part subtract(const Part& a, const Part& b) {
  Part result = Part::none();
  for (const Part::Span& each : a.list_) {
    Rational begin = each.begin;
    for (const Part::Span& taken : b.list_) {
      if (taken.end <= begin || taken.begin >= each.end) continue;
      if (begin < taken.begin) result.list_.push_back({begin, taken.begin});
      begin = std::max(begin, taken.end);
    }
    if (begin < each.end) result.list_.push_back({begin, each.end});
  }
  return result;
}

Part unite(const Part& a, const Part& b) {
  Part all = a;
  all.list_.append(b.list_.begin(), b.list_.end());
  std::sort(all.list_.begin(), all.list_.end(), [](const Part::Span& x, const Part::Span& y) { return x.begin < y.begin; });
  Part result = Part::none();
  for (const Part::Span& each : all.list_) {
    if (!result.list_.empty() && each.begin <= result.list_.back().end)
      result.list_.back().end = std::max(result.list_.back().end, each.end);
    else
      result.list_.push_back(each);
  }
  return result;
}

}  // namespace sscc
