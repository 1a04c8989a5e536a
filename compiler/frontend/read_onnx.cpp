#include "compiler/frontend/read_onnx.h"

#include <fcntl.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/stubs/logging.h>
#include <onnx/onnx_pb.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <set>

#include "compiler/frontend/importer.h"
#include "compiler/frontend/tensor_data.h"
#include "compiler/frontend/wire.h"
#include "compiler/support/strings.h"

namespace sscc {
namespace {

constexpr int64_t oldest_opset = 13;
constexpr int64_t most_elements = int64_t{1} << 48;

class Reader {
 public:
  Reader(std::string_view bytes, const std::string& path, const OnnxOptions& options, Diagnostics& diagnostics)
      : bytes_(bytes), path_(path), options_(options), diagnostics_(diagnostics) {}

  Module run() {
    if (!parse()) return std::move(module_);
    module_.name = model_.graph().name();
    read_opsets();
    read_initializers();
    read_inputs();
    if (!diagnostics_.has_errors()) check_operators();
    if (!diagnostics_.has_errors())
      for (int i = 0; i < model_.graph().node_size() && !diagnostics_.has_errors(); ++i) read_node(model_.graph().node(i), i);
    if (!diagnostics_.has_errors()) read_outputs();
    return std::move(module_);
  }

 private:
  Location where() const { return {path_, 0, 0, ""}; }
  void bad(const std::string& why, const std::string& node = "") { diagnostics_.error(Code::bad_graph, where(), why, "", node); }

  bool parse() {
    google::protobuf::SetLogHandler(nullptr);
    google::protobuf::io::ArrayInputStream array(bytes_.data(), static_cast<int>(std::min<size_t>(bytes_.size(), INT32_MAX)));
    google::protobuf::io::CodedInputStream stream(&array);
    stream.SetRecursionLimit(64);
    const bool whole = model_.ParseFromCodedStream(&stream) && stream.ConsumedEntireMessage();
    if (!whole || !model_.has_graph() || model_.graph().node_size() == 0) {
      diagnostics_.error(Code::not_onnx, where(),
                         bytes_.empty() ? "the file is empty"
                         : whole        ? "the file holds no ONNX graph"
                                        : "the file is not an ONNX model, or it is cut short",
                         "export the model again, or check that the whole file was copied");
      return false;
    }
    return true;
  }

  void read_opsets() {
    for (const auto& opset : model_.opset_import()) {
      const std::string domain = opset.domain() == "ai.onnx" ? "" : opset.domain();
      opsets_[domain] = opset.version();
      if (domain.empty() && opset.version() < oldest_opset)
        diagnostics_.error(
            Code::unknown_operator, where(),
            "the model uses opset " + std::to_string(opset.version()) + ", sscc reads opset " + std::to_string(oldest_opset) + " and newer",
            "convert it with onnx.version_converter");
    }
  }

  // Does `name` stand for something already? Every name has one meaning in a graph.
  bool is_fresh(const std::string& name) {
    if (!values_.contains(name)) return true;
    bad("the name " + sscc::quoted(name) + " is given twice");
    return false;
  }

  void read_initializers() {
    const std::vector<RawData> raw = find_raw_data(bytes_);
    const auto& list = model_.graph().initializer();
    for (int i = 0; i < list.size(); ++i) {
      const onnx::TensorProto& proto = list[i];
      if (!is_fresh(proto.name())) return;
      const std::optional<DType> type = dtype_of_onnx(proto.data_type());
      const std::optional<Shape> shape = shape_of(proto);
      if (!type || !shape) return bad("initializer " + sscc::quoted(proto.name()) + " has a type or a shape that is not supported");
      const int64_t bytes = elements(*shape) * static_cast<int64_t>(rt::size_of(*type));
      Tensor t;
      t.name = proto.name();
      t.dtype = *type;
      t.shape = *shape;
      t.role = rt::is_float(*type) && !shape->empty() ? Role::parameter : Role::constant;
      Weight weight;
      weight.length = bytes;
      if (proto.data_location() == onnx::TensorProto::EXTERNAL) {
        if (!external(proto, weight)) return;
      } else if (static_cast<size_t>(i) < raw.size() && raw[static_cast<size_t>(i)].offset >= 0 && bytes > 256 && path_ != "-" && !path_.empty()) {
        weight.file = path_;
        weight.offset = raw[static_cast<size_t>(i)].offset;
        if (raw[static_cast<size_t>(i)].length != bytes)
          return bad("initializer " + sscc::quoted(proto.name()) + " has " + std::to_string(raw[static_cast<size_t>(i)].length) +
                     " bytes of data, its shape needs " + std::to_string(bytes));
      } else {
        std::optional<std::string> data = bytes_of(proto, *type);
        if (!data || static_cast<int64_t>(data->size()) != bytes)
          return bad("initializer " + sscc::quoted(proto.name()) + " holds less or more data than its shape needs");
        weight.bytes = std::make_shared<const std::string>(std::move(*data));
      }
      Operand value;
      if (weight.bytes && elements(*shape) <= 64 && t.role == Role::constant) value.literal = from_bytes(*type, *shape, *weight.bytes);
      t.weight = std::move(weight);
      value.tensor = module_.add_tensor(std::move(t));
      values_[proto.name()] = std::move(value);
    }
  }

  bool external(const onnx::TensorProto& proto, Weight& weight) {
    for (const auto& entry : proto.external_data()) {
      if (entry.key() == "location") weight.file = (std::filesystem::path(path_).parent_path() / entry.value()).string();
      if (entry.key() == "offset") weight.offset = std::strtoll(entry.value().c_str(), nullptr, 10);
    }
    if (weight.file.empty() || weight.offset < 0) {
      diagnostics_.error(Code::missing_external_data, where(), "initializer " + sscc::quoted(proto.name()) + " is external data without a location");
      return false;
    }
    return true;
  }

  void read_inputs() {
    std::set<std::string> names;
    for (const auto& input : model_.graph().input()) {
      names.insert(input.name());
      if (values_.contains(input.name()) && module_.tensors[values_[input.name()].tensor].weight) continue;  // an initializer with a default
      if (!is_fresh(input.name())) return;
      const auto& type = input.type().tensor_type();
      const std::optional<DType> dtype = dtype_of_onnx(type.elem_type());
      if (!dtype || !type.has_shape()) {
        bad("graph input " + sscc::quoted(input.name()) + " has no tensor type or shape that is supported");
        continue;
      }
      Tensor t;
      t.name = input.name();
      t.dtype = *dtype;
      t.role = Role::input;
      const auto given = options_.shapes.find(input.name());
      if (given != options_.shapes.end() && given->second.size() != static_cast<size_t>(type.shape().dim_size())) {
        diagnostics_.error(Code::bad_shape_option, where(),
                           "--shape gives " + sscc::quoted(input.name()) + " " + std::to_string(given->second.size()) + " dimensions, it has " +
                               std::to_string(type.shape().dim_size()));
        continue;
      }
      for (int d = 0; d < type.shape().dim_size(); ++d) {
        const auto& dim = type.shape().dim(d);
        int64_t length = dim.has_dim_value() ? dim.dim_value() : 0;
        if (given != options_.shapes.end()) {
          if (length > 0 && length != given->second[static_cast<size_t>(d)])
            diagnostics_.error(Code::bad_shape_option, where(),
                               "--shape gives dimension " + std::to_string(d) + " of " + sscc::quoted(input.name()) + " length " +
                                   std::to_string(given->second[static_cast<size_t>(d)]) + ", the model fixes it to " + std::to_string(length));
          length = given->second[static_cast<size_t>(d)];
        }
        if (length <= 0) {
          const std::string name = dim.has_dim_param() && !dim.dim_param().empty() ? sscc::quoted(dim.dim_param()) : "(unnamed)";
          diagnostics_.error(Code::symbolic_dimension, where(),
                             "dimension " + std::to_string(d) + " of graph input " + sscc::quoted(input.name()) + " is " + name + ", not a number",
                             "give the shape with --shape " + input.name() + "=" + example_shape(type.shape()));
          break;
        }
        t.shape.push_back(length);
      }
      if (t.shape.size() != static_cast<size_t>(type.shape().dim_size())) continue;
      if (elements_of(t.shape) < 0) {
        bad("graph input " + sscc::quoted(input.name()) + " is too large");
        continue;
      }
      const TensorId id = module_.add_tensor(std::move(t));
      values_[input.name()] = {id, {}};
      module_.inputs.push_back(id);
    }
    std::vector<std::string> known(names.begin(), names.end());
    for (const auto& [name, shape] : options_.shapes)
      if (!names.contains(name))
        diagnostics_.error(Code::bad_shape_option, where(), "--shape names " + sscc::quoted(name) + ", which is no graph input",
                           did_you_mean(name, known));
  }

  static std::string example_shape(const onnx::TensorShapeProto& shape) {
    std::string text;
    for (const auto& dim : shape.dim())
      text += (text.empty() ? "" : "x") + (dim.has_dim_value() && dim.dim_value() > 0 ? std::to_string(dim.dim_value()) : std::string("N"));
    return text;
  }

  // All operators that are not supported, one diagnostic for each type.
  void check_operators() {
    std::set<std::string> seen;
    for (int i = 0; i < model_.graph().node_size(); ++i) {
      const onnx::NodeProto& node = model_.graph().node(i);
      if (find_importer(node.domain() == "ai.onnx" ? "" : node.domain(), node.op_type()) || foldable_only(node.op_type()) ||
          !seen.insert(node.domain() + ":" + node.op_type()).second)
        continue;
      unknown(node, i, "operator " + node.op_type() + " is not supported");
    }
  }
  static bool foldable_only(const std::string& type) { return type == "ConstantOfShape"; }

  void unknown(const onnx::NodeProto& node, int index, const std::string& why) {
    const std::string domain = node.domain() == "ai.onnx" ? "" : node.domain();
    std::string advice = "docs/operators.md lists the supported operators";
    const std::string near = did_you_mean(node.op_type(), supported_types());
    if (!near.empty()) advice += "; " + near;
    diagnostics_.error(Code::unknown_operator, where(),
                       why + " (opset " + std::to_string(opsets_.contains(domain) ? opsets_[domain] : 0) +
                           (domain.empty() ? "" : " of domain " + sscc::quoted(domain)) + ")",
                       advice, node_name(node, index));
  }

  std::string node_name(const onnx::NodeProto& node, int index) const {
    return node.name().empty() ? node.op_type() + "_" + std::to_string(index) : node.name();
  }

  void read_node(const onnx::NodeProto& proto, int index) {
    const std::string domain = proto.domain() == "ai.onnx" ? "" : proto.domain();
    std::vector<Operand> inputs;
    for (const std::string& name : proto.input()) {
      if (name.empty()) {
        inputs.emplace_back();
        continue;
      }
      auto it = values_.find(name);
      if (it == values_.end()) return bad("input " + sscc::quoted(name) + " is made by no operator before this one", node_name(proto, index));
      inputs.push_back(it->second);
    }
    Node node(module_, proto, node_name(proto, index), proto.op_type(), opsets_.contains(domain) ? opsets_[domain] : oldest_opset, std::move(inputs));
    try {
      if (!fold_node(node)) {
        const Importer importer = find_importer(domain, proto.op_type());
        if (!importer) return unknown(proto, index, "operator " + proto.op_type() + " is supported on constants only");
        check_operands(node);
        importer(node);
        for (const Operand& made : node.outputs)
          if (made.tensor.valid()) check_rank(node, module_.tensors[made.tensor].shape);
      }
    } catch (const BadNode& problem) { return bad(problem.why, node.name); } catch (const UnsupportedNode& problem) {
      return unknown(proto, index, problem.why + " is not supported");
    }
    for (int i = 0; i < proto.output_size(); ++i) {
      if (proto.output(i).empty()) continue;
      if (!is_fresh(proto.output(i))) return;
      if (static_cast<size_t>(i) >= node.outputs.size())
        return unknown(proto, index, "output " + std::to_string(i) + " of " + proto.op_type() + " is not supported");
      const Operand& made = node.outputs[static_cast<size_t>(i)];
      if (made.tensor.valid() && elements_of(module_.tensors[made.tensor].shape) < 0) return bad("the result is too large", node.name);
      values_[proto.output(i)] = made;
    }
  }

  // What no operator takes, and shapes that do not broadcast, are found before a builder trips over them.
  void check_operands(Node& node) {
    for (const Operand& input : node.inputs) {
      if (!input.tensor.valid() || input.literal) continue;
      const Shape& shape = module_.tensors[input.tensor].shape;
      if (elements_of(shape) == 0) throw UnsupportedNode{node.type + " of a tensor without elements"};
      check_rank(node, shape);
    }
    static const std::set<std::string> broadcast = {"Add", "Sub", "Mul", "Div", "Pow", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual",
                                                    "And", "Or",  "Max", "Min", "Sum", "Where"};
    if (!broadcast.contains(node.type)) return;
    Shape shape;
    for (size_t i = 0; i < node.inputs.size(); ++i) {
      const Shape other = node.shape(i);
      if (other.size() > shape.size()) shape.insert(shape.begin(), other.size() - shape.size(), 1);
      for (size_t d = 0; d < other.size(); ++d) {
        int64_t& mine = shape[shape.size() - other.size() + d];
        if (mine != other[d] && mine != 1 && other[d] != 1)
          throw BadNode{node.type + " of shapes that do not broadcast, [" + to_string(shape) + "] and [" + to_string(other) + "]"};
        mine = mine == 1 ? other[d] : mine;
      }
    }
  }

  static void check_rank(const Node& node, const Shape& shape) {
    if (shape.size() > static_cast<size_t>(rt::max_rank)) throw UnsupportedNode{node.type + " of " + std::to_string(shape.size()) + " dimensions"};
  }

  bool fold_node(Node& node) {
    std::vector<Literal> literals;
    for (const Operand& input : node.inputs) {
      if (!input.literal) return false;
      literals.push_back(*input.literal);
    }
    FoldAttributes attributes;
    if (const auto axes = node.integers("axes")) attributes.axes = *axes;
    if (node.type == "Cast") {
      const std::optional<DType> type = dtype_of_onnx(static_cast<int32_t>(node.integer("to", 1)));
      if (!type) return false;
      attributes.to = static_cast<int64_t>(*type);
    }
    if (node.type == "ConstantOfShape") attributes.value = node.value("value");
    std::optional<Literal> result = fold(node.type, literals, attributes);
    if (!result) return false;
    node.outputs.push_back({TensorId(), std::move(*result)});
    return true;
  }

  static int64_t elements_of(const Shape& shape) {
    int64_t count = 1;
    for (int64_t length : shape) {
      if (length < 0 || (length > 0 && count > most_elements / length)) return -1;
      count *= length;
    }
    return count;
  }

  void read_outputs() {
    for (const auto& output : model_.graph().output()) {
      auto it = values_.find(output.name());
      if (it == values_.end()) return bad("graph output " + sscc::quoted(output.name()) + " is made by no operator");
      if (!it->second.tensor.valid()) continue;  // a constant
      if (module_.tensors[it->second.tensor].producers.empty())
        return bad("graph output " + sscc::quoted(output.name()) + " is an input or initializer: no operator makes it");
      module_.outputs.push_back(it->second.tensor);
    }
    std::map<std::string, const Operand*> by_name;
    for (const auto& info : model_.graph().value_info()) {
      auto it = values_.find(info.name());
      if (it == values_.end() || !it->second.tensor.valid() || !info.type().has_tensor_type() || !info.type().tensor_type().has_shape()) continue;
      const Shape& ours = module_.tensors[it->second.tensor].shape;
      const auto& theirs = info.type().tensor_type().shape();
      bool differs = static_cast<size_t>(theirs.dim_size()) != ours.size();
      for (int d = 0; !differs && d < theirs.dim_size(); ++d)
        differs = theirs.dim(d).has_dim_value() && theirs.dim(d).dim_value() != ours[static_cast<size_t>(d)];
      if (differs)
        return bad("tensor " + sscc::quoted(info.name()) + " has shape [" + to_string(ours) +
                   "] by its operator, and another one in the model's value_info");
    }
  }

  std::string_view bytes_;
  std::string path_;
  const OnnxOptions& options_;
  Diagnostics& diagnostics_;
  onnx::ModelProto model_;
  Module module_;
  std::map<std::string, Operand> values_;
  std::map<std::string, int64_t> opsets_;
};

}  // namespace

Module read_onnx_bytes(std::string_view bytes, const std::string& path, const OnnxOptions& options, Diagnostics& diagnostics) {
  return Reader(bytes, path, options, diagnostics).run();
}

Module read_onnx(const std::string& path, const OnnxOptions& options, Diagnostics& diagnostics) {
  std::string bytes;
  if (path == "-") {
    bytes.assign(std::istreambuf_iterator<char>(std::cin), {});
  } else {
    std::ifstream file(path, std::ios::binary);
    struct stat status {};
    if (!file || stat(path.c_str(), &status) != 0) throw EnvironmentError(path + ": " + std::strerror(errno));
    if (S_ISDIR(status.st_mode)) throw EnvironmentError(path + ": is a directory");
    bytes.assign(std::istreambuf_iterator<char>(file), {});
  }
  return read_onnx_bytes(bytes, path, options, diagnostics);
}

std::string read_weight(const Weight& weight) {
  if (weight.bytes) return *weight.bytes;
  std::ifstream file(weight.file, std::ios::binary);
  if (!file) throw EnvironmentError(weight.file + ": " + std::strerror(errno));
  std::string bytes(static_cast<size_t>(weight.length), '\0');
  file.seekg(weight.offset);
  if (!file.read(bytes.data(), weight.length)) throw EnvironmentError(weight.file + ": shorter than the model says");
  return bytes;
}

bool check_weights_present(const Module& module, Diagnostics& diagnostics) {
  bool all = true;
  for (const Tensor& t : module.tensors) {
    if (!t.weight || t.weight->bytes) continue;
    struct stat status {};
    const bool there = stat(t.weight->file.c_str(), &status) == 0;
    if (there && status.st_size >= t.weight->offset + t.weight->length) continue;
    diagnostics.error(
        Code::missing_external_data, {t.weight->file, 0, 0, ""},
        "the data of " + sscc::quoted(t.name) +
            (there ? " ends beyond the end of the file (" + std::to_string(status.st_size) + " bytes)" : " is in a file that is not there"),
        "put the model's external data beside it");
    all = false;
  }
  return all;
}

}  // namespace sscc
