// Importers: norms. They differ by the dimensions that are normalised and those that scale and bias have (NormAttributes).
#include <limits>

#include "compiler/frontend/importers.h"
#include "compiler/support/strings.h"

namespace sscc::importers {
namespace {

double epsilon_of(const Node& n) {
  const double epsilon = n.number("epsilon", 1e-5);
  if (epsilon < 0) throw BadNode{"a negative epsilon"};
  return epsilon;
}

// A scale or bias, in the type that the norm of operand 0 is computed in; invalid: there is none.
TensorId weight(Node& n, size_t i) {
  n.expect_floats({0});
  if (!n.has(i)) return {};
  const DType type = rt::arithmetic_type(n.dtype(0));
  if (rt::arithmetic_type(n.dtype(i)) != type) throw BadNode{n.type + " of " + rt::name_of(n.dtype(0)) + " and " + rt::name_of(n.dtype(i))};
  return n.dtype(i) == type ? n.tensor(i) : n.builder().pointwise(Scalar::identity, {n.tensor(i)}, 0, 0, type);
}

// Of [batch, channels, space..].
constexpr DimMask batch = 1, channels = 2;
DimMask space(size_t rank) { return dims_between(2, rank); }

void expect_channels(Node& n, size_t least_rank, std::initializer_list<size_t> operands) {
  const Shape shape = n.shape(0);
  if (shape.size() < least_rank) throw BadNode{n.type + " of [" + to_string(shape) + "], which has too few dimensions"};
  for (const size_t i : operands)
    if (n.shape(i) != Shape{shape[1]})
      throw BadNode{n.type + " of " + std::to_string(shape[1]) + " channels has an operand of shape [" + to_string(n.shape(i)) + "]"};
}

// [channels] -> [channels, 1 ..], to be broadcast against the operand.
TensorId for_each_channel(Node& n, TensorId values) {
  Shape shape(n.shape(0).size() - 1, 1);
  shape[0] = n.module.tensors[values].shape[0];
  return n.builder().reshape(values, shape);
}

}  // namespace

void layer_norm(Node& n) {
  const Shape shape = n.shape(0);
  const auto first = static_cast<size_t>(n.axis(n.integer("axis", -1), shape.size()));
  const DimMask last = dims_between(first, shape.size());
  for (size_t i = 1; i < 3; ++i)
    if (n.has(i) && n.shape(i) != lengths_in(last, shape)) throw UnsupportedNode{"LayerNormalization whose scale or bias is broadcast"};
  const TensorId scale = weight(n, 1), bias = weight(n, 2);
  Builder b = n.builder();
  b.named(n.output_name(0));
  const Builder::Norm norm = b.norm(n.tensor(0), scale, bias, {last, last, true, epsilon_of(n)});
  n.give(norm.y);
  if (n.output_count() > 1) {
    Shape kept(shape.begin(), shape.begin() + static_cast<std::ptrdiff_t>(first));
    kept.append(shape.size() - first, 1);
    n.give(n.builder().named(n.output_name(1)).reshape(norm.mean, kept));
    if (n.output_count() > 2) n.give(n.builder().named(n.output_name(2)).reshape(norm.rstd, kept));
  }
}

void rms_norm(Node& n) {
  const Shape shape = n.shape(0);
  const DimMask last = dims_between(static_cast<size_t>(n.axis(n.integer("axis", -1), shape.size())), shape.size());
  const NormAttributes how = {last, last, false, epsilon_of(n)};
  const TensorId scale = weight(n, 1);
  if (n.shape(1) == lengths_in(last, shape)) return n.give(n.builder().named(n.output_name(0)).norm(n.tensor(0), scale, {}, how).y);
  for (size_t d = 0, lead = shape.size() - n.shape(1).size(); d < n.shape(1).size(); ++d)
    if (n.shape(1).size() > shape.size() || (n.shape(1)[d] != 1 && n.shape(1)[d] != shape[lead + d]))
      throw BadNode{"RMSNormalization of [" + to_string(shape) + "] with a scale of shape [" + to_string(n.shape(1)) + "]"};
  const TensorId normal = n.builder().norm(n.tensor(0), {}, {}, how).y;  // the scale is broadcast
  n.give(n.builder().named(n.output_name(0)).pointwise(Scalar::mul, {normal, scale}));
}

void instance_norm(Node& n) {
  expect_channels(n, 3, {1, 2});
  const NormAttributes how = {space(n.shape(0).size()), channels, true, epsilon_of(n)};
  const TensorId scale = weight(n, 1), bias = weight(n, 2);
  n.give(n.builder().named(n.output_name(0)).norm(n.tensor(0), scale, bias, how).y);
}

// Channels are taken apart into groups: [batch, groups, channels of a group, space..]. Scale and bias are of channels, before opset 21 of groups.
void group_norm(Node& n) {
  const Shape shape = n.shape(0);
  const int64_t groups = n.integer("num_groups", 0);
  if (shape.size() < 2 || groups < 1 || shape[1] % groups != 0)
    throw BadNode{"GroupNormalization of [" + to_string(shape) + "] in " + std::to_string(groups) + " groups"};
  if (shape.size() >= rt::max_rank) throw UnsupportedNode{"GroupNormalization of so many dimensions"};
  const bool is_of_groups = n.opset < 21;
  for (const size_t i : {1, 2})
    if (n.shape(i) != Shape{is_of_groups ? groups : shape[1]})
      throw BadNode{"GroupNormalization has a scale or bias of shape [" + to_string(n.shape(i)) + "]"};
  Shape apart = {shape[0], groups, shape[1] / groups};
  apart.append(shape.begin() + 2, shape.end());
  const auto apart_weight = [&](size_t i) { return is_of_groups ? weight(n, i) : n.builder().reshape(weight(n, i), {apart[1], apart[2]}); };
  const NormAttributes how = {dims_between(2, apart.size()), is_of_groups ? dims_between(1, 2) : dims_between(1, 3), true, epsilon_of(n)};
  const TensorId x = n.builder().reshape(n.tensor(0), apart), scale = apart_weight(1), bias = apart_weight(2);
  const TensorId y = n.builder().norm(x, scale, bias, how).y;
  n.give(n.builder().named(n.output_name(0)).reshape(y, shape));
}

namespace {

// With the mean and variance that are given.
void batch_norm_of_inference(Node& n) {
  if (n.output_count() > 1) throw UnsupportedNode{"BatchNormalization with statistics as outputs, not in training mode"};
  const TensorId shifted = n.builder().pointwise(Scalar::scale_shift, {n.tensor(4)}, 1, epsilon_of(n));
  const TensorId rstd = n.builder().pointwise(Scalar::rsqrt, {shifted});
  const TensorId factor = n.builder().pointwise(Scalar::mul, {n.tensor(1), rstd});
  const TensorId centred = n.builder().pointwise(Scalar::sub, {n.tensor(0), for_each_channel(n, n.tensor(3))});
  const TensorId scaled = n.builder().pointwise(Scalar::mul, {centred, for_each_channel(n, factor)});
  const TensorId bias = for_each_channel(n, n.tensor(2));
  n.give(n.builder().named(n.output_name(0)).pointwise(Scalar::add, {scaled, bias}));
}

// running momentum + current (1 - momentum)
void give_running(Node& n, size_t output, TensorId running, TensorId current) {
  const double momentum = n.number("momentum", 0.9);
  const TensorId old = n.builder().pointwise(Scalar::scale_shift, {running}, momentum, 0);
  const TensorId more = n.builder().pointwise(Scalar::scale_shift, {current}, 1 - momentum, 0);
  n.give(n.builder().named(n.output_name(output)).pointwise(Scalar::add, {old, more}));
}

}  // namespace

void batch_norm(Node& n) {
  expect_channels(n, 2, {1, 2, 3, 4});
  for (const size_t i : {1, 2, 3, 4})
    if (!rt::is_float(n.dtype(i))) throw UnsupportedNode{"BatchNormalization of " + std::string(rt::name_of(n.dtype(i)))};
  if (n.integer("training_mode", 0) == 0) return batch_norm_of_inference(n);
  const NormAttributes how = {batch | space(n.shape(0).size()), channels, true, epsilon_of(n)};
  Builder b = n.builder();
  const TensorId scale = weight(n, 1), bias = weight(n, 2);
  const Builder::Norm norm = b.named(n.output_name(0)).norm(n.tensor(0), scale, bias, how);
  n.give(norm.y);
  if (n.output_count() > 1) give_running(n, 1, n.tensor(3), norm.mean);
  if (n.output_count() > 2) {  // of the whole batch: 1 / rstd^2 - epsilon
    const TensorId squared = n.builder().pointwise(Scalar::square, {norm.rstd});
    const TensorId sum = n.builder().pointwise(Scalar::reciprocal, {squared});
    const TensorId difference = n.builder().pointwise(Scalar::scale_shift, {sum}, 1, -how.epsilon);
    give_running(n, 2, n.tensor(4), n.builder().pointwise(Scalar::clip, {difference}, 0, std::numeric_limits<double>::infinity()));
  }
}

}  // namespace sscc::importers
