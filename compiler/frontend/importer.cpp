#include "compiler/frontend/importer.h"

#include <onnx/onnx_pb.h>

#include <algorithm>
#include <cmath>

#include "compiler/frontend/importers.h"
#include "compiler/frontend/tensor_data.h"
#include "compiler/support/strings.h"

namespace sscc {

std::optional<DType> dtype_of_onnx(int32_t type) {
  switch (type) {
    case onnx::TensorProto::FLOAT: return DType::f32;
    case onnx::TensorProto::DOUBLE: return DType::f64;
    case onnx::TensorProto::FLOAT16: return DType::f16;
    case onnx::TensorProto::BFLOAT16: return DType::bf16;
    case onnx::TensorProto::INT64: return DType::i64;
    case onnx::TensorProto::INT32: return DType::i32;
    case onnx::TensorProto::INT8: return DType::i8;
    case onnx::TensorProto::UINT8: return DType::u8;
    case onnx::TensorProto::BOOL: return DType::b1;
    default: return std::nullopt;
  }
}

TensorId make_constant(Module& module, const std::string& name, const Literal& literal) {
  std::string bytes = to_bytes(literal);
  Tensor t;
  t.name = name;
  t.dtype = literal.dtype;
  t.shape = literal.shape;
  t.role = Role::constant;
  const int64_t length = static_cast<int64_t>(bytes.size());
  t.weight = Weight{"", 0, length, std::make_shared<const std::string>(std::move(bytes))};
  return module.add_tensor(std::move(t));
}

TensorId Node::tensor(size_t i) {
  if (!has(i)) throw BadNode{type + " lacks input " + std::to_string(i)};
  if (!inputs[i].tensor.valid())
    inputs[i].tensor = make_constant(module, name + ":constant:" + std::to_string(module.tensors.size()), *inputs[i].literal);
  return inputs[i].tensor;
}

const Literal& Node::literal(size_t i) const {
  if (!has(i)) throw BadNode{type + " lacks input " + std::to_string(i)};
  if (!inputs[i].literal) throw UnsupportedNode{type + " whose input " + std::to_string(i) + " is not a constant"};
  return *inputs[i].literal;
}

std::optional<double> Node::scalar(size_t i) const {
  if (i >= inputs.size() || !inputs[i].literal || !inputs[i].literal->is_scalar() || inputs.size() != 2) return std::nullopt;
  if (inputs[i].literal->shape.size() > shape(1 - i).size()) return std::nullopt;
  return inputs[i].literal->values[0];
}

Shape Node::shape(size_t i) const {
  if (!has(i)) throw BadNode{type + " lacks input " + std::to_string(i)};
  return inputs[i].tensor.valid() ? module.tensors[inputs[i].tensor].shape : inputs[i].literal->shape;
}

DType Node::dtype(size_t i) const {
  if (!has(i)) throw BadNode{type + " lacks input " + std::to_string(i)};
  return inputs[i].tensor.valid() ? module.tensors[inputs[i].tensor].dtype : inputs[i].literal->dtype;
}

void Node::expect_floats(std::initializer_list<size_t> operands) const {
  const DType first = dtype(*operands.begin());
  for (const size_t i : operands) {
    if (!has(i)) continue;
    if (!rt::is_float(dtype(i))) throw UnsupportedNode{type + " of " + rt::name_of(dtype(i))};
    if (dtype(i) != first) throw BadNode{type + " of " + rt::name_of(first) + " and " + rt::name_of(dtype(i))};
  }
}

const onnx::AttributeProto* Node::attribute(const char* wanted) const {
  for (const auto& each : proto_.attribute())
    if (each.name() == wanted) return &each;
  return nullptr;
}

int64_t Node::integer(const char* wanted, int64_t otherwise) const {
  const auto* a = attribute(wanted);
  if (a && a->type() != onnx::AttributeProto::INT) throw BadNode{"attribute " + quoted(wanted) + " is no integer"};
  return a ? a->i() : otherwise;
}

double Node::number(const char* wanted, double otherwise) const {
  const auto* a = attribute(wanted);
  if (a && a->type() != onnx::AttributeProto::FLOAT) throw BadNode{"attribute " + quoted(wanted) + " is no number"};
  if (a && !std::isfinite(a->f())) throw BadNode{"attribute " + quoted(wanted) + " is no finite number"};
  return a ? static_cast<double>(a->f()) : otherwise;
}

std::string Node::text(const char* wanted, const std::string& otherwise) const {
  const auto* a = attribute(wanted);
  if (a && a->type() != onnx::AttributeProto::STRING) throw BadNode{"attribute " + quoted(wanted) + " is no text"};
  return a ? a->s() : otherwise;
}

std::optional<std::vector<int64_t>> Node::integers(const char* wanted) const {
  const auto* a = attribute(wanted);
  if (!a) return std::nullopt;
  if (a->type() != onnx::AttributeProto::INTS) throw BadNode{"attribute " + quoted(wanted) + " is no list of integers"};
  return std::vector<int64_t>(a->ints().begin(), a->ints().end());
}

std::optional<Literal> Node::value(const char* wanted) const {
  const auto* a = attribute(wanted);
  if (!a) return std::nullopt;
  const std::optional<DType> dtype = dtype_of_onnx(a->t().data_type());
  const std::optional<Shape> shape = shape_of(a->t());
  if (a->type() != onnx::AttributeProto::TENSOR || !dtype || !shape)
    throw BadNode{"attribute " + quoted(wanted) + " is no tensor of a supported type"};
  const std::optional<std::string> bytes = bytes_of(a->t(), *dtype);
  std::optional<Literal> literal = bytes ? from_bytes(*dtype, *shape, *bytes) : std::nullopt;
  if (!literal) throw BadNode{"attribute " + quoted(wanted) + " holds less or more data than its shape needs"};
  return literal;
}

int Node::axis(int64_t given, size_t rank) const {
  const int64_t positive = given < 0 ? given + static_cast<int64_t>(rank) : given;
  if (positive < 0 || positive >= static_cast<int64_t>(rank))
    throw BadNode{type + " axis " + std::to_string(given) + " is out of range for rank " + std::to_string(rank)};
  return static_cast<int>(positive);
}

std::vector<int> Node::axes(size_t input, size_t rank, std::vector<int> otherwise) const {
  std::optional<std::vector<int64_t>> given = integers("axes");
  if (has(input)) given = literal(input).integers();
  if (!given || given->empty()) return otherwise;
  std::vector<int> result;
  for (int64_t each : *given) result.push_back(axis(each, rank));
  std::sort(result.begin(), result.end());
  if (std::adjacent_find(result.begin(), result.end()) != result.end()) throw BadNode{type + " names an axis twice"};
  return result;
}

std::string Node::output_name(size_t i) const {
  if (i < static_cast<size_t>(proto_.output_size()) && !proto_.output(static_cast<int>(i)).empty()) return proto_.output(static_cast<int>(i));
  return name + ":" + std::to_string(i);
}
size_t Node::output_count() const { return static_cast<size_t>(proto_.output_size()); }

using namespace importers;

Importer find_importer(const std::string& domain, const std::string& type) {
  static const std::map<std::string, Importer> table = {
#define SSCC_IMPORT(type, call) {#type, [](Node& n) { call; }},
#include "compiler/frontend/importers.def"
#undef SSCC_IMPORT
  };
  if (domain == "ai.sscc") return type == "StopGradient" ? static_cast<Importer>([](Node& n) { identity(n); }) : nullptr;
  if (!domain.empty()) return nullptr;
  auto it = table.find(type);
  return it == table.end() ? nullptr : it->second;
}

std::vector<std::string> supported_types() {
  return {
#define SSCC_IMPORT(type, call) #type,
#include "compiler/frontend/importers.def"
#undef SSCC_IMPORT
  };
}

}  // namespace sscc
