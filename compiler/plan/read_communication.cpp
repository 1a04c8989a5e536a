// communication: how values travel that a rule matches.
#include <algorithm>

#include "compiler/plan/plan_reader.h"

namespace sscc {

void PlanReader::read_communication(const JsonValue& value) {
  if (!expect_array(value, "a list of rules")) return;
  for (const JsonValue& item : value.items) {
    if (!expect_object(item, language::communication_rule, "a rule: an object with 'lowering' or 'compress'")) continue;
    rule_holds_ = read_when(item);
    auto rule = read_communication_rule(item);
    if (rule && rule_holds_) result_.plan.communication.push_back(std::move(*rule));
    rule_holds_ = true;
  }
}

std::optional<CommunicationRule> PlanReader::read_communication_rule(const JsonValue& value) {
  const size_t errors_before = diagnostics_.all().size();
  CommunicationRule rule;
  rule.where = at(value);
  if (const JsonValue* tensor = value.find("tensor")) rule.tensor = expect_string(*tensor, "a glob on tensor names");
  if (const JsonValue* phase = value.find("phase")) rule.phase = expect_word(*phase, language::phases);
  if (const JsonValue* over = value.find("over"))
    rule.over = over->is(Kind::string) && over->string == "stages" ? "stages" : read_mesh_axis(*over).value_or("");
  if (const JsonValue* from = value.find("from")) rule.from = read_end(*from);
  if (const JsonValue* to = value.find("to")) rule.to = read_end(*to);
  if (const JsonValue* compress = value.find("compress")) {
    check_compression(*compress);
    if (rule_holds_) refuse(Feature::compression, at_key(value, "compress"));
  }
  const JsonValue* lowering = value.find("lowering");
  if (!lowering && !value.find("compress")) expect_key(value, "lowering", "or 'compress'");
  if (lowering) rule.word = expect_word(*lowering, language::lowerings).value_or("");
  if (diagnostics_.all().size() > errors_before) return {};
  const std::vector<std::string>& words = language::lowerings.words;
  rule.lowering = static_cast<CommunicationRule::Lowering>(std::find(words.begin(), words.end(), rule.word) - words.begin());
  return rule;
}

// A number is that of a stage here.
std::optional<CommunicationRule::End> PlanReader::read_end(const JsonValue& value) {
  if (value.is(Kind::integer)) {
    const auto stage = expect_integer(value, 0, INT32_MAX, "a stage of at least 0, or a place");
    return stage ? std::optional(CommunicationRule::End{stage, {}}) : std::nullopt;
  }
  auto place = read_place_of_devices(value);
  return place ? std::optional(CommunicationRule::End{{}, std::move(*place)}) : std::nullopt;
}

void PlanReader::check_compression(const JsonValue& value) {
  const std::string expected = "\"bf16\", {\"top_k\": SHARE} or {\"int8_block\": LENGTH}";
  if (value.is(Kind::string) && value.string == "bf16") return;
  if (!value.is(Kind::object)) return wrong_type(value, expected);
  expect_object(value, language::compression);
  if (value.items.size() != 1) wrong_type(value, expected);
  if (const JsonValue* share = value.find("top_k")) expect_number(*share, 1e-12, 1, "a share of the elements above 0 and below 1");
  if (const JsonValue* length = value.find("int8_block")) expect_integer(*length, 1, INT32_MAX, "a number of elements of at least 1");
}

}  // namespace sscc
