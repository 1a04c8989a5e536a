#include "compiler/support/strings.h"

#include <catch2/catch.hpp>

using namespace sscc;

TEST_CASE("a glob matches the whole name") {
  CHECK(glob_match("/layers.2/*", "/layers.2/mlp/up/MatMul"));
  CHECK_FALSE(glob_match("/layers.2/*", "/layers.20/mlp/up/MatMul"));
  CHECK_FALSE(glob_match("layers", "layers.0"));
  CHECK(glob_match("*/Softmax", "/layers.0/attn/Softmax"));
  CHECK_FALSE(glob_match("*/softmax", "/layers.0/attn/Softmax"));
  CHECK(glob_match("layers.*.mlp.*.weight", "layers.0.mlp.up.weight"));
  CHECK(glob_match("layers.?.weight", "layers.3.weight"));
  CHECK_FALSE(glob_match("layers.?.weight", "layers.10.weight"));
  CHECK(glob_match("*", ""));
  CHECK(glob_match("", ""));
  CHECK_FALSE(glob_match("?", ""));
  CHECK(glob_match("a*b*c", "a.b.b.c"));
  CHECK_FALSE(glob_match("a*b*c", "a.c.b"));
}

TEST_CASE("a glob's character classes") {
  CHECK(glob_match("layers.[02]", "layers.0"));
  CHECK_FALSE(glob_match("layers.[02]", "layers.1"));
  CHECK(glob_match("layers.[1-3].x", "layers.2.x"));
  CHECK_FALSE(glob_match("layers.[!1-3].x", "layers.2.x"));
  CHECK(glob_match("layers.[!1-3].x", "layers.4.x"));
  CHECK(glob_match("[]]", "]"));
  CHECK(glob_match("a[b", "a[b"));
  CHECK(glob_match("[a-]", "-"));
}

TEST_CASE("a glob of many stars takes no exponential time") {
  std::string pattern, name(2000, 'a');
  for (int i = 0; i < 200; ++i) pattern += "*a";
  CHECK_FALSE(glob_match(pattern + "b", name));
}

TEST_CASE("nearest names come nearest first, and only near ones") {
  std::vector<std::string> keys = {"transform", "train", "assign", "order", "precision"};
  CHECK(nearest("tranform", keys).front() == "transform");
  CHECK(nearest("zzzzzzzzz", keys).empty());
  CHECK(nearest("layer.*.mlp.up.weight", {"wte.weight", "layers.0.mlp.up.weight", "ln_f.weight"}).front() == "layers.0.mlp.up.weight");
  CHECK(nearest("a", {"b", "b", "c", "d", "e"}, 2).size() <= 2);
  CHECK(did_you_mean("ordr", keys) == "did you mean 'order'?");
  CHECK(did_you_mean("schedlue", {"schedule", "scheduled", "shelled"}) == "did you mean 'schedule' or 'scheduled'?");
  CHECK(did_you_mean("tp", {"tp1", "tp2", "tp3"}) == "did you mean 'tp1', 'tp2' or 'tp3'?");
  CHECK(did_you_mean("zzzzzzzzz", keys).empty());
}

TEST_CASE("text for people") {
  CHECK(join({"a", "b", "c"}, ", ") == "a, b, c");
  CHECK(join({}, ", ").empty());
  CHECK(human_bytes(1) == "1 byte");
  CHECK(human_bytes(1000) == "1000 bytes");
  CHECK(human_bytes(1536) == "1.5 KiB");
  CHECK(human_bytes(int64_t{80} << 30) == "80.0 GiB");
}
