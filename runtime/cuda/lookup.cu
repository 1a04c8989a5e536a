// Kernels that read indices and write each element once: gather, the logit of a label, the gradient of cross entropy.
#include "../kernels/rows.h"
#include "dispatch.cuh"
#include "group.cuh"
#include "indices.cuh"
#include "sscc_rt/cuda_launch.cuh"
#include "sscc_rt/kernels.h"
#include "sscc_rt/scalar_functions.h"
#include "words.cuh"

namespace sscc::rt {
namespace {

// -- gather ---------------------------------------------------------------------------------------------------------------------------------------

struct Gather {
  StridedWalk<3> walk;  // out, data, indices
  Indices indices;
  IndexedDimension dimension;
  int64_t position_stride;  // of data, in its words
};

// In: words, and Out the same; or float, rounded to Out.
template <class Out, class In>
__global__ void __launch_bounds__(threads_per_block) gather_kernel(const __grid_constant__ Gather a, Out* out, const In* data) {
  const uint32_t element = blockIdx.x * threads_per_block + threadIdx.x;
  if (element >= a.walk.count) return;
  int64_t at[3] = {};
  a.walk.advance(element, at);
  const int64_t position = a.dimension.position(a.indices[at[2]]);
  out[at[0]] = static_cast<Out>(position < 0 ? In{} : data[at[1] + position * a.position_stride]);
}

// The dims of `out`: those of data before `dim`, those of the indices, those of data after `dim`.
StridedLoop gather_loop(const Tensor& out, const Tensor& data, const Tensor& indices, int dim) {
  int64_t data_strides[max_rank] = {}, index_strides[max_rank] = {};
  for (int d = 0; d < out.rank; ++d) {
    if (d < dim)
      data_strides[d] = data.strides[d];
    else if (d < dim + indices.rank)
      index_strides[d] = indices.strides[d - dim];
    else
      data_strides[d] = data.strides[d - indices.rank + 1];
  }
  const int64_t* strides[] = {out.strides, data_strides, index_strides};
  return StridedLoop::make(std::span(out.dims, static_cast<size_t>(out.rank)), strides);
}

// -- labels ---------------------------------------------------------------------------------------------------------------------------------------

struct Labels {
  Indices labels;
  int64_t index_offset, ignore_index;
};

template <class T>
struct Pick {
  StridedWalk<3> rows;  // out, logits, labels
  Arithmetic<T>* out;
  const T* logits;
  Labels labels;
  int64_t piece, stride;  // of logits along the classes
  int64_t classes;        // of all pieces
  WrongElement* wrong;
};

template <class T>
__global__ void __launch_bounds__(threads_per_block) pick_kernel(const __grid_constant__ Pick<T> a) {
  const uint32_t row = blockIdx.x * threads_per_block + threadIdx.x;
  if (row >= a.rows.count) return;
  int64_t at[3] = {};
  a.rows.advance(row, at);
  const int64_t label = a.labels.labels[at[2]], position = label - a.labels.index_offset;
  Arithmetic<T> picked = 0;
  if (label != a.labels.ignore_index) {
    if (label < 0 || label >= a.classes)
      report(a.wrong, WrongData::label, label, a.classes);
    else if (position >= 0 && position < a.piece)
      picked = static_cast<Arithmetic<T>>(a.logits[at[1] + position * a.stride]);
  }
  a.out[at[0]] = picked;
}

template <class T>
struct CrossEntropy {
  StridedWalk<5> rows;  // dlogits, logits, lse, labels, dloss
  T* dlogits;
  const T* logits;
  const Arithmetic<T>*lse, *dloss;
  Labels labels;
  int64_t piece, out_stride, in_stride;  // along the classes
};

template <class T>
__global__ void __launch_bounds__(threads_per_block) cross_entropy_kernel(const __grid_constant__ CrossEntropy<T> a) {
  using Real = Arithmetic<T>;
  const uint32_t row = row_of_group();
  if (row >= a.rows.count) return;
  int64_t at[5] = {};
  a.rows.advance(row, at);
  const int64_t label = a.labels.labels[at[3]], position = label - a.labels.index_offset;
  const bool is_ignored = label == a.labels.ignore_index;
  const Real shift = a.lse[at[2]], scale = a.dloss[at[4]];
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < a.piece; i += blockDim.x) {
    Real value = scalar::exp_of(static_cast<Real>(a.logits[at[1] + i * a.in_stride]) - shift) * scale;
    if (i == position) value -= scale;
    a.dlogits[at[0] + i * a.out_stride] = static_cast<T>(is_ignored ? Real(0) : value);
  }
}

template <int operands>
StridedLoop loop_over(const Tensor (&views)[operands]) {
  const int64_t* strides[operands];
  for (int o = 0; o < operands; ++o) strides[o] = views[o].strides;
  return StridedLoop::make(std::span(views[0].dims, static_cast<size_t>(views[0].rank)), strides);
}

}  // namespace

void gather(const Tensor& out, const Tensor& data, const Tensor& indices, int dim, int64_t index_offset, int64_t length) {
  const auto gather_piece = [&]<class Out, class In>(const StridedLoop& loop, int64_t first_index, int64_t position_stride, Out* to, const In* from) {
    const Gather arguments{
        StridedWalk<3>(loop), Indices("gather", indices, first_index), {index_offset, data.dims[dim], length, device().wrong}, position_stride};
    launch(gather_kernel<Out, In>, blocks_for(arguments.walk.count), threads_per_block, 0, arguments, to, from);
  };
  if (out.dtype != data.dtype) {
    expect_type("gather", arithmetic_type(out.dtype), {data});
    for_small_float("gather", out.dtype, [&](auto t) {
      for_each_piece(gather_loop(out, data, indices, dim), [&](const StridedLoop& loop, const StridedLoop::Offsets& base) {
        gather_piece(loop, base[2], data.strides[dim], static_cast<decltype(t)*>(out.data) + base[0], static_cast<const float*>(data.data) + base[1]);
      });
    });
    return;
  }
  const int bytes = static_cast<int>(size_of(out.dtype));
  for_each_piece(gather_loop(out, data, indices, dim), [&](const StridedLoop& loop, const StridedLoop::Offsets& base) {
    void* memory[] = {static_cast<std::byte*>(out.data) + base[0] * bytes, static_cast<std::byte*>(data.data) + base[1] * bytes, nullptr};
    const WideLoop wide = widened(loop, memory, bytes, 0b011, data.strides[dim]);
    for_word_of(wide.word_bytes, [&](auto word) {
      using Word = decltype(word);
      gather_piece(wide.loop, base[2], data.strides[dim] * bytes / wide.word_bytes, static_cast<Word*>(memory[0]),
                   static_cast<const Word*>(memory[1]));
    });
  });
}

void pick(const Tensor& out, const Tensor& logits, const Tensor& labels, int dim, int64_t index_offset, int64_t classes, int64_t ignore_index) {
  expect_type("pick", arithmetic_type(logits.dtype), {out});
  for_any_float_type("pick", logits.dtype, [&](auto t) {
    using T = decltype(t);
    for_each_piece(loop_over({out, without(logits, dim), labels}), [&](const StridedLoop& loop, const StridedLoop::Offsets& base) {
      const Pick<T> arguments{StridedWalk<3>(loop),
                              static_cast<Arithmetic<T>*>(out.data) + base[0],
                              static_cast<const T*>(logits.data) + base[1],
                              {Indices("pick", labels, base[2]), index_offset, ignore_index},
                              logits.dims[dim],
                              logits.strides[dim],
                              classes,
                              device().wrong};
      launch(pick_kernel<T>, blocks_for(arguments.rows.count), threads_per_block, 0, arguments);
    });
  });
}

void cross_entropy_grad(const Tensor& dlogits, const Tensor& logits, const Tensor& lse, const Tensor& labels, const Tensor& dloss, int dim,
                        int64_t index_offset, int64_t ignore_index) {
  expect_type("cross_entropy_grad", dlogits.dtype, {logits});
  expect_type("cross_entropy_grad", arithmetic_type(dlogits.dtype), {lse, dloss});
  for_any_float_type("cross_entropy_grad", dlogits.dtype, [&](auto t) {
    using T = decltype(t);
    for_each_piece(loop_over({without(dlogits, dim), without(logits, dim), lse, labels, dloss}),
                   [&](const StridedLoop& loop, const StridedLoop::Offsets& base) {
                     const CrossEntropy<T> arguments{StridedWalk<5>(loop),
                                                     static_cast<T*>(dlogits.data) + base[0],
                                                     static_cast<const T*>(logits.data) + base[1],
                                                     static_cast<const Arithmetic<T>*>(lse.data) + base[2],
                                                     static_cast<const Arithmetic<T>*>(dloss.data) + base[4],
                                                     {Indices("cross_entropy_grad", labels, base[3]), index_offset, ignore_index},
                                                     logits.dims[dim],
                                                     dlogits.strides[dim],
                                                     logits.strides[dim]};
                     const RowLaunch shape(arguments.rows.count, arguments.piece);
                     launch(cross_entropy_kernel<T>, shape.grid, shape.block, 0, arguments);
                   });
  });
}

}  // namespace sscc::rt
