// `sscc explain`: operators, their axes and roles; with a plan, what became of each.
#pragma once

#include <string>

#include "compiler/ir/module.h"

namespace sscc {

// Operators whose name (or an absorbed node's) matches the glob; all for an empty one.
std::string explain(const Module& module, const std::string& glob);

}  // namespace sscc
