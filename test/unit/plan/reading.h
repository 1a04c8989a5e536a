// Reads a plan whose text marks with ^^ where the diagnostic that is expected points to.
#pragma once

#include <catch2/catch.hpp>
#include <optional>
#include <string>

#include "compiler/plan/read_text.h"
#include "test/unit/plan/small_model.h"

namespace sscc {

inline std::string no_file(const std::string& path) { throw EnvironmentError("cannot open '" + path + "'"); }

struct Reading {
  PlanAndRecipe result;
  Diagnostics diagnostics;
};

inline Reading read(const std::string& text, const Settings& settings = {}, const Module& module = SmallModel().module) {
  Reading reading;
  reading.result = read_plan_text(text, "plan.json", "", settings, module, reading.diagnostics, no_file);
  return reading;
}

// Reads a plan that must be good.
inline Plan good_plan(const std::string& text, const Settings& settings = {}) {
  Reading reading = read(text, settings);
  for (const Diagnostic& d : reading.diagnostics.all()) UNSCOPED_INFO(to_text(d));
  CHECK(reading.diagnostics.all().empty());
  return reading.result.plan;
}

struct Marked {
  std::string text;
  int line = 1, column = 1;
};

inline Marked unmark(std::string text) {
  size_t mark = text.find("^^");
  REQUIRE(mark != std::string::npos);
  Marked result;
  for (size_t i = 0; i < mark; ++i) {
    result.column = text[i] == '\n' ? 1 : result.column + 1;
    result.line += text[i] == '\n';
  }
  result.text = text.erase(mark, 2);
  return result;
}

// There is such a diagnostic where the mark is; `words` is part of its text. Returns its whole text.
inline std::string check_refusal(const Diagnostics& diagnostics, const Marked& marked, Code code, const std::string& words) {
  std::string all;
  for (const Diagnostic& d : diagnostics.all()) {
    if (d.code == code && d.where.line == marked.line && d.where.column == marked.column) {
      CHECK_THAT(to_text(d), Catch::Contains(words));
      return to_text(d);
    }
    all += to_text(d) + "\n";
  }
  FAIL_CHECK("no SSC" << static_cast<int>(code) << " at " << marked.line << ":" << marked.column << " of\n" << marked.text << "\nbut\n" << all);
  return "";
}

inline std::string refused(const std::string& marked_text, Code code, const std::string& words, const Settings& settings = {}) {
  Marked marked = unmark(marked_text);
  return check_refusal(read(marked.text, settings).diagnostics, marked, code, words);
}

// A plan over the mesh pp 2, tp 2 with one more top-level entry.
inline std::string plan_with(const std::string& entry) { return R"({"version": 1, "mesh": {"pp": 2, "tp": 2}, )" + entry + "}"; }
// The same with one transform or assign rule.
inline std::string rule(const std::string& body) { return plan_with("\"transform\": [{" + body + "}]"); }
inline std::string place_rule(const std::string& body) { return plan_with("\"assign\": [{" + body + "}]"); }

}  // namespace sscc
