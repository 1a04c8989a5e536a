// Reads the text of a module (compiler/ir/print.h) back: for sscc-opt, golden tests of single passes and bug reports.
//
// A module is read as it stands before `transform`: tensors and operators. What later passes add (splits, places, segments, timetables, deliveries) is
// made again by running them. Weights are not part of the text.
#pragma once

#include <string>
#include <string_view>

#include "compiler/ir/module.h"
#include "compiler/support/diagnostics.h"

namespace sscc {

// `path` names the text in messages. Reports bad_module, with line and column, and returns what was read so far.
Module parse_module(std::string_view text, const std::string& path, Diagnostics& diagnostics);

}  // namespace sscc
