// One instruction as one statement of C++.
#pragma once

#include <string>
#include <vector>

#include "compiler/codegen/print_fused.h"
#include "compiler/ir/print.h"
#include "compiler/program/program.h"

namespace sscc {

// "f32 8x32x64"
std::string type_and_shape(const Body& body, const View& view);

struct NamedRule {
  rt::UpdateRule rule;
  std::string name;
};
bool operator==(const NamedRule& named, const rt::UpdateRule& rule);

// The names that a program's statements refer to.
struct ProgramNames {
  std::vector<std::string> buffers;     // by BufferId, in namespace `buf`
  std::vector<NamedRule> update_rules;  // the distinct rules of the body
  const std::string& rule(const rt::UpdateRule& rule) const;
};

// The statement, indented by two blanks, ended with a line end; broken where it exceeds the line length.
std::string print_instruction(const Body& body, const Instruction& instruction, const ProgramNames& names, FusedFunctions& fused);

}  // namespace sscc
