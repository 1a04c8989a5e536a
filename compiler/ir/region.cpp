#include "compiler/ir/region.h"

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <set>
#include <unordered_set>

#include "compiler/support/check.h"
#include "llvm/ADT/Hashing.h"

namespace sscc {

namespace {

// One copy of each value, for ever. Several threads may ask.
template <class Data, class Hash>
class Pool {
 public:
  const Data* find(Data&& data) {
    Shard& shard = shards_[Hash()(data) % shards_.size()];
    const std::lock_guard<std::mutex> lock(shard.mutex);
    return &*shard.values.insert(std::move(data)).first;
  }

 private:
  struct Shard {
    std::mutex mutex;
    std::unordered_set<Data, Hash> values;
  };
  std::array<Shard, 16> shards_;
};

}  // namespace

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

Intervals Intervals::from_to(int64_t begin, int64_t end) const {
  Intervals result;
  int64_t seen = 0;
  for (const Interval& each : list_) {
    const int64_t from = std::max(begin, seen), to = std::min(end, seen + each.length());
    if (from < to) result.list_.push_back({each.begin + from - seen, each.begin + to - seen});
    seen += each.length();
  }
  return result;
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
  if (a.is_single() && b.is_single()) return Intervals(std::max(a.list_[0].begin, b.list_[0].begin), std::min(a.list_[0].end, b.list_[0].end));
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

bool overlaps(const Intervals& a, const Intervals& b) {
  for (size_t i = 0, j = 0; i < a.list_.size() && j < b.list_.size();) {
    if (a.list_[i].end <= b.list_[j].begin)
      ++i;
    else if (b.list_[j].end <= a.list_[i].begin)
      ++j;
    else
      return true;
  }
  return false;
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
  const int64_t block = stride * factor;
  if (block >= length && piece.is_single()) {
    const Interval one = piece.list()[0];
    return Intervals(std::min(one.begin * stride, length), std::min(one.end * stride, length));
  }
  llvm::SmallVector<Interval, 8> all;
  for (int64_t base = 0; base < length; base += block)
    for (const Interval& each : piece.list()) all.push_back({base + each.begin * stride, std::min(base + each.end * stride, length)});
  return Intervals(all);
}

Intervals widened(const Intervals& intervals, int64_t before, int64_t after, int64_t length) {
  if (before == 0 && after == 0) return intervals;
  llvm::SmallVector<Interval, 1> list;
  for (const Interval& each : intervals.list()) list.push_back({std::max<int64_t>(0, each.begin - before), std::min(length, each.end + after)});
  return Intervals(list);
}

// -- regions --------------------------------------------------------------------------------------------------------------------------------------

struct Region::Hash {
  size_t operator()(const Data& data) const {
    llvm::hash_code hash = data.dims.size();
    for (const Intervals& positions : data.dims)
      for (const Interval& each : positions.list()) hash = llvm::hash_combine(hash, each.begin, each.end);
    return hash;
  }
};

const Region::Data* Region::shared(Data data) {
  static Pool<Data, Hash> pool;
  data.elements = 1;
  for (const Intervals& each : data.dims) {
    data.elements *= each.length();
    data.is_box &= each.is_single();
  }
  return pool.find(std::move(data));
}

Region::Region(const Shape& whole) {
  Data data;
  for (int64_t length : whole) data.dims.push_back(Intervals(0, length));
  data_ = shared(std::move(data));
}

Region::Region(llvm::ArrayRef<Intervals> dims) {
  Data data;
  data.dims.append(dims.begin(), dims.end());
  data_ = shared(std::move(data));
}

void Region::set_dim(size_t d, Intervals positions) {
  Data data{data_->dims};
  data.dims[d] = std::move(positions);
  data_ = shared(std::move(data));
}

Shape Region::local_shape() const {
  Shape shape;
  for (const Intervals& each : data_->dims) shape.push_back(each.length());
  return shape;
}

bool Region::contains(const Region& other) const {
  if (*this == other || other.empty()) return true;
  SSCC_CHECK(rank() == other.rank(), "regions of one tensor");
  for (size_t d = 0; d < rank(); ++d)
    if (!dim(d).contains(other.dim(d))) return false;
  return true;
}

std::string Region::to_string() const {
  std::string text = "[";
  for (size_t d = 0; d < rank(); ++d) {
    text += d ? ", " : "";
    for (size_t i = 0; i < dim(d).list().size(); ++i)
      text += (i ? "|" : "") + std::to_string(dim(d).list()[i].begin) + ":" + std::to_string(dim(d).list()[i].end);
    if (dim(d).empty()) text += "0:0";
  }
  return text + "]";
}

Region intersect(const Region& a, const Region& b) {
  if (a == b) return a;
  SSCC_CHECK(a.rank() == b.rank(), "regions of one tensor");
  Region::Data data;
  for (size_t d = 0; d < a.rank(); ++d) data.dims.push_back(intersect(a.dim(d), b.dim(d)));
  Region result;
  result.data_ = Region::shared(std::move(data));
  return result;
}

// Dimension by dimension: what lies outside b there, with the dimensions before it inside b.
llvm::SmallVector<Region, 4> subtract(const Region& a, const Region& b) {
  llvm::SmallVector<Region, 4> result;
  if (b.contains(a)) return result;
  Region rest = a;
  for (size_t d = 0; d < a.rank(); ++d) {
    Intervals outside = subtract(rest.dim(d), b.dim(d));
    if (!outside.empty()) {
      Region piece = rest;
      piece.set_dim(d, std::move(outside));
      if (!piece.empty()) result.push_back(piece);
    }
    rest.set_dim(d, intersect(rest.dim(d), b.dim(d)));
    if (rest.dim(d).empty()) break;
  }
  return result;
}

bool overlaps(const Region& a, const Region& b) {
  for (size_t d = 0; d < a.rank(); ++d)
    if (!overlaps(a.dim(d), b.dim(d))) return false;
  return true;
}

Region enclose(const Region& a, const Region& b) {
  if (a == b) return a;
  llvm::SmallVector<Intervals, 4> dims;
  for (size_t d = 0; d < a.rank(); ++d) dims.push_back(unite(a.dim(d), b.dim(d)));
  return Region(dims);
}

namespace {

// From dimension d on: the positions of `whole` are swept, and wherever the same regions lie they are asked once. Sorted and distinct.
bool cover_from(const std::vector<Region>& regions, const Region& whole, size_t d) {
  if (regions.empty()) return false;
  if (d == whole.rank()) return true;
  std::map<int64_t, std::vector<std::pair<bool, size_t>>> borders;  // where regions begin (true) and end
  for (size_t r = 0; r < regions.size(); ++r) {
    const Intervals common = intersect(regions[r].dim(d), whole.dim(d));
    for (const Interval& each : common.list()) {
      borders[each.begin].emplace_back(true, r);
      borders[each.end].emplace_back(false, r);
    }
  }
  std::set<size_t> here;
  std::set<std::vector<size_t>> asked;
  int64_t covered = 0;
  for (auto it = borders.begin(); it != borders.end(); ++it) {
    for (const auto& [begins, r] : it->second) begins ? void(here.insert(r)) : void(here.erase(r));
    if (here.empty()) continue;
    covered += std::next(it)->first - it->first;
    if (!asked.insert({here.begin(), here.end()}).second) continue;
    std::vector<Region> next;
    for (const size_t r : here) next.push_back(regions[r]);
    if (!cover_from(next, whole, d + 1)) return false;
  }
  return covered == whole.dim(d).length();
}

}  // namespace

bool cover(llvm::ArrayRef<Region> regions, const Region& whole) {
  if (whole.empty()) return true;
  const std::unordered_set<Region> distinct(regions.begin(), regions.end());
  return cover_from({distinct.begin(), distinct.end()}, whole, 0);
}

// -- parts ----------------------------------------------------------------------------------------------------------------------------------------

struct Part::Hash {
  size_t operator()(const Data& data) const {
    llvm::hash_code hash = data.spans.size();
    for (const Span& span : data.spans)
      hash = llvm::hash_combine(hash, span.begin.numerator(), span.begin.denominator(), span.end.numerator(), span.end.denominator());
    return hash;
  }
};

const Part::Data* Part::shared(Data data) {
  static Pool<Data, Hash> pool;
  data.measure = 0;
  for (const Span& span : data.spans) data.measure = data.measure + (span.end - span.begin);
  return pool.find(std::move(data));
}

const Part::Data* Part::whole_data() {
  static const Data* whole = shared({{{0, 1}}, 1});
  return whole;
}

Part::Part(Spans spans) : data_(shared({std::move(spans), 0})) {}

Part Part::piece(int64_t index, int64_t count) const {
  if (count == 1) return *this;
  Spans result;
  for (const Span& span : data_->spans) {
    const Rational width = (span.end - span.begin) * Rational(1, count);
    result.push_back({span.begin + width * Rational(index), span.begin + width * Rational(index + 1)});
  }
  return Part(std::move(result));
}

std::string Part::to_string() const {
  if (whole()) return "";
  std::string text = "{";
  for (size_t i = 0; i < data_->spans.size(); ++i)
    text += (i ? "|" : "") + data_->spans[i].begin.to_string() + ".." + data_->spans[i].end.to_string();
  return text + "}";
}

Part intersect(const Part& a, const Part& b) {
  if (a == b || b.whole()) return a;
  if (a.whole()) return b;
  const Part::Spans &left = a.data_->spans, &right = b.data_->spans;
  Part::Spans result;
  for (size_t i = 0, j = 0; i < left.size() && j < right.size();) {
    const Rational begin = std::max(left[i].begin, right[j].begin), end = std::min(left[i].end, right[j].end);
    if (begin < end) result.push_back({begin, end});
    if (left[i].end < right[j].end)
      ++i;
    else
      ++j;
  }
  return Part(std::move(result));
}

Part subtract(const Part& a, const Part& b) {
  if (a == b || b.whole()) return Part::none();
  Part::Spans result;
  for (const Part::Span& each : a.data_->spans) {
    Rational begin = each.begin;
    for (const Part::Span& taken : b.data_->spans) {
      if (taken.end <= begin || taken.begin >= each.end) continue;
      if (begin < taken.begin) result.push_back({begin, taken.begin});
      begin = std::max(begin, taken.end);
    }
    if (begin < each.end) result.push_back({begin, each.end});
  }
  return Part(std::move(result));
}

bool overlaps(const Part& a, const Part& b) {
  const Part::Spans &left = a.data_->spans, &right = b.data_->spans;
  for (size_t i = 0, j = 0; i < left.size() && j < right.size();) {
    if (left[i].end <= right[j].begin)
      ++i;
    else if (right[j].end <= left[i].begin)
      ++j;
    else
      return true;
  }
  return false;
}

Part unite(llvm::ArrayRef<Part> parts) {
  Part::Spans all, result;
  for (const Part& part : parts) all.append(part.data_->spans.begin(), part.data_->spans.end());
  std::sort(all.begin(), all.end(), [](const Part::Span& x, const Part::Span& y) { return x.begin < y.begin; });
  for (const Part::Span& each : all) {
    if (!result.empty() && each.begin <= result.back().end)
      result.back().end = std::max(result.back().end, each.end);
    else
      result.push_back(each);
  }
  return Part(std::move(result));
}

}  // namespace sscc
