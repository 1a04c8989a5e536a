#include "sscc_rt/views.h"

#include <algorithm>
#include <array>
#include <span>

namespace sscc::rt {

Tensor Views::operator()(int32_t buffer, std::initializer_list<int64_t> dims) const { return (*this)(buffer, 0, dims); }

Tensor Views::operator()(int32_t buffer, int64_t offset, std::initializer_list<int64_t> dims) const {
  std::array<int64_t, max_rank> strides{};
  int64_t stride = 1;
  for (size_t d = dims.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= dims.begin()[d];
  }
  return rank_.view(buffer, offset, std::span(dims.begin(), dims.size()), std::span<const int64_t>(strides.data(), dims.size()), micro_batch_);
}

Tensor Views::operator()(int32_t buffer, int64_t offset, std::initializer_list<int64_t> dims, std::initializer_list<int64_t> strides) const {
  return rank_.view(buffer, offset, dims, strides, micro_batch_);
}

void pointwise(const Tensor& out, Scalar function, std::initializer_list<Tensor> ins, Scalars scalars, bool add) {
  const ScalarStep step{function, {0, 1, 2}, scalars.alpha, scalars.beta, out.dtype};
  const int32_t result = 0;
  pointwise(std::span(&out, 1), std::span(ins.begin(), ins.size()), std::span(&step, 1), std::span(&result, 1), add);
}

void sum_of_squares(const Tensor& out, std::initializer_list<Tensor> ins, bool add) { sum_of_squares(out, std::span(ins.begin(), ins.size()), add); }

void update(std::initializer_list<UpdateOperands> parameters, const Tensor& clip, const Tensor& loss_scale, const Tensor& taken,
            const UpdateRule& rule, int64_t t) {
  update(std::span(parameters.begin(), parameters.size()), clip, loss_scale, taken, rule, t);
}

void pad(const Tensor& out, const Tensor& in, std::initializer_list<int64_t> starts, std::initializer_list<int64_t> steps, bool add) {
  pad(out, in, starts.begin(), steps.begin(), add);
}

}  // namespace sscc::rt
