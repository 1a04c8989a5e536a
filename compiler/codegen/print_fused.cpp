#include "compiler/codegen/print_fused.h"

#include <algorithm>

#include "compiler/codegen/print_instruction.h"
#include "sscc_rt/scalar_functions.h"

namespace sscc {
namespace {

constexpr size_t functions_per_file = 12;
constexpr size_t longest_name = 4;  // scalar functions named in a function's name

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

// -- text -----------------------------------------------------------------------------------------------------------------------------------------

namespace {

std::string list_of_types(llvm::ArrayRef<DType> types) {
  std::string text;
  for (const DType type : types) text += (text.empty() ? "" : ", ") + std::string(cpp_type(type));
  return text;
}

// "const float t1 = scalar::mul<float>(t0, in1);"
std::string step_text(const PointwiseExpression& expression, size_t index) {
  const rt::ScalarStep& step = expression.steps[index];
  const std::string type = cpp_type(step.dtype);
  std::string text = "const " + type + " t" + std::to_string(index) + " = scalar::" + rt::name_of(step.function) + "<" + type + ">(";
  for (int i = 0; i < rt::arity_of(step.function); ++i) {
    const int32_t arg = step.args[i];
    text += std::string(i ? ", " : "") + (arg >= 0 ? "in" + std::to_string(arg) : "t" + std::to_string(~arg));
  }
  const double constants[] = {step.alpha, step.beta};
  for (int i = 0; i < rt::constants_of(step.function); ++i) text += ", " + double_literal(constants[i]);
  return text + ");";
}

std::string declaration(const std::string& name) {
  return "void " + name + "(std::initializer_list<Tensor> outs, std::initializer_list<Tensor> ins, bool accumulate)";
}

}  // namespace

std::string FusedFunctions::definition(const Function& function) const {
  std::string text =
      "// First at " + comment_text(function.first_origin) + "; " + std::to_string(function.uses) + (function.uses == 1 ? " use.\n" : " uses.\n");
  text += declaration(function.name) + " {\n";
  text += "  pointwise_loop(Types<" + list_of_types(function.outs) + ">(), Types<" + list_of_types(function.ins) + ">(), outs, ins, accumulate, []";
  text += target_ == Target::cpu ? "(" : " SSCC_HOST_DEVICE(";
  for (size_t i = 0; i < function.outs.size(); ++i)
    text += (i ? ", " : "") + std::string(cpp_type(rt::arithmetic_type(function.outs[i]))) + "& out" + std::to_string(i);
  for (size_t i = 0; i < function.ins.size(); ++i)
    text += std::string(", ") + cpp_type(rt::arithmetic_type(function.ins[i])) + " in" + std::to_string(i);
  text += ") {\n";
  for (size_t i = 0; i < function.expression.steps.size(); ++i) text += "    " + step_text(function.expression, i) + "\n";
  for (size_t i = 0; i < function.outs.size(); ++i)
    text += "    out" + std::to_string(i) + " = t" + std::to_string(function.expression.results[i]) + ";\n";
  return text + "  });\n}\n";
}

std::string FusedFunctions::header(const std::string& version) const {
  std::string text =
      "// Chains of pointwise operators, each as one loop. Written by sscc " + version + ".\n#pragma once\n\n#include <initializer_list>\n\n";
  text +=
      "#include \"sscc_rt/types.h\"\n\nnamespace fused {\n\nusing sscc::rt::Tensor;\n\n// outs and ins: views in the order of the operators; inputs "
      "broadcast.\n";
  for (const Function& function : functions_) text += declaration(function.name) + ";\n";
  return text + "\n}  // namespace fused\n";
}

std::vector<std::string> FusedFunctions::sources(const std::string& version) const {
  const std::string loop = target_ == Target::cpu ? "pointwise_loop.h" : "cuda_pointwise.cuh";
  std::vector<std::string> files;
  for (size_t begin = 0; begin < functions_.size(); begin += functions_per_file) {
    std::string& text = files.emplace_back("// Chains of pointwise operators. Written by sscc " + version +
                                           ".\n#include \"fused.h\"\n\n#include \"sscc_rt/" + loop + "\"\n#include \"sscc_rt/views.h\"\n\n");
    text += "using namespace sscc::rt;\n\nnamespace fused {\n\n";
    for (size_t i = begin; i < std::min(begin + functions_per_file, functions_.size()); ++i) text += definition(functions_[i]) + "\n";
    text += "}  // namespace fused\n";
  }
  return files;
}

}  // namespace sscc
