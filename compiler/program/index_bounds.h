// How large the integers of an input may be: made-up data keeps below, so that lookups and labels are legal.
#pragma once

#include <map>
#include <string>

#include "compiler/program/program.h"

namespace sscc {

// For each input or label that is looked up with, or that names classes: the least length of a dimension that it indexes.
std::map<std::string, int64_t> index_bounds(const Programs& programs);

}  // namespace sscc
