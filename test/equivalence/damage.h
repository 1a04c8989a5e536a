// Everything that can go wrong with good programs, as small changes to them: communication that is dropped, doubled, crossed, rescaled, regrouped or
// mistimed; wrong slices, constants and versions; memory that is taken too early; events that are missing.
#pragma once

#include <functional>
#include <vector>

#include "compiler/program/program.h"
#include "test/equivalence/random_model.h"

namespace sscc::equivalence {

struct Damage {
  const char* name;
  std::function<bool(Programs&, Random&)> apply;  // somewhere, at random; false: the programs have no place for it
};
const std::vector<Damage>& damages();

}  // namespace sscc::equivalence
