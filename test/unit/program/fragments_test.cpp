// Fragments: what is put together is whole, and what is there twice is found.
#include "compiler/program/fragments.h"

#include <catch2/catch.hpp>

using namespace sscc;

namespace {

Region box(int64_t begin, int64_t end) { return Region(llvm::ArrayRef<Intervals>(Intervals(begin, end))); }
Fragment fragment(const Region& region, const Part& part = Part()) { return {region, part, Intervals(0, 1)}; }

}  // namespace

TEST_CASE("shares of a sum become the sum") {
  const Fragments first = {fragment(box(0, 8), Part().piece(0, 4)), fragment(box(0, 8), Part().piece(3, 4))};
  const Fragments second = {fragment(box(0, 8), Part().piece(1, 4))}, third = {fragment(box(0, 8), Part().piece(2, 4))};
  std::optional<Fragment> doubled;
  const Fragments whole = put_together({&first, &second, &third}, doubled);
  CHECK(!doubled);
  REQUIRE(whole.size() == 1);
  CHECK(whole[0].part.whole());
  CHECK(missing_of(whole, box(0, 8)).empty());
}

TEST_CASE("blocks become their region") {
  const Fragments left = {fragment(box(0, 3))}, right = {fragment(box(3, 8))};
  std::optional<Fragment> doubled;
  const Fragments whole = put_together({&right, &left}, doubled);
  CHECK(!doubled);
  REQUIRE(whole.size() == 1);
  CHECK(whole[0].region == box(0, 8));
}

TEST_CASE("a share that is there twice is found") {
  const Fragments half = {fragment(box(0, 8), Part().piece(0, 2))}, quarter = {fragment(box(0, 8), Part().piece(1, 4))};
  const Fragments overlapping = {fragment(box(4, 12), Part().piece(0, 2))};
  for (const Fragments* other : {&half, &quarter, &overlapping}) {
    std::optional<Fragment> doubled;
    put_together({&half, other}, doubled);
    CHECK(doubled);
  }
}

TEST_CASE("micro-batches add up in one fragment, each once") {
  Fragments sum = {fragment(box(0, 8))};
  const Fragments next = {{box(0, 8), Part(), Intervals(1, 2)}};
  CHECK(merge(sum, next) == nullptr);
  REQUIRE(sum.size() == 1);
  CHECK(sum[0].micro_batches == Intervals(0, 2));
  CHECK(merge(sum, next) != nullptr);
}

TEST_CASE("what is missing is the rest") {
  const Fragments there = {fragment(box(0, 4)), fragment(box(4, 8), Part().piece(0, 2))};
  const auto missing = missing_of(there, box(0, 10));
  REQUIRE(missing.size() == 2);
  CHECK(missing[0].first == box(4, 8));
  CHECK(missing[0].second == Part().piece(1, 2));
  CHECK(missing[1].first == box(8, 10));
  CHECK(restricted(there, box(2, 5)).size() == 2);
}
