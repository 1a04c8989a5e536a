// Small constants that the front end computes with: shape operands, scalars, folded arithmetic.
#pragma once

#include <optional>
#include <vector>

#include "compiler/ir/module.h"

namespace sscc {

struct Literal {
  DType dtype = DType::f32;
  Shape shape;
  std::vector<double> values;  // exact for integers up to 2^53: shape arithmetic exceeds it only by INT64_MAX and the like, "to the end"

  bool is_scalar() const { return values.size() == 1; }
  std::vector<int64_t> integers() const;  // what is beyond becomes the greatest or least one
};

// Element-wise bytes of a literal, little-endian, and back. None for a type that literals do not have.
std::string to_bytes(const Literal& literal);
std::optional<Literal> from_bytes(DType dtype, const Shape& shape, const std::string& bytes);

// The operator applied to literals; none if it is not one that is folded. `axis`, `ints`: the attributes that these operators have.
struct FoldAttributes {
  int64_t axis = 0, start = 0, end = INT64_MAX, to = 1;
  std::vector<int64_t> axes;
  bool has_axes = false;
  std::optional<Literal> value;  // ConstantOfShape
};
std::optional<Literal> fold(const std::string& type, const std::vector<Literal>& inputs, const FoldAttributes& attributes);

}  // namespace sscc
