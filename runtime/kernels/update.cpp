#include "update_rules.h"

#include <utility>

#include "dispatch.h"
#include "sscc_rt/kernels.h"
#include "sscc_rt/pointwise_loop.h"

namespace sscc::rt {
namespace {

template <class T>
void update_of(const Tensor& new_p, const Tensor& new_m, const Tensor& new_v, const Tensor& p, const Tensor& g, const Tensor& m, const Tensor& v,
               T clip, const UpdateRule& rule, int64_t t) {
  if (rule.optimizer != Optimizer::sgd) {
    const Adam<T> adam(rule);
    const auto correction = Adam<T>::correction(rule, t);
    pointwise_loop(Types<T, T, T>(), Types<T, T, T, T>(), {new_p, new_m, new_v}, {p, g, m, v}, false,
                   [=](T& to, T& new_moment1, T& new_moment2, T parameter, T gradient, T moment1, T moment2) {
                     adam(to, new_moment1, new_moment2, parameter, gradient * clip, moment1, moment2, correction);
                   });
    return;
  }
  const Sgd<T> sgd(rule);
  if (!m.data) {
    pointwise_loop(Types<T>(), Types<T, T>(), {new_p}, {p, g}, false, [=](T& to, T parameter, T gradient) { sgd(to, parameter, gradient * clip); });
    return;
  }
  pointwise_loop(Types<T, T>(), Types<T, T, T>(), {new_p, new_m}, {p, g, m}, false,
                 [=](T& to, T& new_moment, T parameter, T gradient, T moment) { sgd(to, new_moment, parameter, gradient * clip, moment); });
}

}  // namespace

void update(const Tensor& new_parameter, const Tensor& new_moment1, const Tensor& new_moment2, const Tensor& parameter, const Tensor& gradient,
            const Tensor& moment1, const Tensor& moment2, const Tensor& clip, const Tensor& loss_scale, const Tensor& taken, const UpdateRule& rule,
            int64_t t) {
  for_float_type("update", parameter.dtype, [&](auto type) {
    using T = decltype(type);
    if (rule.optimizer == Optimizer::loss_scale)
      return pointwise_loop(Types<T, T, T>(), Types<T, T, T, T>(), {new_parameter, new_moment1, new_moment2}, {parameter, gradient, moment1, moment2},
                            false, LossScale<T>());
    T factor = clip.data ? *static_cast<const T*>(clip.data) : T(1);
    if (loss_scale.data) {
      if (factor != factor) {
        for (const auto& [to, from] : {std::pair(new_parameter, parameter), std::pair(new_moment1, moment1), std::pair(new_moment2, moment2)})
          if (to.data && to.data != from.data) copy(to, from, false);
        return;
      }
      factor /= *static_cast<const T*>(loss_scale.data);
      t = static_cast<int64_t>(*static_cast<const T*>(taken.data)) + 1;
    }
    update_of<T>(new_parameter, new_moment1, new_moment2, parameter, gradient, moment1, moment2, factor, rule, t);
  });
}

}  // namespace sscc::rt
