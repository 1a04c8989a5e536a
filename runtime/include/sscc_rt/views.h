// What the segments of emitted programs are written in: short ways to name a view of a buffer, and the few overloads that let a call read like
// the operator it does.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>

#include "sscc_rt/kernels.h"
#include "sscc_rt/rank.h"

namespace sscc::rt {

// The last argument of a kernel that can add to what its output holds.
inline constexpr bool overwrite = false;
inline constexpr bool accumulate = true;

// Of a segment that begins with receives of the group which ends the slot before.
inline constexpr bool continues_group = true;

inline constexpr double infinity = std::numeric_limits<double>::infinity();
inline constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
inline constexpr int64_t no_ignore_index = std::numeric_limits<int64_t>::min();

// Dimensions as kernels take them: those that a reduction or a norm goes over, those that scale and bias of a norm have.
constexpr uint32_t over(std::initializer_list<int> dims) {
  uint32_t bits = 0;
  for (const int dim : dims) bits |= uint32_t{1} << dim;
  return bits;
}
constexpr uint32_t along(std::initializer_list<int> dims) { return over(dims); }

// An operand that is left out.
inline constexpr Tensor no_tensor{};

// Views of a rank's buffers, of the copies that one micro-batch uses. Offsets and strides in elements.
class Views {
 public:
  Views(const Rank& rank, int micro_batch) : rank_(rank), micro_batch_(micro_batch) {}
  // Contiguous, from the buffer's start or from `offset`.
  Tensor operator()(int32_t buffer, std::initializer_list<int64_t> dims) const;
  Tensor operator()(int32_t buffer, int64_t offset, std::initializer_list<int64_t> dims) const;
  Tensor operator()(int32_t buffer, int64_t offset, std::initializer_list<int64_t> dims, std::initializer_list<int64_t> strides) const;

 private:
  const Rank& rank_;
  int micro_batch_;
};

// One scalar function of one, two or three operands: out (+)= function(ins...), in the type of `out`.
struct Scalars {
  double alpha = 0, beta = 0;
};
void pointwise(const Tensor& out, Scalar function, std::initializer_list<Tensor> ins, Scalars scalars, bool add);

void sum_of_squares(const Tensor& out, std::initializer_list<Tensor> ins, bool add);

// The new values take the place of the old ones.
inline UpdateOperands in_place(const Tensor& parameter, const Tensor& gradient, const Tensor& moment1 = no_tensor,
                               const Tensor& moment2 = no_tensor) {
  return {parameter, moment1, moment2, parameter, gradient, moment1, moment2};
}
void update(std::initializer_list<UpdateOperands> parameters, const Tensor& clip, const Tensor& loss_scale, const Tensor& taken,
            const UpdateRule& rule, int64_t t);

void pad(const Tensor& out, const Tensor& in, std::initializer_list<int64_t> starts, std::initializer_list<int64_t> steps, bool add);

}  // namespace sscc::rt
