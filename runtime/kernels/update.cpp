#include "update_rules.h"

#include <utility>

#include "dispatch.h"
#include "sscc_rt/kernels.h"
#include "sscc_rt/pointwise_loop.h"

namespace sscc::rt {
namespace {

// `clip`: what multiplies the gradient.
template <class T>
void update_of(const UpdateOperands& o, T clip, const UpdateRule& rule, int64_t t) {
  if (rule.optimizer == Optimizer::loss_scale) {
    pointwise_loop(Types<T, T, T>(), Types<T, T, T, T>(), {o.new_parameter, o.new_moment1, o.new_moment2},
                   {o.parameter, o.gradient, o.moment1, o.moment2}, false, LossScale<T>());
    return;
  }
  if (rule.optimizer != Optimizer::sgd) {
    const Adam<T> adam(rule);
    const auto correction = Adam<T>::correction(rule, t);
    pointwise_loop(Types<T, T, T>(), Types<T, T, T, T>(), {o.new_parameter, o.new_moment1, o.new_moment2},
                   {o.parameter, o.gradient, o.moment1, o.moment2}, false,
                   [=](T& to, T& new_moment1, T& new_moment2, T parameter, T gradient, T moment1, T moment2) {
                     adam(to, new_moment1, new_moment2, parameter, gradient * clip, moment1, moment2, correction);
                   });
    return;
  }
  const Sgd<T> sgd(rule);
  if (!o.moment1.data) {
    pointwise_loop(Types<T>(), Types<T, T>(), {o.new_parameter}, {o.parameter, o.gradient}, false,
                   [=](T& to, T parameter, T gradient) { sgd(to, parameter, gradient * clip); });
    return;
  }
  pointwise_loop(Types<T, T>(), Types<T, T, T>(), {o.new_parameter, o.new_moment1}, {o.parameter, o.gradient, o.moment1}, false,
                 [=](T& to, T& new_moment, T parameter, T gradient, T moment) { sgd(to, new_moment, parameter, gradient * clip, moment); });
}

void keep(const UpdateOperands& o) {
  for (const auto& [to, from] : {std::pair(o.new_parameter, o.parameter), std::pair(o.new_moment1, o.moment1), std::pair(o.new_moment2, o.moment2)})
    if (to.data && to.data != from.data) copy(to, from, false);
}

}  // namespace

void update(std::span<const UpdateOperands> parameters, const Tensor& clip, const Tensor& loss_scale, const Tensor& taken, const UpdateRule& rule,
            int64_t t) {
  for_float_type("update", parameters[0].parameter.dtype, [&](auto type) {
    using T = decltype(type);
    T factor = clip.data ? *static_cast<const T*>(clip.data) : T(1);
    bool skips = false;
    if (loss_scale.data) {
      skips = factor != factor;
      factor /= *static_cast<const T*>(loss_scale.data);
      t = static_cast<int64_t>(*static_cast<const T*>(taken.data)) + 1;
    }
    for (const UpdateOperands& each : parameters) {
      if (skips)
        keep(each);
      else
        update_of<T>(each, factor, rule, t);
    }
  });
}

}  // namespace sscc::rt
