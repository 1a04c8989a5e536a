// Optimizers as torch.optim defines them.
#include <cmath>

#include "dispatch.h"
#include "sscc_rt/kernels.h"
#include "sscc_rt/pointwise_loop.h"

namespace sscc::rt {
namespace {

template <class T>
struct Adam {
  T lr, beta1, beta2, eps, decay, step_size, denominator_scale, clip;
  bool decoupled;
  Adam(const UpdateRule& rule, int64_t t, T clip_factor)
      : lr(static_cast<T>(rule.lr)),
        beta1(static_cast<T>(rule.beta1)),
        beta2(static_cast<T>(rule.beta2)),
        eps(static_cast<T>(rule.eps)),
        decay(static_cast<T>(rule.weight_decay)),
        step_size(static_cast<T>(rule.lr / (1 - std::pow(rule.beta1, static_cast<double>(t))))),
        denominator_scale(static_cast<T>(1 / std::sqrt(1 - std::pow(rule.beta2, static_cast<double>(t))))),
        clip(clip_factor),
        decoupled(rule.optimizer == Optimizer::adamw) {}

  void operator()(T& new_p, T& new_m, T& new_v, T p, T g, T m, T v) const {
    g = g * clip + (decoupled ? T(0) : decay * p);
    p = decoupled ? p - lr * decay * p : p;
    m = beta1 * m + (T(1) - beta1) * g;
    v = beta2 * v + (T(1) - beta2) * g * g;
    new_p = p - step_size * m / (std::sqrt(v) * denominator_scale + eps);
    new_m = m;
    new_v = v;
  }
};

template <class T>
void update_of(const Tensor& new_p, const Tensor& new_m, const Tensor& new_v, const Tensor& p, const Tensor& g, const Tensor& m, const Tensor& v,
               T clip, const UpdateRule& rule, int64_t t) {
  if (rule.optimizer != Optimizer::sgd) {
    pointwise_loop(Types<T, T, T>(), Types<T, T, T, T>(), {new_p, new_m, new_v}, {p, g, m, v}, false, Adam<T>(rule, t, clip));
    return;
  }
  const T lr = static_cast<T>(rule.lr), momentum = static_cast<T>(rule.momentum), decay = static_cast<T>(rule.weight_decay);
  if (!m.data) {
    pointwise_loop(Types<T>(), Types<T, T>(), {new_p}, {p, g}, false,
                   [=](T& to, T parameter, T gradient) { to = parameter - lr * (gradient * clip + decay * parameter); });
    return;
  }
  // The first step's buffer is the gradient; the state starts as zeros, which gives the same.
  pointwise_loop(Types<T, T>(), Types<T, T, T>(), {new_p, new_m}, {p, g, m}, false, [=](T& to, T& new_moment, T parameter, T gradient, T moment) {
    const T velocity = momentum * moment + (gradient * clip + decay * parameter);
    new_moment = velocity;
    to = parameter - lr * velocity;
  });
}

}  // namespace

void update(const Tensor& new_parameter, const Tensor& new_moment1, const Tensor& new_moment2, const Tensor& parameter, const Tensor& gradient,
            const Tensor& moment1, const Tensor& moment2, const Tensor& clip, const UpdateRule& rule, int64_t t) {
  for_float_type("update", parameter.dtype, [&](auto type) {
    using T = decltype(type);
    update_of<T>(new_parameter, new_moment1, new_moment2, parameter, gradient, moment1, moment2, clip.data ? *static_cast<const T*>(clip.data) : T(1),
                 rule, t);
  });
}

}  // namespace sscc::rt
