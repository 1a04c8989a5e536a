#include "compiler/plan/json_document.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "compiler/support/strings.h"

namespace sscc {

namespace {

// The plan language nests about ten deep.
constexpr int deepest_nesting = 64;

struct Malformed {
  size_t at;
  std::string message, advice;
};

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  JsonValue document() {
    if (text_.substr(0, 3) == "\xEF\xBB\xBF") at_ = 3;  // a byte order mark says nothing in UTF-8
    JsonValue result = value(0);
    skip_space();
    if (at_ < text_.size()) fail("expected the end of the file, found " + found());
    return result;
  }

 private:
  using Kind = JsonValue::Kind;

  [[noreturn]] void fail(std::string message, std::string advice = "") const { throw Malformed{at_, std::move(message), std::move(advice)}; }

  std::string found() const {
    if (at_ >= text_.size()) return "the end of the file";
    auto c = static_cast<unsigned char>(text_[at_]);
    if (c < 0x20 || c >= 0x7F) return "a byte of value " + std::to_string(c);
    return sscc::quoted(text_.substr(at_, 1));
  }

  void skip_space() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) ++at_;
    if (at_ < text_.size() && (text_[at_] == '/' || text_[at_] == '#')) fail("expected JSON, found a comment", "JSON has no comments");
  }

  bool take(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  JsonValue value(int depth) {
    skip_space();
    if (depth > deepest_nesting) fail("more than " + std::to_string(deepest_nesting) + " values are nested in each other");
    JsonValue result;
    result.begin = at_;
    char c = at_ < text_.size() ? text_[at_] : '\0';
    if (c == '{') {
      object(result, depth);
    } else if (c == '[') {
      array(result, depth);
    } else if (c == '"') {
      result.kind = Kind::string;
      result.string = string();
    } else if (c == '-' || (c >= '0' && c <= '9')) {
      number(result);
    } else if (!word(result)) {
      fail("expected a value, found " + found(), c == ']' || c == '}' ? "the comma before it is one too many" : "");
    }
    result.end = at_;
    return result;
  }

  void array(JsonValue& result, int depth) {
    result.kind = Kind::array;
    ++at_;
    if (take(']')) return;
    do result.items.push_back(value(depth + 1));
    while (take(','));
    if (!take(']')) fail("expected ',' or ']', found " + found());
  }

  void object(JsonValue& result, int depth) {
    result.kind = Kind::object;
    ++at_;
    if (take('}')) return;
    std::set<std::string> seen;
    do {
      skip_space();
      if (at_ >= text_.size() || text_[at_] != '"') fail("expected a key in double quotes, found " + found());
      size_t begin = at_;
      std::string name = string();
      if (!seen.insert(name).second) {
        at_ = begin;
        fail("the key " + sscc::quoted(name) + " stands twice in one object", "remove one of the two");
      }
      result.keys.push_back({std::move(name), begin});
      if (!take(':')) fail("expected ':', found " + found());
      result.items.push_back(value(depth + 1));
    } while (take(','));
    if (!take('}')) fail("expected ',' or '}', found " + found());
  }

  std::string string() {
    size_t begin = at_++;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (static_cast<unsigned char>(text_[at_]) < 0x20) fail("expected '\"' at the end of a string, found " + found());
      at_ += text_[at_] == '\\' ? 2 : 1;
    }
    if (at_ >= text_.size()) {
      at_ = text_.size();
      fail("expected '\"' at the end of a string, found the end of the file");
    }
    ++at_;
    nlohmann::json token = nlohmann::json::parse(text_.substr(begin, at_ - begin), nullptr, /*allow_exceptions=*/false);
    if (!token.is_string()) {
      at_ = begin;
      fail("a string with a wrong escape or that is not UTF-8");
    }
    return token.get<std::string>();
  }

  void number(JsonValue& result) {
    size_t begin = at_;
    while (at_ < text_.size() && std::string_view("0123456789+-.eE").find(text_[at_]) != std::string_view::npos) ++at_;
    std::string_view digits = text_.substr(begin, at_ - begin);
    nlohmann::json token = nlohmann::json::parse(digits, nullptr, /*allow_exceptions=*/false);
    if (!token.is_number()) {
      at_ = begin;
      fail("expected a number, found " + sscc::quoted(digits));
    }
    result.real = token.get<double>();
    bool fits = token.is_number_unsigned() ? token.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX) : token.is_number_integer();
    result.kind = fits ? Kind::integer : Kind::real;
    if (fits) result.integer = token.get<int64_t>();
  }

  bool word(JsonValue& result) {
    auto starts = [&](std::string_view w) {
      if (text_.substr(at_, w.size()) != w) return false;
      at_ += w.size();
      return true;
    };
    if (starts("null")) return true;
    result.kind = Kind::boolean;
    result.boolean = starts("true");
    return result.boolean || starts("false");
  }

  std::string_view text_;
  size_t at_ = 0;
};

std::string escaped(const std::string& key) {
  std::string result;
  for (char c : key) result += c == '~' ? "~0" : c == '/' ? "~1" : std::string(1, c);
  return result;
}

std::string dumped(const std::string& text) { return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace); }

}  // namespace

const JsonValue* JsonValue::find(std::string_view key) const {
  for (size_t i = 0; i < keys.size(); ++i)
    if (keys[i].name == key) return &items[i];
  return nullptr;
}

std::string JsonValue::description() const {
  constexpr size_t longest = 60;
  switch (kind) {
    case Kind::null: return "null";
    case Kind::boolean: return boolean ? "true" : "false";
    case Kind::integer:
    case Kind::real: return "the number " + dump();
    case Kind::string: return string.size() > longest ? "a long string" : "the string " + sscc::quoted(string);
    case Kind::array: return items.empty() ? "an empty list" : "a list";
    case Kind::object: return "an object";
  }
  return "";
}

std::string JsonValue::dump() const {
  switch (kind) {
    case Kind::null: return "null";
    case Kind::boolean: return boolean ? "true" : "false";
    case Kind::integer: return std::to_string(integer);
    case Kind::real: return nlohmann::json(real).dump();
    case Kind::string: return dumped(string);
    case Kind::array:
    case Kind::object: break;
  }
  std::string result(1, kind == Kind::array ? '[' : '{');
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) result += ", ";
    if (kind == Kind::object) result += dumped(keys[i].name) + ": ";
    result += items[i].dump();
  }
  return result + (kind == Kind::array ? ']' : '}');
}

JsonDocument::JsonDocument(std::string_view text, std::string file, Diagnostics& diagnostics) : file_(std::move(file)), text_(text) {
  line_starts_.push_back(0);
  for (size_t i = 0; i < text_.size(); ++i)
    if (text_[i] == '\n') line_starts_.push_back(i + 1);
  try {
    root_ = Parser(text_).document();
    ok_ = true;
  } catch (const Malformed& malformed) {
    diagnostics.error(Code::malformed_json, position(malformed.at), "malformed JSON: " + malformed.message, malformed.advice);
  }
}

Location JsonDocument::position(size_t offset) const {
  auto next_line = std::upper_bound(line_starts_.begin(), line_starts_.end(), offset);
  size_t start = *(next_line - 1);
  // A character begins at each byte that does not continue a UTF-8 sequence.
  auto column = std::count_if(text_.begin() + static_cast<std::ptrdiff_t>(start), text_.begin() + static_cast<std::ptrdiff_t>(offset),
                              [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
  return {file_, static_cast<int>(next_line - line_starts_.begin()), static_cast<int>(column) + 1, ""};
}

std::string JsonDocument::pointer_to(size_t begin, size_t end) const {
  std::string pointer;
  const JsonValue* at = &root_;
  while (!(at->begin == begin && at->end == end) && !at->items.empty()) {
    auto after = std::upper_bound(at->items.begin(), at->items.end(), begin, [](size_t b, const JsonValue& item) { return b < item.begin; });
    if (after == at->items.begin()) break;
    size_t index = static_cast<size_t>(after - at->items.begin()) - 1;
    pointer += "/" + (at->is(JsonValue::Kind::object) ? escaped(at->keys[index].name) : std::to_string(index));
    at = &at->items[index];
  }
  return pointer;
}

Location JsonDocument::locate(const JsonValue& value) const {
  Location where = position(value.begin);
  where.pointer = pointer_to(value.begin, value.end);
  return where;
}

Location JsonDocument::locate_key(const JsonValue& object, size_t index) const {
  const JsonValue& value = object.items[index];
  Location where = position(object.keys[index].begin);
  where.pointer = pointer_to(value.begin, value.end);
  return where;
}

}  // namespace sscc
