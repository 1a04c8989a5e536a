// What to say about a name in a plan that the model does not have.
#pragma once

#include <string>

#include "compiler/plan/plan.h"

namespace sscc {

// Why resolve_axis finds nothing, for a message: what is wrong ("no tensor or operator has this name", "dimension has length 1") and, where a
// name is near, "did you mean ...".
struct NoMatch {
  std::string reason, advice;
};
NoMatch explain_no_match(const Module& module, const AxisName& axis);

// Names near those that a selector asks for: "did you mean ...", or empty.
std::string nearest_names(const Module& module, const Selector& selector);

}  // namespace sscc
