#include "compiler/report/diagnostics_formats.h"

#include <map>
#include <nlohmann/json.hpp>

namespace sscc {

namespace {

using Json = nlohmann::ordered_json;  // keys in the order in which they are written below

const char* severity_text(Severity severity) {
  switch (severity) {
    case Severity::error: return "error";
    case Severity::warning: return "warning";
    case Severity::note: return "note";
  }
  return "";
}

std::string code_text(Code code) { return code == Code{} ? "" : "SSC" + std::to_string(static_cast<int>(code)); }

const char* meaning_of(Code code) {
  switch (code) {
#define SSCC_DIAGNOSTIC(number, name, meaning) \
  case Code::name:                             \
    return meaning;
#include "compiler/support/diagnostics.def"
#undef SSCC_DIAGNOSTIC
  }
  return "";
}

const char* name_of(Code code) {
  switch (code) {
#define SSCC_DIAGNOSTIC(number, name, meaning) \
  case Code::name:                             \
    return #name;
#include "compiler/support/diagnostics.def"
#undef SSCC_DIAGNOSTIC
  }
  return "";
}

// Names in a model are any bytes; what is not UTF-8 becomes U+FFFD.
std::string dumped(const Json& json, int indent) { return json.dump(indent, ' ', false, Json::error_handler_t::replace); }

Json sarif_location(const Diagnostic& diagnostic) {
  const Location& where = diagnostic.where;
  Json location = Json::object();
  if (!where.file.empty()) {
    location["physicalLocation"]["artifactLocation"]["uri"] = where.file;
    if (where.line > 0) location["physicalLocation"]["region"]["startLine"] = where.line;
    if (where.line > 0 && where.column > 0) location["physicalLocation"]["region"]["startColumn"] = where.column;
  }
  Json logical = Json::array();
  if (!where.pointer.empty()) logical.push_back({{"fullyQualifiedName", where.pointer}, {"kind", "element"}});
  if (!diagnostic.node.empty()) logical.push_back({{"name", diagnostic.node}, {"kind", "node"}});
  if (!logical.empty()) location["logicalLocations"] = std::move(logical);
  return location;
}

Json sarif_result(const Diagnostic& diagnostic, const std::map<Code, size_t>& rules) {
  Json result = Json::object();
  if (auto rule = rules.find(diagnostic.code); rule != rules.end()) {
    result["ruleId"] = code_text(diagnostic.code);
    result["ruleIndex"] = rule->second;
  }
  result["level"] = severity_text(diagnostic.severity);
  result["message"]["text"] = diagnostic.advice.empty() ? diagnostic.message : diagnostic.message + "; " + diagnostic.advice;
  Json location = sarif_location(diagnostic);
  if (!location.empty()) result["locations"] = Json::array({std::move(location)});
  return result;
}

}  // namespace

std::string to_json(const Diagnostics& diagnostics, int indent) {
  Json list = Json::array();
  for (const Diagnostic& d : diagnostics.all()) {
    list.push_back({{"severity", severity_text(d.severity)},
                    {"code", code_text(d.code)},
                    {"file", d.where.file},
                    {"line", d.where.line},
                    {"column", d.where.column},
                    {"pointer", d.where.pointer},
                    {"node", d.node},
                    {"message", d.message},
                    {"advice", d.advice},
                    {"warning", d.warning}});
  }
  return dumped(list, indent);
}

std::string to_sarif(const Diagnostics& diagnostics, const std::string& version) {
  std::map<Code, size_t> index_of_rule;
  for (const Diagnostic& d : diagnostics.all())
    if (d.code != Code{}) index_of_rule.emplace(d.code, 0);
  Json rules = Json::array();
  for (auto& [code, index] : index_of_rule) {
    index = rules.size();
    Json rule = {{"id", code_text(code)}, {"name", name_of(code)}};
    rule["shortDescription"]["text"] = meaning_of(code);
    rules.push_back(std::move(rule));
  }
  Json results = Json::array();
  for (const Diagnostic& d : diagnostics.all()) results.push_back(sarif_result(d, index_of_rule));

  Json run = Json::object();
  run["tool"]["driver"] = {{"name", "sscc"}, {"version", version}, {"rules", std::move(rules)}};
  run["columnKind"] = "unicodeCodePoints";
  run["results"] = std::move(results);
  Json log = {{"$schema", "https://json.schemastore.org/sarif-2.1.0.json"}, {"version", "2.1.0"}};
  log["runs"] = Json::array({std::move(run)});
  return dumped(log, 2) + "\n";
}

}  // namespace sscc
