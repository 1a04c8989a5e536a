// Views against brute force: the elements that a view names, one by one.
#include "compiler/program/views.h"

#include <catch2/catch.hpp>
#include <functional>

using namespace sscc;

namespace {

// Offsets of a view's elements, row-major.
std::vector<int64_t> addresses(const View& view) {
  std::vector<int64_t> list = {view.offset};
  for (size_t d = 0; d < view.dims.size(); ++d) {
    std::vector<int64_t> longer;
    for (const int64_t base : list)
      for (int64_t i = 0; i < view.dims[d]; ++i) longer.push_back(base + i * view.strides[d]);
    list = std::move(longer);
  }
  return list;
}

std::vector<int64_t> positions(const Intervals& intervals) {
  std::vector<int64_t> list;
  for (const Interval& each : intervals.list())
    for (int64_t p = each.begin; p < each.end; ++p) list.push_back(p);
  return list;
}

// The addresses of `part`, element by element, where `view` holds `whole`.
std::vector<int64_t> addresses_of(const View& view, const Region& whole, const Region& part) {
  std::vector<int64_t> list = {view.offset};
  for (size_t d = 0; d < whole.rank(); ++d) {
    std::vector<int64_t> longer;
    for (const int64_t base : list)
      for (const int64_t p : positions(part.dim(d))) longer.push_back(base + whole.dim(d).count_below(p) * view.strides[d]);
    list = std::move(longer);
  }
  return list;
}

Region region(std::initializer_list<Intervals> dims) { return Region(llvm::ArrayRef<Intervals>(dims.begin(), dims.size())); }

const BufferId buffer(0);

}  // namespace

TEST_CASE("a subview names the part's elements, or there is none") {
  const Region whole = region({Intervals({{0, 4}, {8, 12}}), Intervals(2, 8)});
  const View view = whole_buffer(buffer, whole.local_shape());
  int found = 0, none = 0;
  for (uint32_t rows = 1; rows < 256; ++rows) {  // every subset of the eight rows
    const std::vector<int64_t> all = positions(whole.dim(0));
    llvm::SmallVector<Interval, 8> chosen;
    for (size_t i = 0; i < 8; ++i)
      if (rows >> i & 1) chosen.push_back({all[i], all[i] + 1});
    const Region part = region({Intervals(chosen), Intervals(3, 6)});
    const std::vector<int64_t> wanted = addresses_of(view, whole, part);
    const std::optional<View> got = subview(view, whole, part);
    if (got) {
      REQUIRE(addresses(*got) == wanted);
      ++found;
      continue;
    }
    // Without a view the rows are really not evenly spaced.
    bool even = true;
    std::vector<int64_t> local;
    for (const int64_t p : positions(part.dim(0))) local.push_back(whole.dim(0).count_below(p));
    for (size_t i = 2; i < local.size(); ++i) even = even && local[i] - local[i - 1] == local[1] - local[0];
    REQUIRE_FALSE(even);
    ++none;
  }
  CHECK(found == 8 + 28 + 12 + 7 + 4 + 3 + 2 + 1);  // arithmetic progressions of 1 to 8 of eight rows
  CHECK(found + none == 255);
}

TEST_CASE("matching boxes cover a region once and name the same elements on both sides") {
  const Region a = region({Intervals({{0, 4}, {8, 12}}), Intervals(0, 6)});
  const Region b = region({Intervals({{2, 6}, {7, 10}}), Intervals({{1, 3}, {4, 6}})});
  const Region both = intersect(a, b);
  const View view_a = whole_buffer(buffer, a.local_shape()), view_b = whole_buffer(buffer, b.local_shape());
  int64_t elements = 0;
  for (const BoxPair& box : matching_boxes(view_a, a, view_b, b, both)) {
    REQUIRE(both.contains(box.region));
    REQUIRE(addresses(box.a) == addresses_of(view_a, a, box.region));
    REQUIRE(addresses(box.b) == addresses_of(view_b, b, box.region));
    elements += box.region.elements();
  }
  CHECK(elements == both.elements());
}

TEST_CASE("a reshaped view names the same elements in the same order") {
  const View dense = whole_buffer(buffer, {2, 3, 4});
  for (const Shape& dims : {Shape{24}, Shape{6, 4}, Shape{2, 12}, Shape{4, 6}, Shape{2, 1, 3, 2, 2}, Shape{1, 24, 1}}) {
    const std::optional<View> got = reshaped(dense, dims);
    REQUIRE(got);
    CHECK(got->dims == dims);
    CHECK(addresses(*got) == addresses(dense));
  }
  // Rows apart from each other: dimensions may be divided, and joined where they lie densely, but not across the gap.
  const View apart = sliced(dense, {0, 0, 0}, {2, 2, 4}, {1, 1, 1});
  const std::optional<View> divided = reshaped(apart, {2, 2, 2, 2});
  REQUIRE(divided);
  CHECK(addresses(*divided) == addresses(apart));
  CHECK(reshaped(apart, {2, 8}));
  CHECK_FALSE(reshaped(apart, {16}));
  CHECK_FALSE(reshaped(apart, {4, 4}));
  CHECK_FALSE(reshaped(transposed(dense, {2, 0, 1}), {24}));
  CHECK(reshaped(transposed(dense, {2, 0, 1}), {4, 6}));
  // A broadcast dimension has stride 0 all along.
  const std::optional<View> repeated = reshaped(broadcast(whole_buffer(buffer, {1}), {6}), {2, 3});
  REQUIRE(repeated);
  CHECK(addresses(*repeated) == std::vector<int64_t>(6, 0));
}

TEST_CASE("a scalar reshapes to ones and back") {
  const View scalar = whole_buffer(buffer, {});
  REQUIRE(reshaped(scalar, {1, 1}));
  REQUIRE(reshaped(whole_buffer(buffer, {1, 1}), {}));
  CHECK(addresses(*reshaped(scalar, {1, 1})) == std::vector<int64_t>{0});
}

TEST_CASE("transposed, broadcast and sliced views") {
  const View dense = whole_buffer(buffer, {2, 3});
  CHECK(addresses(transposed(dense, {1, 0})) == std::vector<int64_t>{0, 3, 1, 4, 2, 5});
  CHECK(addresses(broadcast(whole_buffer(buffer, {3}), {2, 3})) == std::vector<int64_t>{0, 1, 2, 0, 1, 2});
  CHECK(addresses(broadcast(whole_buffer(buffer, {2, 1}), {2, 3})) == std::vector<int64_t>{0, 0, 0, 1, 1, 1});
  CHECK(addresses(sliced(dense, {0, 2}, {2, 2}, {1, -2})) == std::vector<int64_t>{2, 0, 5, 3});
  CHECK(addresses(without_dims(whole_buffer(buffer, {2, 1, 3}), 1u << 1)) == addresses(dense));
}

TEST_CASE("contiguity looks through dimensions of length 1") {
  View view = whole_buffer(buffer, {2, 1, 3});
  CHECK(view.is_contiguous());
  view.strides[1] = 77;
  CHECK(view.is_contiguous());
  CHECK_FALSE(transposed(whole_buffer(buffer, {2, 3}), {1, 0}).is_contiguous());
  CHECK_FALSE(broadcast(whole_buffer(buffer, {3}), {2, 3}).is_contiguous());
}
