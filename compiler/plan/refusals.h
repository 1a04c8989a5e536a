// What the plan language has and this version of the compiler does not do: the one table. The reader checks such keys like all others and
// then refuses them by name, at their place. To enable one: delete its line in refusals.cpp and give the plan a field for it.
#pragma once

#include <string>

namespace sscc {

enum class Feature {
  recompute,
  named_axis,
  divided_backward,
  compression,
  recycle,
  discrete_state,
};

struct Refusal {
  Feature feature;
  const char* what;    // "'store'"; goes before "is not supported by this version of sscc"
  const char* advice;  // what to write instead; may be empty
};

// Null: the compiler does it.
const Refusal* refusal_of(Feature feature);

// Schedules are refused by their own names.
bool is_supported_schedule(const std::string& name);
std::string supported_schedules();  // "'gpipe' or '1f1b'"

}  // namespace sscc
