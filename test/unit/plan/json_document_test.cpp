#include "compiler/plan/json_document.h"

#include "test/unit/plan/reading.h"

using namespace sscc;

namespace {

void malformed(const std::string& marked_text, const std::string& words) {
  Marked marked = unmark(marked_text);
  Diagnostics diagnostics;
  JsonDocument document(marked.text, "plan.json", diagnostics);
  CHECK_FALSE(document.ok());
  check_refusal(diagnostics, marked, Code::malformed_json, words);
}

}  // namespace

TEST_CASE("malformed JSON is refused where it breaks, with what was expected") {
  malformed("^^", "expected a value, found the end of the file");
  malformed("  ^^x", "expected a value, found 'x'");
  malformed("{\"a\": 1\n ^^\"b\": 2}", "expected ',' or '}', found '\"'");
  malformed("[1, 2^^}", "expected ',' or ']', found '}'");
  malformed("{\"a\" ^^1}", "expected ':'");
  malformed("{^^a: 1}", "expected a key in double quotes");
  malformed("[1, ^^]", "the comma before it is one too many");
  malformed("{\"a\": 1, ^^}", "expected a key in double quotes");
  malformed("[1] ^^2", "expected the end of the file");
  malformed("[^^01]", "expected a number, found '01'");
  malformed("[^^1e999]", "expected a number");
  malformed("[^^-]", "expected a number");
  malformed("[^^\"a\\x\"]", "wrong escape");
  malformed("[^^\"\xFF\"]", "not UTF-8");
  malformed("[\"abc^^", "'\"' at the end of a string");
  malformed("[\"ab^^\nc\"]", "'\"' at the end of a string");
  malformed("{} ^^// comment", "JSON has no comments");
  malformed("[^^tru", "expected a value");
}

TEST_CASE("a key that stands twice is refused at its second place") { malformed("{\"a\": 1, ^^\"a\": 2}", "'a' stands twice"); }

TEST_CASE("nesting is limited, so that hostile text cannot overflow the stack") {
  Diagnostics diagnostics;
  CHECK_FALSE(JsonDocument(std::string(1 << 20, '['), "plan.json", diagnostics).ok());
  CHECK_THAT(to_text(diagnostics.all()[0]), Catch::Contains("nested"));
}

TEST_CASE("values and places are read") {
  Diagnostics diagnostics;
  JsonDocument document("\xEF\xBB\xBF{\"a/b\": [1, -2.5e1, true, null,\n  \"\\u00e4\\n\"], \"\xC3\xA4\xC3\xA4\": {\"c~\": 12345678901234567890}}",
                        "plan.json", diagnostics);
  REQUIRE(document.ok());
  const JsonValue& list = *document.root().find("a/b");
  CHECK(list.items[0].integer == 1);
  CHECK(list.items[1].real == -25);
  CHECK(list.items[2].boolean);
  CHECK(list.items[3].is(JsonValue::Kind::null));
  CHECK(list.items[4].string == "\xC3\xA4\n");
  CHECK(document.locate(list.items[4]).line == 2);
  CHECK(document.locate(list.items[4]).column == 3);
  CHECK(document.locate(list.items[4]).pointer == "/a~1b/4");
  const JsonValue& object = document.root().items[1];
  CHECK(object.items[0].is(JsonValue::Kind::real));
  CHECK(document.locate(object.items[0]).pointer == "/\xC3\xA4\xC3\xA4/c~0");
  CHECK(document.locate_key(object, 0).column == 23);  // characters, not bytes
  CHECK(document.locate(document.root()).pointer.empty());
  CHECK(list.dump() == "[1, -25.0, true, null, \"\xC3\xA4\\n\"]");
}
