// Pieces of C++ text: identifiers, literals and comments made from a model's names, which may hold any bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

#include "llvm/ADT/ArrayRef.h"

namespace sscc {

// Gives texts identifiers that are unique in one scope: "t:/layers.0/Add_output_0" -> t_layers_0_Add_output_0, the second of that name with _2.
class Identifiers {
 public:
  std::string unique(std::string_view text);

 private:
  std::unordered_map<std::string, int> taken_;
};

// A string literal, quotes included; bytes outside ASCII are escaped.
std::string string_literal(std::string_view text);

// Text that may stand in a // comment: no line ends, no control or direction-changing characters, no backslash at the end.
std::string comment_text(std::string_view text);

// The shortest literal that reads back as the same double; `infinity` and `not_a_number` are names of sscc_rt/views.h.
std::string double_literal(double value);
// A literal of type int64_t (or narrower).
std::string integer_literal(int64_t value);

// "{8, 32, 64}"
std::string braces(llvm::ArrayRef<int64_t> values);
// "a, b, c" broken into lines of at most 150 columns, each begun with `indent` and ended with a line end.
std::string wrapped(llvm::ArrayRef<std::string> words, std::string_view indent);

}  // namespace sscc
