// The three products of convolution, seen as one: of `large` [n, g c, ..], `small` [n, g m, ..] and `weight` [g m, c, kernel..], each is the sum over
// what it does not have.
#pragma once

#include <vector>

#include "dispatch.h"
#include "windows.h"

namespace sscc::rt {

enum class ConvolutionOperand : uint8_t { large, small, weight };
inline constexpr auto large_operand = ConvolutionOperand::large, small_operand = ConvolutionOperand::small,
                      weight_operand = ConvolutionOperand::weight;
inline constexpr ConvolutionOperand all_operands[] = {large_operand, small_operand, weight_operand};

struct Convolution : Windows {
  ConvolutionOperand result;
  Tensor weight;  // of five dimensions
  int64_t batch, groups, m, c;

  Convolution(ConvolutionOperand which, const Tensor& large_view, const Tensor& small_view, const Tensor& weight_view, const Window& window)
      : Windows("convolve", large_view, small_view, window), result(which), weight(in_three_dimensions(weight_view)) {
    batch = large.dims[0];
    c = weight.dims[1];
    groups = c > 0 ? large.dims[1] / c : 1;
    m = groups > 0 ? small.dims[1] / groups : 0;
    bool fits = weight_view.rank == large_view.rank && large.dims[1] == groups * c && small.dims[1] == groups * m && weight.dims[0] == groups * m;
    for (int d = 0; d < max_space; ++d) fits = fits && weight.dims[2 + d] == axes[d].kernel;
    if (!fits) throw std::logic_error("convolve: operands do not fit");
  }

  const Tensor& operator[](ConvolutionOperand which) const { return which == large_operand ? large : which == small_operand ? small : weight; }
  Tensor& operator[](ConvolutionOperand which) { return which == large_operand ? large : which == small_operand ? small : weight; }
  const Tensor& out() const { return (*this)[result]; }
  // An operand's channels as [batch, groups, m, c]; what it does not have is repeated.
  Tensor channels(ConvolutionOperand which) const {
    const Tensor& view = (*this)[which];
    const int64_t *s = view.strides, dims[] = {batch, groups, m, c};
    const int64_t strides[][4] = {{s[0], c * s[1], 0, s[1]}, {s[0], m * s[1], s[1], 0}, {0, m * s[0], s[0], s[1]}};
    Tensor channels = view;
    channels.rank = 4;
    std::copy_n(dims, 4, channels.dims);
    std::copy_n(strides[static_cast<int>(which)], 4, channels.strides);
    return channels;
  }
  // The one of these dimensions that is summed over, beside space.
  int summed() const { return result == large_operand ? 2 : result == small_operand ? 3 : 0; }
  DType input_type() const { return result == large_operand ? small.dtype : large.dtype; }
  // What plans of libraries depend on, all but where operands lie.
  std::vector<int64_t> key() const {
    std::vector<int64_t> key{static_cast<int64_t>(result), space};
    for (const ConvolutionOperand o : all_operands) {
      const Tensor& view = (*this)[o];
      key.push_back(static_cast<int64_t>(view.dtype));
      key.insert(key.end(), view.dims, view.dims + view.rank);
      key.insert(key.end(), view.strides, view.strides + view.rank);
    }
    for (const WindowAxis& axis : axes) key.insert(key.end(), {axis.kernel, axis.stride, axis.dilation, axis.pad});
    return key;
  }
  // Multiplications.
  int64_t work() const { return batch * groups * m * c * axes[0].small * axes[1].small * axes[2].small * kernel_positions(); }
};

// Throws where types do not fit (kernels.h). False if there is nothing to be summed; the result is what it has to be, then.
inline bool has_products(const Convolution& convolution, bool accumulate) {
  const Tensor& out = convolution.out();
  const DType type = convolution.input_type();
  if (!is_float(type)) no_kernel("convolve", type);
  for (const ConvolutionOperand o : all_operands)
    if (o != convolution.result) expect_type("convolve", type, {convolution[o]});
  if (out.dtype != arithmetic_type(type)) expect_type("convolve", type, {out});
  if (out.elements() == 0) return false;
  if (convolution.work() > 0) return true;
  if (!accumulate) fill(out, 0);
  return false;
}

}  // namespace sscc::rt
