#include "test/unit/plan/reading.h"

using namespace sscc;

namespace {

// The selector that a plan's text gives.
Selector selector(const std::string& text) {
  Reading reading = read(R"({"version": 1, "transform": [{"axis": "nothing:0", "split": {"time": 2}, "optional": true, "within": )" + text + "}]}");
  REQUIRE(reading.diagnostics.all().empty());
  return *reading.result.plan.transform.at(0).within;
}

AxisName axis(const std::string& text) {
  Reading reading = read(R"({"version": 1, "transform": [{"axis": )" + text + R"(, "split": {"time": 2}, "optional": true}]})");
  REQUIRE(reading.diagnostics.all().empty());
  return *reading.result.plan.transform.at(0).axis;
}

using Ops = std::vector<OpId>;
using Dims = std::vector<std::pair<TensorId, int>>;

}  // namespace

TEST_CASE("selectors find forward operators") {
  SmallModel m;
  auto found = [&](const std::string& text) { return selector(text).select(m.module); };
  CHECK(found("\"/layers.0/*\"") == Ops{m.matmul[0], m.gelu_op[0]});
  CHECK(found("\"/layers.1/mlp/Erf\"") == Ops{m.gelu_op[1]});  // a node that the operator was recognised from
  CHECK(found("{\"type\": \"MatMul\"}") == Ops{m.matmul[0], m.matmul[1], m.head});
  CHECK(found("{\"type\": \"MatMul\", \"layer\": \"1..5\"}") == Ops{m.matmul[1]});
  CHECK(found("{\"type\": \"MatMul\", \"not\": {\"layer\": \"0..1\"}}") == Ops{m.head});
  CHECK(found("[{\"role\": \"head\"}, {\"role\": \"embedding\"}]") == Ops{m.embedding, m.head});
  CHECK(found("{\"reads\": \"wte.weight\"}") == Ops{m.embedding, m.head});
  CHECK(found("{\"writes\": \"log*\"}") == Ops{m.head});
  CHECK(found("{\"phase\": \"forward\", \"layer\": 0}") == Ops{m.matmul[0], m.gelu_op[0]});
  CHECK(found("{\"phase\": \"update\"}").empty());
  CHECK(found("{\"stage\": 0}").size() == 6);
  m.module.ops[m.head].stage = 3;
  CHECK(found("{\"stage\": \"1..3\"}") == Ops{m.head});
  CHECK(selector("{\"layer\": 1}").text == "{\"layer\": 1}");
  CHECK(selector("\"/head/*\"").text == "'/head/*'");
}

TEST_CASE("selectors tell the phases apart") {
  SmallModel m;
  // A weight that stands transposed: its gradient reaches the parameter through a layout operator.
  TensorId stored = m.tensor("stored.weight", {4, 8}, Role::parameter), turned = m.tensor("turned", {8, 4}, Role::activation);
  OpId transpose = m.op("/Transpose", "Transpose", {stored}, {turned});
  m.module.ops[transpose].is_layout = true;
  TensorId d_up = m.gradient(m.up[0]), d_weight = m.gradient(m.weight[0]), d_hidden = m.gradient(m.hidden), d_turned = m.gradient(turned);
  OpId input_gradient = m.backward(m.matmul[0], {d_up, m.weight[0]}, {d_hidden});
  OpId weight_gradient = m.backward(m.matmul[0], {d_up, m.hidden}, {d_weight});
  OpId turned_gradient = m.backward(m.head, {d_up, m.hidden}, {d_turned});
  OpId update = m.op("layers.0.mlp.up.weight", "Update", {m.weight[0], d_weight}, {}, -1, Phase::update);
  auto found = [&](const std::string& text) { return selector(text).select(m.module); };
  CHECK(found("{\"phase\": \"backward\"}") == Ops{input_gradient, weight_gradient, turned_gradient});
  CHECK(found("{\"phase\": \"dgrad\"}") == Ops{input_gradient});
  CHECK(found("{\"phase\": \"wgrad\"}") == Ops{weight_gradient, turned_gradient});
  CHECK(found("{\"phase\": \"update\"}") == Ops{update});
  // Gradients have the layer, roles and names of their forward operator.
  CHECK(found("{\"phase\": \"backward\", \"layer\": 0}") == Ops{input_gradient, weight_gradient});
  CHECK(found("{\"phase\": \"backward\", \"role\": \"head\"}") == Ops{turned_gradient});
  CHECK(found("{\"writes\": \"grad(*weight)\"}") == Ops{weight_gradient});
}

TEST_CASE("axis names find dimensions") {
  SmallModel m;
  auto found = [&](const std::string& text) { return resolve_axis(m.module, axis(text)); };
  CHECK(found("\"wte.weight:0\"") == Dims{{m.table, 0}});
  CHECK(found("\"wte.weight:-1\"") == Dims{{m.table, 1}});
  CHECK(found("\"layers.*.weight:1\"") == Dims{{m.weight[0], 1}, {m.weight[1], 1}});
  CHECK(found("\"/layers.?/mlp/up/MatMul:-1\"") == Dims{{m.up[0], 2}, {m.up[1], 2}});  // by operator: its output 0
  CHECK(found("\"/layers.0/mlp/Erf:2\"") == Dims{{m.gelu[0], 2}});
  CHECK(found("\"*.weight:2\"").empty());
  CHECK(found("\"scale:0\"").empty());                       // length 1
  CHECK(found("\"/layers.0/mlp/Erf_output_0:2\"").empty());  // recognition left nothing that makes it
  CHECK(found("\"input_ids:1\"") == Dims{{m.ids, 1}});
  CHECK(found("{\"of\": {\"role\": \"head\"}, \"dim\": -3}") == Dims{{m.logits, 0}});
  CHECK(found("{\"of\": {\"role\": \"head\"}, \"dim\": 0, \"output\": 1}").empty());
}

TEST_CASE("axis names do not find gradients and results of updates") {
  SmallModel m;
  TensorId d_table = m.gradient(m.table), next = m.tensor("wte.weight'", {256, 64}, Role::parameter);
  m.module.tensors[next].next_version_of = m.table;
  m.backward(m.embedding, {m.ids}, {d_table});
  m.op("wte.weight", "Update", {m.table, d_table}, {next}, -1, Phase::update);
  CHECK(resolve_axis(m.module, axis("\"*wte.weight*:0\"")) == Dims{{m.table, 0}});
}
