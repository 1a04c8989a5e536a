#include "convolution_library.h"
#include "device.h"
#include "strided_convolution.h"

namespace sscc::rt {
namespace {

void convolve_as(const Convolution& convolution, bool accumulate) {
  if (!has_products(convolution, accumulate)) return;
  ConvolutionLibrary* const library = device().convolutions.get();
  if (library && library->enqueue(convolution, accumulate)) return;
  convolve_strided(convolution, accumulate);
}

}  // namespace

void convolve(const Tensor& small, const Tensor& large, const Tensor& weight, const Window& window, bool accumulate) {
  convolve_as(Convolution(small_operand, large, small, weight, window), accumulate);
}
void convolve_transposed(const Tensor& large, const Tensor& small, const Tensor& weight, const Window& window, bool accumulate) {
  convolve_as(Convolution(large_operand, large, small, weight, window), accumulate);
}
void convolve_grad_weight(const Tensor& weight, const Tensor& large, const Tensor& small, const Window& window, bool accumulate) {
  convolve_as(Convolution(weight_operand, large, small, weight, window), accumulate);
}

}  // namespace sscc::rt
