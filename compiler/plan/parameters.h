// A plan's parameters: defaults from `params`, overridden by --set, put in place of ${name} in the whole plan.
#pragma once

#include <map>
#include <string>

#include "compiler/plan/plan.h"
#include "compiler/plan/reader.h"

namespace sscc {

class Parameters : private Reader {
 public:
  // Reads `params` of the plan and applies the settings, in order.
  Parameters(const JsonDocument& plan, const Settings& settings, Diagnostics& diagnostics);

  // Replaces every string in `value` that is "${name}" by the parameter's value, and "${name}" inside a longer string by its text.
  // What is put in stands where the string stood.
  void substitute(JsonValue& value);

  // The final values as JSON text.
  std::map<std::string, std::string> texts() const;

 private:
  void apply(const std::string& name, const std::string& text);
  const JsonValue* lookup(const std::string& name, const JsonValue& user);
  std::vector<std::string> names() const;

  std::map<std::string, JsonValue> values_;
};

}  // namespace sscc
