// The ONNX front end: a model file to the forward module. Shapes are inferred by our own rules, shape arithmetic and constants are folded, weights
// stay where they are (a Weight names file, offset and length).
//
// Opsets 13 and newer. Every problem is a diagnostic (not an ONNX file, an unknown operator, a symbolic dimension without --shape, ...); no input
// makes it crash.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/ir/module.h"
#include "compiler/support/diagnostics.h"

namespace sscc {

struct OnnxOptions {
  std::map<std::string, std::vector<int64_t>> shapes;  // --shape input=8x128
};

// "-" reads standard input. A file that cannot be opened throws EnvironmentError.
Module read_onnx(const std::string& path, const OnnxOptions& options, Diagnostics& diagnostics);
// The same for bytes in memory; `path` names them in messages and is where external data is looked for.
Module read_onnx_bytes(std::string_view bytes, const std::string& path, const OnnxOptions& options, Diagnostics& diagnostics);

// The bytes of an initializer. Throws EnvironmentError if they cannot be read.
std::string read_weight(const Weight& weight);
// Are the files of all weights there and long enough? Reports missing_external_data.
bool check_weights_present(const Module& module, Diagnostics& diagnostics);

}  // namespace sscc
