// What is left of a model and a plan that fail when everything is left out that is not needed to fail.
#pragma once

#include <functional>

#include "test/equivalence/random_plan.h"

namespace sscc::equivalence {

struct Pair {
  Model model;
  RandomPlan plan;
};

// Leaves out rules, the order, operators and outputs, and makes the numbers of the plan (lengths of the mesh, pieces, devices, coordinates) smaller, one
// after another, as long as something smaller `fails`.
Pair shrunk(Pair pair, const std::function<bool(const Pair&)>& fails);

}  // namespace sscc::equivalence
