#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "test/unit/plan/reading.h"

using namespace sscc;

namespace {

const std::string adam = R"("optimizer": {"kind": "adam", "lr": 0.001})";
const std::string mse = R"("loss": {"kind": "mse", "prediction": "logits", "target": "t"})";

struct RecipeReading {
  Recipe recipe;
  Diagnostics diagnostics;
};

RecipeReading read_recipe(const std::string& text) {
  RecipeReading reading;
  reading.recipe = read_recipe_text(text, "train.json", SmallModel().module, reading.diagnostics);
  return reading;
}

Recipe good(const std::string& text) {
  RecipeReading reading = read_recipe(text);
  for (const Diagnostic& d : reading.diagnostics.all()) UNSCOPED_INFO(to_text(d));
  CHECK(reading.diagnostics.all().empty());
  CHECK(reading.recipe.present);
  return reading.recipe;
}

void recipe_refused(const std::string& marked_text, Code code, const std::string& words) {
  Marked marked = unmark(marked_text);
  Diagnostics diagnostics = read_recipe(marked.text).diagnostics;
  CHECK_THAT(check_refusal(diagnostics, marked, code, words), Catch::StartsWith("train.json:"));
}

}  // namespace

TEST_CASE("losses are read") {
  Recipe recipe = good("{" + mse + "," + adam + "}");
  CHECK(recipe.loss.kind == Recipe::Loss::Kind::mse);
  CHECK(recipe.loss.prediction == "logits");
  CHECK(recipe.loss.target == "t");
  recipe = good(R"({"loss": {"kind": "graph_output", "output": "logits"},)" + adam + "}");
  CHECK(recipe.loss.kind == Recipe::Loss::Kind::graph_output);
  recipe = good(R"({"loss": {"kind": "softmax_cross_entropy", "logits": "logits", "labels": "y", "ignore_index": null, "reduction": "mean"},)" +
                adam + "}");
  CHECK(recipe.loss.kind == Recipe::Loss::Kind::softmax_cross_entropy);
  CHECK(recipe.loss.labels == "y");
  CHECK(recipe.loss.class_axis == 1);
  CHECK(recipe.loss.ignore_index == INT64_MIN);
}

TEST_CASE("optimizers are read, with torch.optim's defaults") {
  auto rule = [](const std::string& optimizer) { return good("{" + mse + R"(, "optimizer": )" + optimizer + "}").optimizer; };
  rt::UpdateRule sgd = rule(R"({"kind": "sgd", "lr": 0.1})");
  CHECK(sgd.optimizer == rt::Optimizer::sgd);
  CHECK(sgd.momentum == 0);
  CHECK(sgd.weight_decay == 0);
  CHECK(rule(R"({"kind": "sgd", "lr": 0.1, "momentum": 0.9})").momentum == 0.9);
  rt::UpdateRule plain = rule(R"({"kind": "adam", "lr": 1e-3})");
  CHECK(plain.optimizer == rt::Optimizer::adam);
  CHECK(plain.beta1 == 0.9);
  CHECK(plain.beta2 == 0.999);
  CHECK(plain.eps == 1e-8);
  CHECK(plain.weight_decay == 0);
  CHECK(rule(R"({"kind": "adamw", "lr": 1e-3})").weight_decay == 0.01);
  CHECK(rule(R"({"kind": "adamw", "lr": 1e-3, "weight_decay": 0, "eps": 0.5})").eps == 0.5);
}

TEST_CASE("the other keys of a recipe") {
  Recipe recipe =
      good("{" + mse + "," + adam + R"(, "clip_grad_norm": null, "recycle": null, "state": [], "parameters": ["wte.weight"], "constants": ["scale"],
    "labels": [{"name": "t", "dtype": "float32", "shape": [8, 32, 256], "batch_axis": 0, "file": "label_0.pb"}],
    "inputs": [{"name": "input_ids", "dtype": "int64", "shape": [8, 32], "batch_axis": null, "file": null}], "outputs": [],
    "name": "n", "summary": "s", "model": "m", "opset": 17, "steps": 5, "batch_separable": true, "zero_gradient": ["b"],
    "tolerances": {"loss_rel": 1e-4}, "notes": ["x"]})");
  CHECK_FALSE(recipe.clip_grad_norm);
  CHECK(recipe.parameters == std::vector<std::string>{"wte.weight"});
  CHECK(recipe.constants == std::vector<std::string>{"scale"});
  REQUIRE(recipe.labels.size() == 1);
  CHECK(recipe.labels[0].dtype == DType::f32);
  CHECK(recipe.labels[0].shape == Shape{8, 32, 256});
  CHECK_FALSE(good("{" + mse + "," + adam + "}").parameters);
}

TEST_CASE("mistakes in a recipe are refused where they stand, in the recipe's file") {
  recipe_refused("^^[]", Code::wrong_type, "a training recipe");
  recipe_refused("{^^", Code::malformed_json, "a key");
  recipe_refused("^^{" + adam + "}", Code::missing_key, "'loss'");
  recipe_refused("^^{" + mse + "}", Code::missing_key, "'optimizer'");
  recipe_refused("{" + mse + "," + adam + R"(, ^^"clip_norm": 1})", Code::unknown_key, "did you mean 'clip_grad_norm'?");
  recipe_refused("{" + adam + R"(, "loss": ^^3})", Code::wrong_type, "an object with 'kind'");
  recipe_refused("{" + adam + R"(, "loss": ^^{}})", Code::missing_key, "'kind'");
  recipe_refused("{" + adam + R"(, "loss": {"kind": ^^"l1"}})", Code::wrong_type, "softmax_cross_entropy");
  recipe_refused("{" + adam + R"(, "loss": {"kind": "mse", "prediction": "logits", "target": "t", ^^"class_axis": 1}})", Code::unknown_key,
                 "class_axis");
  recipe_refused("{" + adam + R"(, "loss": {"kind": "mse", "prediction": "logits", "target": "t", "reduction": ^^"sum"}})", Code::wrong_type,
                 "\"mean\"");
  recipe_refused("{" + adam + R"(, "loss": ^^{"kind": "mse", "prediction": "logits"}})", Code::missing_key, "'target'");
  recipe_refused("{" + adam + R"(, "loss": {"kind": "graph_output", "output": ^^"logit"}})", Code::unknown_tensor, "did you mean 'logits'?");
  recipe_refused("{" + adam + R"(, "loss": {"kind": "softmax_cross_entropy", "logits": "logits", "labels": "y", "class_axis": ^^3}})",
                 Code::recipe_does_not_fit, "which has 3 dimensions");
  recipe_refused("{" + adam + R"(, "loss": {"kind": "softmax_cross_entropy", "logits": "logits", "labels": "y", "class_axis": ^^"c"}})",
                 Code::wrong_type, "the number of a dimension");
  recipe_refused("{" + mse + R"(, "optimizer": ^^[]})", Code::wrong_type, "an object with 'kind'");
  recipe_refused("{" + mse + R"(, "optimizer": {"kind": ^^"lion", "lr": 1}})", Code::wrong_type, "sgd, adam, adamw");
  recipe_refused("{" + mse + R"(, "optimizer": ^^{"kind": "sgd"}})", Code::missing_key, "'lr'");
  recipe_refused("{" + mse + R"(, "optimizer": {"kind": "sgd", "lr": 1, ^^"beta1": 0.9}})", Code::unknown_key, "beta1");
  recipe_refused("{" + mse + R"(, "optimizer": {"kind": "adam", "lr": ^^-1}})", Code::wrong_type, "at least 0");
  recipe_refused("{" + mse + R"(, "optimizer": {"kind": "adam", "lr": 1, "beta1": ^^1}})", Code::wrong_type, "below 1");
  recipe_refused("{" + mse + R"(, "optimizer": {"kind": "adam", "lr": 1, "no_weight_decay": [^^"wte.weigth"]}})", Code::unknown_tensor,
                 "did you mean 'wte.weight'");
  recipe_refused("{" + mse + "," + adam + R"(, "clip_grad_norm": ^^0})", Code::wrong_type, "above 0");
  recipe_refused("{" + mse + "," + adam + R"(, "parameters": [^^"logits"]})", Code::unknown_tensor, "no initializer 'logits'");
  recipe_refused("{" + mse + "," + adam + R"(, "parameters": ["scale"], "constants": ^^["scale"]})", Code::recipe_does_not_fit, "'scale'");
  recipe_refused("{" + mse + "," + adam + R"(, "labels": [{"name": "t", "dtype": ^^"float", "shape": []}]})", Code::wrong_type,
                 "did you mean 'float");
  recipe_refused("{" + mse + "," + adam + R"(, "labels": [{"name": "t", "dtype": "int64", "shape": [^^0]}]})", Code::wrong_type, "at least 1");
  recipe_refused("{" + mse + "," + adam + R"(, "labels": [^^{"name": "t", "dtype": "int64"}]})", Code::missing_key, "'shape'");
  recipe_refused(
      R"({"loss": {"kind": "mse", "prediction": "logits", "target": ^^"t"}, "labels": [{"name": "u", "dtype": "int64", "shape": []}],)" + adam + "}",
      Code::recipe_does_not_fit, "they are u");
  recipe_refused("{" + mse + "," + adam + R"(, "opset": ^^"x"})", Code::wrong_type, "integer");
  recipe_refused("{" + mse + "," + adam + R"(, "notes": ^^"x"})", Code::wrong_type, "list of strings");
  recipe_refused("{" + mse + "," + adam + R"(, "tolerances": {"a": ^^"x"}})", Code::wrong_type, "a number");
  recipe_refused("{" + mse + "," + adam + R"(, "batch_separable": ^^0})", Code::wrong_type, "true or false");
}

TEST_CASE("state that is no state is refused") {
  const auto state_refused = [](const std::string& entries, Code code, const std::string& words, const std::string& more = "") {
    recipe_refused("{" + mse + "," + adam + more + R"(, "state": )" + entries + "}", code, words);
  };
  state_refused("^^{}", Code::wrong_type, "a list of objects");
  state_refused("[^^3]", Code::wrong_type, "an object with 'initializer'");
  state_refused(R"([{"initializer": "wte.weight", "updated_by": "logits", ^^"update": "b"}])", Code::unknown_key, "updated_by");
  state_refused(R"([^^{"initializer": "wte.weight"}])", Code::missing_key, "'updated_by'");
  state_refused(R"([{"initializer": ^^"wte.weigth", "updated_by": "logits"}])", Code::unknown_tensor, "did you mean 'wte.weight'?");
  state_refused(R"([{"initializer": "wte.weight", "updated_by": ^^"logit"}])", Code::unknown_tensor, "did you mean 'logits'?");
  state_refused(R"([{"initializer": ^^"logits", "updated_by": "logits"}])", Code::recipe_does_not_fit, "no initializer");
  state_refused(R"([{"initializer": "wte.weight", "updated_by": ^^"wte.weight"}])", Code::recipe_does_not_fit, "does not compute 'wte.weight'");
  state_refused(R"([{"initializer": "wte.weight", "updated_by": ^^"logits"}])", Code::recipe_does_not_fit, "'logits' is F32[8x32x256]");
  const std::string entry = R"({"initializer": ^^"wte.weight", "updated_by": "logits"})";
  state_refused("[" + entry + "]", Code::recipe_does_not_fit, "in 'parameters' and in 'state'", R"(, "parameters": ["wte.weight"])");
  state_refused("[" + entry + "]", Code::recipe_does_not_fit, "in 'constants' and in 'state'", R"(, "constants": ["wte.weight"])");
}

TEST_CASE("state is what the forward pass makes of an initializer") {
  SmallModel small;
  small.tensor("running", {8, 32, 256}, Role::parameter);
  const auto read = [&](const std::string& entries) {
    RecipeReading reading;
    reading.recipe = read_recipe_text("{" + mse + "," + adam + R"(, "state": [)" + entries + "]}", "train.json", small.module, reading.diagnostics);
    return reading;
  };
  const std::string entry = R"({"initializer": "running", "updated_by": "logits"})";
  const RecipeReading once = read(entry), twice = read(entry + "," + entry);
  CHECK(once.diagnostics.all().empty());
  REQUIRE(once.recipe.states.size() == 1);
  CHECK(once.recipe.states[0].initializer == "running");
  CHECK(once.recipe.states[0].updated_by == "logits");
  REQUIRE(twice.diagnostics.all().size() == 1);
  CHECK_THAT(to_text(twice.diagnostics.all()[0]), Catch::Contains("'running' stands in 'state' twice"));
}

TEST_CASE("what this version does not do with a recipe is refused by name") {
  recipe_refused("{" + mse + "," + adam + R"(, "state": [{"initializer": ^^"scale", "updated_by": "logits"}]})", Code::unsupported, "'state'");
  recipe_refused("{" + mse + "," + adam + R"(, ^^"recycle": {"iterations": 3, "initial": "zeros", "gradient": "last", "feedback": []}})",
                 Code::unsupported, "'recycle'");
  recipe_refused("{" + mse + "," + adam + R"(, "recycle": {"iterations": ^^0, "feedback": []}})", Code::wrong_type, "at least 1");
}

TEST_CASE("the recipe comes from the option, the plan's path or the plan, in this order") {
  const std::string in_file = "{" + mse + R"(, "optimizer": {"kind": "sgd", "lr": 5}})";
  std::string asked;
  auto from_file = [&](const std::string& path) {
    asked = path;
    return in_file;
  };
  SmallModel model;
  auto lr = [&](const std::string& train, const std::string& option) {
    Diagnostics diagnostics;
    asked.clear();
    std::string text = R"({"version": 1, "params": {"r": 2}, "train": )" + train + "}";
    Recipe recipe = read_plan_text(text, "plans/p.json", option, {}, model.module, diagnostics, from_file).recipe;
    CHECK(diagnostics.all().empty());
    return recipe.optimizer.lr;
  };
  const std::string inside = "{" + mse + R"(, "optimizer": {"kind": "sgd", "lr": "${r}"}})";
  CHECK(lr(inside, "") == 2);
  CHECK(asked.empty());
  CHECK(lr("\"gpt/train.json\"", "") == 5);
  CHECK(asked == "plans/gpt/train.json");
  CHECK(lr("\"/abs/train.json\"", "") == 5);
  CHECK(asked == "/abs/train.json");
  CHECK(lr(inside, "other.json") == 5);
  CHECK(asked == "other.json");

  refused(R"({"version": 1, "train": ^^7})", Code::wrong_type, "or the path of its file");
  Reading inline_recipe = read(R"({"version": 1, "train": {"optimizer": {"kind": "sgd", "lr": 1}}})");
  CHECK(inline_recipe.diagnostics.all()[0].where.pointer == "/train");
}

TEST_CASE("files that cannot be read are failures of the environment") {
  CHECK_THROWS_AS(read_file("/nonexistent/plan.json"), EnvironmentError);
  CHECK_THROWS_AS(read_file("/"), EnvironmentError);
  const auto path = std::filesystem::temp_directory_path() / ("sscc_plan_test_" + std::to_string(::getpid()) + ".json");
  std::ofstream(path) << R"({"version": 1, "name": "from a file"})";
  Diagnostics diagnostics;
  CHECK(read_plan(path.string(), "", {}, SmallModel().module, diagnostics).plan.name == "from a file");
  CHECK_THROWS_AS(read_plan(path.string(), "/nonexistent/train.json", {}, SmallModel().module, diagnostics), EnvironmentError);
  std::filesystem::remove(path);
}
