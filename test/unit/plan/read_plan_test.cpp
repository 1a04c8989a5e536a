#include "test/unit/plan/reading.h"

using namespace sscc;

namespace {

const char* const whole_plan = R"({
  "version": 1,
  "name": "tensor ${tp} x pipeline 2",
  "params": {"tp": 2, "pp": 2, "mb": 4, "rate": 0.5, "split_vocabulary": false, "layers": "/layers.1/*"},
  "mesh": {"pp": "${pp}", "tp": "${tp}"},
  "train": {
    "loss": {"kind": "softmax_cross_entropy", "logits": "logits", "labels": "labels", "class_axis": -1, "ignore_index": -100},
    "optimizer": {"kind": "adamw", "lr": "${rate}", "weight_decay": 0.1, "no_weight_decay": ["wte.weight"]},
    "clip_grad_norm": 1.0
  },
  "transform": [
    {"axis": "layers.*.mlp.up.weight:1", "split": "tp"},
    {"axis": "wte.weight:0", "split": "tp", "when": "${split_vocabulary}"},
    {"axis": "/wte/Gather:-1.1", "split": ["pp", "tp"], "within": {"layer": "0..1", "not": "/head/*"}},
    {"axis": {"of": {"type": "Gelu"}, "output": 0, "dim": -1}, "split": [{"time": 2}, {"over": "tp", "sizes": [3, 1]}]},
    {"axis": "nothing:0", "split": "tp", "optional": true},
    {"ops": {"phase": "update"}, "dim": "d0", "split": "tp"},
    {"ops": ["/head/*", {"role": "embedding"}], "dim": -1, "split": {"time": 1}},
    {"axis": "labels:0", "split": {"time": "${mb}"}}
  ],
  "assign": [
    {"stages": "pp", "cut_before": ["${layers}"]},
    {"ops": {"reads": "input_ids"}, "on": {"pp": 0}},
    {"ops": "/head/MatMul", "on": ["all", 3, {"tp": 1, "pp": 1}]}
  ],
  "order": {"schedule": "1f1b", "before": [["/layers.0/*", {"name": "/layers.1/*", "micro_batch": 0}]]},
  "precision": "f32",
  "memory_limit": "1.5GiB"
})";

}  // namespace

TEST_CASE("a whole plan is read") {
  Reading reading = read(whole_plan, {{"mb", "8"}, {"mb", "2"}});
  for (const Diagnostic& d : reading.diagnostics.all()) UNSCOPED_INFO(to_text(d));
  REQUIRE(reading.diagnostics.all().empty());
  const Plan& plan = reading.result.plan;
  CHECK(plan.file == "plan.json");
  CHECK(plan.text == whole_plan);
  CHECK(plan.name == "tensor 2 x pipeline 2");
  CHECK(plan.params.at("mb") == "2");
  CHECK(plan.params.at("layers") == "\"/layers.1/*\"");
  REQUIRE(plan.mesh.axes.size() == 2);
  CHECK(plan.mesh.axes[0].name == "pp");
  CHECK(plan.mesh.axes[1].length == 2);
  CHECK(plan.memory_limit == std::vector<int64_t>{int64_t{3} << 29});

  REQUIRE(plan.transform.size() == 7);  // one does not hold
  CHECK(plan.transform[0].axis->tensor_glob == "layers.*.mlp.up.weight");
  CHECK(plan.transform[0].axis->dim == 1);
  CHECK_FALSE(plan.transform[0].axis->factor);
  CHECK(plan.transform[0].splits[0].mesh_axes == std::vector<std::string>{"tp"});
  CHECK(plan.transform[0].where.line == 12);
  CHECK(plan.transform[0].where.pointer == "/transform/0");
  CHECK(plan.transform[1].where.pointer == "/transform/2");
  CHECK(plan.transform[1].axis->factor == 1);
  CHECK(plan.transform[1].axis->dim == -1);
  REQUIRE(plan.transform[1].splits.size() == 1);
  CHECK(plan.transform[1].splits[0].mesh_axes == std::vector<std::string>{"pp", "tp"});
  CHECK(plan.transform[1].within->layer == std::pair<int64_t, int64_t>{0, 1});
  CHECK(plan.transform[1].within->none_of.size() == 1);
  REQUIRE(plan.transform[2].splits.size() == 2);
  CHECK(plan.transform[2].splits[0].is_time);
  CHECK(plan.transform[2].splits[0].pieces == 2);
  CHECK(plan.transform[2].splits[1].sizes == std::vector<int64_t>{3, 1});
  CHECK(plan.transform[3].optional);
  CHECK(std::get<std::string>(plan.transform[4].dim) == "d0");
  CHECK(std::get<int64_t>(plan.transform[5].dim) == -1);
  CHECK(plan.transform[5].ops->any_of.size() == 2);
  CHECK(plan.transform[5].splits.empty());  // one piece of time is no split
  CHECK(plan.transform[6].splits[0].pieces == 2);

  REQUIRE(plan.assign.size() == 3);
  CHECK(plan.assign[0].stages == "pp");
  CHECK(plan.assign[0].cut_before[0].name == "/layers.1/*");
  CHECK(plan.assign[0].stage_coordinates == std::vector<llvm::SmallVector<int64_t, 1>>{{0}, {1}});
  CHECK(plan.assign[1].on[0].coordinates.at("pp") == 0);
  REQUIRE(plan.assign[2].on.size() == 3);
  CHECK(plan.assign[2].on[0].kind == Place::Kind::all);
  CHECK(plan.assign[2].on[1].mesh.devices == std::vector<int32_t>{3});
  CHECK(plan.assign[2].on[2].kind == Place::Kind::coordinates);

  CHECK(plan.order.schedule == "1f1b");
  REQUIRE(plan.order.before.size() == 1);
  CHECK(plan.order.before[0].second.micro_batch == std::pair<int64_t, int64_t>{0, 0});

  const Recipe& recipe = reading.result.recipe;
  CHECK(recipe.present);
  CHECK(recipe.file == "plan.json");
  CHECK(recipe.loss.class_axis == 2);
  CHECK(recipe.loss.ignore_index == -100);
  CHECK(recipe.optimizer.lr == 0.5);
  CHECK(recipe.optimizer.beta2 == 0.999);
  CHECK(recipe.clip_grad_norm == 1.0);
}

TEST_CASE("a plan cut short at any byte is refused and does not crash") {
  const std::string text = whole_plan;
  for (size_t length = 0; length + 1 < text.size(); ++length) {
    Reading reading = read(text.substr(0, length));
    INFO("cut after " << length << " bytes");
    REQUIRE(reading.diagnostics.has_errors());
    CHECK(reading.diagnostics.all()[0].code == Code::malformed_json);
  }
}

TEST_CASE("a plan with any one byte removed or replaced does not crash") {
  const std::string text = whole_plan;
  SmallModel model;
  for (size_t i = 0; i < text.size(); ++i) {
    read(text.substr(0, i) + text.substr(i + 1), {}, model.module);
    for (char c : {'0', '"', '[', '}'}) {
      std::string changed = text;
      changed[i] = c;
      try {
        read(changed, {}, model.module);
      } catch (const EnvironmentError&) {  // `train` may have become a path
      }
    }
  }
}

TEST_CASE("the smallest plan, and the mesh that device numbers imply") {
  Plan plan = good_plan(R"({"version": 1})");
  CHECK(plan.mesh.size() == 1);
  CHECK_FALSE(read(R"({"version": 1})").result.recipe.present);
  plan = good_plan(R"({"version": 1, "assign": [{"ops": "*", "on": 0}, {"ops": "/head/*", "on": 2}]})");
  CHECK(plan.mesh.size() == 3);
  CHECK(plan.mesh.axes[0].name == "d");
}

TEST_CASE("top level") {
  refused("^^[]", Code::wrong_type, "expected a plan");
  refused("^^{}", Code::missing_key, "'version' is missing");
  refused(R"({"version": ^^2})", Code::wrong_type, "expected version 1");
  refused(R"({"version": ^^"1"})", Code::wrong_type, "found the string '1'");
  CHECK(refused("{\"version\": 1,\n  ^^\"tranform\": []}", Code::unknown_key, "did you mean 'transform'?") ==
        "plan.json:2:3: error: unknown key 'tranform' [SSC2002] at /tranform; did you mean 'transform'?");
  refused(R"({"version": 1, "name": ^^1})", Code::wrong_type, "expected a string");
  refused(R"({"version": 1, "transform": ^^{}})", Code::wrong_type, "expected a list of rules");
  refused(R"({"version": 1, "assign": ^^{}})", Code::wrong_type, "expected a list of rules");
  refused(R"({"version": 1, "order": ^^[]})", Code::wrong_type, "expected an object");
}

TEST_CASE("several mistakes are reported in one run, in the order of the text") {
  Reading reading = read(plan_with(R"("transform": [{"axis": "nothing:0", "split": "dp"}], "order": {"schedul": 1}, "nam": 1)"));
  REQUIRE(reading.diagnostics.all().size() == 4);
  CHECK(reading.diagnostics.all()[0].code == Code::no_match);
  CHECK(reading.diagnostics.all()[1].code == Code::unknown_mesh_axis);
  CHECK(reading.diagnostics.all()[2].where.pointer == "/order/schedul");
  CHECK(reading.diagnostics.all()[3].where.pointer == "/nam");
}

TEST_CASE("mesh") {
  refused(R"({"version": 1, "mesh": ^^[2, 2]})", Code::wrong_type, "axes and their lengths");
  refused(R"({"version": 1, "mesh": {"tp": ^^0}})", Code::wrong_type, "the length of a mesh axis");
  refused(R"({"version": 1, "mesh": {"tp": ^^2.5}})", Code::wrong_type, "found the number 2.5");
  refused(R"({"version": 1, "mesh": ^^{"a": 1000000, "b": 1000000, "c": 1000000}})", Code::wrong_type, "more than 1048576 devices");
}

TEST_CASE("parameters") {
  refused(R"({"version": 1, "params": ^^3})", Code::wrong_type, "parameters and their defaults");
  refused(R"({"version": 1, "params": {"tp": 2}, "mesh": {"tp": ^^"${tpp}"}})", Code::unknown_parameter, "did you mean 'tp'?");
  refused(R"({"version": 1, "mesh": {"tp": ^^"${tp}"}})", Code::unknown_parameter, "no 'params'");
  refused(R"({"version": 1, "params": {"tp": 2}, "name": ^^"x ${tp"})", Code::wrong_type, "without '}'");
  refused(R"({"version": 1, "params": {"tp": [2]}, "name": ^^"x ${tp}"})", Code::wrong_type, "inside a longer string");
  refused(R"({"version": 1, "params": ^^{"tp": 2}})", Code::unknown_parameter, "did you mean 'tp'?", {{"tpp", "4"}});
  refused(R"(^^{"version": 1})", Code::unknown_parameter, "has no parameters", {{"tp", "4"}});
  refused(R"({"version": 1, "params": {"tp": ^^2}})", Code::wrong_type, "--set tp=two: expected an integer", {{"tp", "two"}});
  refused(R"({"version": 1, "params": {"tp": ^^2}})", Code::wrong_type, "--set tp=2.5", {{"tp", "2.5"}});
  refused(R"({"version": 1, "params": {"on": ^^true}})", Code::wrong_type, "expected true or false", {{"on", "1"}});
  refused(R"({"version": 1, "params": {"tp": "many"}, "mesh": {"tp": ^^"${tp}"}})", Code::wrong_type, "found the string 'many'");
}

TEST_CASE("--set takes the type of the default") {
  const std::string text = R"({"version": 1, "params": {"a": "x", "b": 1.5, "c": null, "d": false}, "name": "${a} ${b} ${c} ${d} $ {a}"})";
  CHECK(good_plan(text).name == "x 1.5 null false $ {a}");
  CHECK(good_plan(text, {{"a", "7"}, {"b", "2"}, {"c", "text"}, {"d", "true"}}).name == "7 2.0 text true $ {a}");
}

TEST_CASE("memory limit") {
  CHECK(good_plan(R"({"version": 1, "memory_limit": 1000})").memory_limit == std::vector<int64_t>{1000});
  CHECK(good_plan(R"({"version": 1, "memory_limit": ["80 GB"]})").memory_limit == std::vector<int64_t>{80000000000});
  refused(R"({"version": 1, "memory_limit": ^^0})", Code::wrong_type, "a number of bytes above 0");
  refused(R"({"version": 1, "memory_limit": ^^"80Gib"})", Code::wrong_type, "\"80GiB\"");
  refused(R"({"version": 1, "memory_limit": ^^"1.2.3GiB"})", Code::wrong_type, "\"80GiB\"");
  refused(R"({"version": 1, "memory_limit": [1, ^^true]})", Code::wrong_type, "a number of bytes");
  refused(plan_with(R"("memory_limit": ^^[1, 2])"), Code::wrong_type, "2 memory limits for 4 devices");
}
