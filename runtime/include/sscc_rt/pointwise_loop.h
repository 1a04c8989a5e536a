// The loop of fused pointwise functions. Rows are worked on in tiles; an operand that is not contiguous along a row is gathered into a tile first (a
// broadcast one once for a row), so that the innermost loop is always over contiguous memory and becomes vector code.
#pragma once

#include <initializer_list>
#include <span>
#include <tuple>
#include <utility>

#include "sscc_rt/scalar_functions.h"
#include "sscc_rt/small_floats.h"
#include "sscc_rt/strided_loop.h"
#include "sscc_rt/types.h"

namespace sscc::rt {

inline constexpr int64_t tile_elements = 256;

namespace pointwise_detail {

// What the function sees of an operand: small floats as float.
template <class T>
class InTile {
  using Value = Arithmetic<T>;

 public:
  InTile(const Tensor& view, int64_t stride) : base_(static_cast<const T*>(view.data)), stride_(stride) {}
  void start_row(int64_t offset, int64_t length) {
    row_ = base_ + offset;
    if (stride_ == 0) std::fill_n(tile_, std::min(tile_elements, length), static_cast<Value>(*row_));
  }
  const Value* at(int64_t begin, int64_t n) {
    if constexpr (!is_small_float<T>)
      if (stride_ == 1) return row_ + begin;
    if (stride_ != 0) {
      for (int64_t i = 0; i < n; ++i) tile_[i] = static_cast<Value>(row_[(begin + i) * stride_]);
    }
    return tile_;
  }

 private:
  const T* base_;
  const T* row_ = nullptr;
  int64_t stride_;
  alignas(64) Value tile_[tile_elements];
};

template <class T>
class OutTile {
  using Value = Arithmetic<T>;

 public:
  OutTile(const Tensor& view, int64_t stride) : base_(static_cast<T*>(view.data)), stride_(stride) {}
  void start_row(int64_t offset) { row_ = base_ + offset; }
  Value* at(int64_t begin) {
    if constexpr (!is_small_float<T>)
      if (stride_ == 1 && !accumulates_) return row_ + begin;
    return tile_;
  }
  void accumulate() { accumulates_ = true; }
  void finish(int64_t begin, int64_t n) {
    if (accumulates_) {
      for (int64_t i = 0; i < n; ++i) {
        T& place = row_[(begin + i) * stride_];
        place = static_cast<T>(static_cast<Value>(place) + tile_[i]);
      }
    } else if (stride_ != 1 || is_small_float<T>) {
      for (int64_t i = 0; i < n; ++i) row_[(begin + i) * stride_] = static_cast<T>(tile_[i]);
    }
  }

 private:
  T* base_;
  T* row_ = nullptr;
  int64_t stride_;
  bool accumulates_ = false;
  alignas(64) Value tile_[tile_elements];
};

}  // namespace pointwise_detail

// Calls function(out&..., in...) for every element of outs[0]; inputs broadcast against it. `accumulate` adds to what the outputs hold. An output may
// be the very same view as an input.
template <class... Out, class... In, class Function>
void pointwise_loop(Types<Out...>, Types<In...>, std::initializer_list<Tensor> outs, std::initializer_list<Tensor> ins, bool accumulate,
                    const Function& function) {
  static_assert(sizeof...(Out) + sizeof...(In) <= max_operands);
  const Tensor* out = outs.begin();
  const Tensor* in = ins.begin();
  const int64_t* strides[sizeof...(Out) + sizeof...(In)];
  std::array<std::array<int64_t, max_rank>, sizeof...(In) + 1> broadcast;
  for (size_t i = 0; i < sizeof...(Out); ++i) strides[i] = out[i].strides;
  for (size_t i = 0; i < sizeof...(In); ++i) {
    std::copy_n(BroadcastStrides(in[i], out[0]).values, max_rank, broadcast[i].begin());
    strides[sizeof...(Out) + i] = broadcast[i].data();
  }
  const StridedLoop loop = StridedLoop::make(std::span(out[0].dims, static_cast<size_t>(out[0].rank)), strides);
  const auto work = [&]<size_t... O, size_t... I>(std::index_sequence<O...>, std::index_sequence<I...>) {
    constexpr int first_in = sizeof...(Out);
    const int64_t count = loop.rows(), length = loop.row_length();
    if (count == 0 || length == 0) return;
    const auto rows = [&](int64_t row_begin, int64_t row_end, int64_t begin, int64_t end) {
      std::tuple<pointwise_detail::OutTile<Out>...> out_tiles{pointwise_detail::OutTile<Out>(out[O], loop.row_stride(O))...};
      std::tuple<pointwise_detail::InTile<In>...> in_tiles{pointwise_detail::InTile<In>(in[I], loop.row_stride(first_in + static_cast<int>(I)))...};
      if (accumulate) (std::get<O>(out_tiles).accumulate(), ...);
      loop.for_rows(row_begin, row_end, [&](const auto& offsets) {
        (std::get<O>(out_tiles).start_row(offsets[O]), ...);
        (std::get<I>(in_tiles).start_row(offsets[first_in + I], end - begin), ...);
        for (int64_t at = begin; at < end; at += tile_elements) {
          const int64_t n = std::min(tile_elements, end - at);
          const std::tuple<Arithmetic<Out>*...> to{std::get<O>(out_tiles).at(at)...};
          const std::tuple<const Arithmetic<In>*...> from{std::get<I>(in_tiles).at(at, n)...};
#pragma omp simd
          for (int64_t i = 0; i < n; ++i) function(std::get<O>(to)[i]..., std::get<I>(from)[i]...);
          (std::get<O>(out_tiles).finish(at, n), ...);
        }
      });
    };
    constexpr int64_t grain = 16384;
    if (count == 1)
      parallel_ranges(length, grain, [&](int64_t begin, int64_t end) { rows(0, 1, begin, end); });
    else
      parallel_ranges(count, std::max<int64_t>(1, grain / length), [&](int64_t begin, int64_t end) { rows(begin, end, 0, length); });
  };
  work(std::index_sequence_for<Out...>(), std::index_sequence_for<In...>());
}

}  // namespace sscc::rt
