// Bounds of integer inputs and labels, as far as the programs show them: what synthetic data may hold.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "compiler/program/program.h"

namespace sscc {

// For each input or label that a program looks up with (gather, class labels): one more than the largest index that every use accepts.
std::map<std::string, int64_t> index_bounds(const Programs& programs);

}  // namespace sscc
