#include "compiler/plan/read_cluster.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "compiler/plan/read_text.h"
#include "compiler/plan/reader.h"

namespace sscc {
namespace {

constexpr int64_t most_devices = int64_t{1} << 20;
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double smallest = std::numeric_limits<double>::min();

class ClusterReader : private Reader {
 public:
  using Reader::Reader;

  Cluster read(const JsonValue& root) {
    if (!expect_object(root, language::cluster, "a cluster: an object with 'version', 'device' and 'levels'")) return cluster_;
    if (const JsonValue* version = expect_key(root, "version", "write \"version\": 1"))
      expect_integer(*version, 1, 1, "version 1, which is what this version of sscc reads");
    cluster_.name = "the cluster";
    if (const JsonValue* name = root.find("name")) cluster_.name = expect_string(*name).value_or("");
    if (const JsonValue* note = root.find("note"); note && !note->is(Kind::string)) expect_strings(*note, "a string, or a list of strings");
    if (const JsonValue* device = expect_key(root, "device")) read_device(*device);
    if (const JsonValue* levels = expect_key(root, "levels")) read_levels(*levels);
    return std::move(cluster_);
  }

 private:
  void read_device(const JsonValue& value) {
    if (!expect_object(value, language::cluster_device)) return;
    if (const JsonValue* flops = expect_key(value, "flops_per_second"); flops && expect_object(*flops, language::cluster_flops)) {
      for (const JsonValue& each : flops->items) expect_rate(each);
      if (const JsonValue* f32 = expect_key(*flops, "f32")) cluster_.device.flops_per_second = f32->is_number() ? f32->real : 1;
      if (const JsonValue* bf16 = flops->find("bf16"); bf16 && bf16->is_number()) cluster_.device.bf16_flops_per_second = bf16->real;
      if (const JsonValue* f16 = flops->find("f16"); f16 && f16->is_number()) cluster_.device.f16_flops_per_second = f16->real;
    }
    if (const JsonValue* rate = expect_key(value, "memory_bytes_per_second")) cluster_.device.memory_bytes_per_second = expect_rate(*rate);
    if (const JsonValue* seconds = value.find("kernel_seconds")) cluster_.device.kernel_seconds = expect_seconds(*seconds);
    if (const JsonValue* memory = value.find("memory")) {
      cluster_.device.memory_bytes = expect_bytes(*memory).value_or(0);
      cluster_.memory_where = at(*memory);
    }
  }

  double expect_rate(const JsonValue& value) { return expect_number(value, smallest, infinity, "a number above 0").value_or(1); }
  double expect_seconds(const JsonValue& value) { return expect_number(value, 0, infinity, "a number of seconds of at least 0").value_or(0); }

  // -- levels -------------------------------------------------------------------------------------------------------------------------------------

  void read_levels(const JsonValue& value) {
    const std::string expected = "a list of levels, from inside out";
    if (!expect_array(value, expected)) return;
    if (value.items.empty()) return wrong_type(value, expected);
    cluster_.levels.clear();
    const size_t errors_before = diagnostics_.all().size();
    for (const JsonValue& item : value.items) read_level(item);
    if (diagnostics_.all().size() > errors_before) return;
    spread_counts();
    check_nesting(value);
  }

  void read_level(const JsonValue& value) {
    Cluster::Level& level = cluster_.levels.emplace_back();
    int64_t& count = counts_.emplace_back(0);
    if (!expect_object(value, language::cluster_level, "a level: an object with 'devices' or 'groups'")) return;
    if (const JsonValue* name = value.find("name")) level.name = expect_string(*name).value_or("");
    if (const JsonValue* rate = expect_key(value, "bytes_per_second")) level.link.bytes_per_second = expect_rate(*rate);
    if (const JsonValue* seconds = expect_key(value, "latency_seconds")) level.link.latency_seconds = expect_seconds(*seconds);
    const JsonValue *devices = value.find("devices"), *groups = value.find("groups");
    if (devices && groups) error(Code::unknown_key, at_key(value, "groups"), "a level has 'devices' or 'groups', not both");
    if (!devices && !groups) expect_key(value, "devices", "how many devices a group of this level has; or 'groups'");
    if (devices) {
      count = expect_integer(*devices, 1, most_devices, "a number of devices of at least 1").value_or(0);
      cluster_.devices_where = at(*devices);
    }
    if (groups && !devices) {
      read_groups(*groups, level);
      cluster_.devices_where = at(*groups);
    }
  }

  // Every device from 0 on is in one group.
  void read_groups(const JsonValue& value, Cluster::Level& level) {
    if (!expect_array(value, "a list of groups, each a list of devices")) return;
    for (size_t g = 0; g < value.items.size(); ++g) {
      const auto list = expect_integers(value.items[g], 0, most_devices - 1, "a list of device numbers");
      if (!list) continue;
      for (const int64_t device : *list) {
        if (static_cast<size_t>(device) >= level.group.size()) level.group.resize(static_cast<size_t>(device) + 1, -1);
        int32_t& group = level.group[static_cast<size_t>(device)];
        if (group >= 0) error(Code::cluster_does_not_fit, at(value.items[g]), "device " + std::to_string(device) + " is in two groups");
        group = static_cast<int32_t>(g);
      }
    }
    const auto missing = std::find(level.group.begin(), level.group.end(), -1);
    if (missing != level.group.end())
      error(Code::cluster_does_not_fit, at(value), "device " + std::to_string(missing - level.group.begin()) + " is in no group",
            "devices are numbered from 0 on");
  }

  // Levels with a number of devices: of the last it is the number of all.
  void spread_counts() {
    cluster_.devices = counts_.back() > 0 ? counts_.back() : static_cast<int64_t>(cluster_.levels.back().group.size());
    for (size_t k = 0; k < cluster_.levels.size(); ++k)
      for (int64_t device = 0; counts_[k] > 0 && device < cluster_.devices; ++device)
        cluster_.levels[k].group.push_back(static_cast<int32_t>(device / counts_[k]));
  }

  // A group of one level lies in one of the next; of the last there is one.
  void check_nesting(const JsonValue& value) {
    const std::vector<int32_t>& all = cluster_.levels.back().group;
    if (std::any_of(all.begin(), all.end(), [](int32_t group) { return group != 0; }))
      return error(Code::cluster_does_not_fit, at(value.items.back()), "the last level has several groups, which nothing links",
                   "the last level is one group of all devices");
    for (size_t k = 0; k < cluster_.levels.size(); ++k) {
      const std::vector<int32_t>& group = cluster_.levels[k].group;
      const auto devices = static_cast<size_t>(cluster_.devices);
      if (group.size() != devices) {
        error(Code::cluster_does_not_fit, at(value.items[k]),
              "this level has " + std::to_string(group.size()) + " devices, and the last has " + std::to_string(devices));
        return;
      }
      if (k == 0) continue;
      std::vector<int32_t> outer(devices, -1);  // by group of the level within
      for (size_t device = 0; device < devices; ++device) {
        int32_t& seen = outer[static_cast<size_t>(cluster_.levels[k - 1].group[device])];
        if (seen >= 0 && seen != group[device]) {
          error(Code::cluster_does_not_fit, at(value.items[k]),
                "a group of the level within, that of device " + std::to_string(device) + ", lies in two groups of this level",
                "each level is made of whole groups of the one before");
          return;
        }
        seen = group[device];
      }
    }
  }

  Cluster cluster_;
  std::vector<int64_t> counts_;  // by level: 'devices'; 0 where there are groups
};

}  // namespace

Cluster read_cluster_text(std::string_view text, const std::string& file, Diagnostics& diagnostics) {
  const size_t errors_before = diagnostics.all().size();
  JsonDocument document(text, file, diagnostics);
  Cluster cluster;
  if (document.ok()) cluster = ClusterReader(document, diagnostics).read(document.root());
  if (diagnostics.all().size() > errors_before) cluster = Cluster();
  cluster.file = file;
  cluster.text = text;
  return cluster;
}

Cluster read_cluster(const std::string& file, Diagnostics& diagnostics) { return read_cluster_text(read_file(file), file, diagnostics); }

void check_size(const Cluster& cluster, int64_t devices, Diagnostics& diagnostics) {
  if (!cluster.is_given() || devices <= cluster.devices) return;
  diagnostics.error(Code::cluster_does_not_fit, cluster.devices_where,
                    "the plan needs " + std::to_string(devices) + " devices, and the cluster has " + std::to_string(cluster.devices),
                    "a smaller mesh, or a larger cluster");
}

}  // namespace sscc
