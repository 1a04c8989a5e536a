// order: schedules, timetables, what ends before what begins.
#include <algorithm>

#include "compiler/plan/plan_reader.h"
#include "compiler/support/strings.h"

namespace sscc {

namespace {

// The parts of "<stage>F<n>", B, I or W, each with ".k" for the pass; "<stage>U".
struct BlockName {
  char kind;
  int64_t stage, micro_batch, pass;
};
std::optional<BlockName> parse_block_name(std::string_view text) {
  const auto number = [&]() -> int64_t {
    const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
    const int64_t value = digits == 0 || digits > 9 ? -1 : std::stoll(std::string(text.substr(0, digits)));
    text.remove_prefix(digits);
    return value;
  };
  BlockName name{'F', number(), 0, -1};
  if (name.stage < 0 || text.empty()) return {};
  name.kind = text.front();
  text.remove_prefix(1);
  if (name.kind == 'U') return text.empty() ? std::optional(name) : std::nullopt;
  if (std::string_view("FBIW").find(name.kind) == std::string_view::npos || (name.micro_batch = number()) < 0) return {};
  if (text.empty()) return name;
  if (text.front() != '.') return {};
  text.remove_prefix(1);
  name.pass = number();
  return name.pass >= 0 && text.empty() ? std::optional(name) : std::nullopt;
}

}  // namespace

void PlanReader::read_order(const JsonValue& value) {
  if (!expect_object(value, language::order)) return;
  result_.plan.order.where = at(value);
  const char* first = nullptr;
  for (const char* key : {"schedule", "timetable", "blocks"}) {
    if (!value.find(key)) continue;
    if (first)
      error(Code::unknown_key, at_key(value, key), "an order has one of 'schedule', 'timetable' and 'blocks', and " + quoted(first) + " is there");
    first = first ? first : key;
  }
  if (value.find("repetend") && !value.find("blocks")) error(Code::unknown_key, at_key(value, "repetend"), "'repetend' goes with 'blocks'");
  if (const JsonValue* schedule = value.find("schedule")) read_schedule(*schedule);
  if (const JsonValue* timetable = value.find("timetable")) read_timetable(*timetable);
  if (value.find("blocks")) read_blocks(value);
  if (const JsonValue* before = value.find("before")) read_before(*before);
}

void PlanReader::read_schedule(const JsonValue& value) {
  auto name = expect_word(value, language::schedules);
  if (!name) return;
  if (!is_supported_schedule(*name)) {
    error(Code::unsupported, at(value), "schedule " + quoted(*name) + " is not supported by this version of sscc", "use " + supported_schedules());
    return;
  }
  result_.plan.order.schedule = *name;
}

void PlanReader::read_before(const JsonValue& value) {
  const std::string expected = "a pair of selectors [A, B]: what A selects ends before what B selects begins";
  if (!expect_array(value, "a list of pairs of selectors")) return;
  for (const JsonValue& pair : value.items) {
    if (!pair.is(Kind::array) || pair.items.size() != 2) {
      wrong_type(pair, expected);
      continue;
    }
    auto first = read_selector(pair.items[0]);
    auto second = read_selector(pair.items[1]);
    for (const std::optional<Selector>* each : {&first, &second}) {
      if (!*each) continue;
      Selector without = **each;  // a micro-batch may be named, but not in a part
      without.micro_batch.reset();
      check_rule_selector(without);
    }
    if (first && second) result_.plan.order.before.emplace_back(std::move(*first), std::move(*second));
  }
}

// -- explicit timetables --------------------------------------------------------------------------------------------------------------------------

std::optional<Block> PlanReader::read_block(const JsonValue& value) {
  const auto name = value.is(Kind::string) ? parse_block_name(value.string) : std::nullopt;
  if (!name) {
    wrong_type(value, "a block like \"0F0\", \"1B3\", \"0W2\", \"0F0.1\" or \"0U\"");
    return {};
  }
  if (name->kind == 'I' || name->kind == 'W') refuse(Feature::divided_backward, at(value));
  if (name->pass > 0) refuse(Feature::recycle, at(value));
  return Block{at(value), name->kind, name->stage, name->micro_batch};
}

void PlanReader::read_timetable(const JsonValue& timetable) {
  if (!expect_array(timetable, "a list of lists of blocks, one for each device")) return;
  for (const JsonValue& device : timetable.items) {
    std::vector<Block>& list = result_.plan.order.timetable.emplace_back();
    if (!expect_array(device, "a list of blocks like \"0F0\"")) continue;
    for (const JsonValue& item : device.items)
      if (auto block = read_block(item)) list.push_back(std::move(*block));
  }
  if (timetable.items.empty()) wrong_type(timetable, "a list of lists of blocks, one for each device");
}

void PlanReader::read_blocks(const JsonValue& order) {
  const JsonValue& blocks = *order.find("blocks");
  if (expect_array(blocks, "a list of objects with 'block' and 'step'")) {
    if (blocks.items.empty()) wrong_type(blocks, "a list of objects with 'block' and 'step'");
    for (const JsonValue& item : blocks.items) {
      if (!expect_object(item, language::block)) continue;
      const JsonValue *name = expect_key(item, "block"), *step = expect_key(item, "step"), *span = item.find("span");
      const auto block = name ? read_block(*name) : std::nullopt;
      const auto begin = step ? expect_integer(*step, 0, INT32_MAX, "a step of at least 0") : std::nullopt;
      const auto length = span ? expect_integer(*span, 1, INT32_MAX, "a number of steps of at least 1") : std::optional<int64_t>(1);
      if (block && begin && length) result_.plan.order.blocks.push_back({*block, *begin, *length});
    }
  }
  if (const JsonValue* repetend = order.find("repetend")) {
    auto range = expect_integers(*repetend, 0, INT32_MAX, "two steps [a, b]");
    if (range && (range->size() != 2 || (*range)[0] >= (*range)[1])) return wrong_type(*repetend, "two steps [a, b] with a < b");
    if (range) result_.plan.order.repetend = {(*range)[0], (*range)[1]};
  }
}

}  // namespace sscc
