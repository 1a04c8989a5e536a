#include "compiler/codegen/source_text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <unordered_set>

#include "llvm/Support/JSON.h"

namespace sscc {
namespace {

constexpr size_t columns = 150;
constexpr size_t longest_identifier = 80;

bool is_reserved(const std::string& word) {
  // Keywords of C++20, and lower-case names that are macros in common headers.
  static const std::unordered_set<std::string> words = {
      "alignas",  "alignof",  "and",       "and_eq",       "asm",       "auto",       "bitand",        "bitor",       "bool",
      "break",    "case",     "catch",     "char",         "char8_t",   "char16_t",   "char32_t",      "class",       "compl",
      "concept",  "const",    "consteval", "constexpr",    "constinit", "const_cast", "continue",      "co_await",    "co_return",
      "co_yield", "decltype", "default",   "delete",       "do",        "double",     "dynamic_cast",  "else",        "enum",
      "explicit", "export",   "extern",    "false",        "float",     "for",        "friend",        "goto",        "if",
      "inline",   "int",      "long",      "mutable",      "namespace", "new",        "noexcept",      "not",         "not_eq",
      "nullptr",  "operator", "or",        "or_eq",        "private",   "protected",  "public",        "register",    "reinterpret_cast",
      "requires", "return",   "short",     "signed",       "sizeof",    "static",     "static_assert", "static_cast", "struct",
      "switch",   "template", "this",      "thread_local", "throw",     "true",       "try",           "typedef",     "typeid",
      "typename", "union",    "unsigned",  "using",        "virtual",   "void",       "volatile",      "wchar_t",     "while",
      "xor",      "xor_eq",   "assert",    "errno",        "stdin",     "stdout",     "stderr",        "offsetof",    "linux",
      "unix",     "isnan",    "isinf",     "signbit",      "count"};
  return words.contains(word);
}

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string identifier(std::string_view text) {
  std::string word;
  for (const char c : text) {
    if (is_letter(c) || is_digit(c)) {
      word += c;
    } else if (!word.empty() && word.back() != '_') {
      word += '_';
    }
  }
  while (!word.empty() && word.back() == '_') word.pop_back();
  if (word.size() > longest_identifier) word = word.substr(0, longest_identifier);
  const bool has_lower_case = word.find_first_of("abcdefghijklmnopqrstuvwxyz") != std::string::npos;
  if (word.empty() || is_digit(word[0]) || !has_lower_case) word = "n_" + word;  // all capitals may be a macro
  if (is_reserved(word)) word += "_of_model";
  return word;
}

}  // namespace

std::string Identifiers::unique(std::string_view text) {
  const std::string word = identifier(text);
  std::string candidate = word;
  // A number at the end of another name may have taken the candidate already, hence the loop.
  for (int& count = taken_[word]; count > 0 && taken_.contains(candidate);) candidate = word + "_" + std::to_string(++count);
  taken_[candidate] = std::max(taken_[candidate], 1);
  return candidate;
}

std::string string_literal(std::string_view text) {
  std::string literal = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      literal += '\\';
      literal += c;
    } else if (byte < 0x20 || byte >= 0x7f) {
      std::array<char, 5> octal{};
      std::snprintf(octal.data(), octal.size(), "\\%03o", static_cast<unsigned>(byte));
      literal += octal.data();
    } else {
      literal += c;
    }
  }
  return literal + "\"";
}

std::string comment_text(std::string_view text) {
  const bool keep_utf8 = llvm::json::isUTF8(llvm::StringRef(text.data(), text.size()));
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    // U+2000..U+207F hold the characters that change the direction of writing.
    const bool general_punctuation = byte == 0xe2 && i + 2 < text.size() && (static_cast<unsigned char>(text[i + 1]) & 0xfe) == 0x80;
    if (byte < 0x20 || byte == 0x7f || (byte >= 0x80 && !keep_utf8)) {
      result += '?';
    } else if (general_punctuation) {
      result += '?';
      i += 2;
    } else {
      result += text[i];
    }
  }
  if (!result.empty() && result.back() == '\\') result += " .";
  return result;
}

std::string double_literal(double value) {
  if (std::isnan(value)) return "not_a_number";
  if (std::isinf(value)) return value > 0 ? "infinity" : "-infinity";
  std::array<char, 40> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  std::string literal(text.data(), end);
  if (literal.find_first_of(".e") == std::string::npos) literal += ".0";
  return literal;
}

std::string integer_literal(int64_t value) { return value == INT64_MIN ? "INT64_MIN" : std::to_string(value); }

std::string braces(llvm::ArrayRef<int64_t> values) {
  std::string text = "{";
  for (size_t i = 0; i < values.size(); ++i) text += (i ? ", " : "") + integer_literal(values[i]);
  return text + "}";
}

std::string wrapped(llvm::ArrayRef<std::string> words, std::string_view indent) {
  std::string text;
  std::string line;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string word = words[i] + (i + 1 < words.size() ? "," : "");
    if (!line.empty() && indent.size() + line.size() + 1 + word.size() > columns) {
      text.append(indent).append(line).append("\n");
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
  }
  if (!line.empty()) text.append(indent).append(line).append("\n");
  return text;
}

}  // namespace sscc
