// What every module keeps to, whoever made it: operands are there and made before they are read, shapes fit kinds and attributes.
#pragma once

#include <string>

#include "compiler/ir/module.h"

namespace sscc {

// What is wrong with the operator's attributes and the shapes of its operands (which exist); empty: nothing.
std::string problem_of(const Module& module, const Op& op);

// The first thing that is wrong with a module, with the operator's name; empty: nothing.
std::string problem_of(const Module& module);

}  // namespace sscc
