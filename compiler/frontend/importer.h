// What an importer of one ONNX type sees: the node, its operands (tensors or literals), its attributes, and the builder.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "compiler/frontend/literal.h"
#include "compiler/ops/build.h"
#include "compiler/support/diagnostics.h"

namespace onnx {
class NodeProto;
class AttributeProto;
}  // namespace onnx

namespace sscc {

// A value of the graph while it is read: a tensor, a literal (a tensor is made of it when somebody needs one), or absent.
struct Operand {
  TensorId tensor;
  std::optional<Literal> literal;
  bool absent() const { return !tensor.valid() && !literal; }
};

// Thrown by importers: becomes the node's bad_graph diagnostic.
struct BadNode {
  std::string why;
};
// The operator exists, but not in this form: becomes unknown_operator.
struct UnsupportedNode {
  std::string why;
};

class Node {
 public:
  Node(Module& module, const onnx::NodeProto& proto, std::string name, std::string type, int64_t opset, std::vector<Operand> inputs)
      : module(module), name(std::move(name)), type(std::move(type)), opset(opset), inputs(std::move(inputs)), proto_(proto) {}

  Module& module;
  const std::string name, type;
  const int64_t opset;
  std::vector<Operand> inputs;
  std::vector<Operand> outputs;  // filled by the importer

  // Operands. A required one that is missing is a BadNode.
  bool has(size_t i) const { return i < inputs.size() && !inputs[i].absent(); }
  TensorId tensor(size_t i);                     // a literal becomes a constant tensor
  const Literal& literal(size_t i) const;        // must be a constant
  std::optional<double> scalar(size_t i) const;  // a literal with one element, of at most the rank of the other operand
  Shape shape(size_t i) const;
  DType dtype(size_t i) const;
  // Refuses the node unless these operands, of those that there are, are floats of one type.
  void expect_floats(std::initializer_list<size_t> operands) const;

  // Attributes, with defaults. Numbers are finite.
  int64_t integer(const char* name, int64_t otherwise) const;
  double number(const char* name, double otherwise) const;
  std::string text(const char* name, const std::string& otherwise) const;
  std::optional<std::vector<int64_t>> integers(const char* name) const;
  std::optional<Literal> value(const char* name) const;

  // An axis in [0, rank).
  int axis(int64_t axis, size_t rank) const;
  // Axes from an attribute or, from some opset on, an input; none given: `otherwise`.
  std::vector<int> axes(size_t input, size_t rank, std::vector<int> otherwise) const;

  Builder builder() const { return Builder(module, {name, type, Phase::forward, OpId()}); }
  // Name the next result like output `i` of the node.
  std::string output_name(size_t i) const;
  void give(TensorId tensor) { outputs.push_back({tensor, {}}); }
  size_t output_count() const;

 private:
  const onnx::AttributeProto* attribute(const char* name) const;
  const onnx::NodeProto& proto_;
};

// The importer of an ONNX type; null: not supported.
using Importer = void (*)(Node&);
Importer find_importer(const std::string& domain, const std::string& type);
std::vector<std::string> supported_types();

// A constant tensor for a literal.
TensorId make_constant(Module& module, const std::string& name, const Literal& literal);
std::optional<DType> dtype_of_onnx(int32_t type);

}  // namespace sscc
