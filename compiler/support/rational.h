// Exact fractions, always in lowest terms with a positive denominator. Overflow of 64 bits is a bug (checked).
#pragma once

#include <compare>
#include <cstdint>
#include <string>

namespace sscc {

class Rational {
 public:
  constexpr Rational(int64_t whole = 0) : numerator_(whole) {}
  Rational(int64_t numerator, int64_t denominator);

  int64_t numerator() const { return numerator_; }
  int64_t denominator() const { return denominator_; }

  Rational operator+(const Rational& other) const;
  Rational operator-(const Rational& other) const;
  Rational operator*(const Rational& other) const;
  bool operator==(const Rational&) const = default;
  std::strong_ordering operator<=>(const Rational& other) const;
  std::string to_string() const;  // "3/8", "1"

 private:
  int64_t numerator_ = 0;
  int64_t denominator_ = 1;
};

}  // namespace sscc
