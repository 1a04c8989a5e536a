// The rules of ../kernels/update_rules.h as pointwise loops. The factor that clips the gradient and, if the caller wants it, the number of the step
// are read on the device.
#include "../kernels/update_rules.h"
#include "device.h"
#include "dispatch.cuh"
#include "sscc_rt/cuda_pointwise.cuh"
#include "sscc_rt/kernels.h"

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
void update_of(const Tensor& new_p, const Tensor& new_m, const Tensor& new_v, const Tensor& p, const Tensor& g, const Tensor& m, const Tensor& v,
               const Factor<T>& factor, const T* taken, const UpdateRule& rule, int64_t t) {
  if (rule.optimizer == Optimizer::loss_scale) {
    pointwise_loop(Types<T, T, T>(), Types<T, T, T, T>(), {new_p, new_m, new_v}, {p, g, m, v}, false, LossScale<T>());
  } else if (rule.optimizer != Optimizer::sgd) {
    const bool counts_on_device = t == step_on_device;
    const AdamOnDevice<T> adam{Adam<T>(rule),
                               Adam<T>::correction(rule, counts_on_device ? 1 : t),
                               factor,
                               counts_on_device ? device().step : nullptr,
                               taken,
                               static_cast<T>(std::log(rule.beta1)),
                               static_cast<T>(std::log(rule.beta2))};
    pointwise_loop(Types<T, T, T>(), Types<T, T, T, T>(), {new_p, new_m, new_v}, {p, g, m, v}, false, adam);
  } else if (m.data) {
    pointwise_loop(Types<T, T>(), Types<T, T, T>(), {new_p, new_m}, {p, g, m}, false, SgdOnDevice<T>{Sgd<T>(rule), factor});
  } else {
    pointwise_loop(Types<T>(), Types<T, T>(), {new_p}, {p, g}, false, SgdOnDevice<T>{Sgd<T>(rule), factor});
  }
}

}  // namespace

void update(const Tensor& new_parameter, const Tensor& new_moment1, const Tensor& new_moment2, const Tensor& parameter, const Tensor& gradient,
            const Tensor& moment1, const Tensor& moment2, const Tensor& clip, const Tensor& loss_scale, const Tensor& taken, const UpdateRule& rule,
            int64_t t) {
  expect_type("update", parameter.dtype, {new_parameter, new_moment1, new_moment2, gradient, moment1, moment2, clip, loss_scale, taken});
  for_float_type("update", parameter.dtype, [&](auto type) {
    using T = decltype(type);
    const Factor<T> factor{static_cast<const T*>(clip.data), static_cast<const T*>(loss_scale.data)};
    update_of<T>(new_parameter, new_moment1, new_moment2, parameter, gradient, moment1, moment2, factor, static_cast<const T*>(taken.data), rule, t);
  });
}

}  // namespace sscc::rt
