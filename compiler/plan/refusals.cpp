#include "compiler/plan/refusals.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "compiler/support/strings.h"

namespace sscc {

namespace {

const Refusal refusals[] = {
    {Feature::recompute, "'recompute'", ""},
    {Feature::named_axis, "an axis named by what it is,", "name it by a tensor: \"TENSOR:DIM\""},
    {Feature::divided_backward, "a backward pass in two parts, 'I' and 'W',", "use 'B'"},
    {Feature::compression, "'compress', which changes results,", "leave it out: values travel as they are"},
    {Feature::recycle, "'recycle' in a recipe", ""},
    {Feature::discrete_state, "an integer or a scalar as 'state'", ""},
};

const std::vector<std::string> schedules_done = {"gpipe", "1f1b"};

}  // namespace

const Refusal* refusal_of(Feature feature) {
  const Refusal* found = std::find_if(std::begin(refusals), std::end(refusals), [&](const Refusal& r) { return r.feature == feature; });
  return found == std::end(refusals) ? nullptr : found;
}

bool is_supported_schedule(const std::string& name) { return std::find(schedules_done.begin(), schedules_done.end(), name) != schedules_done.end(); }

std::string supported_schedules() {
  std::string text;
  for (size_t i = 0; i < schedules_done.size(); ++i) {
    if (i > 0) text += i + 1 == schedules_done.size() ? " or " : ", ";
    text += quoted(schedules_done[i]);
  }
  return text;
}

}  // namespace sscc
