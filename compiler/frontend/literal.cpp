#include "compiler/frontend/literal.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace sscc {
namespace {

constexpr int64_t largest = 1 << 20;  // elements of a literal: more is data, not shape arithmetic

int64_t nearest_integer(double value) { return value >= 0x1p63 ? INT64_MAX : value < -0x1p63 ? INT64_MIN : static_cast<int64_t>(value); }

template <class T>
std::string pack(const std::vector<double>& values) {
  std::string bytes(values.size() * sizeof(T), '\0');
  for (size_t i = 0; i < values.size(); ++i) {
    T value;
    if constexpr (std::is_same_v<T, int64_t>)
      value = nearest_integer(values[i]);
    else
      value = static_cast<T>(values[i]);
    std::memcpy(bytes.data() + i * sizeof(T), &value, sizeof(T));
  }
  return bytes;
}

template <class T>
std::vector<double> unpack(const std::string& bytes) {
  std::vector<double> values(bytes.size() / sizeof(T));
  for (size_t i = 0; i < values.size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    values[i] = static_cast<double>(value);
  }
  return values;
}

std::optional<Literal> binary(const Literal& a, const Literal& b, double (*f)(double, double)) {
  Shape shape = a.shape.size() >= b.shape.size() ? a.shape : b.shape;
  const Shape& shorter = a.shape.size() >= b.shape.size() ? b.shape : a.shape;
  for (size_t d = 0; d < shorter.size(); ++d) {
    int64_t& mine = shape[shape.size() - shorter.size() + d];
    if (mine != shorter[d] && mine != 1 && shorter[d] != 1) return std::nullopt;
    mine = std::max(mine, shorter[d]);
  }
  const int64_t n = elements(shape);
  if (n > largest) return std::nullopt;
  Literal result{a.dtype, shape, std::vector<double>(static_cast<size_t>(n))};
  for (int64_t i = 0; i < n; ++i) {
    auto at = [&](const Literal& x) {
      int64_t index = 0, stride = 1, rest = i;
      for (size_t d = shape.size(); d-- > 0; rest /= shape[d]) {
        const size_t lead = shape.size() - x.shape.size();
        if (d < lead) continue;
        if (x.shape[d - lead] != 1) index += rest % shape[d] * stride;
        stride *= x.shape[d - lead];
      }
      return x.values[static_cast<size_t>(index)];
    };
    result.values[static_cast<size_t>(i)] = f(at(a), at(b));
  }
  return result;
}

}  // namespace

std::vector<int64_t> Literal::integers() const {
  std::vector<int64_t> result;
  for (const double value : values) result.push_back(value >= 0x1p63 ? INT64_MAX : value < -0x1p63 ? INT64_MIN : static_cast<int64_t>(value));
  return result;
}

std::string to_bytes(const Literal& literal) {
  switch (literal.dtype) {
    case DType::f32: return pack<float>(literal.values);
    case DType::f64: return pack<double>(literal.values);
    case DType::i64: return pack<int64_t>(literal.values);
    case DType::i32: return pack<int32_t>(literal.values);
    case DType::i8: return pack<int8_t>(literal.values);
    case DType::u8:
    case DType::b1: return pack<uint8_t>(literal.values);
    default: return {};
  }
}

std::optional<Literal> from_bytes(DType dtype, const Shape& shape, const std::string& bytes) {
  Literal literal{dtype, shape, {}};
  switch (dtype) {
    case DType::f32: literal.values = unpack<float>(bytes); break;
    case DType::f64: literal.values = unpack<double>(bytes); break;
    case DType::i64: literal.values = unpack<int64_t>(bytes); break;
    case DType::i32: literal.values = unpack<int32_t>(bytes); break;
    case DType::i8: literal.values = unpack<int8_t>(bytes); break;
    case DType::u8:
    case DType::b1: literal.values = unpack<uint8_t>(bytes); break;
    default: return std::nullopt;
  }
  if (static_cast<int64_t>(literal.values.size()) != elements(shape)) return std::nullopt;
  return literal;
}

std::optional<Literal> fold(const std::string& type, const std::vector<Literal>& in, const FoldAttributes& a) {
  if (in.empty()) return std::nullopt;
  const Literal& x = in[0];
  auto with_shape = [&](Shape shape) -> std::optional<Literal> {
    if (elements(shape) != static_cast<int64_t>(x.values.size())) return std::nullopt;
    return Literal{x.dtype, std::move(shape), x.values};
  };
  auto positive = [](int64_t axis, size_t rank) { return axis < 0 ? axis + static_cast<int64_t>(rank) : axis; };
  if (type == "Identity") return x;
  if (type == "Add" && in.size() == 2) return binary(x, in[1], [](double p, double q) { return p + q; });
  if (type == "Sub" && in.size() == 2) return binary(x, in[1], [](double p, double q) { return p - q; });
  if (type == "Mul" && in.size() == 2) return binary(x, in[1], [](double p, double q) { return p * q; });
  if (type == "Div" && in.size() == 2) {
    auto result = binary(x, in[1], [](double p, double q) { return q == 0 ? 0 : p / q; });
    if (result && !rt::is_float(x.dtype))
      for (double& v : result->values) v = std::trunc(v);
    return result;
  }
  if (type == "Sqrt" || type == "Neg" || type == "Exp") {
    Literal result = x;
    for (double& v : result.values) v = type == "Sqrt" ? std::sqrt(v) : type == "Neg" ? -v : std::exp(v);
    return result;
  }
  if (type == "Cast") {
    Literal result = x;
    result.dtype = static_cast<DType>(a.to);
    if (!rt::is_float(result.dtype))
      for (double& v : result.values) v = result.dtype == DType::b1 ? v != 0 : std::trunc(v);
    return result;
  }
  if (type == "ConstantOfShape") {
    Shape shape;
    int64_t n = 1;
    for (int64_t length : x.integers()) {
      if (length < 0 || length > largest || (n *= std::max<int64_t>(length, 1)) > largest) return std::nullopt;
      shape.push_back(length);
    }
    Literal result{a.value ? a.value->dtype : DType::f32, shape, {}};
    result.values.assign(static_cast<size_t>(elements(shape)), a.value && !a.value->values.empty() ? a.value->values[0] : 0);
    return result;
  }
  if (type == "Unsqueeze" || type == "Squeeze") {
    std::vector<int64_t> axes = in.size() > 1 ? in[1].integers() : a.axes;
    Shape shape;
    if (type == "Unsqueeze") {
      const size_t rank = x.shape.size() + axes.size();
      size_t next = 0;
      for (int64_t& axis : axes) axis = positive(axis, rank);
      for (size_t d = 0; d < rank; ++d) {
        const bool fresh = std::find(axes.begin(), axes.end(), static_cast<int64_t>(d)) != axes.end();
        if (!fresh && next >= x.shape.size()) return std::nullopt;
        shape.push_back(fresh ? 1 : x.shape[next++]);
      }
    } else {
      for (int64_t& axis : axes) axis = positive(axis, x.shape.size());
      for (size_t d = 0; d < x.shape.size(); ++d) {
        const bool gone = axes.empty() ? x.shape[d] == 1 : std::find(axes.begin(), axes.end(), static_cast<int64_t>(d)) != axes.end();
        if (!gone) shape.push_back(x.shape[d]);
      }
    }
    return with_shape(shape);
  }
  if (type == "Reshape" && in.size() == 2) {
    Shape shape;
    for (int64_t length : in[1].integers()) shape.push_back(length);
    int64_t known = 1;
    for (int64_t& length : shape) {
      if (length == 0 && static_cast<size_t>(&length - shape.data()) < x.shape.size()) length = x.shape[static_cast<size_t>(&length - shape.data())];
      if (length > 0) known *= length;
    }
    for (int64_t& length : shape)
      if (length == -1 && known > 0) length = static_cast<int64_t>(x.values.size()) / known;
    return with_shape(shape);
  }
  if (type == "Concat") {
    Literal result{x.dtype, {0}, {}};
    for (const Literal& each : in) {
      if (each.shape.size() != 1) return std::nullopt;
      result.values.insert(result.values.end(), each.values.begin(), each.values.end());
    }
    result.shape[0] = static_cast<int64_t>(result.values.size());
    return result;
  }
  if (type == "Gather" && in.size() == 2 && x.shape.size() == 1) {
    Literal result{x.dtype, in[1].shape, {}};
    for (int64_t index : in[1].integers()) {
      if (index < 0) index += x.shape[0];
      if (index < 0 || index >= x.shape[0]) return std::nullopt;
      result.values.push_back(x.values[static_cast<size_t>(index)]);
    }
    return result;
  }
  if (type == "Slice" && in.size() >= 3 && x.shape.size() == 1 && in[1].is_scalar() && in[2].is_scalar()) {
    const int64_t n = x.shape[0], step = in.size() > 4 && in[4].is_scalar() ? in[4].integers()[0] : 1;
    if (step <= 0) return std::nullopt;
    auto clamp = [n](int64_t v) { return std::clamp<int64_t>(v < 0 ? v + n : v, 0, n); };
    Literal result{x.dtype, {0}, {}};
    for (int64_t i = clamp(in[1].integers()[0]); i < clamp(in[2].integers()[0]); i += step) result.values.push_back(x.values[static_cast<size_t>(i)]);
    result.shape[0] = static_cast<int64_t>(result.values.size());
    return result;
  }
  return std::nullopt;
}

}  // namespace sscc
