// Random plans for a model: meshes, rules by axis and by operator, uneven, nested and time splits, stages (balanced, cut, several on a device, with meshes
// of their own), places of every form, schedules, timetables, operators before others, update splits, stores, lowerings. Most are legal; what the compiler refuses
// with a reason does not count.
#pragma once

#include <string>
#include <vector>

#include "test/equivalence/random_model.h"

namespace sscc::equivalence {

struct RandomPlan {
  std::string mesh;                    // "{\"a\": 2}"; empty: none
  std::vector<std::string> transform;  // rules
  std::vector<std::string> assign;
  std::string order;  // empty: none
  std::vector<std::string> communication = {};
  std::string cluster = {};  // a file of its own; empty: none
  std::string text() const;  // the plan
};

RandomPlan random_plan(const Module& module, Random& random);

}  // namespace sscc::equivalence
