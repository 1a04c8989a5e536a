// assign: stages, and places of single operators.
#include <algorithm>

#include "compiler/plan/plan_reader.h"
#include "compiler/support/strings.h"

namespace sscc {

namespace {

const char* const place_forms = "a place: {AXIS: COORDINATE}, \"all\", a device number, {\"devices\": ..} or \"host\"";

constexpr int64_t most_devices = 1 << 20;

// "2..5", both ends included; {1, 0} for anything else.
std::pair<int64_t, int64_t> device_range(const std::string& text) {
  const size_t dots = text.find("..");
  const auto number = [](std::string_view t) -> int64_t {
    const bool digits = !t.empty() && t.size() < 10 && t.find_first_not_of("0123456789") == std::string_view::npos;
    return digits ? std::stoll(std::string(t)) : most_devices;
  };
  const int64_t first = number(std::string_view(text).substr(0, dots));
  const int64_t last = dots == std::string::npos ? first : number(std::string_view(text).substr(dots + 2));
  if (first > last || last >= most_devices) return {1, 0};
  return {first, last};
}

}  // namespace

// Rules may name axes of any mesh in the plan, so those that places bring along are gathered before rules are read.
void PlanReader::collect_other_meshes(const JsonValue& value) {
  const auto add = [&](const std::string& name, int64_t length) {
    int64_t& longest = other_mesh_axes_[name];
    longest = std::max(longest, length);
  };
  if (const JsonValue* devices = value.find("devices")) {
    const JsonValue* mesh = value.find("mesh");
    for (size_t i = 0; mesh && i < mesh->keys.size(); ++i) add(mesh->keys[i].name, mesh->items[i].is(Kind::integer) ? mesh->items[i].integer : 1);
    if (!mesh) {
      int64_t count = 0;
      const auto count_in = [&](const JsonValue& item) {
        const auto [first, last] = item.is(Kind::string) ? device_range(item.string) : std::pair<int64_t, int64_t>(0, 0);
        count += last - first + 1;
      };
      if (devices->is(Kind::array))
        std::for_each(devices->items.begin(), devices->items.end(), count_in);
      else
        count_in(*devices);
      add("d", count);
    }
  }
  for (const JsonValue& item : value.items) collect_other_meshes(item);
}

void PlanReader::read_assign(const JsonValue& value) {
  if (!expect_array(value, "a list of rules")) return;
  for (const JsonValue& rule : value.items) read_assign_rule(rule);
}

void PlanReader::read_assign_rule(const JsonValue& value) {
  if (!expect_object(value, language::assign_rule, "a rule: an object with 'stages' or 'ops'")) return;
  rule_holds_ = read_when(value);
  AssignRule rule;
  rule.where = at(value);
  size_t errors_before = diagnostics_.all().size();
  if (value.find("stages"))
    read_stages(value, rule);
  else if (value.find("ops"))
    read_placement(value, rule);
  else
    expect_key(value, "stages", "a rule has 'stages' and 'cut_before' or 'balance', or 'ops' and 'on'");
  if (rule_holds_ && diagnostics_.all().size() == errors_before) result_.plan.assign.push_back(std::move(rule));
  rule_holds_ = true;
}

// -- stages ---------------------------------------------------------------------------------------------------------------------------------------

void PlanReader::read_stages(const JsonValue& value, AssignRule& rule) {
  rule.is_stages = true;
  refuse_other_keys(value, language::assign_rule, "'stages'", {"stages", "cut_before", "balance", "place", "when"});
  const JsonValue* cut_before = value.find("cut_before");
  const JsonValue* balance = value.find("balance");
  if (!cut_before && !balance) expect_key(value, "cut_before", "or 'balance'");
  if (cut_before && balance) error(Code::unknown_key, at_key(value, "balance"), "stages have 'cut_before' or 'balance', not both");

  if (cut_before && expect_array(*cut_before, "a list of selectors, one for each stage but the first")) {
    for (const JsonValue& item : cut_before->items) {
      auto selector = read_selector(item);
      if (!selector) continue;
      check_rule_selector(*selector);
      rule.cut_before.push_back(std::move(*selector));
    }
  }
  if (balance) {
    if (balance->is(Kind::string) && (balance->string == "flops" || balance->string == "bytes"))
      rule.balance = balance->string;
    else
      wrong_type(*balance, "\"flops\" or \"bytes\"");
  }

  const JsonValue& stages = *value.find("stages");
  if (stages.is(Kind::array)) {
    if (stages.items.empty()) return wrong_type(stages, "a mesh axis, or a list of places, one a stage");
    if (value.find("place")) error(Code::unknown_key, at_key(value, "place"), "'place' goes with a mesh axis; here each stage has its place already");
    for (const JsonValue& item : stages.items)
      if (auto place = read_place_of_devices(item)) rule.stage_places.push_back(std::move(*place));
    return;
  }
  auto axis = read_mesh_axis(stages);
  if (!axis) return;
  rule.stages = *axis;
  int64_t length = length_of(*axis);
  read_stage_places(value, rule, balance ? length : static_cast<int64_t>(rule.cut_before.size()) + 1);
}

// `stages`: how many there are, by the cuts; with `balance` one for each coordinate ("v": two, a list: as many as it has).
void PlanReader::read_stage_places(const JsonValue& value, AssignRule& rule, int64_t stages) {
  int64_t length = length_of(rule.stages);
  const JsonValue* place = value.find("place");
  if (!place || (place->is(Kind::string) && place->string == "loop")) {
    for (int64_t i = 0; i < stages; ++i) rule.stage_coordinates.push_back({i % length});
    return;
  }
  if (place->is(Kind::string) && place->string == "v") {
    if (!rule.balance.empty()) stages = 2 * length;
    for (int64_t i = 0; i < stages; ++i) {
      int64_t step = i % (2 * length);
      rule.stage_coordinates.push_back({step < length ? step : 2 * length - 1 - step});
    }
    return;
  }
  const std::string expected = "\"loop\", \"v\" or a list with the coordinate of each stage, or a list of them, 0 to " + std::to_string(length - 1);
  if (!place->is(Kind::array) || place->items.empty()) return wrong_type(*place, expected);
  for (const JsonValue& item : place->items) {
    if (item.is(Kind::array)) {
      if (const auto coordinates = expect_integers(item, 0, length - 1, expected))
        rule.stage_coordinates.emplace_back(coordinates->begin(), coordinates->end());
    } else if (const auto coordinate = expect_integer(item, 0, length - 1, expected)) {
      rule.stage_coordinates.push_back({*coordinate});
    }
  }
}

// -- places ---------------------------------------------------------------------------------------------------------------------------------------

void PlanReader::read_placement(const JsonValue& value, AssignRule& rule) {
  refuse_other_keys(value, language::assign_rule, "'ops'", {"ops", "on", "when"});
  rule.ops = read_selector(*value.find("ops"));
  if (rule.ops) check_rule_selector(*rule.ops);
  const JsonValue* on = expect_key(value, "on", place_forms);
  if (!on) return;
  if (!on->is(Kind::array)) {
    if (auto place = read_place(*on)) rule.on.push_back(std::move(*place));
    return;
  }
  if (on->items.empty()) return wrong_type(*on, "a place, or a list of places, one for each piece");
  for (const JsonValue& item : on->items)
    if (auto place = read_place_of_devices(item)) rule.on.push_back(std::move(*place));
}

// "host" says nothing of devices: it stands alone, beside what other rules say.
std::optional<Place> PlanReader::read_place_of_devices(const JsonValue& value) {
  auto place = read_place(value);
  if (!place || place->kind != Place::Kind::host) return place;
  wrong_type(value, "a place that says which devices: {AXIS: COORDINATE}, \"all\", a device number or {\"devices\": ..}");
  return {};
}

std::optional<Place> PlanReader::read_place(const JsonValue& value) {
  Place place;
  place.where = at(value);
  if (value.is(Kind::string) && value.string == "all") return place;
  if (value.is(Kind::string) && value.string == "host") {
    place.kind = Place::Kind::host;
    return place;
  }
  if (value.is(Kind::object)) { return value.find("devices") ? read_devices(value) : read_coordinates(value); }
  const auto device = expect_integer(value, 0, most_devices - 1, place_forms);
  if (!device) return {};
  place.kind = Place::Kind::devices;
  place.mesh.axes = {{"d", 1}};
  place.mesh.devices = {static_cast<int32_t>(*device)};
  return is_within_the_mesh(place.mesh, value) ? std::optional(place) : std::nullopt;
}

// With a mesh in the plan, its devices are all there are.
bool PlanReader::is_within_the_mesh(const Mesh& own, const JsonValue& value) {
  if (!mesh_given_ || !mesh_readable_) return true;
  const int64_t devices = result_.plan.mesh.size();
  for (const int32_t device : own.devices) {
    if (device < devices) continue;
    error(Code::no_place, at(value), "device " + std::to_string(device) + " does not exist",
          "the mesh has devices 0 to " + std::to_string(devices - 1));
    return false;
  }
  return true;
}

std::optional<Place> PlanReader::read_coordinates(const JsonValue& value) {
  Place place;
  place.where = at(value);
  place.kind = Place::Kind::coordinates;
  if (value.items.empty()) {
    wrong_type(value, place_forms);
    return {};
  }
  for (size_t i = 0; i < value.items.size(); ++i) {
    JsonValue key;
    key.kind = Kind::string;
    key.string = value.keys[i].name;
    key.begin = value.items[i].begin;
    key.end = value.items[i].end;
    auto axis = read_mesh_axis(key);
    auto coordinate = expect_integer(value.items[i], 0, INT32_MAX, "a coordinate of at least 0");
    if (!axis || !coordinate) continue;
    if (mesh_readable_ && (mesh_given_ ? result_.plan.mesh.find(*axis) < 0 : *axis != "d")) {  // without 'mesh', device numbers make one
      error(Code::no_place, at(value.items[i]), "the plan's mesh has no axis " + quoted(*axis), "a place by coordinates is a part of 'mesh'");
      continue;
    }
    if (*coordinate >= length_of(*axis) && result_.plan.mesh.find(*axis) >= 0)
      error(Code::no_place, at(value.items[i]), "mesh axis " + quoted(*axis) + " has no coordinate " + std::to_string(*coordinate),
            "its coordinates are 0 to " + std::to_string(length_of(*axis) - 1));
    place.coordinates[*axis] = *coordinate;
  }
  if (place.coordinates.size() != value.items.size()) return {};
  return place;
}

std::optional<Place> PlanReader::read_devices(const JsonValue& value) {
  if (!expect_object(value, language::device_place)) return {};
  Place place;
  place.where = at(value);
  place.kind = Place::Kind::devices;
  std::vector<int32_t>& devices = place.mesh.devices;
  bool good = true;
  const auto add = [&](const JsonValue& item) {
    std::pair<int64_t, int64_t> range{1, 0};
    if (item.is(Kind::integer) && item.integer >= 0 && item.integer < most_devices) range = {item.integer, item.integer};
    if (item.is(Kind::string)) range = device_range(item.string);
    if (range.first > range.second) {
      wrong_type(item, "a device number, a range like \"2..5\", or a list of them");
      good = false;
    }
    for (int64_t device = range.first; device <= range.second; ++device) {
      if (good && std::find(devices.begin(), devices.end(), device) != devices.end()) {
        error(Code::no_place, at(item), "device " + std::to_string(device) + " stands twice in one place");
        good = false;
      }
      devices.push_back(static_cast<int32_t>(device));
    }
  };
  const JsonValue& list = *value.find("devices");
  if (list.is(Kind::array))
    std::for_each(list.items.begin(), list.items.end(), add);
  else
    add(list);
  if (good && devices.empty()) {
    wrong_type(list, "at least one device");
    good = false;
  }

  place.mesh.axes = {{"d", static_cast<int64_t>(devices.size())}};
  if (const JsonValue* mesh = value.find("mesh")) {
    if (!mesh->is(Kind::object) || mesh->items.empty()) {
      wrong_type(*mesh, "an object of axes and their lengths");
      return {};
    }
    place.mesh.axes.clear();
    for (size_t i = 0; i < mesh->items.size(); ++i) {
      const auto length = expect_integer(mesh->items[i], 1, most_devices, "a length of at least 1");
      if (!length) return {};
      place.mesh.axes.push_back({mesh->keys[i].name, *length});
    }
    double size = 1;  // the product may be large
    for (const MeshAxis& axis : place.mesh.axes) size *= static_cast<double>(axis.length);
    if (good && size != static_cast<double>(devices.size())) {
      error(Code::no_place, at(*mesh), "this mesh has not as many devices as 'devices' lists, " + std::to_string(devices.size()),
            "the lengths multiply to the number of devices");
      good = false;
    }
  }
  if (!good || !is_within_the_mesh(place.mesh, value)) return {};
  return place;
}

// Without `mesh`, places by number say how many devices there are: one axis `d`.
void PlanReader::make_mesh_of_device_numbers() {
  int64_t devices = 1;
  const auto count = [&](const Place& place) {
    for (const int32_t device : place.mesh.devices) devices = std::max<int64_t>(devices, device + 1);
  };
  for (const AssignRule& rule : result_.plan.assign)
    for (const std::vector<Place>* places : {&rule.on, &rule.stage_places}) std::for_each(places->begin(), places->end(), count);
  for (const StoreRule& rule : result_.plan.stores)
    if (rule.place) count(*rule.place);
  if (devices > 1) result_.plan.mesh.axes = {{"d", devices}};
}

}  // namespace sscc
