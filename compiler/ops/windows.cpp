// Convolution and pooling: windows that slide over space (sscc_rt/kernels.h: Window). What windows see is `large`, what has a position for each is
// `small`.
//
//                          operands                          n   g   c   m   s0 s1 s2
//   convolve               large, weight -> small                    +       ~          the channels that come in are c, those that go out m
//   convolve_transposed    small, weight -> large                    +       ~
//   convolve_grad_weight   large, small -> weight            +               +
//   max_pool, sum_pool     large -> small                                    ~
//   *_pool_grad            small -> large                                    ~
//
// An axis s counts windows: a piece of it has `stride` positions of large for each of its windows. Where windows overlap, it reads more of what it does
// not write, before and behind its own: a halo. Where large is not `stride` times as long as small, the pieces of the two would not fit together, and
// the axis is `^`. The kernel's own positions k0 k1 k2 are `^`.
#include "compiler/ops/windows.h"

#include "compiler/ops/ops.h"
#include "compiler/ops/rule_builder.h"

namespace sscc {

std::optional<WindowOperands> window_operands(Kind kind) {
  switch (kind) {
    case Kind::convolve: return WindowOperands{.large = 0, .small = 2, .weight = 1};
    case Kind::convolve_transposed: return WindowOperands{.large = 2, .small = 0, .weight = 1};
    case Kind::convolve_grad_weight: return WindowOperands{.large = 0, .small = 1, .weight = 2};
    case Kind::max_pool: return WindowOperands{.large = 0, .small = 1, .taps = 2};
    case Kind::max_pool_grad: return WindowOperands{.large = 2, .small = 0, .taps = 1};
    case Kind::sum_pool: return WindowOperands{.large = 0, .small = 1};
    case Kind::sum_pool_grad: return WindowOperands{.large = 1, .small = 0};
    default: return {};
  }
}

bool all_see(const rt::Window& window, size_t d, int64_t windows, int64_t length) {
  const int64_t stride = window.stride[d], dilation = window.dilation[d], pad = window.pad[d];
  if ((windows - 1) * stride - pad >= length) return false;
  for (int64_t begin = -pad, y = 0; begin < 0 && y < windows; begin += stride, ++y) {
    const int64_t k = (-begin + dilation - 1) / dilation;  // the first that is not in front
    if (k >= window.kernel[d] || begin + k * dilation >= length) return false;
  }
  return true;
}

namespace {

const WindowAttributes& attributes_of(const Op& op) { return std::get<WindowAttributes>(op.attributes); }
int64_t round_down(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

Rule rule(const Module& module, const Op& op) {
  RuleBuilder r(module, op);
  const WindowOperands at = *window_operands(op.kind);
  const rt::Window& window = attributes_of(op).window;
  const auto is_result = [&](int index) { return index >= r.inputs(); };
  const bool makes_weight = at.weight >= 0 && is_result(at.weight);
  const Shape &large = r.shape(at.large), &small = r.shape(at.small);

  const int batch = r.axis("n", large[0], makes_weight ? Mark::sum : Mark::plain);
  for (const int index : {at.large, at.small, at.taps})
    if (index >= 0) r.at(batch, index, 0);
  if (at.weight < 0) {
    const int channels = r.axis("c", large[1]);
    for (const int index : {at.large, at.small, at.taps})
      if (index >= 0) r.at(channels, index, 1);
  } else {
    const Shape& weight = r.shape(at.weight);
    const int64_t of_large = weight[1], groups = large[1] / of_large, of_small = small[1] / groups;  // channels of a group
    const int group = r.axis("g", groups);
    r.at(group, at.large, 1, of_large);
    r.at(group, at.small, 1, of_small);
    r.at(group, at.weight, 0, of_small);
    const bool is_transposed = op.kind == Kind::convolve_transposed;
    const int large_axis = r.axis(is_transposed ? "m" : "c", of_large, is_result(at.small) ? Mark::sum : Mark::plain);
    r.at(large_axis, at.large, 1);
    r.at(large_axis, at.weight, 1);
    const int small_axis = r.axis(is_transposed ? "c" : "m", of_small, is_result(at.large) ? Mark::sum : Mark::plain);
    r.at(small_axis, at.small, 1);
    r.at(small_axis, at.weight, 0);
  }
  for (size_t d = 0; d + 2 < large.size(); ++d) {
    const int64_t stride = window.stride[d], pad = window.pad[d], reach = (window.kernel[d] - 1) * window.dilation[d];
    const bool fits = large[d + 2] == stride * small[d + 2];
    // Of large, window y sees from y * stride - pad to y * stride - pad + reach; x is seen by the windows from (x + pad - reach) / stride, rounded up, to
    // (x + pad) / stride, rounded down.
    Occurrence in_large, in_small;
    if (!is_result(at.large)) in_large.before = pad, in_large.after = std::max<int64_t>(0, reach + 1 - pad - stride);
    if (is_result(at.large))
      in_small.before = std::max<int64_t>(0, round_down(reach - pad, stride)), in_small.after = round_down(pad - 1, stride) + 1;
    const bool overlap = in_large.before + in_large.after + in_small.before + in_small.after > 0;
    const int space = r.axis("s" + std::to_string(d), small[d + 2],
                             !fits          ? Mark::frozen
                             : makes_weight ? Mark::sum
                             : overlap      ? Mark::window
                                            : Mark::plain);
    for (const int index : {at.small, at.taps})
      if (index >= 0) r.at(space, index, d + 2, 1, in_small.before, in_small.after);
    if (fits) r.at(space, at.large, d + 2, stride, in_large.before, in_large.after);
    if (at.weight >= 0) r.at(r.axis("k" + std::to_string(d), window.kernel[d], Mark::frozen), at.weight, d + 2);
  }
  return r.take();
}

// The forward operator's axes by the names that they have in its gradient: what came in goes out.
std::map<std::string, int> axes_of_gradient(const Op& op, bool swapped) {
  std::map<std::string, int> axes;
  for (size_t a = 0; a < op.rule.axes.size(); ++a) {
    const std::string& name = op.rule.axes[a].name;
    axes[!swapped ? name : name == "c" ? "m" : name == "m" ? "c" : name] = static_cast<int>(a);
  }
  return axes;
}

// Of a convolution or a transposed one: the gradient of what comes in is the other of the two.
bool convolution_gradient(Module& module, OpId id, llvm::ArrayRef<TensorId> output_gradients, llvm::ArrayRef<TensorId> input_gradients, Builder& b) {
  const Op op = module.ops[id];
  const bool is_transposed = op.kind == Kind::convolve_transposed;
  const rt::Window window = attributes_of(op).window;
  const TensorId in = op.inputs[0], weight = op.inputs[1], dout = output_gradients[0];
  const Shape in_shape = module.tensors[in].shape, weight_shape = module.tensors[weight].shape;
  if (input_gradients[0].valid()) {
    b.into(input_gradients[0]).forward_axes(axes_of_gradient(op, true));
    is_transposed ? b.convolve(dout, weight, in_shape, window) : b.convolve_transposed(dout, weight, in_shape, window);
  }
  if (input_gradients[1].valid()) {
    b.into(input_gradients[1]).forward_axes(axes_of_gradient(op, is_transposed));
    is_transposed ? b.convolve_grad_weight(dout, in, weight_shape, window) : b.convolve_grad_weight(in, dout, weight_shape, window);
  }
  return true;
}

bool pool_gradient(Module& module, OpId id, llvm::ArrayRef<TensorId> output_gradients, llvm::ArrayRef<TensorId> input_gradients, Builder& b) {
  if (!input_gradients[0].valid()) return true;
  const Op op = module.ops[id];
  const WindowAttributes a = attributes_of(op);
  const Shape large = module.tensors[op.inputs[0]].shape;
  if (op.kind == Kind::max_pool)
    b.into(input_gradients[0]).max_pool_grad(output_gradients[0], op.outputs[1], large, a.window);
  else
    b.into(input_gradients[0]).sum_pool_grad(output_gradients[0], large, a.window, a.scale);
  return true;
}

int64_t flops(const Module& module, const Op& op) {
  const WindowOperands at = *window_operands(op.kind);
  const rt::Window& window = attributes_of(op).window;
  const auto shape = [&](int index) -> const Shape& { return module.tensors[operand(op, index)].shape; };
  const int64_t of_each = window.kernel[0] * window.kernel[1] * window.kernel[2];
  return elements(shape(at.small)) * of_each * (at.weight < 0 ? 1 : 2 * shape(at.weight)[1]);
}

}  // namespace

extern const OpDefinition convolve_definition, convolve_transposed_definition, convolve_grad_weight_definition, max_pool_definition,
    max_pool_grad_definition, sum_pool_definition, sum_pool_grad_definition;
const OpDefinition convolve_definition = {Kind::convolve, "convolve", false, rule, convolution_gradient, nullptr, flops};
const OpDefinition convolve_transposed_definition = {
    Kind::convolve_transposed, "convolve_transposed", false, rule, convolution_gradient, nullptr, flops};
const OpDefinition convolve_grad_weight_definition = {Kind::convolve_grad_weight, "convolve_grad_weight", false, rule, no_gradient, nullptr, flops};
const OpDefinition max_pool_definition = {Kind::max_pool, "max_pool", false, rule, pool_gradient, nullptr, flops};
const OpDefinition max_pool_grad_definition = {Kind::max_pool_grad, "max_pool_grad", false, rule, no_gradient, nullptr, flops};
const OpDefinition sum_pool_definition = {Kind::sum_pool, "sum_pool", false, rule, pool_gradient, nullptr, flops};
const OpDefinition sum_pool_grad_definition = {Kind::sum_pool_grad, "sum_pool_grad", false, rule, no_gradient, nullptr, flops};

}  // namespace sscc
