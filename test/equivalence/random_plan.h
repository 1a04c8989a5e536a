// Random plans for a model: meshes, rules by axis and by operator, uneven and time splits, stages, stages with meshes of their own, places, schedules,
// timetables, update splits, stores. Most are legal; what the compiler refuses with a reason does not count.
#pragma once

#include <string>
#include <vector>

#include "test/equivalence/random_model.h"

namespace sscc::equivalence {

struct RandomPlan {
  std::string mesh;                    // "{\"a\": 2}"; empty: none
  std::vector<std::string> transform;  // rules
  std::vector<std::string> assign;
  std::string order;         // empty: none
  std::string text() const;  // the plan
};

RandomPlan random_plan(const Module& module, Random& random);

}  // namespace sscc::equivalence
