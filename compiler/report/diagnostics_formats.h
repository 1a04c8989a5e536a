// Diagnostics for machines. Text for people is to_text (support/diagnostics.h).
#pragma once

#include <string>

#include "compiler/support/diagnostics.h"

namespace sscc {

// A JSON list with one object a diagnostic, in the order of the reports: severity ("error", "warning", "note"), code ("SSC2103"; "" for a note),
// file, line and column (from 1, 0: not known), pointer, node, message, advice, warning (the name after -W). All keys are always there.
// `indent`: spaces a level; negative: on one line.
std::string to_json(const Diagnostics& diagnostics, int indent = -1);

// One SARIF 2.1.0 log with one run (https://docs.oasis-open.org/sarif/sarif/v2.1.0): the codes that occur are its rules, the JSON pointer and the
// ONNX node logical locations. Columns count Unicode characters.
std::string to_sarif(const Diagnostics& diagnostics, const std::string& version);

}  // namespace sscc
