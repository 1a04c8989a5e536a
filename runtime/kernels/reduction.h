// A reduction as two loops: over what is kept and, for each element of the result, over what is joined.
#pragma once

#include <stdexcept>

#include "sscc_rt/strided_loop.h"

namespace sscc::rt {

struct Reduction {
  StridedLoop kept;     // operands: out, in
  StridedLoop reduced;  // operand: in
};

inline Reduction reduction_of(const Tensor& out, const Tensor& in, uint32_t reduced) {
  int64_t kept_dims[max_rank], kept_in[max_rank], kept_out[max_rank], reduced_dims[max_rank], reduced_in[max_rank];
  size_t kept_count = 0, reduced_count = 0;
  for (int d = 0; d < in.rank; ++d) {
    if (reduced >> d & 1) {
      reduced_dims[reduced_count] = in.dims[d];
      reduced_in[reduced_count++] = in.strides[d];
    } else {
      kept_dims[kept_count] = in.dims[d];
      kept_in[kept_count++] = in.strides[d];
    }
  }
  if (kept_count != static_cast<size_t>(out.rank)) throw std::logic_error("reduce: the result has not the dimensions that are kept");
  std::copy_n(out.strides, kept_count, kept_out);
  const int64_t* kept_strides[] = {kept_out, kept_in};
  const int64_t* reduced_strides[] = {reduced_in};
  return {StridedLoop::make(std::span(kept_dims, kept_count), kept_strides),
          StridedLoop::make(std::span(reduced_dims, reduced_count), reduced_strides)};
}

}  // namespace sscc::rt
