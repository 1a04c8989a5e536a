// Importers: operators that move data, lookups, constants.
#include <algorithm>
#include <cmath>

#include "compiler/frontend/importers.h"
#include "compiler/support/strings.h"

namespace sscc::importers {

void reshape(Node& n) {
  const Shape from = n.shape(0);
  const bool keep_zero = n.integer("allowzero", 0) != 0;
  Shape shape;
  int64_t known = 1;
  int unknown = -1;
  for (int64_t length : n.literal(1).integers()) {
    if (length == 0 && !keep_zero) {
      if (shape.size() >= from.size()) throw BadNode{"Reshape copies a dimension that the input has not"};
      length = from[shape.size()];
    }
    if (length < -1 || (length == -1 && unknown >= 0))
      throw BadNode{"Reshape target [" + to_string(shape) + "] has more than one unknown or a negative length"};
    if (length == -1)
      unknown = static_cast<int>(shape.size());
    else
      known *= std::max<int64_t>(length, 1);
    shape.push_back(length);
  }
  if (unknown >= 0) shape[static_cast<size_t>(unknown)] = elements(from) / std::max<int64_t>(known, 1);
  if (elements(shape) != elements(from)) throw BadNode{"Reshape of [" + to_string(from) + "] to [" + to_string(shape) + "]"};
  n.give(n.builder().named(n.output_name(0)).reshape(n.tensor(0), shape));
}

void flatten(Node& n) {
  const Shape from = n.shape(0);
  int64_t axis = n.integer("axis", 1);
  if (axis < 0) axis += static_cast<int64_t>(from.size());
  if (axis < 0 || axis > static_cast<int64_t>(from.size())) throw BadNode{"Flatten axis out of range"};
  int64_t left = 1;
  for (int64_t d = 0; d < axis; ++d) left *= from[static_cast<size_t>(d)];
  n.give(n.builder().named(n.output_name(0)).reshape(n.tensor(0), {left, elements(from) / left}));
}

void squeeze(Node& n) {
  const Shape from = n.shape(0);
  std::vector<int> ones;
  for (size_t d = 0; d < from.size(); ++d)
    if (from[d] == 1) ones.push_back(static_cast<int>(d));
  const std::vector<int> axes = n.axes(1, from.size(), ones);
  Shape shape;
  for (size_t d = 0; d < from.size(); ++d) {
    const bool gone = std::find(axes.begin(), axes.end(), static_cast<int>(d)) != axes.end();
    if (gone && from[d] != 1) throw BadNode{"Squeeze of a dimension of length " + std::to_string(from[d])};
    if (!gone) shape.push_back(from[d]);
  }
  n.give(n.builder().named(n.output_name(0)).reshape(n.tensor(0), shape));
}

void unsqueeze(Node& n) {
  const Shape from = n.shape(0);
  const std::vector<int64_t> given = n.has(1) ? n.literal(1).integers() : n.integers("axes").value_or(std::vector<int64_t>());
  const size_t rank = from.size() + given.size();
  std::vector<bool> fresh(rank, false);
  for (int64_t axis : given) fresh[static_cast<size_t>(n.axis(axis, rank))] = true;
  Shape shape;
  size_t next = 0;
  for (size_t d = 0; d < rank; ++d) {
    if (!fresh[d] && next >= from.size()) throw BadNode{"Unsqueeze names an axis twice"};
    shape.push_back(fresh[d] ? 1 : from[next++]);
  }
  n.give(n.builder().named(n.output_name(0)).reshape(n.tensor(0), shape));
}

void transpose(Node& n) {
  const size_t rank = n.shape(0).size();
  llvm::SmallVector<int, 5> permutation;
  if (const auto given = n.integers("perm")) {
    for (int64_t p : *given) permutation.push_back(n.axis(p, rank));
  } else {
    for (size_t d = rank; d-- > 0;) permutation.push_back(static_cast<int>(d));
  }
  std::vector<int> sorted(permutation.begin(), permutation.end());
  std::sort(sorted.begin(), sorted.end());
  for (size_t d = 0; d < rank; ++d)
    if (sorted.size() != rank || sorted[d] != static_cast<int>(d)) throw BadNode{"Transpose by something that is no permutation"};
  n.give(n.builder().named(n.output_name(0)).transpose(n.tensor(0), permutation));
}

void slice(Node& n) {
  const Shape from = n.shape(0);
  const std::vector<int64_t> begins = n.literal(1).integers(), ends = n.literal(2).integers();
  std::vector<int64_t> axes, steps_given;
  for (size_t i = 0; i < begins.size(); ++i) axes.push_back(static_cast<int64_t>(i));
  if (n.has(3)) axes = n.literal(3).integers();
  steps_given.assign(begins.size(), 1);
  if (n.has(4)) steps_given = n.literal(4).integers();
  if (ends.size() != begins.size() || axes.size() != begins.size() || steps_given.size() != begins.size())
    throw BadNode{"Slice operands differ in length"};
  Shape starts(from.size(), 0), lengths = from, steps(from.size(), 1);
  for (size_t i = 0; i < begins.size(); ++i) {
    const size_t d = static_cast<size_t>(n.axis(axes[i], from.size()));
    const int64_t length = from[d], step = steps_given[i];
    if (step == 0) throw BadNode{"Slice with step 0"};
    if (step < 0) throw UnsupportedNode{"Slice with a negative step"};
    const int64_t begin = std::clamp<int64_t>(begins[i] < 0 ? begins[i] + length : begins[i], 0, length);
    const int64_t end = std::clamp<int64_t>(ends[i] < 0 ? ends[i] + length : ends[i], 0, length);
    if (end <= begin) throw UnsupportedNode{"Slice that leaves nothing"};
    starts[d] = begin;
    steps[d] = step;
    lengths[d] = (end - begin + step - 1) / step;
  }
  n.give(n.builder().named(n.output_name(0)).slice(n.tensor(0), starts, lengths, steps));
}

void split(Node& n) {
  const Shape from = n.shape(0);
  const int dim = n.axis(n.integer("axis", 0), from.size());
  const int64_t length = from[static_cast<size_t>(dim)];
  std::vector<int64_t> lengths;
  if (n.has(1)) {
    lengths = n.literal(1).integers();
  } else {
    const int64_t count = static_cast<int64_t>(n.output_count());
    const int64_t each = (length + count - 1) / count;
    for (int64_t i = 0; i < count; ++i) lengths.push_back(std::min(each, length - i * each));
  }
  int64_t sum = 0;
  for (int64_t each : lengths) {
    if (each <= 0) throw UnsupportedNode{"Split into pieces of which one is empty"};
    sum += each;
  }
  if (sum != length || lengths.size() != n.output_count())
    throw BadNode{"Split of " + std::to_string(length) + " into pieces that add up to " + std::to_string(sum)};
  Builder b = n.builder();
  const auto outs = b.split(n.tensor(0), dim, lengths);
  for (size_t i = 0; i < outs.size(); ++i) {
    n.module.tensors[outs[i]].name = n.output_name(i);
    n.give(outs[i]);
  }
}

void concat(Node& n) {
  const Shape first = n.shape(0);
  const int dim = n.axis(n.integer("axis", 0), first.size());
  llvm::SmallVector<TensorId, 4> inputs;
  for (size_t i = 0; i < n.inputs.size(); ++i) {
    Shape other = n.shape(i);
    if (other.size() != first.size()) throw BadNode{"Concat of operands of different rank"};
    other[static_cast<size_t>(dim)] = first[static_cast<size_t>(dim)];
    if (other != first) throw BadNode{"Concat of [" + to_string(first) + "] and [" + to_string(n.shape(i)) + "]"};
    inputs.push_back(n.tensor(i));
  }
  n.give(n.builder().named(n.output_name(0)).concat(inputs, dim));
}

void expand(Node& n) {
  Shape shape;
  for (int64_t length : n.literal(1).integers()) shape.push_back(length);
  const Shape from = n.shape(0);
  if (from.size() > shape.size()) shape.insert(shape.begin(), from.size() - shape.size(), 1);
  for (size_t d = 0; d < from.size(); ++d) {
    int64_t& mine = shape[shape.size() - from.size() + d];
    if (mine != from[d] && mine != 1 && from[d] != 1) throw BadNode{"Expand of [" + to_string(from) + "] to [" + to_string(shape) + "]"};
    mine = std::max(mine, from[d]);
  }
  n.give(n.builder().named(n.output_name(0)).expand(n.tensor(0), shape));
}

// A lookup. By one constant index it is a slice (and a reshape): a layout operator.
void gather(Node& n) {
  const Shape from = n.shape(0);
  const int dim = n.axis(n.integer("axis", 0), from.size());
  const size_t d = static_cast<size_t>(dim);
  if (rt::is_float(n.dtype(1))) throw BadNode{"Gather with indices that are no integers"};
  if (n.inputs[1].literal && n.inputs[1].literal->is_scalar()) {
    int64_t index = n.inputs[1].literal->integers()[0];
    if (index < 0) index += from[d];
    if (index < 0 || index >= from[d]) throw BadNode{"Gather of an index out of range"};
    Shape starts(from.size(), 0), lengths = from;
    starts[d] = index;
    lengths[d] = 1;
    const TensorId row = n.builder().slice(n.tensor(0), starts, lengths, Shape(from.size(), 1));
    Shape shape(from.begin(), from.begin() + dim);
    shape.append(n.inputs[1].literal->shape.begin(), n.inputs[1].literal->shape.end());
    shape.append(from.begin() + dim + 1, from.end());
    return n.give(n.builder().named(n.output_name(0)).reshape(row, shape));
  }
  n.give(n.builder().named(n.output_name(0)).gather(n.tensor(0), n.tensor(1), dim));
}

void shape(Node& n) {
  const Shape from = n.shape(0);
  const int64_t rank = static_cast<int64_t>(from.size());
  auto clamp = [rank](int64_t v) { return std::clamp<int64_t>(v < 0 ? v + rank : v, 0, rank); };
  Literal literal{DType::i64, {}, {}};
  for (int64_t d = clamp(n.integer("start", 0)); d < clamp(n.integer("end", rank)); ++d)
    literal.values.push_back(static_cast<double>(from[static_cast<size_t>(d)]));
  literal.shape = {static_cast<int64_t>(literal.values.size())};
  n.outputs.push_back({TensorId(), literal});
}

void constant(Node& n) {
  std::optional<Literal> value = n.value("value");
  if (!value)
    if (const auto list = n.integers("value_ints"))
      value = Literal{DType::i64, {static_cast<int64_t>(list->size())}, std::vector<double>(list->begin(), list->end())};
  if (!value && n.integer("value_int", INT64_MIN) != INT64_MIN) value = Literal{DType::i64, {}, {static_cast<double>(n.integer("value_int", 0))}};
  if (!value && n.number("value_float", NAN) == n.number("value_float", NAN)) value = Literal{DType::f32, {}, {n.number("value_float", 0)}};
  if (!value) throw UnsupportedNode{"Constant of this form"};
  n.outputs.push_back({TensorId(), *value});
}

}  // namespace sscc::importers
