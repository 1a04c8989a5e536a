// Importers: pointwise functions, contractions, reductions, loss.
#include <algorithm>
#include <cmath>

#include "compiler/frontend/importers.h"
#include "compiler/support/strings.h"

namespace sscc::importers {
namespace {

void emit(Node& n, Scalar f, llvm::ArrayRef<TensorId> inputs, double alpha = 0, double beta = 0, std::optional<DType> dtype = {}) {
  n.give(n.builder().named(n.output_name(0)).pointwise(f, inputs, alpha, beta, dtype));
}

}  // namespace

// -- pointwise ------------------------------------------------------------------------------------------------------------------------------------

void unary(Node& n, Scalar f) { emit(n, f, {n.tensor(0)}); }

// With a scalar constant on one side, add, sub, mul and div are alpha x + beta: no tensor of one element remains.
void binary(Node& n, Scalar f) {
  std::optional<double> right, left;
  if (n.has(0) && !n.inputs[0].literal) right = n.scalar(1);
  if (!right) left = n.scalar(0);
  const bool floating = rt::is_float(n.dtype(right || !left ? 0 : 1));
  if (right && floating) {
    switch (f) {
      case Scalar::add: return emit(n, Scalar::scale_shift, {n.tensor(0)}, 1, *right);
      case Scalar::sub: return emit(n, Scalar::scale_shift, {n.tensor(0)}, 1, -*right);
      case Scalar::mul: return emit(n, Scalar::scale_shift, {n.tensor(0)}, *right, 0);
      case Scalar::div: return emit(n, Scalar::scale_shift, {n.tensor(0)}, 1 / *right, 0);
      case Scalar::pow:
        if (*right == 2) return emit(n, Scalar::square, {n.tensor(0)});
        if (*right == 0.5) return emit(n, Scalar::sqrt, {n.tensor(0)});
        return emit(n, Scalar::pow_scalar, {n.tensor(0)}, *right);
      default: break;
    }
  }
  if (left && floating) {
    switch (f) {
      case Scalar::add: return emit(n, Scalar::scale_shift, {n.tensor(1)}, 1, *left);
      case Scalar::sub: return emit(n, Scalar::scale_shift, {n.tensor(1)}, -1, *left);
      case Scalar::mul: return emit(n, Scalar::scale_shift, {n.tensor(1)}, *left, 0);
      default: break;
    }
  }
  emit(n, f, {n.tensor(0), n.tensor(1)});
}

void variadic(Node& n, Scalar f) {
  TensorId result = n.tensor(0);
  for (size_t i = 1; i < n.inputs.size(); ++i) {
    Builder b = n.builder();
    if (i + 1 == n.inputs.size()) b.named(n.output_name(0));
    result = b.pointwise(f, {result, n.tensor(i)});
  }
  n.give(result);
}

void where(Node& n) { emit(n, Scalar::where, {n.tensor(0), n.tensor(1), n.tensor(2)}); }
void leaky_relu(Node& n) { emit(n, Scalar::leaky_relu, {n.tensor(0)}, n.number("alpha", 0.01)); }
void identity(Node& n) { emit(n, Scalar::identity, {n.tensor(0)}); }

void clip(Node& n) {
  const double low = n.has(1) ? n.literal(1).values.at(0) : -INFINITY, high = n.has(2) ? n.literal(2).values.at(0) : INFINITY;
  emit(n, Scalar::clip, {n.tensor(0)}, low, high);
}

void cast(Node& n) {
  const std::optional<DType> type = dtype_of_onnx(static_cast<int32_t>(n.integer("to", 1)));
  if (!type) throw UnsupportedNode{"casts to a type that is not supported"};
  emit(n, Scalar::identity, {n.tensor(0)}, 0, 0, type);
}

void gelu(Node& n) { emit(n, n.text("approximate", "none") == "tanh" ? Scalar::gelu_tanh : Scalar::gelu_erf, {n.tensor(0)}); }

void dropout(Node& n) {
  if (n.has(2) && n.literal(2).values.at(0) != 0 && (!n.has(1) || n.literal(1).values.at(0) != 0)) throw UnsupportedNode{"Dropout in training mode"};
  identity(n);
}

// -- contractions ---------------------------------------------------------------------------------------------------------------------------------

void matmul(Node& n) {
  const size_t left = n.shape(0).size(), right = n.shape(1).size();
  if (left == 0 || right == 0) throw BadNode{"MatMul needs operands of rank 1 or more"};
  std::string lhs, rhs, out, batch;
  const size_t batches = std::max(left > 2 ? left - 2 : 0, right > 2 ? right - 2 : 0);
  if (batches > 20) throw BadNode{"MatMul of too high a rank"};
  for (size_t i = 0; i < batches; ++i) batch += static_cast<char>('a' + i);
  if (left > 1) lhs = batch.substr(batches - (left - 2)) + "x";
  if (right > 1) rhs = batch.substr(batches - (right - 2));
  out = batch + (left > 1 ? "x" : "") + (right > 1 ? "y" : "");
  lhs += "z";
  rhs += right > 1 ? "zy" : "z";
  TensorId a = n.tensor(0), b = n.tensor(1);
  // A batch dimension of length 1 against a longer one is broadcast: it is taken out of that operand.
  for (size_t i = 0; i < batches; ++i) {
    auto squeeze = [&](TensorId& id, std::string& labels, TensorId other, const std::string& other_labels) {
      const size_t at = labels.find(batch[i]), there = other_labels.find(batch[i]);
      if (at == std::string::npos || there == std::string::npos) return;
      const Shape shape = n.module.tensors[id].shape;
      if (shape[at] != 1 || n.module.tensors[other].shape[there] == 1) return;
      Shape rest = shape;
      rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(at));
      id = n.builder().reshape(id, rest);
      labels.erase(at, 1);
    };
    squeeze(a, lhs, b, rhs);
    squeeze(b, rhs, a, lhs);
  }
  check_labels(n, a, lhs, b, rhs);
  n.give(n.builder().named(n.output_name(0)).contract(a, lhs, b, rhs, out));
}

void check_labels(Node& n, TensorId a, const std::string& lhs, TensorId b, const std::string& rhs) {
  const Shape &p = n.module.tensors[a].shape, &q = n.module.tensors[b].shape;
  if (p.size() != lhs.size() || q.size() != rhs.size())
    throw BadNode{n.type + " operands have ranks " + std::to_string(p.size()) + " and " + std::to_string(q.size())};
  for (size_t i = 0; i < lhs.size(); ++i)
    if (const size_t j = rhs.find(lhs[i]); j != std::string::npos && p[i] != q[j])
      throw BadNode{n.type + " of [" + to_string(p) + "] and [" + to_string(q) + "]: dimensions that are multiplied differ"};
}

void gemm(Node& n) {
  const double alpha = n.number("alpha", 1), beta = n.number("beta", 1);
  const std::string lhs = n.integer("transA", 0) ? "km" : "mk", rhs = n.integer("transB", 0) ? "nk" : "kn";
  check_labels(n, n.tensor(0), lhs, n.tensor(1), rhs);
  const bool bias = n.has(2) && beta != 0;
  Builder b = n.builder();
  if (!bias) b.named(n.output_name(0));
  TensorId result = b.contract(n.tensor(0), lhs, n.tensor(1), rhs, "mn", alpha);
  if (bias) {
    TensorId c = n.tensor(2);
    if (beta != 1) c = n.builder().pointwise(Scalar::scale_shift, {c}, beta, 0);
    result = n.builder().named(n.output_name(0)).pointwise(Scalar::add, {result, c});
  }
  n.give(result);
}

void einsum(Node& n) {
  std::string equation = n.text("equation", "");
  std::erase(equation, ' ');
  if (equation.find('.') != std::string::npos) throw UnsupportedNode{"Einsum with an ellipsis"};
  const size_t arrow = equation.find("->");
  std::vector<std::string> labels(1);
  for (char c : equation.substr(0, arrow)) {
    if (c == ',')
      labels.emplace_back();
    else if (std::isalpha(static_cast<unsigned char>(c)))
      labels.back() += c;
    else
      throw BadNode{"Einsum equation " + quoted(equation)};
  }
  std::string out;
  if (arrow != std::string::npos) {
    out = equation.substr(arrow + 2);
  } else {  // letters that occur once, in order
    std::map<char, int> counts;
    for (const std::string& each : labels)
      for (char c : each) ++counts[c];
    for (const auto& [c, count] : counts)
      if (count == 1) out += c;
  }
  if (labels.size() != n.inputs.size())
    throw BadNode{"Einsum with " + std::to_string(n.inputs.size()) + " operands for equation " + quoted(equation)};
  for (const std::string& each : labels)
    for (char c : each)
      if (std::count(each.begin(), each.end(), c) > 1) throw UnsupportedNode{"Einsum with a repeated letter in one operand"};
  TensorId result = n.tensor(0);
  std::string have = labels[0];
  // Letters of one operand alone that the result has not are summed away first: a contraction of two has none of those.
  auto sum_alone = [&](TensorId id, std::string& mine, const std::string& others) {
    llvm::SmallVector<int, 4> gone;
    std::string rest;
    for (size_t i = 0; i < mine.size(); ++i)
      if (others.find(mine[i]) == std::string::npos)
        gone.push_back(static_cast<int>(i));
      else
        rest += mine[i];
    if (gone.empty()) return id;
    mine = rest;
    return n.builder().reduce(id, gone, false, Join::sum);
  };
  for (size_t i = 1; i < labels.size(); ++i) {
    std::string later = out;
    for (size_t j = i + 1; j < labels.size(); ++j) later += labels[j];
    std::string right = labels[i];
    result = sum_alone(result, have, right + later);
    const TensorId other = sum_alone(n.tensor(i), right, have + later);
    check_labels(n, result, have, other, right);
    std::string made;
    for (char c : have + right)
      if (later.find(c) != std::string::npos && made.find(c) == std::string::npos) made += c;
    if (i + 1 == labels.size()) made = out;
    Builder b = n.builder();
    if (i + 1 == labels.size()) b.named(n.output_name(0));
    result = b.contract(result, have, other, right, made);
    have = made;
  }
  if (labels.size() == 1) {
    result = sum_alone(result, have, out);
    llvm::SmallVector<int, 5> permutation;
    for (char c : out) {
      if (have.find(c) == std::string::npos) throw BadNode{"Einsum equation " + quoted(equation)};
      permutation.push_back(static_cast<int>(have.find(c)));
    }
    result = n.builder().named(n.output_name(0)).transpose(result, permutation);
  }
  n.give(result);
}

// -- reductions, loss -----------------------------------------------------------------------------------------------------------------------------

void reduce(Node& n, Join join, bool mean) {
  if (n.dtype(0) == DType::b1) throw UnsupportedNode{n.type + " of BOOL"};
  const size_t rank = n.shape(0).size();
  std::vector<int> all;
  for (size_t d = 0; d < rank; ++d) all.push_back(static_cast<int>(d));
  const std::vector<int> dims = n.axes(1, rank, n.integer("noop_with_empty_axes", 0) ? std::vector<int>() : all);
  if (dims.empty()) return identity(n);
  double count = 1;
  for (int d : dims) count *= static_cast<double>(n.shape(0)[static_cast<size_t>(d)]);
  n.give(n.builder().named(n.output_name(0)).reduce(n.tensor(0), dims, n.integer("keepdims", 1) != 0, join, mean ? 1 / count : 1));
}

// The first (or last) position of the extreme: of the positions that hold it, the least (or greatest). Both are joins that can be split, and so the
// dimension can: pairs of value and index are never formed.
void arg_extreme(Node& n, Join extreme) {
  const Shape shape = n.shape(0);
  const int dim = n.axis(n.integer("axis", 0), shape.size());
  const bool is_last = n.integer("select_last_index", 0) != 0;
  const int64_t length = shape[static_cast<size_t>(dim)];
  Literal positions{DType::f64, Shape(shape.size() - static_cast<size_t>(dim), 1), {}};  // right-aligned
  positions.shape[0] = length;
  for (int64_t i = 0; i < length; ++i) positions.values.push_back(static_cast<double>(i));
  const Literal nowhere{DType::f64, {}, {is_last ? -1.0 : static_cast<double>(length)}};

  const TensorId best = n.builder().reduce(n.tensor(0), {dim}, true, extreme);
  const TensorId is_best = n.builder().pointwise(Scalar::equal, {n.tensor(0), best});
  const TensorId found = n.builder().pointwise(
      Scalar::where, {is_best, make_constant(n.module, n.name + "/positions", positions), make_constant(n.module, n.name + "/nowhere", nowhere)});
  const TensorId first = n.builder().reduce(found, {dim}, n.integer("keepdims", 1) != 0, is_last ? Join::max : Join::min);
  n.give(n.builder().named(n.output_name(0)).pointwise(Scalar::identity, {first}, 0, 0, DType::i64));
}

void softmax(Node& n) {
  n.expect_floats({0});
  n.give(n.builder().named(n.output_name(0)).softmax(n.tensor(0), n.axis(n.integer("axis", -1), n.shape(0).size())));
}

void log_softmax(Node& n) {
  const int dim = n.axis(n.integer("axis", -1), n.shape(0).size());
  const TensorId lse = n.builder().reduce(n.tensor(0), {dim}, true, Join::logsumexp);
  emit(n, Scalar::sub, {n.tensor(0), lse});
}

void cross_entropy(Node& n) {
  if (n.has(2)) throw UnsupportedNode{"SoftmaxCrossEntropyLoss with class weights"};
  if (n.output_count() > 1) throw UnsupportedNode{"SoftmaxCrossEntropyLoss with its second output"};
  const std::string reduction = n.text("reduction", "mean");
  if (reduction == "none") throw UnsupportedNode{"SoftmaxCrossEntropyLoss without a reduction"};
  Shape expected = n.shape(0);
  if (expected.size() < 2) throw BadNode{"SoftmaxCrossEntropyLoss needs scores of rank 2 or more"};
  expected.erase(expected.begin() + 1);
  if (n.shape(1) != expected)
    throw BadNode{"SoftmaxCrossEntropyLoss labels have shape [" + to_string(n.shape(1)) + "], not [" + to_string(expected) + "]"};
  Builder b = n.builder();
  n.give(
      softmax_cross_entropy(n.module, b, n.tensor(0), n.tensor(1), 1, n.integer("ignore_index", INT64_MIN), n.output_name(0), reduction == "mean"));
}

}  // namespace sscc::importers
