// Fused pointwise functions: one C++ function for each distinct expression of all programs, compiled once and shared by the ranks.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "compiler/codegen/source_text.h"
#include "compiler/codegen/target.h"
#include "compiler/program/program.h"

namespace sscc {

class FusedFunctions {
 public:
  explicit FusedFunctions(Target target) : target_(target) {}

  // The name (within namespace `fused`) of the function that does a pointwise instruction of several steps. Instructions whose steps, results and
  // operand types are equal share one.
  std::string name_for(const Body& body, const Instruction& instruction);

  bool empty() const { return functions_.empty(); }
  // The declarations.
  std::string header(const std::string& version) const;
  // The definitions, spread over several files of about equal work, which compile at the same time.
  std::vector<std::string> sources(const std::string& version) const;
  // Of their names.
  const char* extension() const { return target_ == Target::cpu ? ".cpp" : ".cu"; }

 private:
  struct Function {
    std::string name;
    PointwiseExpression expression;
    std::vector<DType> outs, ins;
    std::string first_origin;  // where it was first seen, for the comment
    int uses = 0;
  };
  std::string definition(const Function& function) const;

  Target target_;
  std::vector<Function> functions_;
  std::map<std::string, size_t> by_content_;
  Identifiers names_;
};

}  // namespace sscc
