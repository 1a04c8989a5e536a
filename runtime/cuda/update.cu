// The rules of ../kernels/update_rules.h, over many parameters in one launch (tensor_table.cuh); one whose views have gaps is a pointwise loop of its
// own. The factor that clips gradients and, if the caller wants it, the number of the step are read on the device.
#include "../kernels/update_rules.h"
#include "device.h"
#include "dispatch.cuh"
#include "sscc_rt/cuda_launch.cuh"
#include "sscc_rt/cuda_pointwise.cuh"
#include "sscc_rt/kernels.h"
#include "tensor_table.cuh"

namespace sscc::rt {
namespace {

// What multiplies the gradient, and whether there is a step at all.
template <class T>
struct Factor {
  const T *clip, *loss_scale;  // null: 1
  __device__ bool skips() const { return loss_scale && *clip != *clip; }
  __device__ T operator()() const { return (clip ? *clip : T(1)) / (loss_scale ? *loss_scale : T(1)); }
};

template <class T>
struct AdamOnDevice {
  Adam<T> adam;
  typename Adam<T>::Correction correction;  // unless `step` or `taken` is given
  Factor<T> factor;
  const int64_t* step;
  const T* taken;
  T log_beta1, log_beta2;

  // 1 - beta^t, without the cancellation where beta^t is nearly 1.
  __device__ static T one_minus_power(T log_beta, int64_t t) { return -expm1(log_beta * static_cast<T>(t)); }
  __device__ void operator()(T& new_p, T& new_m, T& new_v, T p, T g, T m, T v) const {
    if (factor.skips()) {
      new_p = p, new_m = m, new_v = v;
      return;
    }
    auto factors = correction;
    if (step || taken) {
      const int64_t t = taken ? static_cast<int64_t>(*taken) + 1 : *step;
      factors = {adam.lr / one_minus_power(log_beta1, t), T(1) / sqrt(one_minus_power(log_beta2, t))};
    }
    adam(new_p, new_m, new_v, p, g * factor(), m, v, factors);
  }
};

template <class T>
struct SgdOnDevice {
  Sgd<T> sgd;
  Factor<T> factor;
  __device__ void operator()(T& new_p, T p, T g) const {
    new_p = p;
    if (!factor.skips()) sgd(new_p, p, g * factor());
  }
  __device__ void operator()(T& new_p, T& new_m, T p, T g, T m) const {
    new_p = p, new_m = m;
    if (!factor.skips()) sgd(new_p, new_m, p, g * factor(), m);
  }
};

template <class T>
constexpr int pack_of = 16 / sizeof(T);

template <class T, class Function, size_t... O, size_t... I>
__device__ void update_elements(const TensorTable<sizeof...(O) + sizeof...(I)>& table, const Function& function, std::index_sequence<O...>,
                                std::index_sequence<I...>) {
  constexpr int outs = sizeof...(O), ins = sizeof...(I), pack = pack_of<T>;
  const int tensor = table.tensor_of(blockIdx.x);
  const int64_t begin = (int64_t{blockIdx.x - table.first_block[tensor]} * threads_per_block + threadIdx.x) * pack;
  const int64_t left = table.elements[tensor] - begin;
  if (left <= 0) return;
  const bool is_whole = left >= pack && table.is_aligned[tensor];
  const auto at = [&](int operand) { return static_cast<T*>(table.memory[operand][tensor]) + begin; };
  Pack<T, pack> in[ins] = {}, out[outs];
#pragma unroll
  for (int k = 0; k < ins; ++k) {
    if (is_whole) {
      in[k] = *reinterpret_cast<const Pack<T, pack>*>(at(outs + k));
    } else {
#pragma unroll
      for (int i = 0; i < pack; ++i)
        if (i < left) in[k].values[i] = at(outs + k)[i];
    }
  }
#pragma unroll
  for (int i = 0; i < pack; ++i) function(out[O].values[i]..., in[I].values[i]...);
#pragma unroll
  for (int k = 0; k < outs; ++k) {
    if (is_whole) {
      *reinterpret_cast<Pack<T, pack>*>(at(k)) = out[k];
    } else {
#pragma unroll
      for (int i = 0; i < pack; ++i)
        if (i < left) at(k)[i] = out[k].values[i];
    }
  }
}

template <class T, int outs, int ins, class Function>
__global__ void __launch_bounds__(threads_per_block)
    update_kernel(const __grid_constant__ TensorTable<outs + ins> table, const __grid_constant__ Function function) {
  update_elements<T>(table, function, std::make_index_sequence<outs>(), std::make_index_sequence<ins>());
}

template <class T, size_t>
using Repeated = T;

// function(out&..., in...) for every element of every parameter.
template <class T, class Function, size_t... O, size_t... I>
void update_with(std::span<const UpdateOperands> parameters, std::index_sequence<O...>, std::index_sequence<I...>, const Function& function) {
  constexpr int outs = sizeof...(O), ins = sizeof...(I), operands = outs + ins;
  static_assert(sizeof(TensorTable<operands>) + sizeof(Function) <= TensorTable<operands>::parameter_bytes);
  TensorTable<operands> table;
  const auto flush = [&] {
    if (table.count > 0) launch(update_kernel<T, outs, ins, Function>, table.blocks, threads_per_block, 0, table, function);
    table.clear();
  };
  for (const UpdateOperands& each : parameters) {
    const Tensor* const out[] = {&each.new_parameter, &each.new_moment1, &each.new_moment2};
    const Tensor* const in[] = {&each.parameter, &each.gradient, &each.moment1, &each.moment2};
    const int64_t* const strides[] = {out[O]->strides..., in[I]->strides...};
    const StridedLoop loop = StridedLoop::make(std::span(each.parameter.dims, static_cast<size_t>(each.parameter.rank)), strides);
    const int64_t elements = loop.rows() * loop.row_length();
    bool is_dense = loop.rank == 1;
    for (int o = 0; o < operands; ++o) is_dense = is_dense && (loop.row_stride(o) == 1 || elements <= 1);
    if (elements == 0) continue;
    if (!is_dense) {
      pointwise_loop(Types<Repeated<T, O>...>(), Types<Repeated<T, I>...>(), {*out[O]...}, {*in[I]...}, false, function);
      continue;
    }
    if (table.is_full()) flush();
    table.add({out[O]->data..., in[I]->data...}, elements, threads_per_block * pack_of<T>);
  }
  flush();
}

template <class T>
void update_all(std::span<const UpdateOperands> parameters, const Factor<T>& factor, const T* taken, const UpdateRule& rule, int64_t t) {
  using One = std::make_index_sequence<1>;
  using Two = std::make_index_sequence<2>;
  using Three = std::make_index_sequence<3>;
  using Four = std::make_index_sequence<4>;
  if (rule.optimizer == Optimizer::loss_scale) {
    update_with<T>(parameters, Three(), Four(), LossScale<T>());
  } else if (rule.optimizer != Optimizer::sgd) {
    const bool counts_on_device = t == step_on_device;
    const AdamOnDevice<T> adam{Adam<T>(rule),
                               Adam<T>::correction(rule, counts_on_device ? 1 : t),
                               factor,
                               counts_on_device ? device().step : nullptr,
                               taken,
                               static_cast<T>(std::log(rule.beta1)),
                               static_cast<T>(std::log(rule.beta2))};
    update_with<T>(parameters, Three(), Four(), adam);
  } else if (parameters[0].moment1.data) {
    update_with<T>(parameters, Two(), Three(), SgdOnDevice<T>{Sgd<T>(rule), factor});
  } else {
    update_with<T>(parameters, One(), Two(), SgdOnDevice<T>{Sgd<T>(rule), factor});
  }
}

}  // namespace

void update(std::span<const UpdateOperands> parameters, const Tensor& clip, const Tensor& loss_scale, const Tensor& taken, const UpdateRule& rule,
            int64_t t) {
  const DType dtype = parameters[0].parameter.dtype;
  expect_type("update", dtype, {clip, loss_scale, taken});
  for (const UpdateOperands& o : parameters)
    expect_type("update", dtype, {o.new_parameter, o.new_moment1, o.new_moment2, o.parameter, o.gradient, o.moment1, o.moment2});
  for_float_type("update", dtype, [&](auto type) {
    using T = decltype(type);
    const Factor<T> factor{static_cast<const T*>(clip.data), static_cast<const T*>(loss_scale.data)};
    update_all<T>(parameters, factor, static_cast<const T*>(taken.data), rule, t);
  });
}

}  // namespace sscc::rt
