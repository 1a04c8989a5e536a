// Regions and parts against brute force: every operation on sets of intervals is compared with the same operation on sets of positions.
#include "compiler/ir/region.h"

#include <bitset>
#include <catch2/catch.hpp>
#include <random>
#include <set>

using namespace sscc;

namespace {

constexpr int64_t length = 12;
using Positions = std::bitset<length>;

Intervals intervals_of(const Positions& positions) {
  llvm::SmallVector<Interval, 8> list;
  for (int64_t p = 0; p < length; ++p)
    if (positions[static_cast<size_t>(p)]) list.push_back({p, p + 1});
  return Intervals(list);
}

Positions positions_of(const Intervals& intervals) {
  Positions positions;
  for (const Interval& each : intervals.list())
    for (int64_t p = each.begin; p < each.end; ++p) positions.set(static_cast<size_t>(p));
  return positions;
}

// Sorted, disjoint and maximal: equality of lists is equality of sets.
bool is_canonical(const Intervals& intervals) {
  int64_t end = -1;
  for (const Interval& each : intervals.list()) {
    if (each.begin >= each.end || each.begin <= end) return false;
    end = each.end;
  }
  return true;
}

std::mt19937 randomness(1);
Positions random_positions() { return Positions(randomness() & randomness() & 0xfff); }

using Point = std::vector<int64_t>;
std::set<Point> points_of(const Region& region) {
  std::set<Point> points = {{}};
  for (size_t d = 0; d < region.rank(); ++d) {
    std::set<Point> longer;
    for (const Point& point : points)
      for (const Interval& each : region.dim(d).list())
        for (int64_t p = each.begin; p < each.end; ++p) {
          longer.insert(point);
          Point next = point;
          next.push_back(p);
          longer.erase(point);
          longer.insert(next);
        }
    points = std::move(longer);
  }
  return points;
}

Region random_region(size_t rank) {
  Region region(Shape(rank, 4));
  for (size_t d = 0; d < rank; ++d) {
    Positions positions(randomness() & 0xf);
    region.set_dim(d, intervals_of(positions));
  }
  return region;
}

}  // namespace

TEST_CASE("sets of intervals obey the laws of sets of positions") {
  for (int round = 0; round < 2000; ++round) {
    const Positions a = random_positions(), b = random_positions();
    const Intervals x = intervals_of(a), y = intervals_of(b);
    REQUIRE(is_canonical(x));
    REQUIRE(positions_of(x) == a);
    for (const auto& [got, wanted] : {std::pair(intersect(x, y), a & b), {subtract(x, y), a & ~b}, {unite(x, y), a | b}}) {
      REQUIRE(is_canonical(got));
      REQUIRE(positions_of(got) == wanted);
    }
    REQUIRE(x.contains(y) == ((a & b) == b));
    REQUIRE(x.length() == static_cast<int64_t>(a.count()));
    REQUIRE((x == y) == (a == b));
    for (int64_t p = 0; p <= length; ++p) REQUIRE(x.count_below(p) == static_cast<int64_t>((a & Positions((1u << p) - 1)).count()));
  }
}

TEST_CASE("intervals are normalised from any order, overlapping, adjacent or empty") {
  CHECK(Intervals({{6, 8}, {0, 2}, {2, 3}, {5, 5}, {1, 2}}) == Intervals({{0, 3}, {6, 8}}));
  CHECK(Intervals(3, 3).empty());
  CHECK(Intervals(4, 2).empty());
}

TEST_CASE("spread: a piece of a factor in the whole dimension") {
  // The qkv weight of 4 heads of 2: 24 = (3 4 2); heads 1 and 2 are positions 2..5 of each third.
  CHECK(spread(Intervals(1, 3), 2, 4, 24) == Intervals({{2, 6}, {10, 14}, {18, 22}}));
  CHECK(spread(Intervals(0, 4), 2, 4, 24) == Intervals(0, 24));
  for (const auto& [stride, factor, whole] : {std::tuple<int64_t, int64_t, int64_t>{1, 4, 4}, {3, 2, 6}, {2, 3, 12}, {1, 3, 12}, {4, 3, 12}}) {
    for (int64_t begin = 0; begin < factor; ++begin) {
      for (int64_t end = begin; end <= factor; ++end) {
        const Intervals piece(begin, end), got = spread(piece, stride, factor, whole);
        REQUIRE(is_canonical(got));
        for (int64_t p = 0; p < whole; ++p) {
          const int64_t index = p / stride % factor;
          REQUIRE(got.contains(Intervals(p, p + 1)) == (begin <= index && index < end));
        }
      }
    }
  }
}

TEST_CASE("regions obey the laws of sets of points") {
  for (int round = 0; round < 500; ++round) {
    const size_t rank = randomness() % 4;
    const Region a = random_region(rank), b = random_region(rank);
    const std::set<Point> x = points_of(a), y = points_of(b);
    REQUIRE(a.elements() == static_cast<int64_t>(x.size()));
    REQUIRE(a.empty() == x.empty());

    std::set<Point> both;
    std::set_intersection(x.begin(), x.end(), y.begin(), y.end(), std::inserter(both, both.end()));
    REQUIRE(points_of(intersect(a, b)) == both);

    std::set<Point> rest, got;
    std::set_difference(x.begin(), x.end(), y.begin(), y.end(), std::inserter(rest, rest.end()));
    int64_t elements = 0;
    for (const Region& piece : subtract(a, b)) {
      REQUIRE_FALSE(piece.empty());
      elements += piece.elements();
      const std::set<Point> points = points_of(piece);
      got.insert(points.begin(), points.end());
    }
    REQUIRE(got == rest);
    REQUIRE(elements == static_cast<int64_t>(rest.size()));  // the pieces are disjoint

    REQUIRE(a.contains(b) == (y.empty() || std::includes(x.begin(), x.end(), y.begin(), y.end())));
  }
}

TEST_CASE("regions cover a whole if they have all of its points between them") {
  int covered = 0;
  for (int round = 0; round < 2000; ++round) {
    const size_t rank = randomness() % 4;
    const Region whole = random_region(rank);
    std::vector<Region> regions(randomness() % 12);
    std::set<Point> points;
    for (Region& region : regions) {
      region = random_region(rank);
      points.merge(points_of(region));
    }
    const std::set<Point> needed = points_of(whole);
    const bool expected = std::includes(points.begin(), points.end(), needed.begin(), needed.end());
    REQUIRE(cover(regions, whole) == expected);
    covered += expected && rank > 1 && !whole.empty();
  }
  REQUIRE(covered > 50);
  REQUIRE_FALSE(cover({}, Region(Shape())));
  REQUIRE(cover({Region(Shape())}, Region(Shape())));
}

TEST_CASE("a scalar's region is one element, never empty") {
  const Region scalar{Shape{}};
  CHECK_FALSE(scalar.empty());
  CHECK(scalar.elements() == 1);
  CHECK(scalar.contains(scalar));
  CHECK(subtract(scalar, scalar).empty());
}

TEST_CASE("regions print as NumPy slices") {
  Region region(Shape{4, 32});
  CHECK(region.to_string() == "[0:4, 0:32]");
  region.set_dim(1, Intervals({{0, 2}, {4, 6}}));
  CHECK(region.to_string() == "[0:4, 0:2|4:6]");
  CHECK(region.local_shape() == Shape{4, 4});
  CHECK_FALSE(region.is_box());
}

TEST_CASE("addends and pieces of a part: disjoint, and together the whole") {
  const int64_t n = GENERATE(1, 2, 3, 5), m = GENERATE(1, 2, 3);
  Part all = Part::none();
  for (int64_t addend = 0; addend < n; ++addend) {
    for (int64_t piece = 0; piece < m; ++piece) {
      const Part part = Part().piece(addend, n).piece(piece, m);
      CHECK(Part().piece(addend, n).contains(part));
      CHECK(intersect(all, part).empty());
      all = unite(all, part);
      CHECK(all.contains(part));
      CHECK(unite(subtract(all, part), part) == all);
    }
  }
  CHECK(all.whole());
  CHECK(subtract(Part(), all).empty());
}

TEST_CASE("a part is whole only if every share is there once") {
  const Part first = Part().piece(0, 2), second = Part().piece(1, 2);
  CHECK_FALSE(first.whole());
  CHECK(unite(first, second).whole());
  CHECK(unite(first, first) == first);
  CHECK(intersect(Part().piece(0, 3), Part().piece(1, 2)).empty());
  CHECK_FALSE(intersect(Part().piece(1, 3), Part().piece(1, 2)).empty());
  CHECK(Part().to_string().empty());
  CHECK(second.to_string() == "{1/2..1}");
}
