// One instruction, or kernels that are one call, as one statement of C++.
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

// The names that a program's statements refer to.
struct ProgramNames {
  std::vector<std::string> buffers;     // by BufferId, in namespace `buf`
  std::vector<NamedRule> update_rules;  // the distinct rules of the body
  const std::string& rule(const rt::UpdateRule& rule) const;
};

// The statement, indented by two blanks, ended with a line end; broken where it exceeds the line length. `call`: a communication, or kernels (calls.h).
std::string print_call(const Body& body, llvm::ArrayRef<Instruction> call, const ProgramNames& names, FusedFunctions& fused);

}  // namespace sscc
