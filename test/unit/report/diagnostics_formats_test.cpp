#include "compiler/report/diagnostics_formats.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

using namespace sscc;

namespace {

Diagnostics three() {
  Diagnostics diagnostics;
  diagnostics.error(Code::too_many_pieces, {"plan.json", 14, 5, "/transform/1"}, "too many pieces", "use at most 12", "/Softmax");
  diagnostics.warning("replicated", Code::replicated, {}, "repeated");
  diagnostics.note({"plan.json", 2, 1, ""}, "left out");
  return diagnostics;
}

}  // namespace

TEST_CASE("diagnostics as JSON hold every field") {
  CHECK(to_json(Diagnostics()) == "[]");
  auto list = nlohmann::json::parse(to_json(three()));
  REQUIRE(list.size() == 3);
  CHECK(list[0] == nlohmann::json({{"severity", "error"},
                                   {"code", "SSC2103"},
                                   {"file", "plan.json"},
                                   {"line", 14},
                                   {"column", 5},
                                   {"pointer", "/transform/1"},
                                   {"node", "/Softmax"},
                                   {"message", "too many pieces"},
                                   {"advice", "use at most 12"},
                                   {"warning", ""}}));
  CHECK(list[1]["warning"] == "replicated");
  CHECK(list[2]["code"] == "");
}

TEST_CASE("names that are not UTF-8 do not break the JSON") {
  Diagnostics diagnostics;
  diagnostics.error(Code::bad_graph, {}, "no producer", "", "node \xFF");
  CHECK(nlohmann::json::parse(to_json(diagnostics)).size() == 1);
}

TEST_CASE("SARIF has the codes as rules and the places as locations") {
  auto log = nlohmann::json::parse(to_sarif(three(), "1.2.3"));
  CHECK(log["version"] == "2.1.0");
  const auto& run = log["runs"][0];
  CHECK(run["tool"]["driver"]["version"] == "1.2.3");
  REQUIRE(run["tool"]["driver"]["rules"].size() == 2);
  CHECK(run["tool"]["driver"]["rules"][0]["id"] == "SSC2103");
  CHECK(run["tool"]["driver"]["rules"][0]["name"] == "too_many_pieces");
  REQUIRE(run["results"].size() == 3);
  const auto& error = run["results"][0];
  CHECK(error["level"] == "error");
  CHECK(error["ruleId"] == "SSC2103");
  CHECK(error["ruleIndex"] == 0);
  CHECK(error["message"]["text"] == "too many pieces; use at most 12");
  CHECK(error["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "plan.json");
  CHECK(error["locations"][0]["physicalLocation"]["region"]["startLine"] == 14);
  CHECK(error["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "/transform/1");
  CHECK_FALSE(run["results"][1].contains("locations"));
  CHECK_FALSE(run["results"][2].contains("ruleId"));
}
