// Every diagnostic of the rules of a plan, with its place.
#include "test/unit/plan/reading.h"

using namespace sscc;

TEST_CASE("transform: forms of rules") {
  refused(plan_with(R"("transform": [^^3])"), Code::wrong_type, "a rule");
  refused(plan_with(R"("transform": [^^{}])"), Code::missing_key, "'axis'");
  refused(plan_with(R"("transform": [^^{"axis": "wte.weight:0"}])"), Code::missing_key, "'split'");
  refused(plan_with(R"("transform": [^^{"ops": "/head/*", "dim": 0}])"), Code::missing_key, "'split'");
  refused(plan_with(R"("transform": [^^{"ops": "/head/*", "split": "tp"}])"), Code::missing_key, "'dim'");
  refused(rule(R"("axis": "wte.weight:0", "split": "tp", ^^"witihn": "*")"), Code::unknown_key, "did you mean 'within'?");
  refused(rule(R"("axis": "wte.weight:0", "split": "tp", ^^"ops": "*")"), Code::unknown_key, "'ops' does not go with 'axis'");
  refused(rule(R"("ops": "*", "dim": 0, "split": "tp", ^^"within": "*")"), Code::unknown_key, "'within' does not go with 'ops'");
  refused(rule(R"("ops": "*", "dim": ^^1.5, "split": "tp")"), Code::wrong_type, "the name of an axis");
  refused(rule(R"("axis": "wte.weight:0", "split": "tp", "optional": ^^1)"), Code::wrong_type, "true or false");
  refused(rule(R"("axis": "wte.weight:0", "split": "tp", "when": ^^1)"), Code::wrong_type, "true or false");
}

TEST_CASE("transform: axes") {
  refused(rule(R"("axis": ^^3, "split": "tp")"), Code::wrong_type, "an axis: \"TENSOR:DIM\"");
  refused(rule(R"("axis": ^^"wte.weight", "split": "tp")"), Code::wrong_type, "\"wte.weight:0\" is its first dimension");
  refused(rule(R"("axis": ^^"wte.weight:x", "split": "tp")"), Code::wrong_type, "numbers for DIM");
  refused(rule(R"("axis": ^^"wte.weight:0.-1", "split": "tp")"), Code::wrong_type, "FACTOR");
  refused(rule(R"("axis": ^^":0", "split": "tp")"), Code::wrong_type, "TENSOR:DIM");
  refused(rule(R"("axis": ^^"@btach", "split": "tp")"), Code::wrong_type, "did you mean '@batch'?");
  refused(rule(R"("axis": ^^"@space.x", "split": "tp")"), Code::wrong_type, "no name of an axis");
  refused(rule(R"("axis": ^^{"of": "*"}, "split": "tp")"), Code::missing_key, "'dim'");
  refused(rule(R"("axis": ^^{"dim": 0}, "split": "tp")"), Code::missing_key, "'of'");
  refused(rule(R"("axis": {"of": "*", "dim": ^^"x"}, "split": "tp")"), Code::wrong_type, "the number of a dimension");
  refused(rule(R"("axis": {"of": "*", "dim": 0, "output": ^^-1}, "split": "tp")"), Code::wrong_type, "the number of an output");
  refused(rule(R"("axis": {"of": "*", "dim": 0, ^^"outptu": 1}, "split": "tp")"), Code::unknown_key, "did you mean 'output'?");
}

TEST_CASE("transform: axes that match nothing") {
  refused(rule(R"("axis": ^^"layer.*.mlp.up.weight:1", "split": "tp")"), Code::no_match, "did you mean 'layers.0.mlp.up.weight'");
  refused(rule(R"("axis": ^^"wte.weight:2", "split": "tp")"), Code::no_match, "'wte.weight' is 256x64");
  refused(rule(R"("axis": ^^"scale:0", "split": "tp")"), Code::no_match, "dimension has length 1");
  refused(rule(R"("axis": ^^{"of": {"type": "Gellu"}, "dim": 0}, "split": "tp")"), Code::no_match, "did you mean 'Gelu'?");
  refused(rule(R"("axis": ^^"labels:0", "split": "tp")"), Code::no_match, "no tensor or operator");
  good_plan(rule(R"("axis": "nothing:0", "split": "tp", "optional": true)"));
  good_plan(rule(R"("axis": "nothing:0", "split": "tp", "when": false)"));
}

TEST_CASE("transform: splits") {
  auto split = [](const std::string& value) { return rule(R"("axis": "wte.weight:0", "split": )" + value); };
  refused(split("^^3"), Code::wrong_type, "a mesh axis, a list of mesh axes, {\"time\": n}");
  refused(split("^^[]"), Code::wrong_type, "found an empty list");
  refused(split("[[^^3]]"), Code::wrong_type, "the name of a mesh axis");
  CHECK(refused(split("^^\"dp\""), Code::unknown_mesh_axis, "the mesh has no axis 'dp'") ==
        "plan.json:1:92: error: the mesh has no axis 'dp' [SSC2101] at /transform/0/split; did you mean 'pp' or 'tp'?");
  refused(split("[\"tp\", ^^\"xyz\"]"), Code::unknown_mesh_axis, "its axes are pp, tp");
  refused(split("^^[\"tp\", \"tp\"]"), Code::wrong_type, "twice");
  refused(split("[\"tp\", ^^{\"over\": \"tp\", \"sizes\": [1, 1]}]"), Code::wrong_type, "twice");
  refused(split("^^{\"tiem\": 2}"), Code::missing_key, "'time'");
  refused(split("{\"time\": ^^0}"), Code::wrong_type, "at least 1");
  refused(split("{\"time\": ^^\"2\"}"), Code::wrong_type, "at least 1");
  refused(split("{\"time\": [1, ^^0]}"), Code::wrong_type, "lengths");
  refused(split("{\"time\": ^^[]}"), Code::wrong_type, "lengths");
  refused(split("{\"time\": 2, ^^\"rotat\": \"tp\"}"), Code::unknown_key, "did you mean 'rotate'?");
  refused(split("{\"time\": 2, \"rotate\": ^^\"cp\"}"), Code::unknown_mesh_axis, "'cp'");
  refused(split("^^{\"over\": \"tp\"}"), Code::missing_key, "'sizes'");
  refused(split("{\"over\": ^^\"cp\", \"sizes\": [1]}"), Code::unknown_mesh_axis, "'cp'");
  refused(split("{\"over\": \"tp\", \"sizes\": ^^[1, 2, 3]}"), Code::wrong_type, "3 sizes over mesh axis 'tp' of length 2");
  refused(split("{\"over\": \"tp\", \"sizes\": [1, ^^0]}"), Code::wrong_type, "proportions");
  refused(split("{\"over\": \"tp\", \"sizes\": [1, 1], ^^\"deal\": [0, 1]}"), Code::unknown_key, "not both");
  refused(split("{\"over\": \"tp\", \"deal\": [0, ^^2]}"), Code::wrong_type, "below 2");
  refused(split("{\"over\": \"tp\", \"deal\": ^^[0, 0]}"), Code::wrong_type, "piece 1 over mesh axis 'tp' of length 2 is dealt no chunk");
  refused("{\"version\": 1, \"transform\": [{\"axis\": \"wte.weight:0\", \"split\": ^^\"tp\"}]}", Code::unknown_mesh_axis, "has no 'mesh'");
}

TEST_CASE("a split into one piece is no split") {
  auto splits = [](const std::string& value) {
    return good_plan(R"({"version": 1, "mesh": {"one": 1, "tp": 2}, "transform": [{"axis": "wte.weight:0", "split": )" + value + "}]}")
        .transform[0]
        .splits;
  };
  CHECK(splits("\"one\"").empty());
  CHECK(splits("{\"time\": 1}").empty());
  CHECK(splits("{\"over\": \"one\", \"sizes\": [5]}").empty());
  CHECK(splits("[\"one\", \"tp\"]")[0].mesh_axes == std::vector<std::string>{"tp"});
  CHECK(splits("[\"one\", {\"time\": 2}]").size() == 1);
}

TEST_CASE("selectors") {
  auto within = [](const std::string& value) { return rule(R"("axis": "wte.weight:0", "split": "tp", "within": )" + value); };
  refused(within("^^3"), Code::wrong_type, "a selector: a glob on operator names");
  refused(within("^^[]"), Code::wrong_type, "a selector");
  refused(within("[\"*\", ^^3]"), Code::wrong_type, "a selector");
  refused(within("{^^\"nmae\": \"*\"}"), Code::unknown_key, "did you mean 'name'?");
  refused(within("{\"name\": ^^3}"), Code::wrong_type, "a string");
  refused(within("{\"role\": ^^\"norms\"}"), Code::wrong_type, "did you mean 'norm'?");
  refused(within("{\"phase\": ^^\"fwd\"}"), Code::wrong_type, "'fwd' is no phase");
  for (const char* key : {"layer", "stage", "micro_batch", "pass", "piece"}) {
    refused(within("{\"" + std::string(key) + "\": ^^\"0-3\"}"), Code::wrong_type, "a range like \"0..3\"");
    refused(within("{\"" + std::string(key) + "\": ^^\"3..0\"}"), Code::wrong_type, "a range like \"0..3\"");
    refused(within("{\"" + std::string(key) + "\": ^^-1}"), Code::wrong_type, "a range like \"0..3\"");
  }
  refused(within("{\"not\": ^^3}"), Code::wrong_type, "a selector");
  CHECK(refused(within("^^\"/layer.0/mlp/up/MatMul\""), Code::no_match, "matches no operator").find("did you mean '/layers.0/mlp/up/MatMul'") !=
        std::string::npos);
  refused(within("^^{\"type\": \"Matmul\"}"), Code::no_match, "did you mean 'MatMul'?");
  refused(within("^^{\"reads\": \"wte.weigth\"}"), Code::no_match, "did you mean 'wte.weight'");
  refused(within("^^{\"layer\": 7}"), Code::no_match, "{\"layer\": 7}");
  good_plan(within("{\"phase\": \"update\"}"));
  good_plan(within("{\"stage\": \"1\"}"));
  good_plan(within("[\"/head/*\", \"nothing\"]"));
}

TEST_CASE("what the recipe adds can be named before it is there") {
  const std::string train = R"("train": {"loss": {"kind": "mse", "prediction": "logits", "target": "t"}, "optimizer": {"kind": "sgd", "lr": 1}})";
  const std::string rules = R"("assign": [{"ops": "loss", "on": "all"}, {"ops": {"role": "loss"}, "on": "all"}, {"ops": "wte.weight", "on": "all"},
    {"ops": {"reads": "grad(*"}, "on": "all"}], "transform": [{"axis": "t:0", "split": {"time": 2}}])";
  good_plan(plan_with(train + ", " + rules));
  refused(place_rule(R"("ops": ^^"loss", "on": "all")"), Code::no_match, "'loss'");
  refused(place_rule(R"("ops": ^^"wte.weight", "on": "all")"), Code::no_match, "'wte.weight'");
}

TEST_CASE("assign: stages") {
  refused(plan_with(R"("assign": [^^{}])"), Code::missing_key, "'stages'");
  refused(plan_with(R"("assign": [^^3])"), Code::wrong_type, "a rule");
  refused(plan_with(R"("assign": [^^{"stages": "pp"}])"), Code::missing_key, "'cut_before'");
  refused(place_rule(R"("stages": ^^"pq", "cut_before": [])"), Code::unknown_mesh_axis, "did you mean 'pp'");
  refused(place_rule(R"("stages": "pp", "cut_before": ^^"/head/*")"), Code::wrong_type, "a list of selectors");
  refused(place_rule(R"("stages": "pp", "cut_before": [^^"/layer.1/*"])"), Code::no_match, "matches no operator");
  refused(place_rule(R"("stages": "pp", "cut_before": ["/head/*"], ^^"balance": "flops")"), Code::unknown_key, "not both");
  refused(place_rule(R"("stages": "pp", "balance": ^^"time")"), Code::wrong_type, "\"flops\" or \"bytes\"");
  refused(place_rule(R"("stages": "pp", "balance": "flops", ^^"on": 0)"), Code::unknown_key, "'on' does not go with 'stages'");
  refused(place_rule(R"("stages": "pp", "balance": "flops", "place": ^^"w")"), Code::wrong_type, "\"loop\", \"v\" or a list");
  refused(place_rule(R"("stages": "pp", "balance": "flops", "place": [0, ^^2])"), Code::wrong_type, "0 to 1");
  refused(place_rule(R"("stages": "pp", "balance": "flops", "place": [0, [1, ^^2]])"), Code::wrong_type, "0 to 1");
  refused(place_rule(R"("stages": "pp", "balance": "flops", "place": [0, ^^[]])"), Code::wrong_type, "a list of them");
  refused(place_rule(R"("stages": "pp", "balance": "flops", ^^"palce": "v")"), Code::unknown_key, "did you mean 'place'");
}

TEST_CASE("assign: the coordinate of each stage") {
  using Coordinates = std::vector<llvm::SmallVector<int64_t, 1>>;
  auto coordinates = [](const std::string& more) { return good_plan(place_rule("\"stages\": \"pp\", " + more)).assign[0].stage_coordinates; };
  const std::string three_cuts = R"("cut_before": ["/layers.0/*", "/layers.1/*", "/head/*"])";
  CHECK(coordinates(three_cuts) == Coordinates{{0}, {1}, {0}, {1}});
  CHECK(coordinates(three_cuts + R"(, "place": "loop")") == Coordinates{{0}, {1}, {0}, {1}});
  CHECK(coordinates(three_cuts + R"(, "place": "v")") == Coordinates{{0}, {1}, {1}, {0}});
  CHECK(coordinates(three_cuts + R"(, "place": [1, 0, 0, 1])") == Coordinates{{1}, {0}, {0}, {1}});
  CHECK(coordinates(three_cuts + R"(, "place": [1, [0, 1], 0, [1]])") == Coordinates{{1}, {0, 1}, {0}, {1}});
  CHECK(coordinates(R"("balance": "flops")") == Coordinates{{0}, {1}});
  CHECK(coordinates(R"("balance": "bytes", "place": "v")") == Coordinates{{0}, {1}, {1}, {0}});
}

TEST_CASE("assign: places") {
  auto on = [](const std::string& place) { return place_rule(R"("ops": "/head/*", "on": )" + place); };
  refused(plan_with(R"("assign": [^^{"ops": "/head/*"}])"), Code::missing_key, "'on'");
  refused(on("^^true"), Code::wrong_type, "a place");
  refused(on("^^\"everywhere\""), Code::wrong_type, "\"all\"");
  refused(on("^^[]"), Code::wrong_type, "a list of places");
  refused(on("^^{}"), Code::wrong_type, "a place");
  refused(on("^^4"), Code::no_place, "the mesh has devices 0 to 3");
  refused(on("^^-1"), Code::wrong_type, "a device number");
  refused(on("{\"dp\": ^^0}"), Code::unknown_mesh_axis, "'dp'");
  refused(on("{\"pp\": ^^2}"), Code::no_place, "its coordinates are 0 to 1");
  refused(on("{\"pp\": ^^\"x\"}"), Code::wrong_type, "a coordinate");
  refused(on("[0, ^^9]"), Code::no_place, "device 9");
  refused(on("{\"devices\": ^^\"a..b\"}"), Code::wrong_type, "a range like \"2..5\"");
  refused(on("{\"devices\": [0, ^^-1]}"), Code::wrong_type, "a device number");
  refused(on("{\"devices\": 0, \"mesh\": ^^3}"), Code::wrong_type, "axes and their lengths");
  refused(on("{\"devices\": 0, \"mesh\": {\"d\": ^^0}}"), Code::wrong_type, "a length");
  refused(on("{\"devices\": ^^\"3..1\"}"), Code::wrong_type, "a range like \"2..5\"");
  refused(on("{\"devices\": ^^\"0..99999999999\"}"), Code::wrong_type, "a range like \"2..5\"");
  refused(on("{\"devices\": ^^[]}"), Code::wrong_type, "at least one device");
  refused(on("{\"devices\": [0, ^^\"0..1\"]}"), Code::no_place, "device 0 stands twice");
  refused(on("^^{\"devices\": \"2..4\"}"), Code::no_place, "the mesh has devices 0 to 3");
  refused(on("{\"devices\": [0, \"2..3\"], \"mesh\": ^^{\"x\": 2}}"), Code::no_place, "3");
  refused(on("{\"devices\": 0, \"mesh\": ^^{}}"), Code::wrong_type, "axes and their lengths");
  refused(place_rule(R"("ops": "/head/*", "on": 0, ^^"place": "v")"), Code::unknown_key, "'place' does not go with 'ops'");
}

TEST_CASE("assign: places with a mesh of their own") {
  const Plan plan = good_plan(R"({"version": 1, "transform": [{"axis": "wte.weight:0", "split": "x"}],
    "assign": [{"stages": [{"devices": "0..1"}, {"devices": [4, "2..3"], "mesh": {"x": 3}}, 5], "cut_before": ["/layers.1/*", "/head/*"]}]})");
  const std::vector<Place>& places = plan.assign[0].stage_places;
  REQUIRE(places.size() == 3);
  CHECK(places[0].mesh == Mesh{{{"d", 2}}, {0, 1}});
  CHECK(places[1].mesh == Mesh{{{"x", 3}}, {4, 2, 3}});
  CHECK(places[2].mesh == Mesh{{{"d", 1}}, {5}});
  CHECK(plan.mesh == Mesh{{{"d", 6}}, {}});  // there is no other
  refused(place_rule(R"("stages": [0, 1], "cut_before": ["/head/*"], ^^"place": "v")"), Code::unknown_key, "goes with a mesh axis");
  refused(place_rule(R"("stages": ^^[], "cut_before": [])"), Code::wrong_type, "a list of places");
}

TEST_CASE("order") {
  auto order = [](const std::string& body) { return plan_with("\"order\": {" + body + "}"); };
  refused(order("^^\"shedule\": \"1f1b\""), Code::unknown_key, "did you mean 'schedule'?");
  refused(order("\"schedule\": ^^\"1fb1\""), Code::wrong_type, "did you mean '1f1b'");
  refused(order("\"schedule\": ^^1"), Code::wrong_type, "gpipe");
  refused(order("\"schedule\": \"1f1b\", ^^\"timetable\": []"), Code::unknown_key, "'schedule' is there");
  refused(order("^^\"repetend\": [0, 1]"), Code::unknown_key, "goes with 'blocks'");
  refused(order("\"before\": ^^3"), Code::wrong_type, "pairs of selectors");
  refused(order("\"before\": [^^[\"*\"]]"), Code::wrong_type, "a pair of selectors");
  refused(order("\"before\": [[\"*\", ^^3]]"), Code::wrong_type, "a selector");
  refused(order("\"before\": [[^^\"nothing\", \"*\"]]"), Code::no_match, "'nothing'");
  CHECK(good_plan(order("\"schedule\": \"gpipe\"")).order.schedule == "gpipe");

  refused(order("\"timetable\": ^^[]"), Code::wrong_type, "one for each device");
  refused(order("\"timetable\": [^^3]"), Code::wrong_type, "a list of blocks");
  for (const char* block : {"F0", "0X0", "0F", "0F0.", "0F0.x", "0U1", "99999999999F0"})
    refused(order("\"timetable\": [[^^\"" + std::string(block) + "\"]]"), Code::wrong_type, "a block like");
  refused(order("\"blocks\": ^^[]"), Code::wrong_type, "a list of objects");
  refused(order("\"blocks\": [{\"block\": \"0F0\", \"step\": 0}], \"repetend\": ^^[2, 2]"), Code::wrong_type, "a < b");
  const Order timetable = good_plan(order("\"timetable\": [[\"0F0\", \"0B12.0\", \"0U\"], []]")).order;
  REQUIRE(timetable.timetable.size() == 2);
  REQUIRE(timetable.timetable[0].size() == 3);
  CHECK(timetable.timetable[0][1].kind == 'B');
  CHECK(timetable.timetable[0][1].micro_batch == 12);
  const Order blocks = good_plan(order("\"blocks\": [{\"block\": \"1B3\", \"step\": 5, \"span\": 2}], \"repetend\": [1, 4]")).order;
  REQUIRE(blocks.blocks.size() == 1);
  CHECK(blocks.blocks[0].block.stage == 1);
  CHECK(blocks.blocks[0].span == 2);
  CHECK(blocks.repetend == std::pair<int64_t, int64_t>{1, 4});
}

TEST_CASE("store") {
  refused(rule(R"("state": ^^3, "store": {"split": "tp"})"), Code::wrong_type, "a glob on parameter names");
  refused(rule(R"(^^"state": "*", "gradients": "*", "store": {"split": "tp"})"), Code::unknown_key, "one rule for each");
  refused(plan_with(R"("transform": [^^{"state": "*"}])"), Code::missing_key, "'store'");
  refused(plan_with(R"("transform": [^^{"store": {"split": "tp"}}])"), Code::missing_key, "'parameters'");
  refused(rule(R"("state": "*", "store": {"split": ^^"cp"})"), Code::unknown_mesh_axis, "'cp'");
  refused(rule(R"("state": ^^"wte", "store": {"split": "tp"})"), Code::no_match, "matches no parameter");
  refused(rule(R"("state": ^^["*", "wte.wieght"], "store": {"split": "tp"})"), Code::no_match, "did you mean 'wte.weight'");
  refused(rule(R"("state": "*", "store": {"split": ^^3})"), Code::wrong_type, "a mesh axis");
  refused(rule(R"("state": "*", "store": {"split": ^^{"time": 2}})"), Code::wrong_type, "a mesh axis");
  refused(rule(R"("state": "*", "store": {"split": "tp", "dim": ^^2})"), Code::cannot_split, "has 2 dimensions");
  refused(rule(R"("state": "*", "store": {"split": "tp", "gather": ^^"never"})"), Code::wrong_type, "\"use\" or \"step\"");
  refused(rule(R"("state": "*", "store": {"split": "tp", ^^"dims": 1})"), Code::unknown_key, "did you mean 'dim'");
  const Plan plan = good_plan(rule(R"("parameters": ["wte.*", "layers.*"], "store": {"split": ["pp", "tp"], "dim": -1, "gather": "step"})"));
  REQUIRE(plan.stores.size() == 1);
  CHECK(plan.stores[0].what == StoreRule::What::parameters);
  CHECK(plan.stores[0].names == std::vector<std::string>{"wte.*", "layers.*"});
  CHECK(plan.stores[0].mesh_axes == std::vector<std::string>{"pp", "tp"});
  CHECK(plan.stores[0].dim == -1);
  CHECK(plan.stores[0].gather_once);
}

TEST_CASE("the host stands beside devices, and alone") {
  auto on = [](const std::string& place) { return place_rule(R"("ops": "/head/*", "on": )" + place); };
  CHECK(good_plan(rule(R"("parameters": ["*"], "store": "host")")).stores[0].place->kind == Place::Kind::host);
  CHECK(good_plan(on("\"host\"")).assign[0].on[0].kind == Place::Kind::host);
  refused(on("[0, ^^\"host\"]"), Code::wrong_type, "which devices");
}

TEST_CASE("what this version does not do is checked and then refused by name, where it stands") {
  auto is_unsupported = [](const std::string& text, const std::string& words) { refused(text, Code::unsupported, words); };
  is_unsupported(rule(R"("ops": {"layer": "0..1"}, ^^"recompute": true)"), "'recompute'");
  is_unsupported(rule(R"("axis": ^^"@batch", "split": "tp")"), "'@batch'");
  is_unsupported(rule(R"("axis": ^^"@space.2", "split": "tp")"), "'@space.2'");
  is_unsupported(plan_with(R"("order": {"timetable": [["0F0", ^^"0I0", "0W0"]]})"), "'I' and 'W'");
  is_unsupported(plan_with(R"("order": {"timetable": [["0F0", ^^"0F0.1"]]})"), "'recycle'");
  is_unsupported(plan_with(R"("communication": [{"tensor": "*", "over": "stages", ^^"compress": "bf16"}])"), "'compress'");
  for (const char* name : {"interleaved_1f1b", "1f1b_eager", "zb_h1", "zb_h2", "zb_v", "dualpipe_v", "chimera", "interlaced", "nf1b", "infer"})
    is_unsupported(plan_with("\"order\": {\"schedule\": ^^\"" + std::string(name) + "\"}"), "use 'gpipe' or '1f1b'");
  good_plan(rule(R"("axis": "@batch", "split": "tp", "when": false)"));
}

TEST_CASE("types are checked in what this version does not do, too") {
  refused(plan_with(R"("transform": [^^{"recompute": true}])"), Code::missing_key, "'ops'");
}

TEST_CASE("communication") {
  auto communication = [](const std::string& body) { return plan_with("\"precision\": \"f32\",\n \"communication\": [" + body + "]"); };
  auto mistake = [&](const std::string& body, Code code, const std::string& words) { refused(communication(body), code, words); };
  mistake("^^3", Code::wrong_type, "a rule");
  mistake("^^{}", Code::missing_key, "'lowering'");
  mistake("{\"lowering\": ^^\"rings\"}", Code::wrong_type, "did you mean 'ring'?");
  mistake("{\"lowering\": \"ring\", \"over\": ^^\"cp\"}", Code::unknown_mesh_axis, "'cp'");
  mistake("{\"lowering\": \"ring\", \"phase\": ^^\"x\"}", Code::wrong_type, "no phase");
  mistake("{\"lowering\": \"ring\", \"tensor\": ^^1}", Code::wrong_type, "a glob");
  mistake("{\"lowering\": \"ring\", \"from\": ^^-1}", Code::wrong_type, "a stage");
  mistake("{\"compress\": ^^\"f16\"}", Code::wrong_type, "\"bf16\"");
  mistake("{\"compress\": {\"top_k\": ^^2}}", Code::wrong_type, "a share");
  mistake("{\"compress\": {\"int8_block\": ^^0}}", Code::wrong_type, "at least 1");
  mistake("{\"compress\": {^^\"topk\": 2}}", Code::unknown_key, "did you mean 'top_k'?");
  CHECK(read(communication("")).diagnostics.all().empty());
  CHECK(read(communication("{\"compress\": \"bf16\", \"when\": false}")).diagnostics.all().empty());
  using Lowering = CommunicationRule::Lowering;
  const Plan plan = good_plan(communication(R"({"lowering": "ring", "when": false}, {"over": "stages", "from": 0, "to": {"pp": 1}, "lowering": "p2p"},
    {"tensor": "w*", "phase": "wgrad", "lowering": "broadcast"}, {"lowering": "auto"})"));
  REQUIRE(plan.communication.size() == 3);
  CHECK(plan.communication[0].lowering == Lowering::point_to_point);
  CHECK(plan.communication[0].over == "stages");
  CHECK(plan.communication[0].from->stage == 0);
  CHECK(plan.communication[0].to->place.coordinates.at("pp") == 1);
  CHECK(plan.communication[1].tensor == "w*");
  CHECK(plan.communication[1].phase == "wgrad");
  CHECK(plan.communication[1].lowering == Lowering::broadcast);
  CHECK(plan.communication[2].lowering == Lowering::automatic);
}

TEST_CASE("timetables and blocks are checked") {
  auto mistake = [](const std::string& body, const std::string& words, Code code = Code::wrong_type) {
    refused(plan_with("\"order\": {" + body + "}"), code, words);
  };
  mistake(R"("timetable": ^^3)", "a list of lists of blocks");
  mistake(R"("timetable": [^^3])", "a list of blocks");
  for (const char* block : {"\"F0\"", "\"0F\"", "\"0X0\"", "\"0F0.\"", "\"0U1\"", "\"\"", "3"})
    mistake("\"timetable\": [[^^" + std::string(block) + "]]", "a block like");
  mistake(R"("blocks": ^^3)", "a list of objects");
  mistake(R"("blocks": [^^{"step": 0}])", "'block'", Code::missing_key);
  mistake(R"("blocks": [^^{"block": "0F0"}])", "'step'", Code::missing_key);
  mistake(R"("blocks": [{"block": "0F0", "step": ^^-1}])", "a step");
  mistake(R"("blocks": [{"block": "0F0", "step": 0, "span": ^^0}])", "a number of steps");
  mistake(R"("blocks": [], "repetend": ^^[2, 1])", "a < b");
}
