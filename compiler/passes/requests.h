// What a transform rule asks for, in terms of axis classes (used by cut_step.cpp and divide.cpp).
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "compiler/ir/axes.h"
#include "compiler/plan/plan.h"
#include "compiler/support/diagnostics.h"

namespace sscc {

// A range to be divided: `length` positions, known to operators by its class or by outer parts of it (class -> units).
struct Request {
  std::string name;  // "layers.0.mlp.up.weight:1", for messages
  int64_t length = 0;
  std::map<int, int64_t> units;  // class -> how many units of the range it counts
};

// The requests of a rule's axis: one for each class that the matches name. Reports matches that are stacks, and no match at all.
std::vector<Request> requests_of(const Module& module, const AxisClasses& classes, const TransformRule& rule, Diagnostics& diagnostics);

// Where a request meets an axis of an operator: the factor of the axis, in how many units.
struct Hit {
  int axis = 0;
  Factor factor;  // stride and length (= units) within the axis
};
// The axes that hold the largest outer part of the request (several if the operator holds it twice); empty: none.
std::vector<Hit> hits(const Op& op, OpId id, const AxisClasses& classes, const Request& request);

// "evenly 1, 2, 3, 4, 6, 12"
std::string even_divisors(int64_t length);

}  // namespace sscc
