// The plan and recipe reader on any text: it reports, and never crashes. The input is a plan, then, after a zero byte, a recipe (if there is one).
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "compiler/plan/read_text.h"
#include "test/unit/plan/small_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static sscc::SmallModel model;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t end = text.find('\0');
  const std::string recipe(end == std::string_view::npos ? "" : text.substr(end + 1));
  const auto no_files = [&](const std::string& path) -> std::string {
    return path == "recipe" ? recipe : throw sscc::EnvironmentError(path + ": fuzzing opens no files");
  };
  sscc::Diagnostics diagnostics;
  try {
    sscc::read_plan_text(text.substr(0, end), "plan.json", recipe.empty() ? "" : "recipe", {}, model.module, diagnostics, no_files);
  } catch (const sscc::EnvironmentError&) {  // a plan may name a recipe's file
  }
  for (const sscc::Diagnostic& diagnostic : diagnostics.all()) sscc::to_text(diagnostic);
  return 0;
}
