// TensorProto: shape and bytes.
#pragma once

#include <optional>
#include <string>

#include "compiler/ir/module.h"

namespace onnx {
class TensorProto;
}

namespace sscc {

// None for negative or overflowing dimensions.
std::optional<Shape> shape_of(const onnx::TensorProto& proto);
// Little-endian bytes from raw_data or the typed fields; none where they do not fit the type.
std::optional<std::string> bytes_of(const onnx::TensorProto& proto, DType type);

}  // namespace sscc
