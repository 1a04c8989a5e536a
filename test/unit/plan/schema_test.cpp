// plans/plan.schema.json and plans/cluster.schema.json hold the same keys and words as the reader's table (compiler/plan/language.cpp), no more and no
// fewer.
#include "compiler/plan/language.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

using namespace sscc;
using Json = nlohmann::json;

namespace {

Json schema(const std::string& name = "plan") {
  std::ifstream file(std::string(SSCC_SOURCE_DIR) + "/plans/" + name + ".schema.json");
  REQUIRE(file.good());
  return Json::parse(file);
}

std::set<std::string> keys_of(const Json& definition) {
  std::set<std::string> keys;
  for (const auto& item : definition.at("properties").items()) keys.insert(item.key());
  return keys;
}

template <class List>
std::set<std::string> set_of(const List& list) {
  return {list.begin(), list.end()};
}

// Every "$ref" under `value`.
void collect_references(const Json& value, std::set<std::string>& references) {
  if (value.is_object() && value.contains("$ref")) references.insert(value["$ref"].get<std::string>());
  if (value.is_structured())
    for (const Json& item : value) collect_references(item, references);
}

void compare_keys(const Json& root, const std::vector<const language::Keys*>& all, const language::Keys& top) {
  std::set<std::string> named;
  for (const language::Keys* keys : all) {
    named.insert(keys->name);
    INFO(keys->name);
    const bool is_top = keys == &top;
    REQUIRE((is_top || root["$defs"].contains(keys->name)));
    const Json& definition = is_top ? root : root["$defs"][keys->name];
    CHECK(keys_of(definition) == set_of(keys->keys));
    CHECK(set_of(keys->keys).size() == keys->keys.size());
    CHECK(definition["additionalProperties"] == false);
  }
  for (const auto& item : root["$defs"].items())
    if (item.value().contains("properties")) CHECK(named.count(item.key()) == 1);
}

}  // namespace

TEST_CASE("the schemas have the keys of every object that the reader knows, and no other") {
  compare_keys(schema(), language::all_keys(), language::plan);
  compare_keys(schema("cluster"), language::cluster_keys(), language::cluster);
}

TEST_CASE("the schema has the reader's words") {
  const Json root = schema();
  std::set<std::string> named;
  for (const language::Words* words : language::all_words()) {
    named.insert(words->name);
    INFO(words->name);
    REQUIRE(root["$defs"].contains(words->name));
    CHECK(set_of(root["$defs"][words->name]["enum"].get<std::vector<std::string>>()) == set_of(words->words));
  }
  for (const auto& item : root["$defs"].items())
    if (item.value().contains("enum")) CHECK(named.count(item.key()) == 1);
  for (const std::string& kind : language::loss_kinds.words) CHECK(root["$defs"]["loss_" + kind]["properties"]["kind"]["const"] == kind);
  CHECK(root["$defs"]["optimizer_sgd"]["properties"]["kind"]["const"] == "sgd");
  CHECK(root["$defs"]["optimizer_adam"]["properties"]["kind"]["enum"] == Json({"adam", "adamw"}));
}

TEST_CASE("every reference of the schemas leads somewhere, and every definition is used") {
  for (const char* name : {"plan", "cluster"}) {
    const Json root = schema(name);
    std::set<std::string> references;
    collect_references(root, references);
    for (const std::string& reference : references) {
      INFO(reference);
      REQUIRE(reference.rfind("#/", 0) == 0);
      CHECK(root.contains(Json::json_pointer(reference.substr(1))));
    }
    for (const auto& item : root["$defs"].items()) CHECK(references.count("#/$defs/" + item.key()) == 1);
  }
}
