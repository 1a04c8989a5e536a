// What is computed on the host before a launch. These need no GPU.
#include <catch2/catch.hpp>
#include <random>
#include <vector>

#include "sscc_rt/cuda_walk.cuh"

using namespace sscc::rt;

TEST_CASE("Divisor: n / d for n below 2^31", "[host]") {
  std::mt19937 random(5);
  const auto check_all = [](uint32_t d, uint32_t n) {
    if (Divisor(d).quotient(n) != n / d) FAIL(n << " / " << d);
  };
  for (uint32_t bits = 1; bits <= 31; ++bits) {
    for (int i = 0; i < 2000; ++i) {
      const uint32_t d = std::max<uint32_t>(1, static_cast<uint32_t>(random()) >> (32 - bits)), n = static_cast<uint32_t>(random()) >> 1;
      check_all(d, n);
      check_all(d, n / d * d);                  // a multiple
      if (n >= d) check_all(d, n / d * d - 1);  // one less
      check_all(d, (1u << 31) - 1);
    }
    check_all((1u << (bits - 1)) + (bits > 1), (1u << 31) - 1);
    check_all((1u << bits) - 1, (1u << 31) - 1);
  }
}

namespace {

StridedLoop loop_of(const std::vector<int64_t>& dims, const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
  const int64_t* strides[] = {a.data(), b.data()};
  return StridedLoop::make(dims, strides);
}

}  // namespace

TEST_CASE("StridedWalk: element numbers are row-major", "[host]") {
  const StridedWalk<2> walk(loop_of({3, 4, 5}, {100, 7, 1}, {1, 0, -9}));
  REQUIRE(walk.count == 60);
  for (uint32_t i = 0; i < 60; ++i) {
    int64_t at[2] = {1000, 2000};
    walk.advance(i, at);
    CHECK(at[0] == 1000 + i / 20 * 100 + i / 5 % 4 * 7 + i % 5);
    CHECK(at[1] == 2000 + int64_t{i / 20} - 9 * int64_t{i % 5});
  }
}

TEST_CASE("Loops of 2^31 elements and more are walked in pieces", "[host]") {
  const int64_t long_row = (int64_t{1} << 31) + 3;
  const StridedLoop loop = loop_of({3, long_row}, {2 * long_row, 1}, {0, 1});
  int64_t elements = 0, last = -1;
  for_each_piece(loop, [&](const StridedLoop& piece, const StridedLoop::Offsets& base) {
    REQUIRE(piece.rows() * piece.row_length() < largest_walk);
    CHECK(base[0] > last);
    CHECK(base[1] == base[0] % (2 * long_row));
    last = base[0];
    elements += piece.rows() * piece.row_length();
  });
  CHECK(elements == 3 * long_row);
}

TEST_CASE("Packs: what can be loaded at once", "[host]") {
  alignas(16) float memory[4];
  const void* aligned[] = {memory, memory};
  const void* shifted[] = {memory, memory + 1};
  const int bytes[] = {4, 4};
  const StridedLoop rows = loop_of({3, 8}, {8, 1}, {12, 1}), gaps = loop_of({3, 8}, {8, 1}, {9, 1}), repeated = loop_of({3, 8}, {8, 1}, {1, 0});
  CHECK(has_whole_packs(rows, aligned, bytes, 0b10, 4));
  CHECK_FALSE(has_whole_packs(rows, shifted, bytes, 0b10, 4));
  CHECK_FALSE(has_whole_packs(gaps, aligned, bytes, 0b10, 4));
  CHECK(has_whole_packs(repeated, aligned, bytes, 0b10, 4));
  CHECK_FALSE(has_whole_packs(repeated, aligned, bytes, 0b00, 4));
  CHECK_FALSE(has_whole_packs(loop_of({3, 6}, {8, 1}, {8, 1}), aligned, bytes, 0b10, 4));
}
