#include "compiler/codegen/print_fused.h"

#include "compiler/codegen/print_instruction.h"

namespace sscc {
namespace {

constexpr size_t functions_per_file = 12;
constexpr size_t longest_name = 4;   // scalar functions named in a function's name

const char* cpp_type(DType type) {
  switch (type) {
    case DType::f32: return "float";
    case DType::f64: return "double";
    case DType::f16: return "f16";
    case DType::bf16: return "bf16";
    case DType::i64: return "int64_t";
    case DType::i32: return "int32_t";
    case DType::i8: return "int8_t";
    case DType::u8: return "uint8_t";
    case DType::b1: return "bool";
  }
  return "";
}

// Everything that makes two functions different.
std::string content_of(const PointwiseExpression& expression, llvm::ArrayRef<DType> outs, llvm::ArrayRef<DType> ins) {
  std::string text;
  for (const DType type : outs) text += std::string(word_of(type)) + " ";
  text += "<-";
  for (const DType type : ins) text += std::string(" ") + word_of(type);
  for (const rt::ScalarStep& step : expression.steps) {
    text += std::string("; ") + rt::name_of(step.function);
    for (int i = 0; i < rt::arity_of(step.function); ++i) text += " " + std::to_string(step.args[i]);
    text += " " + double_literal(step.alpha) + " " + double_literal(step.beta) + " " + word_of(step.dtype);
  }
  for (const int32_t result : expression.results) text += " =" + std::to_string(result);
  return text;
}

}  // namespace

std::string FusedFunctions::name_for(const Body& body, const Instruction& instruction) {
  Function function;
  function.expression = std::get<PointwiseExpression>(instruction.expression);
  for (const View& out : instruction.outs) function.outs.push_back(body.buffers[out.buffer].dtype);
  for (const View& in : instruction.ins) function.ins.push_back(body.buffers[in.buffer].dtype);
  const std::string content = content_of(function.expression, function.outs, function.ins);
  const auto [entry, is_new] = by_content_.emplace(content, functions_.size());
  if (is_new) {
    std::string name;
    const std::vector<rt::ScalarStep>& steps = function.expression.steps;
    for (size_t i = 0; i < steps.size() && i < longest_name; ++i) name += std::string(i ? "_" : "") + rt::name_of(steps[i].function);
    if (steps.size() > longest_name) name += "_and_" + std::to_string(steps.size() - longest_name) + "_more";
    function.name = names_.unique(name);
    function.first_origin = instruction.origin;
    functions_.push_back(std::move(function));
  }
  ++functions_[entry->second].uses;
  return functions_[entry->second].name;
}

}  // namespace sscc
