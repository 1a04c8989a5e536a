#include "compiler/plan/parameters.h"

#include <nlohmann/json.hpp>

#include "compiler/support/strings.h"

namespace sscc {

namespace {

// The text of a --set option as a value: JSON where it is a number, a boolean or null, else a string.
JsonValue value_of_setting(const std::string& text) {
  JsonValue result;
  nlohmann::json parsed = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_null()) return result;
  if (parsed.is_boolean()) {
    result.kind = JsonValue::Kind::boolean;
    result.boolean = parsed.get<bool>();
  } else if (parsed.is_number()) {
    bool fits = parsed.is_number_unsigned() ? parsed.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX) : parsed.is_number_integer();
    result.kind = fits ? JsonValue::Kind::integer : JsonValue::Kind::real;
    result.real = parsed.get<double>();
    if (fits) result.integer = parsed.get<int64_t>();
  } else {
    result.kind = JsonValue::Kind::string;
    result.string = text;
  }
  return result;
}

std::string kind_text(const JsonValue& value) {
  switch (value.kind) {
    case JsonValue::Kind::null: return "null";
    case JsonValue::Kind::boolean: return "true or false";
    case JsonValue::Kind::integer: return "an integer";
    case JsonValue::Kind::real: return "a number";
    case JsonValue::Kind::string: return "a string";
    case JsonValue::Kind::array: return "a list";
    case JsonValue::Kind::object: return "an object";
  }
  return "";
}

void put_at(JsonValue& value, size_t begin, size_t end) {
  value.begin = begin;
  value.end = end;
  for (JsonValue::Key& key : value.keys) key.begin = begin;
  for (JsonValue& item : value.items) put_at(item, begin, end);
}

}  // namespace

Parameters::Parameters(const JsonDocument& plan, const Settings& settings, Diagnostics& diagnostics) : Reader(plan, diagnostics) {
  const JsonValue* params = plan.root().find("params");
  if (params && !params->is(Kind::object)) {
    wrong_type(*params, "an object of parameters and their defaults");
    return;
  }
  for (size_t i = 0; params && i < params->items.size(); ++i) values_.emplace(params->keys[i].name, params->items[i]);
  for (const auto& [name, text] : settings) apply(name, text);
}

std::vector<std::string> Parameters::names() const {
  std::vector<std::string> result;
  for (const auto& [name, value] : values_) result.push_back(name);
  return result;
}

void Parameters::apply(const std::string& name, const std::string& text) {
  auto found = values_.find(name);
  if (found == values_.end()) {
    const JsonValue* params = document_.root().find("params");
    std::string advice = did_you_mean(name, names());
    if (advice.empty()) advice = values_.empty() ? "the plan has no parameters" : "its parameters are " + join(names(), ", ");
    error(Code::unknown_parameter, at(params ? *params : document_.root()), "--set " + name + ": the plan has no parameter " + sscc::quoted(name),
          advice);
    return;
  }
  JsonValue& current = found->second;
  JsonValue value = value_of_setting(text);
  if (current.is(Kind::string) && !value.is(Kind::string)) {  // the default's type decides how a number is meant
    value = JsonValue{};
    value.kind = Kind::string;
    value.string = text;
  }
  if (current.is(Kind::real) && value.is(Kind::integer)) value.kind = Kind::real;
  if (!current.is(Kind::null) && value.kind != current.kind) {
    error(Code::wrong_type, at(current),
          "--set " + name + "=" + text + ": expected " + kind_text(current) + " as the default is, found " + value.description());
    return;
  }
  value.begin = current.begin;
  value.end = current.end;
  current = std::move(value);
}

const JsonValue* Parameters::lookup(const std::string& name, const JsonValue& user) {
  auto found = values_.find(name);
  if (found != values_.end()) return &found->second;
  std::string advice = did_you_mean(name, names());
  if (advice.empty()) advice = values_.empty() ? "the plan has no 'params'" : "its parameters are " + join(names(), ", ");
  error(Code::unknown_parameter, at(user), "the plan has no parameter " + sscc::quoted(name), advice);
  return nullptr;
}

void Parameters::substitute(JsonValue& value) {
  for (JsonValue& item : value.items) substitute(item);
  if (!value.is(Kind::string)) return;

  std::string result;
  size_t from = 0;
  for (size_t open = value.string.find("${"); open != std::string::npos; open = value.string.find("${", from)) {
    size_t close = value.string.find('}', open);
    if (close == std::string::npos) {
      error(Code::wrong_type, at(value), "'${' without '}' in " + value.description());
      return;
    }
    const JsonValue* parameter = lookup(value.string.substr(open + 2, close - open - 2), value);
    if (!parameter) return;
    if (open == 0 && close + 1 == value.string.size()) {
      size_t begin = value.begin, end = value.end;
      value = *parameter;
      put_at(value, begin, end);
      return;
    }
    if (parameter->is(Kind::array) || parameter->is(Kind::object)) {
      error(Code::wrong_type, at(value), "a parameter that is " + kind_text(*parameter) + " cannot stand inside a longer string");
      return;
    }
    result += value.string.substr(from, open - from) + (parameter->is(Kind::string) ? parameter->string : parameter->dump());
    from = close + 1;
  }
  if (from > 0) value.string = result + value.string.substr(from);
}

std::map<std::string, std::string> Parameters::texts() const {
  std::map<std::string, std::string> result;
  for (const auto& [name, value] : values_) result[name] = value.dump();
  return result;
}

}  // namespace sscc
