// The text of a module on any bytes: parse_module reports, and never crashes. What it accepts prints, and reads back as itself.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "compiler/ir/print.h"
#include "compiler/ops/parse_module.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sscc::Diagnostics diagnostics;
  const sscc::Module module = sscc::parse_module({reinterpret_cast<const char*>(data), size}, "fuzzed.txt", diagnostics);
  if (diagnostics.has_errors()) return 0;
  const std::string text = sscc::print(module);
  const sscc::Module again = sscc::parse_module(text, "again.txt", diagnostics);
  if (diagnostics.has_errors() || sscc::print(again) != text) std::abort();
  return 0;
}
