// The checkers are checked: good programs are accepted, and programs that were damaged in one place are refused, for every kind of damage.
//
//   mutation [--programs N] [--seed S]
//
// Each kind is done to programs of named models and to N programs of random models and random plans. A damaged program that the checkers accept must
// be harmless: in every order tried of those that its streams and waits allow, it runs to its end and computes, bit for bit, what the good one computes.
// Such changes are counted and listed; any other accepted one is a failure.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <set>

#include "compiler/simulate/other_order.h"
#include "test/equivalence/damage.h"
#include "test/equivalence/random_plan.h"
#include "test/equivalence/trial.h"

namespace sscc::equivalence {
namespace {

constexpr int orders = 8;

// -- good programs ----------------------------------------------------------------------------------------------------------------------------------

struct Good {
  std::string name;
  Compilation compilation;
  std::string data;
  int64_t steps = 2;
};

struct Fixture {
  const char* model;  // below test/data: a folder, or what names of files in "small" begin with
  const char* plan;
};

const Fixture fixtures[] = {
    {"models/mlp", R"({"mesh": {"dp": 2}, "transform": [{"axis": "x:0", "split": "dp"}]})"},
    {"models/mlp", R"({"mesh": {"dp": 4}, "transform": [{"axis": "x:0", "split": "dp"}, {"axis": "x:0", "split": {"time": 2}}]})"},
    {"models/mlp", R"({"mesh": {"tp": 2}, "transform": [{"axis": "fc1.weight:0", "split": "tp"}]})"},
    {"models/mlp", R"({"mesh": {"a": 2, "b": 2}, "transform": [{"axis": "x:0", "split": "a"}, {"axis": "fc2.weight:0", "split": "b"}]})"},
    {"models/mlp", R"({"mesh": {"pp": 2}, "transform": [{"axis": "x:0", "split": {"time": 4}}],
                       "assign": [{"stages": "pp", "cut_before": ["/fc3/Gemm"]}], "order": {"schedule": "1f1b"}})"},
    {"models/mlp", R"({"mesh": {"pp": 2, "dp": 2}, "transform": [{"axis": "x:0", "split": {"time": 2}}, {"axis": "x:0", "split": "dp"}],
                       "assign": [{"stages": "pp", "cut_before": ["/fc2/Gemm"]}], "order": {"schedule": "gpipe"}})"},
    {"models/mlp", R"({"mesh": {"pp": 2}, "transform": [{"axis": "x:0", "split": {"time": 4}}],
                       "assign": [{"stages": "pp", "cut_before": ["/fc2/Gemm"], "place": [[0, 1], 1]}], "order": {"schedule": "gpipe"}})"},
    {"models/mlp", R"({"mesh": {"pp": 2}, "transform": [{"axis": "x:0", "split": {"time": 4}}, {"state": "fc1.*", "store": {"pp": 1}}],
                       "assign": [{"stages": "pp", "cut_before": ["/fc3/Gemm"], "place": [[0, 1], [1, 0]]}]})"},
    {"models/mlp", R"({"mesh": {"dp": 2}, "transform": [{"axis": "x:0", "split": "dp"}, {"ops": {"phase": "update"}, "dim": "d0", "split": "dp"}]})"},
    {"models/gpt", R"({"mesh": {"dp": 2}, "transform": [{"axis": "input_ids:0", "split": "dp"}]})"},
    {"models/gpt",
     R"({"precision": "bf16", "mesh": {"dp": 2, "tp": 2}, "transform": [{"axis": "input_ids:0", "split": "dp"}, {"axis": "*/Softmax:-3", "split": "tp"},
                       {"axis": "wte.weight:0", "split": "tp"}, {"parameters": "*", "store": {"split": "dp"}}]})"},
    {"models/gpt",
     R"({"mesh": {"tp": 2}, "transform": [{"axis": "layers.*.mlp.up.weight:1", "split": "tp"}, {"axis": "*/Softmax:-3", "split": "tp"}]})"},
    {"models/gpt", R"({"mesh": {"tp": 2}, "transform": [{"axis": "wte.weight:0", "split": "tp"}, {"axis": "*/Softmax:-3", "split": "tp"}]})"},
    {"models/gpt", R"({"mesh": {"cp": 2}, "transform": [{"axis": "input_ids:1", "split": "cp"}]})"},
    {"models/gpt", R"({"mesh": {"cp": 2}, "transform": [{"axis": "*/Softmax:-3", "split": "cp", "within": ["/layers.*/attn/[RTMW]*",
                       "/layers.*/attn/Softmax"]}, {"axis": "input_ids:1", "split": "cp"}]})"},
    {"models/gpt", R"({"mesh": {"a": 2, "b": 2}, "transform": [{"ops": "/layers.1/mlp/down/MatMul", "dim": "k", "split": "a"},
                       {"ops": "/layers.1/mlp/down/MatMul", "dim": "n", "split": "b"}]})"},
    {"models/gpt", R"({"mesh": {"tp": 3}, "transform": [{"axis": "*/Softmax:-3", "split": "tp"}]})"},
    {"models/gpt", R"({"mesh": {"pp": 2}, "transform": [{"axis": "input_ids:0", "split": {"time": 4}}],
                       "assign": [{"stages": "pp", "cut_before": ["/layers.2/*"]}], "order": {"schedule": "1f1b"}})"},
    {"models/gpt",
     R"({"mesh": {"pp": 2, "tp": 2}, "transform": [{"axis": "input_ids:0", "split": {"time": 2}}, {"axis": "layers.*.mlp.up.weight:1", "split": "tp"},
                       {"axis": "wte.weight:0", "split": "tp"}],
                       "assign": [{"stages": "pp", "cut_before": ["/layers.1/*"]}], "order": {"schedule": "1f1b"}})"},
    {"models/gpt", R"({"mesh": {"dp": 3}, "transform": [{"axis": "input_ids:0", "split": {"over": "dp", "sizes": [1, 6, 1]}}]})"},
    {"models/gpt", R"({"mesh": {"d": 3}, "transform": [{"ops": "/layers.2/mlp/up/MatMul", "dim": "n", "split": {"time": 3}}],
                       "assign": [{"ops": "/layers.2/mlp/up/MatMul", "on": [2, 2, 1]}, {"ops": "/layers.0/*", "on": 1}]})"},
    {"models/gpt", R"({"mesh": {"tp": 2}, "transform": [{"ops": "/layers.*/attn/proj/MatMul", "dim": "k", "split": "tp"}]})"},
    {"small/norms", R"({"mesh": {"dp": 2}, "transform": [{"axis": "x:0", "split": "dp"}]})"},
    {"small/norms", R"({"mesh": {"a": 2, "b": 2}, "transform": [{"axis": "x:0", "split": "a"}, {"axis": "x:1", "split": "b"}]})"},
    {"models/triplane_ar", R"({"mesh": {"dp": 2}, "transform": [{"axis": "class_id:0", "split": "dp"}]})"},
    {"models/triplane_ar",
     R"({"mesh": {"dp": 2}, "transform": [{"axis": "class_id:0", "split": "dp"}, {"axis": "class_id:0", "split": {"time": 2}}]})"},
    {"models/mlp", R"({"mesh": {"d": 2}, "assign": [{"ops": "/fc2/*", "on": 1}]})"},
    {"models/mlp", R"({"mesh": {"d": 2}, "transform": [{"axis": "x:0", "split": {"time": 2}}], "assign": [{"ops": "/fc2/*", "on": 1}],
                       "order": {"before": [["/fc3/*", {"name": "/fc2/Gemm", "phase": "wgrad"}],
                                            [{"name": "/fc3/Gemm", "micro_batch": 0}, {"name": "/fc2/Gemm", "micro_batch": 1}],
                                            [{"name": "fc1.*", "phase": "update"}, {"name": "fc2.*", "phase": "update"}]]}})"},
    {"models/mlp",
     R"({"mesh": {"dp": 3}, "transform": [{"axis": "x:0", "split": "dp"}], "communication": [{"phase": "wgrad", "lowering": "ring"}]})"},
    {"models/mlp", R"({"mesh": {"dp": 3}, "transform": [{"axis": "x:0", "split": "dp"}, {"parameters": "*", "store": 0}],
                       "communication": [{"tensor": "fc*", "phase": "forward", "lowering": "broadcast"}]})"},
};

const std::string models = std::string(SSCC_SOURCE_DIR) + "/test/data/";

bool compile_fixture(const Fixture& fixture, const Folder& folder, Good& good) {
  good.name = std::string(fixture.model) + " " + fixture.plan;
  const std::string path = models + fixture.model;
  const bool is_folder = std::filesystem::is_directory(path);
  good.data = is_folder ? path : "synthetic";
  Request request;
  request.model = path + (is_folder ? "/model.onnx" : ".onnx");
  request.recipe = path + (is_folder ? "/train.json" : ".train.json");
  request.plan = folder / "plan.json";
  request.needs_weights = true;
  std::ofstream(request.plan) << R"({"version": 1, )" << std::string(fixture.plan).substr(1);
  Diagnostics diagnostics;
  return compile(request, good.compilation, diagnostics);
}

// -- damage -----------------------------------------------------------------------------------------------------------------------------------------

struct Tally {
  int tried = 0, refused = 0, harmless = 0;
  int random_programs = 0;
  std::string example;  // of what was harmless
};

class Hospital {
 public:
  Hospital(int wanted, Random& random) : wanted_(wanted), random_(random) {}

  // Does every kind of damage to the good program; `is_random`: those that have not yet been done to as many random ones as are wanted.
  void damage(const Good& good, bool is_random) {
    has_run_ = false;
    for (const Damage& damage : damages()) {
      Tally& tally = tallies_[damage.name];
      if (is_random && tally.random_programs >= wanted_) continue;
      Programs programs = good.compilation.programs;
      if (!damage.apply(programs, random_)) continue;
      tally.random_programs += is_random;
      ++tally.tried;
      const std::string refusal = refusal_of(good.compilation.module, programs);
      if (refusal.empty()) {
        judge(damage, good, programs, tally);
        continue;
      }
      ++tally.refused;
      codes_.insert(refusal.substr(refusal.find("[SSC") + 1, 7));
      const auto race = races_seen_.find(damage.name);
      if (race != races_seen_.end()) race->second += run_in_other_orders(good, programs).outcome != Outcome::equal;
    }
  }

  bool has_enough() {
    return std::all_of(damages().begin(), damages().end(), [&](const Damage& damage) { return tallies_[damage.name].random_programs >= wanted_; });
  }

  bool report() {
    for (const Damage& damage : damages()) {
      const Tally& tally = tallies_[damage.name];
      std::printf("%5d refused, %3d harmless, of %3d (%d random programs): %s\n", tally.refused, tally.harmless, tally.tried, tally.random_programs,
                  damage.name);
      if (tally.harmless > 0) std::printf("      harmless in %s\n", tally.example.c_str());
      if (tally.random_programs < wanted_) fail(damage.name, "done to too few random programs");
    }
    for (const char* code : {"SSC5001", "SSC5002", "SSC5003", "SSC5004"})
      if (!codes_.contains(code)) fail(code, "nothing was refused with it");
    for (const auto& [name, seen] : races_seen_)
      if (seen == 0) fail(name, "no race ever changed a result, in other orders");
    return is_good_;
  }

  void fail(const std::string& what, const std::string& why) {
    is_good_ = false;
    std::cout << "FAILED: " << what << ": " << why << std::endl;
  }

 private:
  // A damaged program that the checkers accept.
  void judge(const Damage& damage, const Good& good, const Programs& programs, Tally& tally) {
    const Result result = run_in_other_orders(good, programs);
    if (result.outcome != Outcome::equal) return fail(damage.name, "accepted, but " + result.why + "\n-- in " + good.name);
    ++tally.harmless;
    tally.example = good.name;
  }

  // In orders that the streams allow: against the good programs as they are.
  Result run_in_other_orders(const Good& good, const Programs& programs) {
    if (!has_run_) {
      has_run_ = true;
      run_programs(good.compilation.programs, good.data, good.steps, folder_, "good");
      const Result result = run_in_other_orders(good, good.compilation.programs);
      if (result.outcome != Outcome::equal) fail("undamaged", result.why + "\n-- in " + good.name);
    }
    const uint64_t seed = random_();
    return apart([&]() -> Result {
      Random random(seed);
      for (int order = 0; order < orders; ++order) {
        const std::optional<Programs> reordered = in_other_order(programs, random);
        if (!reordered) return {Outcome::failed, "the ranks stand for ever"};
        const Result run = run_programs(*reordered, good.data, good.steps, folder_, "other");
        if (run.outcome != Outcome::equal) return run;
        if (const std::string where = difference(folder_, "good", "other"); !where.empty()) return {Outcome::failed, where};
      }
      return {};
    });
  }

  int wanted_;
  Random& random_;
  Folder folder_;
  bool has_run_ = false;  // the good programs, into the folder
  std::map<std::string, Tally> tallies_;
  std::set<std::string> codes_;
  // Of damage that lets instructions run at the same time: how often the result then was another.
  std::map<std::string, int> races_seen_ = {{"a stream does not wait", 0}, {"a stream does not wait for what earlier slots do", 0}};
  bool is_good_ = true;
};

int main_of(int argc, char** argv) {
  int wanted = 20;
  uint64_t seed = 1;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::strcmp(argv[i], "--programs") == 0) wanted = std::atoi(argv[i + 1]);
    if (std::strcmp(argv[i], "--seed") == 0) seed = static_cast<uint64_t>(std::atoll(argv[i + 1]));
  }
  const Folder folder;
  Random random(seed);
  Hospital hospital(wanted, random);
  for (const Fixture& fixture : fixtures) {
    Good good;
    if (!compile_fixture(fixture, folder, good)) {
      hospital.fail("undamaged", "refused\n-- in " + good.name);
      continue;
    }
    for (int attempt = 0; attempt < 2; ++attempt) hospital.damage(good, false);
  }
  int accepted = 0;
  for (const uint64_t last = seed + 300 * static_cast<uint64_t>(wanted); seed < last && !hospital.has_enough(); ++seed) {
    Random drawn(seed);
    const Model model = random_model(drawn, 2 + static_cast<int>(below(drawn, 9)));
    const RandomPlan plan = random_plan(model.module, drawn);
    Good good;
    good.name = "seed " + std::to_string(seed) + ": " + plan.text();
    good.data = folder / "data";
    good.steps = model.steps;
    const Result result = compile_trial(model, plan.text(), good.compilation, plan.cluster);
    if (result.outcome == Outcome::failed) hospital.fail("undamaged", result.why + "\n-- in " + good.name);
    if (result.outcome != Outcome::equal || result.ranks < 2) continue;
    ++accepted;
    write_data(model, good.data, drawn);
    hospital.damage(good, true);
  }
  const bool is_good = hospital.report();
  std::printf("%zu kinds of damage; %d undamaged random programs on several ranks\n", damages().size(), accepted);
  return is_good ? 0 : 1;
}

}  // namespace
}  // namespace sscc::equivalence

int main(int argc, char** argv) { return sscc::equivalence::main_of(argc, argv); }
