// Source of what the launcher knows: the model's tensors, and for each rank its program and its constants.
#pragma once

#include <string>

#include "compiler/codegen/target.h"
#include "compiler/program/program.h"

namespace sscc {

std::string print_model(const Programs& programs, const std::string& version);
std::string print_ranks(const Programs& programs, Target target, const std::string& version);

}  // namespace sscc
