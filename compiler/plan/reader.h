// What the readers of plan and recipe share: typed values out of a JSON tree, each mistake reported where it stands.
//
// Each `expect` function reports `wrong_type` (or what it says) and returns nothing where the value is not what is asked for; the caller goes
// on with the next key, so that one run shows every mistake.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "compiler/plan/json_document.h"
#include "compiler/plan/language.h"
#include "compiler/plan/refusals.h"
#include "compiler/support/diagnostics.h"

namespace sscc {

class Reader {
 public:
  Reader(const JsonDocument& document, Diagnostics& diagnostics) : document_(document), diagnostics_(diagnostics) {}

 protected:
  using Kind = JsonValue::Kind;
  static constexpr int64_t largest = std::numeric_limits<int64_t>::max();

  Location at(const JsonValue& value) const { return document_.locate(value); }
  // The place of a key that is there.
  Location at_key(const JsonValue& object, const char* key) const;

  void error(Code code, Location where, std::string message, std::string advice = "") {
    diagnostics_.error(code, std::move(where), std::move(message), std::move(advice));
  }
  void wrong_type(const JsonValue& value, const std::string& expected, const std::string& advice = "");
  // A value that is there but that this version does not do. `detail` is added to the table's words in quotes.
  void refuse(Feature feature, Location where, const std::string& detail = "");

  // An object, all of whose keys the language has. Unknown keys are reported and do not make the object useless.
  bool expect_object(const JsonValue& value, const language::Keys& keys, const std::string& expected = "an object");
  bool expect_array(const JsonValue& value, const std::string& expected);
  // The key's value; `missing_key` if it is not there.
  const JsonValue* expect_key(const JsonValue& object, const char* key, const std::string& advice = "");
  std::optional<std::string> expect_string(const JsonValue& value, const std::string& expected = "a string");
  std::optional<int64_t> expect_integer(const JsonValue& value, int64_t lowest, int64_t highest, const std::string& expected);
  // In [lowest, highest), or [lowest, highest] where that is infinity.
  std::optional<double> expect_number(const JsonValue& value, double lowest, double highest, const std::string& expected);
  std::optional<bool> expect_boolean(const JsonValue& value);
  std::optional<std::string> expect_word(const JsonValue& value, const language::Words& words);
  std::vector<std::string> expect_strings(const JsonValue& value, const std::string& expected);
  std::optional<std::vector<int64_t>> expect_integers(const JsonValue& value, int64_t lowest, int64_t highest, const std::string& expected);
  // A number of bytes, or a size like "80GiB".
  std::optional<int64_t> expect_bytes(const JsonValue& value);

  const JsonDocument& document_;
  Diagnostics& diagnostics_;
};

}  // namespace sscc
