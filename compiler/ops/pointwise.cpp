// Pointwise operators: one scalar function over broadcast operands. Rule `d*, d* -> d*`.
//
// The gradient of an operand is computed over all of the result's positions; what the operand was broadcast along is then summed away. Each of
// these operators has the forward operator's axes, so a division of the forward operator divides them as well.
#include <numeric>

#include "compiler/ops/ops.h"
#include "compiler/ops/rule_builder.h"
#include "compiler/support/check.h"

namespace sscc {
namespace {

Rule rule(const Module& module, const Op& op) {
  RuleBuilder r(module, op);
  const int out = r.inputs();
  const Shape& shape = r.shape(out);
  for (size_t d = 0; d < shape.size(); ++d) {
    const int axis = r.axis("d" + std::to_string(d), shape[d]);
    for (int i = 0; i < r.inputs(); ++i) {
      const size_t rank = r.shape(i).size();
      if (d + rank >= shape.size()) r.at(axis, i, d + rank - shape.size());
    }
    r.at(axis, out, d);
  }
  return r.take();
}

// Sums `full` (the result's shape) down to the operand's shape, into its gradient. `forward`: the rule of the forward operator.
void sum_to(Module& module, TensorId full, TensorId operand, TensorId gradient, const Rule& forward, Builder& b) {
  const Shape shape = module.tensors[operand].shape, from = module.tensors[full].shape;
  llvm::SmallVector<int, 5> reduced;
  std::map<std::string, int> axes;  // reduce's r0.., d0.. -> the forward operator's d*
  auto forward_axis = [&](size_t d) {
    for (size_t a = 0; a < forward.axes.size(); ++a)
      if (forward.axes[a].name == "d" + std::to_string(d)) return static_cast<int>(a);
    return -1;
  };
  size_t kept = 0;
  Shape after;
  for (size_t d = 0; d < from.size(); ++d) {
    const bool missing = d + shape.size() < from.size();
    const bool broadcast = missing || shape[d + shape.size() - from.size()] != from[d];
    if (broadcast) {
      axes["r" + std::to_string(reduced.size())] = forward_axis(d);
      reduced.push_back(static_cast<int>(d));
    } else {
      axes["d" + std::to_string(kept++)] = forward_axis(d);
      after.push_back(from[d]);
    }
  }
  if (after == shape) {
    b.into(gradient).forward_axes(axes).reduce(full, reduced, false, Join::sum);
    return;
  }
  const TensorId sum = b.forward_axes(axes).reduce(full, reduced, false, Join::sum);
  std::map<std::string, int> reshape_axes;  // of the reshape: in order of the dimensions longer than 1
  const Rule& sum_rule = module.ops[b.last()].rule;
  std::vector<int> forward_axes;
  for (const Axis& axis : sum_rule.axes)
    if (axis.name[0] == 'd') forward_axes.push_back(axis.forward_axis);
  for (size_t d = 0, k = 0; d < shape.size(); ++d)
    if (shape[d] != 1) reshape_axes["d" + std::to_string(d)] = forward_axes[k++];
  b.into(gradient).forward_axes(reshape_axes).reshape(sum, shape);
}

using List = std::initializer_list<TensorId>;

// Functions whose gradient is one other function of (output or input, dy).
struct Simple {
  Scalar function, gradient;
  bool of_output;
};
constexpr Simple simple[] = {{Scalar::tanh, Scalar::tanh_grad, true},
                             {Scalar::sigmoid, Scalar::sigmoid_grad, true},
                             {Scalar::relu, Scalar::relu_grad, true},
                             {Scalar::sqrt, Scalar::sqrt_grad, true},
                             {Scalar::exp, Scalar::mul, true},
                             {Scalar::leaky_relu, Scalar::leaky_relu_grad, false},
                             {Scalar::gelu_erf, Scalar::gelu_erf_grad, false},
                             {Scalar::gelu_tanh, Scalar::gelu_tanh_grad, false},
                             {Scalar::erf, Scalar::erf_grad, false},
                             {Scalar::abs, Scalar::abs_grad, false},
                             {Scalar::clip, Scalar::clip_grad, false},
                             {Scalar::softplus, Scalar::softplus_grad, false},
                             {Scalar::pow_scalar, Scalar::pow_scalar_grad, false}};

bool gradient(Module& module, OpId id, llvm::ArrayRef<TensorId> output_gradients, llvm::ArrayRef<TensorId> input_gradients, Builder& b) {
  const Op op = module.ops[id];  // a copy: the store grows
  const auto a = std::get<PointwiseAttributes>(op.attributes);
  const TensorId dy = output_gradients[0], y = op.outputs[0];
  for (size_t i = 0; i < input_gradients.size(); ++i) {
    if (!input_gradients[i].valid()) continue;
    const TensorId x = op.inputs[i], dx = input_gradients[i];
    const bool direct = module.tensors[x].shape == module.tensors[y].shape;
    auto last = [&](Scalar f, List inputs, double alpha = 0, double beta = 0) {
      if (direct) {
        b.into(dx).pointwise(f, inputs, alpha, beta);
        return true;
      }
      sum_to(module, f == Scalar::identity ? *inputs.begin() : b.pointwise(f, inputs, alpha, beta), x, dx, op.rule, b);
      return true;
    };
    bool known = false;
    for (const Simple& s : simple)
      if (s.function == a.function) known = last(s.gradient, {s.of_output ? y : x, dy}, a.alpha, a.beta);
    if (known) continue;
    const TensorId other = op.inputs.size() > 1 ? op.inputs[1 - std::min<size_t>(i, 1)] : TensorId();
    switch (a.function) {
      case Scalar::identity: last(Scalar::identity, {dy}); break;
      case Scalar::add: last(Scalar::identity, {dy}); break;
      case Scalar::sub: i == 0 ? last(Scalar::identity, {dy}) : last(Scalar::neg, {dy}); break;
      case Scalar::neg: last(Scalar::neg, {dy}); break;
      case Scalar::mul: last(Scalar::mul, {dy, other}); break;
      case Scalar::scale_shift: last(Scalar::scale_shift, {dy}, a.alpha, 0); break;
      case Scalar::square: {
        const TensorId product = b.pointwise(Scalar::mul, {x, dy});
        last(Scalar::scale_shift, {product}, 2, 0);
        break;
      }
      case Scalar::div:
        if (i == 0) {
          last(Scalar::div, {dy, other});
        } else {  // -dy y / b
          const TensorId product = b.pointwise(Scalar::mul, {dy, y});
          const TensorId quotient = b.pointwise(Scalar::div, {product, x});
          last(Scalar::neg, {quotient});
        }
        break;
      case Scalar::log: last(Scalar::div, {dy, x}); break;
      case Scalar::reciprocal: {  // -dy y^2
        const TensorId squared = b.pointwise(Scalar::square, {y});
        const TensorId product = b.pointwise(Scalar::mul, {dy, squared});
        last(Scalar::neg, {product});
        break;
      }
      case Scalar::rsqrt: {  // -dy y^3 / 2
        const TensorId cubed = b.pointwise(Scalar::pow_scalar, {y}, 3);
        const TensorId product = b.pointwise(Scalar::mul, {dy, cubed});
        last(Scalar::scale_shift, {product}, -0.5, 0);
        break;
      }
      case Scalar::sin: {
        const TensorId cosine = b.pointwise(Scalar::cos, {x});
        last(Scalar::mul, {dy, cosine});
        break;
      }
      case Scalar::cos: {
        const TensorId sine = b.pointwise(Scalar::sin, {x});
        const TensorId product = b.pointwise(Scalar::mul, {dy, sine});
        last(Scalar::neg, {product});
        break;
      }
      case Scalar::pow:
        if (i == 0) {  // dy b a^(b-1) = dy b y / a
          const TensorId product = b.pointwise(Scalar::mul, {y, other});
          const TensorId quotient = b.pointwise(Scalar::div, {product, x});
          last(Scalar::mul, {dy, quotient});
        } else {  // dy y log a
          const TensorId logarithm = b.pointwise(Scalar::log, {other});
          const TensorId product = b.pointwise(Scalar::mul, {y, logarithm});
          last(Scalar::mul, {dy, product});
        }
        break;
      case Scalar::max: last(Scalar::max_grad, {x, other, dy}); break;
      case Scalar::min: {
        const TensorId mine = b.pointwise(Scalar::neg, {x}), theirs = b.pointwise(Scalar::neg, {other});
        last(Scalar::max_grad, {mine, theirs, dy});
        break;
      }
      case Scalar::where: {  // dy where the condition holds (or not), zero elsewhere
        const TensorId zero = b.pointwise(Scalar::scale_shift, {dy}, 0, 0);
        i == 1 ? last(Scalar::where, {op.inputs[0], dy, zero}) : last(Scalar::where, {op.inputs[0], zero, dy});
        break;
      }
      case Scalar::exp_sub: {
        const TensorId product = b.pointwise(Scalar::mul, {dy, y});
        i == 0 ? last(Scalar::identity, {product}) : last(Scalar::neg, {product});
        break;
      }
      case Scalar::mul_add: i == 2 ? last(Scalar::identity, {dy}) : last(Scalar::mul, {dy, op.inputs[1 - i]}); break;
      default: return false;
    }
  }
  return true;
}

int64_t flops(const Module& module, const Op& op) { return elements(module.tensors[op.outputs[0]].shape); }

}  // namespace

extern const OpDefinition pointwise_definition;
const OpDefinition pointwise_definition = {Kind::pointwise, "pointwise", false, rule, gradient, nullptr, flops};

}  // namespace sscc
