// What assign rules say of whole operators: stages and placements (op.stage, op.placement). `transform` begins with it, since an operator is divided
// over the axes of its own mesh; `assign` then puts the pieces on devices.
#pragma once

#include <optional>
#include <vector>

#include "compiler/ir/module.h"
#include "compiler/plan/plan.h"
#include "compiler/support/diagnostics.h"

namespace sscc {

void find_places(Module& module, const Plan& plan, Diagnostics& diagnostics);

// What is said of one place; a mesh that it brings along becomes one of the module's.
Placement placement_at(Module& module, const Place& place, const Location& where);

// The devices of the part of a mesh with these coordinates, in the mesh's order. Of several coordinates of an axis, those of one turn, or all.
std::vector<int32_t> devices_at(const Mesh& mesh, const Fixed& fixed, std::optional<int> turn);

}  // namespace sscc
