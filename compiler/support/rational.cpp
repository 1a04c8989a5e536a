#include "compiler/support/rational.h"

#include <limits>
#include <numeric>

#include "compiler/support/check.h"

namespace sscc {

namespace {

// Products of two 64-bit numbers and sums of two such products fit 128 bits.
__extension__ typedef __int128 Wide;

Wide wide_abs(Wide value) { return value < 0 ? -value : value; }

Wide wide_gcd(Wide a, Wide b) {
  while (b != 0) {
    Wide rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

Rational reduced(Wide numerator, Wide denominator) {
  constexpr Wide limit = std::numeric_limits<int64_t>::max();
  if (wide_abs(numerator) <= limit && denominator <= limit) return Rational(static_cast<int64_t>(numerator), static_cast<int64_t>(denominator));
  Wide divisor = wide_gcd(wide_abs(numerator), denominator);
  numerator /= divisor;
  denominator /= divisor;
  SSCC_CHECK(wide_abs(numerator) <= limit && denominator <= limit, "a fraction does not fit 64 bits");
  return Rational(static_cast<int64_t>(numerator), static_cast<int64_t>(denominator));
}

}  // namespace

Rational::Rational(int64_t numerator, int64_t denominator) {
  SSCC_CHECK(denominator != 0, "a fraction has a denominator of zero");
  constexpr int64_t lowest = std::numeric_limits<int64_t>::min();
  SSCC_CHECK(numerator != lowest && denominator != lowest, "a fraction does not fit 64 bits");
  if (denominator < 0) {
    numerator = -numerator;
    denominator = -denominator;
  }
  int64_t divisor = std::gcd(numerator, denominator);
  numerator_ = numerator / divisor;
  denominator_ = denominator / divisor;
}

Rational Rational::operator+(const Rational& other) const {
  return reduced(Wide(numerator_) * other.denominator_ + Wide(other.numerator_) * denominator_, Wide(denominator_) * other.denominator_);
}

Rational Rational::operator-(const Rational& other) const {
  return reduced(Wide(numerator_) * other.denominator_ - Wide(other.numerator_) * denominator_, Wide(denominator_) * other.denominator_);
}

Rational Rational::operator*(const Rational& other) const {
  return reduced(Wide(numerator_) * other.numerator_, Wide(denominator_) * other.denominator_);
}

std::strong_ordering Rational::operator<=>(const Rational& other) const {
  if (denominator_ == other.denominator_) return numerator_ <=> other.numerator_;
  Wide left = Wide(numerator_) * other.denominator_, right = Wide(other.numerator_) * denominator_;
  if (left < right) return std::strong_ordering::less;
  return left > right ? std::strong_ordering::greater : std::strong_ordering::equal;
}

std::string Rational::to_string() const {
  std::string text = std::to_string(numerator_);
  return denominator_ == 1 ? text : text + "/" + std::to_string(denominator_);
}

}  // namespace sscc
