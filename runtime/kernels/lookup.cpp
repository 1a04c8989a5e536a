// Kernels that read indices: gather and its gradient, the logit of a label, the gradient of cross entropy.
#include <vector>

#include "dispatch.h"
#include "rows.h"
#include "sscc_rt/kernels.h"
#include "sscc_rt/rank.h"
#include "sscc_rt/scalar_functions.h"
#include "widened.h"

namespace sscc::rt {
namespace {

constexpr int64_t elsewhere = -1;

// All indices in row-major order: positions within the piece [offset, offset + piece) of a dimension of `length`, `elsewhere` for those outside of
// it.
std::vector<int64_t> positions_of(const Tensor& indices, int64_t offset, int64_t piece, int64_t length, const char* kernel) {
  std::vector<int64_t> positions;
  positions.reserve(static_cast<size_t>(indices.elements()));
  const int64_t* strides[] = {indices.strides};
  const StridedLoop loop = StridedLoop::make(std::span(indices.dims, static_cast<size_t>(indices.rank)), strides);
  if (indices.elements() == 0) return positions;
  for_index_type(kernel, indices.dtype, [&](auto t) {
    const auto* from = static_cast<const decltype(t)*>(indices.data);
    loop.for_rows(0, loop.rows(), [&](const auto& at) {
      for (int64_t i = 0; i < loop.row_length(); ++i) {
        int64_t index = from[at[0] + i * loop.row_stride(0)];
        if (index < -length || index >= length) {
          throw DataError("an index of " + std::to_string(index) + " is outside of a dimension of length " + std::to_string(length));
        }
        if (index < 0) index += length;
        positions.push_back(index >= offset && index < offset + piece ? index - offset : elsewhere);
      }
    });
  });
  return positions;
}

// A view with the dims [first, first + count) taken out: what lies before and what lies after them.
struct AroundIndices {
  StridedLoop outer, inner;  // operands: out, data
  StridedLoop index;         // operand: the tensor that has the dims of the indices
  static StridedLoop loop(const Tensor& a, int a_first, const Tensor& b, int b_first, int count) {
    const int64_t* strides[] = {a.strides + a_first, b.strides + b_first};
    return StridedLoop::make(std::span(a.dims + a_first, static_cast<size_t>(count)), strides);
  }
  // `with`: has the dims of the indices in place of dimension `dim` of `data`.
  AroundIndices(const Tensor& with, const Tensor& data, const Tensor& indices, int dim) {
    outer = loop(with, 0, data, 0, dim);
    inner = loop(with, dim + indices.rank, data, dim + 1, data.rank - dim - 1);
    const int64_t* strides[] = {with.strides + dim};
    index = StridedLoop::make(std::span(with.dims + dim, static_cast<size_t>(indices.rank)), strides);
  }
};

template <class Word>
void gather_words(const Tensor& out, const Tensor& data, const Tensor& indices, int dim, const std::vector<int64_t>& positions) {
  const AroundIndices around(out, data, indices, dim);
  const StridedLoop& inner = around.inner;
  const int64_t inner_rows = inner.rows(), n = inner.row_length(), out_stride = inner.row_stride(0), data_stride = inner.row_stride(1);
  const int64_t count = static_cast<int64_t>(positions.size());
  around.outer.for_rows(0, around.outer.rows(), [&](const auto& outer_row) {
    for (int64_t o = 0; o < around.outer.row_length(); ++o) {
      Word* to = static_cast<Word*>(out.data) + outer_row[0] + o * around.outer.row_stride(0);
      const Word* from = static_cast<const Word*>(data.data) + outer_row[1] + o * around.outer.row_stride(1);
      const int64_t per_row = around.index.row_length();
      parallel_ranges(count / std::max<int64_t>(per_row, 1), std::max<int64_t>(1, 16384 / std::max<int64_t>(per_row * inner_rows * n, 1)),
                      [&](int64_t begin, int64_t end) {
                        int64_t k = begin * per_row;
                        around.index.for_rows(begin, end, [&](const auto& at) {
                          for (int64_t i = 0; i < per_row; ++i, ++k) {
                            const int64_t position = positions[static_cast<size_t>(k)];
                            Word* place = to + at[0] + i * around.index.row_stride(0);
                            inner.for_rows(0, inner_rows, [&](const auto& in) {
                              Word* row = place + in[0];
                              if (position == elsewhere) {
                                for (int64_t j = 0; j < n; ++j) row[j * out_stride] = 0;
                              } else {
                                const Word* source = from + position * data.strides[dim] + in[1];
                                for (int64_t j = 0; j < n; ++j) row[j * out_stride] = source[j * data_stride];
                              }
                            });
                          }
                        });
                      });
    }
  });
}

// One thread, in the order of the indices: sums do not depend on the number of threads.
template <class T>
void scatter_rows(const Tensor& out, const Tensor& indices, const Tensor& dy, int dim, const std::vector<int64_t>& positions) {
  const AroundIndices around(dy, out, indices, dim);
  const StridedLoop& inner = around.inner;
  const int64_t inner_rows = inner.rows(), n = inner.row_length(), dy_stride = inner.row_stride(0), out_stride = inner.row_stride(1);
  around.outer.for_rows(0, around.outer.rows(), [&](const auto& outer_row) {
    for (int64_t o = 0; o < around.outer.row_length(); ++o) {
      const T* from = static_cast<const T*>(dy.data) + outer_row[0] + o * around.outer.row_stride(0);
      T* to = static_cast<T*>(out.data) + outer_row[1] + o * around.outer.row_stride(1);
      size_t k = 0;
      around.index.for_rows(0, around.index.rows(), [&](const auto& at) {
        for (int64_t i = 0; i < around.index.row_length(); ++i, ++k) {
          if (positions[k] == elsewhere) continue;
          const T* source = from + at[0] + i * around.index.row_stride(0);
          T* place = to + positions[k] * out.strides[dim];
          inner.for_rows(0, inner_rows, [&](const auto& in) {
            for (int64_t j = 0; j < n; ++j) place[in[1] + j * out_stride] += source[in[0] + j * dy_stride];
          });
        }
      });
    }
  });
}

int64_t label_at(const Tensor& labels, int64_t offset) {
  return labels.dtype == DType::i64 ? static_cast<const int64_t*>(labels.data)[offset] : static_cast<const int32_t*>(labels.data)[offset];
}

void check_label_type(const char* kernel, const Tensor& labels) {
  if (labels.dtype != DType::i64 && labels.dtype != DType::i32) no_kernel(kernel, labels.dtype);
}

// Before the loops, which must not throw.
void check_labels(const Tensor& labels, int64_t classes, int64_t ignore_index) {
  const int64_t* strides[] = {labels.strides};
  const StridedLoop loop = StridedLoop::make(std::span(labels.dims, static_cast<size_t>(labels.rank)), strides);
  loop.for_rows(0, labels.elements() == 0 ? 0 : loop.rows(), [&](const StridedLoop::Offsets& at) {
    for (int64_t i = 0; i < loop.row_length(); ++i) {
      const int64_t label = label_at(labels, at[0] + i * loop.row_stride(0));
      if (label == ignore_index || (label >= 0 && label < classes)) continue;
      throw DataError("a label of " + std::to_string(label) + " is outside of [0, " + std::to_string(classes) + ")");
    }
  });
}

template <class T>
void pick_rows(const Tensor& out, const Tensor& logits, const Tensor& labels, int dim, int64_t index_offset, int64_t ignore_index) {
  const int64_t classes = logits.dims[dim], stride = logits.strides[dim];
  for_each_row({out, without(logits, dim), labels}, 1, [&](const auto& at) {
    const int64_t label = label_at(labels, at[2]), position = label - index_offset;
    const bool is_here = label != ignore_index && position >= 0 && position < classes;
    static_cast<T*>(out.data)[at[0]] = is_here ? static_cast<const T*>(logits.data)[at[1] + position * stride] : T(0);
  });
}

template <class T>
void cross_entropy_rows(const Tensor& dlogits, const Tensor& logits, const Tensor& lse, const Tensor& labels, const Tensor& dloss, int dim,
                        int64_t index_offset, int64_t ignore_index) {
  const RowShape in_row(logits, dim, dim + 1), out_row(dlogits, dim, dim + 1);
  const int64_t n = in_row.length();
  for_each_row({without(dlogits, dim), without(logits, dim), lse, labels, dloss}, 2 * n, [&](const auto& at) {
    thread_local std::vector<T> in_scratch, out_scratch;
    T* base = static_cast<T*>(dlogits.data) + at[0];
    T* out = out_row.open(base, out_scratch);
    const int64_t label = label_at(labels, at[3]);
    if (label == ignore_index) {
      std::fill_n(out, n, T(0));
    } else {
      const T* in = in_row.read(static_cast<const T*>(logits.data) + at[1], in_scratch);
      const T shift = static_cast<const T*>(lse.data)[at[2]], scale = static_cast<const T*>(dloss.data)[at[4]];
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) out[i] = scalar::exp_of(in[i] - shift) * scale;
      const int64_t position = label - index_offset;
      if (position >= 0 && position < n) out[position] -= scale;
    }
    out_row.close(base, out_scratch);
  });
}

}  // namespace

void gather(const Tensor& out, const Tensor& data, const Tensor& indices, int dim, int64_t index_offset, int64_t length) {
  const std::vector<int64_t> positions = positions_of(indices, index_offset, data.dims[dim], length, "gather");
  if (out.elements() == 0) return;
  if (out.dtype != data.dtype) return widened([&](Wide& wide) { gather(wide.out(out), wide.in(data), indices, dim, index_offset, length); });
  switch (size_of(out.dtype)) {
    case 1: return gather_words<uint8_t>(out, data, indices, dim, positions);
    case 2: return gather_words<uint16_t>(out, data, indices, dim, positions);
    case 4: return gather_words<uint32_t>(out, data, indices, dim, positions);
    default: return gather_words<uint64_t>(out, data, indices, dim, positions);
  }
}

void scatter_add(const Tensor& out, const Tensor& indices, const Tensor& dy, int dim, int64_t index_offset, int64_t length, bool accumulate) {
  if (is_small(dy.dtype))
    return widened([&](Wide& wide) { scatter_add(wide.out(out, accumulate), indices, wide.in(dy), dim, index_offset, length, accumulate); });
  const std::vector<int64_t> positions = positions_of(indices, index_offset, out.dims[dim], length, "scatter_add");
  if (!accumulate) fill(out, 0);
  if (dy.elements() == 0) return;
  for_number_type("scatter_add", out.dtype, [&](auto t) { scatter_rows<decltype(t)>(out, indices, dy, dim, positions); });
}

void pick(const Tensor& out, const Tensor& logits, const Tensor& labels, int dim, int64_t index_offset, int64_t classes, int64_t ignore_index) {
  if (is_small(logits.dtype))
    return widened([&](Wide& wide) { pick(wide.out(out), wide.in(logits), labels, dim, index_offset, classes, ignore_index); });
  check_label_type("pick", labels);
  check_labels(labels, classes, ignore_index);
  for_float_type("pick", out.dtype, [&](auto t) { pick_rows<decltype(t)>(out, logits, labels, dim, index_offset, ignore_index); });
}

void cross_entropy_grad(const Tensor& dlogits, const Tensor& logits, const Tensor& lse, const Tensor& labels, const Tensor& dloss, int dim,
                        int64_t index_offset, int64_t ignore_index) {
  if (is_small(dlogits.dtype))
    return widened([&](Wide& wide) { cross_entropy_grad(wide.out(dlogits), wide.in(logits), lse, labels, dloss, dim, index_offset, ignore_index); });
  check_label_type("cross_entropy_grad", labels);
  for_float_type("cross_entropy_grad", dlogits.dtype,
                 [&](auto t) { cross_entropy_rows<decltype(t)>(dlogits, logits, lse, labels, dloss, dim, index_offset, ignore_index); });
}

}  // namespace sscc::rt
