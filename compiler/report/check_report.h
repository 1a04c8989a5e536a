// The JSON object of `--diagnostics-format json` and of check.json (PLAN_LANGUAGE section 3).
#pragma once

#include <string>

#include "compiler/program/program.h"
#include "compiler/support/diagnostics.h"

namespace sscc {

struct CheckFacts {
  bool equivalent = false, deadlock_free = false;
  bool is_for_gpus = false;
  double makespan_seconds = 0, bubble_fraction = 0;
  std::string device;            // which these times are of: "the reference device", or the cluster's name
  std::string reference_device;  // in figures; empty: a cluster was given
};

// A refusal: {"ok": false, "diagnostics": [...]}.
std::string refusal_json(const Diagnostics& diagnostics);

// What a command shows as text, a module or an explanation: {"ok": true, "diagnostics": [...], "text": ...}.
std::string text_json(const Diagnostics& diagnostics, const std::string& text);

// Everything the contract lists, without "compile" (which is on stdout only, see with_compile).
std::string check_json(const Programs& programs, const CheckFacts& facts, const Diagnostics& diagnostics);

// The same object with {"compile": {"seconds", "peak_rss_bytes", "steps": {name: seconds}}} added.
std::string with_compile(const std::string& json, double seconds, int64_t peak_rss_bytes, const std::vector<std::pair<std::string, double>>& steps);

// The same object with {"hashes": {NAME: SHA-256}} added: what the proof is of.
std::string with_hashes(const std::string& json, const std::vector<std::pair<std::string, std::string>>& hashes);

// A few lines for people: ranks, memory, traffic, bubble.
std::string check_summary(const Programs& programs, const CheckFacts& facts);

}  // namespace sscc
