#include "compiler/plan/reader.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "compiler/support/strings.h"

namespace sscc {

Location Reader::at_key(const JsonValue& object, const char* key) const {
  for (size_t i = 0; i < object.keys.size(); ++i)
    if (object.keys[i].name == key) return document_.locate_key(object, i);
  return at(object);
}

void Reader::wrong_type(const JsonValue& value, const std::string& expected, const std::string& advice) {
  error(Code::wrong_type, at(value), "expected " + expected + ", found " + value.description(), advice);
}

void Reader::refuse(Feature feature, Location where, const std::string& detail) {
  const Refusal* refusal = refusal_of(feature);
  if (!refusal) return;
  error(Code::unsupported, std::move(where),
        refusal->what + (detail.empty() ? "" : " " + quoted(detail)) + " is not supported by this version of sscc", refusal->advice);
}

bool Reader::expect_object(const JsonValue& value, const language::Keys& keys, const std::string& expected) {
  if (!value.is(Kind::object)) {
    wrong_type(value, expected);
    return false;
  }
  for (size_t i = 0; i < value.keys.size(); ++i) {
    const std::string& name = value.keys[i].name;
    if (std::find(keys.keys.begin(), keys.keys.end(), name) != keys.keys.end()) continue;
    std::string advice = did_you_mean(name, keys.keys);
    if (advice.empty()) advice = "the keys here are " + join(keys.keys, ", ");
    error(Code::unknown_key, document_.locate_key(value, i), "unknown key " + quoted(name), advice);
  }
  return true;
}

bool Reader::expect_array(const JsonValue& value, const std::string& expected) {
  if (value.is(Kind::array)) return true;
  wrong_type(value, expected);
  return false;
}

const JsonValue* Reader::expect_key(const JsonValue& object, const char* key, const std::string& advice) {
  const JsonValue* value = object.find(key);
  if (!value) error(Code::missing_key, at(object), "the key " + quoted(key) + " is missing", advice);
  return value;
}

std::optional<std::string> Reader::expect_string(const JsonValue& value, const std::string& expected) {
  if (value.is(Kind::string)) return value.string;
  wrong_type(value, expected);
  return {};
}

std::optional<int64_t> Reader::expect_integer(const JsonValue& value, int64_t lowest, int64_t highest, const std::string& expected) {
  if (value.is(Kind::integer) && value.integer >= lowest && value.integer <= highest) return value.integer;
  wrong_type(value, expected);
  return {};
}

std::optional<double> Reader::expect_number(const JsonValue& value, double lowest, double highest, const std::string& expected) {
  if (value.is_number() && std::isfinite(value.real) && value.real >= lowest && value.real < highest) return value.real;
  wrong_type(value, expected);
  return {};
}

std::optional<bool> Reader::expect_boolean(const JsonValue& value) {
  if (value.is(Kind::boolean)) return value.boolean;
  wrong_type(value, "true or false");
  return {};
}

std::optional<std::string> Reader::expect_word(const JsonValue& value, const language::Words& words) {
  std::string kind = words.name;
  std::replace(kind.begin(), kind.end(), '_', ' ');
  if (!value.is(Kind::string)) {
    wrong_type(value, "the name of a " + kind, "one of " + join(words.words, ", "));
    return {};
  }
  if (std::find(words.words.begin(), words.words.end(), value.string) != words.words.end()) return value.string;
  std::string near = did_you_mean(value.string, words.words);
  error(Code::wrong_type, at(value), quoted(value.string) + " is no " + kind, (near.empty() ? "" : near + " ") + "one of " + join(words.words, ", "));
  return {};
}

std::vector<std::string> Reader::expect_strings(const JsonValue& value, const std::string& expected) {
  std::vector<std::string> result;
  if (!expect_array(value, expected)) return result;
  for (const JsonValue& item : value.items)
    if (auto text = expect_string(item)) result.push_back(*text);
  return result;
}

std::optional<std::vector<int64_t>> Reader::expect_integers(const JsonValue& value, int64_t lowest, int64_t highest, const std::string& expected) {
  if (!expect_array(value, expected)) return {};
  std::vector<int64_t> result;
  for (const JsonValue& item : value.items) {
    auto number = expect_integer(item, lowest, highest, expected);
    if (!number) return {};
    result.push_back(*number);
  }
  if (!result.empty()) return result;
  wrong_type(value, expected);
  return {};
}

std::optional<int64_t> Reader::expect_bytes(const JsonValue& value) {
  static const std::pair<const char*, double> units[] = {{"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}, {"KB", 1e3},
                                                         {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12},    {"B", 1}};
  const std::string expected = "a number of bytes above 0, or a size like \"80GiB\"";
  if (!value.is(Kind::string)) return expect_integer(value, 1, largest, expected);
  size_t digits = std::min(value.string.find_first_not_of("0123456789."), value.string.size());
  std::string_view unit = std::string_view(value.string).substr(digits);
  unit.remove_prefix(std::min(unit.find_first_not_of(' '), unit.size()));
  char* end = nullptr;
  double amount = std::strtod(value.string.c_str(), &end);
  for (const auto& [name, bytes] : units)
    if (unit == name && end == value.string.c_str() + digits && amount * bytes >= 1 && amount * bytes < 0x1p62)
      return static_cast<int64_t>(std::llround(amount * bytes));
  wrong_type(value, expected);
  return {};
}

}  // namespace sscc
