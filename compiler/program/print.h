// Programs as text, for people and golden tests.
#pragma once

#include <string>

#include "compiler/program/program.h"

namespace sscc {

std::string print(const Programs& programs);

}  // namespace sscc
