#include "compiler/passes/lowering_rules.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <set>

#include "compiler/support/strings.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

// Messages that leave their device. In an exchange every device gives to all others.
bool travels(const Delivery& delivery, const Message& message) {
  return message.from != message.to || (delivery.how == Delivery::How::exchange && delivery.devices.size() > 1);
}

bool contains(const std::vector<int>& stages, int64_t stage) { return std::binary_search(stages.begin(), stages.end(), stage); }

bool have_one_in_common(const std::vector<int>& a, const std::vector<int>& b) {
  return llvm::any_of(a, [&](int stage) { return contains(b, stage); });
}

}  // namespace

LoweringRules::LoweringRules(const Module& module, const Meetings& meetings, const std::vector<CommunicationRule>& rules)
    : module_(module), meetings_(meetings), rules_(rules), matched_(rules.size(), 0) {
  for (const auto& slots : module.timetable) {
    std::set<int> stages;
    for (const Slot& slot : slots) stages.insert(stage_of_segment(slot.segment));
    stages.erase(-1);
    stages_.emplace_back(stages.begin(), stages.end());
  }
}

int LoweringRules::rule_of(const Delivery& delivery) {
  int last = -1;
  for (size_t r = 0; r < rules_.size(); ++r) {
    if (!matches(rules_[r], delivery)) continue;
    matched_[r] = 1;
    last = static_cast<int>(r);
  }
  return last;
}

bool LoweringRules::matches(const CommunicationRule& rule, const Delivery& delivery) const {
  if (rule.tensor && !has_name(rule, delivery.tensor)) return false;
  if (rule.phase && !is_in_phase(rule, delivery)) return false;
  if (rule.over == "stages" ? !goes_between_stages(delivery) : !rule.over.empty() && !is_over(rule.over, delivery)) return false;
  return (!rule.from || is_from(*rule.from, delivery)) && (!rule.to || is_to(*rule.to, delivery));
}

bool LoweringRules::has_name(const CommunicationRule& rule, TensorId id) const {
  const Tensor& tensor = module_.tensors[id];
  return llvm::any_of(std::array{id, tensor.gradient_of, tensor.rounded_from, tensor.next_version_of},
                      [&](TensorId each) { return each.valid() && sscc::has_name(module_, each, *rule.tensor); });
}

bool LoweringRules::is_in_phase(const CommunicationRule& rule, const Delivery& delivery) const {
  const auto& producers = module_.tensors[delivery.tensor].producers;
  if (!is_stored(module_.tensors[delivery.tensor]))
    return llvm::any_of(producers, [&](OpId id) { return in_phase(module_, module_.ops[id], *rule.phase); });
  if (delivery.before.valid()) return in_phase(module_, module_.ops[delivery.before], *rule.phase);
  return *rule.phase == "forward";  // gathered at the step's begin
}

bool LoweringRules::is_over(const std::string& axis, const Delivery& delivery) const {
  std::set<int32_t> devices(delivery.devices.begin(), delivery.devices.end());
  for (const Message& message : delivery.messages) devices.insert(message.from);
  return llvm::any_of(module_.meshes, [&](const Mesh& mesh) {
    const int number = mesh.find(axis);
    const auto is_elsewhere = [&](int32_t device) { return mesh.coordinate(device, number) != mesh.coordinate(*devices.begin(), number); };
    return number >= 0 && llvm::all_of(devices, [&](int32_t device) { return mesh.has(device); }) && llvm::any_of(devices, is_elsewhere);
  });
}

LoweringRules::Stages LoweringRules::stages_of_giver(const Message& message) const {
  std::set<int> stages;
  for (const Contribution& c : message.contributions)
    if (c.op.valid() && stage_of_segment(meetings_.segment_of(c.op)) >= 0) stages.insert(stage_of_segment(meetings_.segment_of(c.op)));
  if (stages.empty()) return stages_[static_cast<size_t>(message.from)];
  return {stages.begin(), stages.end()};
}

LoweringRules::Stages LoweringRules::stages_of_receiver(const Delivery& delivery, int32_t device) const {
  const int stage = stage_of_segment(delivery.segment);
  return stage >= 0 ? Stages{stage} : stages_[static_cast<size_t>(device)];
}

bool LoweringRules::goes_between_stages(const Delivery& delivery) const {
  std::set<Stages> givers, receivers;
  for (const Message& message : delivery.messages)
    if (travels(delivery, message)) givers.insert(stages_of_giver(message));
  for (const int32_t device : delivery.devices) receivers.insert(stages_of_receiver(delivery, device));
  return llvm::any_of(givers,
                      [&](const Stages& from) { return llvm::any_of(receivers, [&](const Stages& to) { return !have_one_in_common(from, to); }); });
}

bool LoweringRules::is_from(const CommunicationRule::End& end, const Delivery& delivery) const {
  return llvm::all_of(delivery.messages, [&](const Message& message) {
    if (!travels(delivery, message)) return true;
    return end.stage ? contains(stages_of_giver(message), *end.stage) : is_at(end.place, message.from);
  });
}

bool LoweringRules::is_to(const CommunicationRule::End& end, const Delivery& delivery) const {
  return llvm::all_of(delivery.devices, [&](int32_t device) {
    return end.stage ? contains(stages_of_receiver(delivery, device), *end.stage) : is_at(end.place, device);
  });
}

bool LoweringRules::is_at(const Place& place, int32_t device) const {
  if (place.kind == Place::Kind::all) return true;
  if (place.kind == Place::Kind::devices) return llvm::is_contained(place.mesh.devices, device);
  const Mesh& mesh = module_.meshes[0];
  return llvm::all_of(place.coordinates, [&](const auto& each) {
    const int axis = mesh.find(each.first);
    return axis >= 0 && mesh.has(device) && mesh.coordinate(device, axis) == each.second;
  });
}

// -- rules that match nothing ---------------------------------------------------------------------------------------------------------------------

std::string LoweringRules::nearest(const CommunicationRule& rule) const {
  if (!rule.tensor) return "";
  std::vector<std::string> names;
  for (int64_t t = 0; t < module_.tensors.size(); ++t) {
    if (has_name(rule, TensorId(t))) return "";
    names.push_back(module_.tensors[TensorId(t)].name);
  }
  return did_you_mean(*rule.tensor, names);
}

void LoweringRules::report_unmatched(Diagnostics& diagnostics) const {
  for (size_t r = 0; r < rules_.size(); ++r) {
    if (matched_[r]) continue;
    const std::string near = nearest(rules_[r]);
    diagnostics.error(Code::no_match, rules_[r].where, "the rule matches nothing that travels between devices",
                      near.empty() ? "'sscc check --dump-ir' shows what does" : near);
  }
}

}  // namespace sscc
