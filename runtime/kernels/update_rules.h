// Optimizers as torch.optim defines them, for one element. Gradients are clipped by then.
#pragma once

#include <cmath>

#include "sscc_rt/kernels.h"

namespace sscc::rt {

template <class T>
struct Adam {
  T lr, beta1, beta2, eps, decay;
  bool decoupled;  // adamw
  explicit Adam(const UpdateRule& rule)
      : lr(static_cast<T>(rule.lr)),
        beta1(static_cast<T>(rule.beta1)),
        beta2(static_cast<T>(rule.beta2)),
        eps(static_cast<T>(rule.eps)),
        decay(static_cast<T>(rule.weight_decay)),
        decoupled(rule.optimizer == Optimizer::adamw) {}

  // What makes up for moments that start as zeros.
  struct Correction {
    T step_size, denominator_scale;
  };
  static Correction correction(const UpdateRule& rule, int64_t t) {
    return {static_cast<T>(rule.lr / (1 - std::pow(rule.beta1, static_cast<double>(t)))),
            static_cast<T>(1 / std::sqrt(1 - std::pow(rule.beta2, static_cast<double>(t))))};
  }

  SSCC_HOST_DEVICE void operator()(T& new_p, T& new_m, T& new_v, T p, T g, T m, T v, Correction correction) const {
    g += decoupled ? T(0) : decay * p;
    p = decoupled ? p - lr * decay * p : p;
    m = beta1 * m + (T(1) - beta1) * g;
    v = beta2 * v + (T(1) - beta2) * g * g;
    new_p = p - correction.step_size * m / (std::sqrt(v) * correction.denominator_scale + eps);
    new_m = m;
    new_v = v;
  }
};

template <class T>
struct Sgd {
  T lr, momentum, decay;
  explicit Sgd(const UpdateRule& rule)
      : lr(static_cast<T>(rule.lr)), momentum(static_cast<T>(rule.momentum)), decay(static_cast<T>(rule.weight_decay)) {}
  SSCC_HOST_DEVICE void operator()(T& new_p, T p, T g) const { new_p = p - lr * (g + decay * p); }
  // The first step's buffer is the gradient; the state starts as zeros, which gives the same.
  SSCC_HOST_DEVICE void operator()(T& new_p, T& new_m, T p, T g, T m) const {
    const T velocity = momentum * m + (g + decay * p);
    new_m = velocity;
    new_p = p - lr * velocity;
  }
};

// The scale of a loss, as torch.amp.GradScaler finds it.
template <class T>
struct LossScale {
  static constexpr int good_steps = 2000;  // after which it doubles
  SSCC_HOST_DEVICE void operator()(T& new_scale, T& new_good, T& new_taken, T scale, T norm, T good, T taken) const {
    const bool is_finite = norm - norm == T(0), doubles = is_finite && good + T(1) >= T(good_steps);
    new_scale = doubles ? scale * T(2) : is_finite ? scale : scale * T(0.5);
    new_good = is_finite && !doubles ? good + T(1) : T(0);
    new_taken = taken + T(is_finite);
  }
};

}  // namespace sscc::rt
