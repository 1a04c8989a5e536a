// The ONNX front end on any bytes: it reports, and never crashes. What it accepts goes through recognition of ONNX functions too.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "compiler/frontend/read_onnx.h"
#include "compiler/passes/passes.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sscc::Diagnostics diagnostics;
  try {
    sscc::Module module = sscc::read_onnx_bytes({reinterpret_cast<const char*>(data), size}, "fuzzed.onnx", {}, diagnostics);
    if (!diagnostics.has_errors()) sscc::recognize(module, diagnostics);
  } catch (const sscc::EnvironmentError&) {  // external data that is not there
  }
  return 0;
}
