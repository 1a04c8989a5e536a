#include "compiler/support/rational.h"

#include <catch2/catch.hpp>

using sscc::Rational;

TEST_CASE("fractions are kept in lowest terms with a positive denominator") {
  CHECK(Rational(6, 8) == Rational(3, 4));
  CHECK(Rational(1, -2).numerator() == -1);
  CHECK(Rational(1, -2).denominator() == 2);
  CHECK(Rational(0, 7) == Rational(0));
  CHECK(Rational(3, 8).to_string() == "3/8");
  CHECK(Rational(4, 4).to_string() == "1");
  CHECK(Rational(-1, 3).to_string() == "-1/3");
}

TEST_CASE("arithmetic and order of fractions") {
  CHECK(Rational(1, 6) + Rational(1, 10) == Rational(4, 15));
  CHECK(Rational(1, 2) - Rational(2, 3) == Rational(-1, 6));
  CHECK(Rational(2, 3) * Rational(9, 4) == Rational(3, 2));
  CHECK(Rational(1, 3) < Rational(34, 100));
  CHECK(Rational(-1, 2) < Rational(0));
  CHECK(Rational(2, 4) <= Rational(1, 2));
}

TEST_CASE("products beyond 64 bits are fine where the result fits") {
  const int64_t big = int64_t{1} << 40;
  CHECK(Rational(1, big) + Rational(1, big) == Rational(1, big / 2));
  CHECK(Rational(big, 3) * Rational(3, big) == Rational(1));
  CHECK(Rational(big, big - 1) > Rational(big + 1, big));
}

TEST_CASE("n equal shares add up to the whole") {
  const int64_t n = GENERATE(1, 2, 3, 7, 64, 1000);
  Rational sum;
  for (int64_t i = 0; i < n; ++i) sum = sum + Rational(1, n);
  CHECK(sum == Rational(1));
}
