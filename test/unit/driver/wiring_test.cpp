// One rank of each class is walked for all: what the walk tells of it must be what a walk of all ranks tells of each.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <set>

#include "compiler/driver/compile.h"
#include "compiler/program/check.h"
#include "compiler/program/walk.h"
#include "compiler/support/check.h"

namespace sscc {
namespace {

Programs compiled(const std::string& model, const std::string& plan) {
  const std::string data = std::string(SSCC_SOURCE_DIR) + "/test/data/models/" + model;
  const std::filesystem::path path = std::filesystem::temp_directory_path() / ("sscc_wiring_" + std::to_string(getpid()) + ".json");
  std::ofstream(path) << plan;
  Compilation c;
  Diagnostics diagnostics;
  Request request;
  request.model = data + "/model.onnx";
  request.plan = path.string();
  request.recipe = data + "/train.json";
  REQUIRE(compile(request, c, diagnostics));
  std::filesystem::remove(path);
  return std::move(c.programs);
}

// When each rank ends its step, if every instruction takes one unit of time.
std::vector<int> ends(const Programs& programs, const Wiring& wiring) {
  std::vector<int> clock(programs.ranks.size(), 0);
  std::map<int64_t, int> sent;
  Visitor visitor;
  visitor.instruction = [&](const Step& step) {
    int& now = clock[static_cast<size_t>(step.rank)];
    if (step.what->opcode == Opcode::send) sent[step.message] = now;
    if (step.what->opcode == Opcode::receive) now = std::max(now, sent.at(step.message));
    ++now;
    return true;
  };
  visitor.collective = [&](const std::vector<Step>& members) {
    int latest = 0;
    for (const Step& member : members) latest = std::max(latest, clock[static_cast<size_t>(member.rank)]);
    for (const Step& member : members) clock[static_cast<size_t>(member.rank)] = latest + 1;
    return true;
  };
  REQUIRE(walk(programs, wiring, visitor).stuck.empty());
  return clock;
}

const std::string tensor = R"({"axis": "layers.*.mlp.up.weight:1", "split": "tp"}, {"axis": "*/Softmax:-3", "split": "tp"})";
const std::string stages = R"("assign": [{"stages": "pp", "cut_before": ["/layers.2/*"]}], "order": {"schedule": "1f1b"})";

struct Case {
  std::string model, plan;
  size_t classes;  // 0: as many as there are ranks, or none are found
};
const Case cases[] = {
    {"gpt", R"({"mesh": {"dp": 8}, "transform": [{"axis": "input_ids:0", "split": "dp"}]})", 1},
    {"gpt", R"({"mesh": {"dp": 2, "tp": 4}, "transform": [{"axis": "input_ids:0", "split": "dp"}, )" + tensor + "]}",
     2},  // ranks of one half of the heads take the norm of what is not divided
    {"gpt",
     R"({"mesh": {"pp": 2, "dp": 2, "tp": 2}, "transform": [{"axis": "input_ids:0", "split": {"time": 4}}, {"axis": "input_ids:0", "split": "dp"}, )" +
         tensor + "], " + stages + "}",
     4},
    {"gpt", R"({"mesh": {"d": 3}, "assign": [{"ops": "/layers.0/*", "on": 1}, {"ops": "/layers.1/*", "on": 2}]})", 0},
    {"mlp", R"({"mesh": {"d": 5}, "transform": [{"axis": "x:0", "split": {"over": "d", "sizes": [1, 2, 2, 1, 2]}}]})", 0},
};

}  // namespace

TEST_CASE("a representative ends its step when the ranks of its class do") {
  for (const Case& each : cases) {
    INFO(each.plan);
    const Programs programs = compiled(each.model, R"({"version": 1, )" + each.plan.substr(1));
    const std::optional<Wiring> classes = folded(programs);
    if (each.classes > 0) REQUIRE(classes);
    if (!classes) continue;
    const std::set<int32_t> representatives(classes->representative.begin(), classes->representative.end());
    if (each.classes > 0) CHECK(representatives.size() == each.classes);
    const std::vector<int> all = ends(programs, wiring_of(programs)), few = ends(programs, *classes);
    for (size_t r = 0; r < all.size(); ++r) CHECK(all[r] == few[static_cast<size_t>(classes->representative[r])]);
  }
}

TEST_CASE("a rank that calls another group than its class is not taken for one of it") {
  Programs programs =
      compiled("gpt", R"({"version": 1, "mesh": {"dp": 2, "tp": 2}, "transform": [{"axis": "input_ids:0", "split": "dp"}, )" + tensor + "]}");
  REQUIRE(folded(programs));
  std::vector<std::vector<int32_t>>& groups = programs.ranks[3].constants.groups;
  REQUIRE(groups.size() >= 2);
  std::swap(groups[0], groups[1]);
  Diagnostics diagnostics;
  CHECK_FALSE(check_deadlock(programs, diagnostics));
}

}  // namespace sscc
