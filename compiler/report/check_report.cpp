#include "compiler/report/check_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "compiler/program/traffic.h"
#include "compiler/report/diagnostics_formats.h"
#include "compiler/report/library_memory.h"
#include "compiler/support/strings.h"

namespace sscc {
namespace {

using Json = nlohmann::ordered_json;

int64_t parameter_bytes(const Body& body, bool of_arena_alone = false) {
  int64_t bytes = 0;
  for (const Buffer& buffer : body.buffers)
    if (buffer.source == Buffer::Source::parameter && !(of_arena_alone && buffer.on_host))
      bytes += buffer.elements * static_cast<int64_t>(rt::size_of(buffer.dtype));
  return bytes;
}

double replicated_fraction(const Programs& programs) {
  double all = 0;
  for (const RankProgram& rank : programs.ranks) all += static_cast<double>(rank.flops_per_step);
  return all > 0 ? std::max(0.0, 1 - static_cast<double>(programs.model_flops_per_step) / all) : 0;
}

}  // namespace

std::string refusal_json(const Diagnostics& diagnostics) {
  Json json;
  json["ok"] = false;
  json["diagnostics"] = Json::parse(to_json(diagnostics));
  return json.dump(1) + "\n";
}

std::string text_json(const Diagnostics& diagnostics, const std::string& text) {
  Json json;
  json["ok"] = true;
  json["diagnostics"] = Json::parse(to_json(diagnostics));
  json["text"] = text;
  return json.dump(1) + "\n";
}

std::string check_json(const Programs& programs, const CheckFacts& facts, const Diagnostics& diagnostics) {
  const Traffic traffic = count_traffic(programs);
  Json json;
  json["ok"] = true;
  json["diagnostics"] = Json::parse(to_json(diagnostics));
  json["devices"] = programs.ranks.size();
  json["equivalent"] = facts.equivalent;
  json["deadlock_free"] = facts.deadlock_free;
  Json peak = Json::array(), host = Json::array(), library = Json::array(), parameters = Json::array(), flops = Json::array();
  for (const RankProgram& rank : programs.ranks) {
    const Body& body = programs.bodies[static_cast<size_t>(rank.body)];
    peak.push_back(body.arena_bytes);
    host.push_back(body.host_bytes);
    library.push_back(facts.is_for_gpus ? library_bytes(body, rank) : 0);
    parameters.push_back(parameter_bytes(body));
    flops.push_back(rank.flops_per_step);
  }
  json["peak_memory_bytes"] = peak;
  json["host_bytes"] = host;
  json["library_bytes"] = library;
  json["parameter_bytes"] = parameters;
  Json by_kind = Json::object();
  for (const auto& [name, kind] : traffic.by_kind) by_kind[name] = {{"count", kind.count}, {"bytes", kind.bytes}};
  json["communication"] = {{"bytes_per_step", traffic.bytes}, {"by_kind", by_kind}, {"messages_per_step", traffic.messages}};
  json["flops_per_step"] = flops;
  json["replicated_flops_fraction"] = replicated_fraction(programs);
  json["schedule"] = {{"makespan_s", facts.makespan_seconds}, {"bubble_fraction", facts.bubble_fraction}};
  const bool is_reference = !facts.reference_device.empty();
  json["schedule"][is_reference ? "reference_device" : "cluster"] = is_reference ? facts.reference_device : facts.device;
  json["distinct_programs"] = programs.bodies.size();
  return json.dump(1) + "\n";
}

std::string with_compile(const std::string& text, double seconds, int64_t peak_rss_bytes, const std::vector<std::pair<std::string, double>>& steps) {
  Json json = Json::parse(text);
  Json by_step = Json::object();
  for (const auto& [name, time] : steps) by_step[name] = time;
  json["compile"] = {{"seconds", seconds}, {"peak_rss_bytes", peak_rss_bytes}, {"steps", by_step}};
  return json.dump(1) + "\n";
}

std::string with_hashes(const std::string& text, const std::vector<std::pair<std::string, std::string>>& hashes) {
  Json json = Json::parse(text);
  for (const auto& [name, hash] : hashes) json["hashes"][name] = hash;
  return json.dump(1) + "\n";
}

std::string check_summary(const Programs& programs, const CheckFacts& facts) {
  const Traffic traffic = count_traffic(programs);
  int64_t peak = 0, host = 0, parameters = 0;
  for (const RankProgram& rank : programs.ranks) {
    peak = std::max(peak, programs.bodies[static_cast<size_t>(rank.body)].arena_bytes);
    host = std::max(host, programs.bodies[static_cast<size_t>(rank.body)].host_bytes);
    parameters = std::max(parameters, parameter_bytes(programs.bodies[static_cast<size_t>(rank.body)], true));
  }
  std::string text = std::to_string(programs.ranks.size()) + " ranks, " + std::to_string(programs.bodies.size()) + " distinct programs\n";
  text += std::string("equivalent to the model: ") + (facts.equivalent ? "yes" : "no") +
          "; free of deadlock: " + (facts.deadlock_free ? "yes" : "no") + "\n";
  text += "largest arena " + human_bytes(peak) + ", of it parameters up to " + human_bytes(parameters) +
          (host > 0 ? ", beside it on the host " + human_bytes(host) : "") + "\n";
  text += "a step sends " + human_bytes(traffic.bytes) + " in " + std::to_string(traffic.messages) + " messages";
  for (const auto& [name, kind] : traffic.by_kind) text += "; " + name + " " + std::to_string(kind.count) + " x, " + human_bytes(kind.bytes);
  char line[160];
  snprintf(line, sizeof line, "\nrepeated work %.1f %%, bubble %.1f %% (on ", 100 * replicated_fraction(programs), 100 * facts.bubble_fraction);
  return text + line + facts.device + ")\n";
}

}  // namespace sscc
