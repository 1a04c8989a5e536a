// Subgraphs that equal an ONNX function become that operator.
//
//   t = scale_shift(x, 0.7071); e = erf(t); u = scale_shift(e, 1, 1); v = mul(x, u); y = scale_shift(v, 0.5)      ->      y = gelu_erf(x)
//   m = mean(x); d = sub(x, m); v = mean(square(d)); s = sqrt(scale_shift(v, 1, epsilon)); n = div(d, s); y = n * scale + bias
//                                                                                                              ->      y = norm(x, scale, bias)
//   s = sqrt(scale_shift(mean(square(x)), 1, epsilon)); n = div(x, s); y = n * scale                           ->      y = norm(x, scale)
//
// Exporters write the same function in many ways. A product is therefore compared as what it is: a number times a list of factors, wherever its
// multiplications stand. The richest form is looked for from the last operator backwards, and only results that nobody else reads may vanish.
#include <algorithm>
#include <cmath>
#include <set>

#include "compiler/ops/build.h"
#include "compiler/ops/ops.h"
#include "compiler/passes/passes.h"

namespace sscc {
namespace {

constexpr double tolerance = 1e-3;  // exporters round constants: 0.7978846, 1.4142135
bool is_near(double value, double expected) { return std::abs(value - expected) <= tolerance * std::abs(expected); }

// A number times tensors.
struct Product {
  double scale = 1;
  std::vector<TensorId> factors;
};

class Recognizer {
 public:
  explicit Recognizer(Module& module) : module_(module), readers_(static_cast<size_t>(module.tensors.size())) {
    for (const OpId id : module.order)
      for (const TensorId input : module.ops[id].inputs)
        if (input.valid()) ++readers_[static_cast<size_t>(input.index)];
    for (const TensorId output : module.outputs) readers_[static_cast<size_t>(output.index)] += 2;  // stays
  }

  void run() {
    const std::vector<OpId> order = module_.order;
    for (size_t i = order.size(); i-- > 0;) {
      if (gone_.contains(order[i])) continue;
      if (!gelu(order[i])) norm(order[i]);
    }
    std::erase_if(module_.order, [&](OpId id) { return gone_.contains(id); });
    for (const OpId id : module_.order) read_through_transposes(module_.ops[id]);
  }

 private:
  // -- looking ------------------------------------------------------------------------------------------------------------------------------------

  // The operator that makes the tensor, if there is one.
  const Op* maker(TensorId tensor) const {
    const auto& producers = module_.tensors[tensor].producers;
    return producers.size() == 1 && !gone_.contains(producers[0]) ? &module_.ops[producers[0]] : nullptr;
  }
  const PointwiseAttributes* pointwise(const Op* op, Scalar function) const {
    const auto* attributes = op ? std::get_if<PointwiseAttributes>(&op->attributes) : nullptr;
    return attributes && attributes->function == function ? attributes : nullptr;
  }
  bool has_one_reader(TensorId tensor) const { return readers_[static_cast<size_t>(tensor.index)] == 1; }

  // Enters a tensor into a product: through multiplications whose result nobody else reads.
  void multiply(TensorId tensor, Product& product, bool is_root = false) {
    const Op* op = is_root || has_one_reader(tensor) ? maker(tensor) : nullptr;
    const auto* scaled = pointwise(op, Scalar::scale_shift);
    const auto* power = pointwise(op, Scalar::pow_scalar);
    if (scaled && scaled->beta == 0) {
      product.scale *= scaled->alpha;
      passed_.push_back(op);
      multiply(op->inputs[0], product);
    } else if (pointwise(op, Scalar::mul)) {
      passed_.push_back(op);
      for (const TensorId input : op->inputs) multiply(input, product);
    } else if (pointwise(op, Scalar::square) || (power && power->alpha == 3)) {
      passed_.push_back(op);
      product.factors.insert(product.factors.end(), power ? 3 : 2, op->inputs[0]);
    } else {
      product.factors.push_back(tensor);
    }
  }
  Product product_of(TensorId tensor, bool is_root = false) {
    Product product;
    multiply(tensor, product, is_root);
    return product;
  }
  // The argument of function(...), if that is what the tensor is and nobody else reads it.
  TensorId argument(TensorId tensor, Scalar function) {
    const Op* op = has_one_reader(tensor) ? maker(tensor) : nullptr;
    if (!pointwise(op, function)) return {};
    passed_.push_back(op);
    return op->inputs[0];
  }
  // The argument of x + constant.
  TensorId argument_of_shift(TensorId tensor, double& constant) {
    const Op* op = has_one_reader(tensor) ? maker(tensor) : nullptr;
    const auto* shift = pointwise(op, Scalar::scale_shift);
    if (!shift || shift->alpha != 1) return {};
    constant = shift->beta;
    passed_.push_back(op);
    return op->inputs[0];
  }

  // -- GELU ---------------------------------------------------------------------------------------------------------------------------------------

  bool gelu(OpId root) {
    const Op& op = module_.ops[root];
    if (op.outputs.size() != 1 || (!pointwise(&op, Scalar::mul) && !pointwise(&op, Scalar::scale_shift))) return false;
    passed_.clear();
    const Product whole = product_of(op.outputs[0], true);
    if (whole.factors.size() != 2 || !is_near(whole.scale, 0.5)) return false;
    for (const size_t which : {0, 1}) {
      const TensorId x = whole.factors[1 - which];
      std::vector<const Op*> before = passed_;
      double one = 0;
      const TensorId curve = argument_of_shift(whole.factors[which], one);
      if (curve.valid() && one == 1) {
        if (const TensorId inner = argument(curve, Scalar::erf); inner.valid() && is_scaled(inner, x, M_SQRT1_2))
          return replace_by_gelu(root, Scalar::gelu_erf, x);
        if (const TensorId inner = argument(curve, Scalar::tanh); inner.valid() && is_tanh_polynomial(inner, x))
          return replace_by_gelu(root, Scalar::gelu_tanh, x);
      }
      passed_ = std::move(before);
    }
    return false;
  }

  bool is_scaled(TensorId tensor, TensorId x, double scale) {
    const Product product = product_of(tensor);
    return product.factors.size() == 1 && product.factors[0] == x && is_near(product.scale, scale);
  }

  // sqrt(2 / pi) (x + 0.044715 x^3)
  bool is_tanh_polynomial(TensorId tensor, TensorId x) {
    const Product outer = product_of(tensor);
    if (outer.factors.size() != 1 || !is_near(outer.scale, std::sqrt(M_2_PI)) || !has_one_reader(outer.factors[0])) return false;
    const Op* sum = maker(outer.factors[0]);
    if (!pointwise(sum, Scalar::add)) return false;
    passed_.push_back(sum);
    for (const size_t which : {0, 1}) {
      if (sum->inputs[1 - which] != x) continue;
      const Product cube = product_of(sum->inputs[which]);
      if (cube.factors == std::vector<TensorId>(3, x) && is_near(cube.scale, 0.044715)) return true;
    }
    return false;
  }

  bool replace_by_gelu(OpId root, Scalar function, TensorId x) {
    replace(root, "Gelu", [&](Builder& builder, TensorId result) { builder.into(result).pointwise(function, {x}); });
    return true;
  }

  // -- norms over the last dimensions -------------------------------------------------------------------------------------------------------------

  // The tensor whose mean over its last dimensions (kept, of length 1) this is.
  TensorId argument_of_mean(TensorId tensor, int& first_dim, int readers) {
    const Op* op = readers_[static_cast<size_t>(tensor.index)] == readers ? maker(tensor) : nullptr;
    const auto* mean = op ? std::get_if<ReduceAttributes>(&op->attributes) : nullptr;
    if (!mean || mean->join != Join::sum || !mean->keep_dims || mean->dims.empty()) return {};
    const Shape& shape = module_.tensors[op->inputs[0]].shape;
    int64_t count = 1;
    for (size_t i = 0; i < mean->dims.size(); ++i) {
      if (mean->dims[i] != static_cast<int>(shape.size() - mean->dims.size() + i)) return {};
      count *= shape[static_cast<size_t>(mean->dims[i])];
    }
    if (!is_near(mean->scale * static_cast<double>(count), 1)) return {};
    first_dim = mean->dims[0];
    passed_.push_back(op);
    return op->inputs[0];
  }

  // A scale or bias: of the shape of the normalised dimensions.
  bool is_weight(TensorId tensor, TensorId x, int first_dim) const {
    const Tensor& weight = module_.tensors[tensor];
    const Shape& shape = module_.tensors[x].shape;
    return weight.producers.empty() &&
           llvm::ArrayRef<int64_t>(weight.shape) == llvm::ArrayRef<int64_t>(shape).drop_front(static_cast<size_t>(first_dim));
  }

  // root(mean(v^2) + epsilon), where v is x - mean(x), or x itself.
  struct Norm {
    TensorId x;
    int first_dim = 0;
    bool is_centred = false;
    double epsilon = 0;
  };
  bool is_deviation(TensorId tensor, TensorId v, Scalar root, Norm& norm) {
    const TensorId shifted = argument(tensor, root);
    if (!shifted.valid()) return false;
    const TensorId variance = argument_of_shift(shifted, norm.epsilon);
    if (!variance.valid()) return false;
    const TensorId squares = argument_of_mean(variance, norm.first_dim, 1);
    if (!squares.valid()) return false;
    const Product square = product_of(squares);
    if (square.scale != 1 || square.factors != std::vector<TensorId>(2, v)) return false;
    const TensorId x = argument_of_centring(v, norm.first_dim);
    norm.is_centred = x.valid();
    norm.x = norm.is_centred ? x : v;
    return true;
  }
  // The x of v = x - mean(x), if that is what v is and nobody else reads it.
  TensorId argument_of_centring(TensorId v, int over) {
    const Op* difference = maker(v);
    if (!pointwise(difference, Scalar::sub) || readers_[static_cast<size_t>(v.index)] > 3) return {};
    int first_dim = 0;
    const std::vector<const Op*> before = passed_;
    const TensorId x = argument_of_mean(difference->inputs[1], first_dim, 1);
    if (x.valid() && x == difference->inputs[0] && first_dim == over) {
      passed_.push_back(difference);
      return x;
    }
    passed_ = before;
    return {};
  }
  bool is_inverse_deviation(TensorId tensor, TensorId v, Norm& norm) {
    const TensorId deviation = argument(tensor, Scalar::reciprocal);
    return deviation.valid() ? is_deviation(deviation, v, Scalar::sqrt, norm) : is_deviation(tensor, v, Scalar::rsqrt, norm);
  }

  bool is_normalised(TensorId tensor, Norm& norm) {
    const Op* op = has_one_reader(tensor) ? maker(tensor) : nullptr;
    if (!op || op->inputs.size() != 2) return false;
    passed_.push_back(op);
    if (pointwise(op, Scalar::div)) return is_deviation(op->inputs[1], op->inputs[0], Scalar::sqrt, norm);
    if (!pointwise(op, Scalar::mul)) return false;
    const std::vector<const Op*> before = passed_;
    if (is_inverse_deviation(op->inputs[1], op->inputs[0], norm)) return true;
    passed_ = before;
    return is_inverse_deviation(op->inputs[0], op->inputs[1], norm);
  }

  bool norm(OpId root) {
    const Op& op = module_.ops[root];
    if (op.outputs.size() != 1) return false;
    const bool has_bias = pointwise(&op, Scalar::add);
    if (!has_bias && !pointwise(&op, Scalar::mul)) return false;
    for (const size_t bias_at : {1, 0}) {
      const Op* product = has_bias ? maker(op.inputs[1 - bias_at]) : &op;
      if (!pointwise(product, Scalar::mul) || (has_bias && !has_one_reader(op.inputs[1 - bias_at]))) continue;
      for (const size_t scale_at : {1, 0}) {
        passed_ = {&op, product};
        Norm norm;
        if (!is_normalised(product->inputs[1 - scale_at], norm) || !is_weight(product->inputs[scale_at], norm.x, norm.first_dim)) continue;
        if (has_bias && !is_weight(op.inputs[bias_at], norm.x, norm.first_dim)) continue;
        const TensorId scale = product->inputs[scale_at], bias = has_bias ? op.inputs[bias_at] : TensorId();
        const size_t rank = module_.tensors[norm.x].shape.size();
        const DimMask last = dims_between(static_cast<size_t>(norm.first_dim), rank);
        replace(root, norm.is_centred ? "LayerNormalization" : "RMSNormalization", [&](Builder& builder, TensorId result) {
          builder.into(result).norm(norm.x, scale, bias, {last, last, norm.is_centred, norm.epsilon});
        });
        return true;
      }
      if (!has_bias) break;
    }
    return false;
  }

  // -- replacing
  // -- contractions -------------------------------------------------------------------------------------------------------------------------------

  // A contraction reads a parameter itself where it reads the parameter's transpose: its labels say the rest, and the gradient is the parameter's
  // own (a tied embedding's two gradients are then addends of one tensor). The Transpose stays, for plans that name it, until nobody reads it
  // (transform).
  void read_through_transposes(Op& op) {
    auto* labels = std::get_if<ContractAttributes>(&op.attributes);
    if (!labels) return;
    for (size_t i = 0; i < 2; ++i) {
      const Op* source = maker(op.inputs[i]);
      const auto* transpose = source ? std::get_if<TransposeAttributes>(&source->attributes) : nullptr;
      if (!transpose || module_.tensors[source->inputs[0]].role != Role::parameter) continue;
      std::string& mine = i == 0 ? labels->lhs : labels->rhs;
      std::string of_parameter(mine.size(), ' ');
      for (size_t d = 0; d < mine.size(); ++d) of_parameter[static_cast<size_t>(transpose->permutation[d])] = mine[d];
      mine = of_parameter;
      op.inputs[i] = source->inputs[0];
      attach_rule(module_, module_.tensors[op.outputs[0]].producers[0]);
    }
  }

  // -------------------------------------------------------------------------------------------------------------------------------------

  // The operators of `passed_` vanish, root among them; what `build` adds stands where root stood and absorbs their names.
  template <class Build>
  void replace(OpId root, const char* type, const Build& build) {
    std::set<OpId> members = {root};
    for (const Op* op : passed_)
      for (const OpId id : module_.tensors[op->outputs[0]].producers) members.insert(id);
    std::vector<std::string> names;
    for (const OpId id : members)
      for (const std::string& name : module_.ops[id].absorbed) names.push_back(name);
    for (const OpId id : members)
      for (const TensorId output : module_.ops[id].outputs) module_.tensors[output].producers.clear();
    const TensorId result = module_.ops[root].outputs[0];
    Builder builder(module_, {module_.ops[root].name, type, Phase::forward, {}});
    build(builder, result);
    const OpId added = builder.last();
    module_.ops[added].absorbed = std::move(names);
    module_.order.pop_back();
    *std::find(module_.order.begin(), module_.order.end(), root) = added;
    gone_.insert(members.begin(), members.end());
    readers_.resize(static_cast<size_t>(module_.tensors.size()), 0);
  }

  Module& module_;
  std::vector<int> readers_;
  std::vector<const Op*> passed_;  // what the pattern under trial is made of
  std::set<OpId> gone_;
};

}  // namespace

void recognize(Module& module, Diagnostics&) {
  Recognizer(module).run();
  find_blocks(module);
}

}  // namespace sscc
