// f16: gradients of a loss times a scale, so that small ones do not vanish, and a scale that finds its size.
//
//   grad(loss) = 1                                  ->   grad(loss) = loss_scale
//   grad_norm = sqrt(sum of squares)                ->   grad_norm = sqrt(sum of squares) / loss_scale
//   w' = update(w, grad(w) [, clip])                ->   w' = update(w, grad(w), clip', loss_scale, steps taken)
//                                                        loss_scale' = update(loss_scale, grad_norm, good steps, steps taken)
//
// Gradients, and the norm of them all, are no numbers, or infinite, if a small float was. Then clip' is no number, too: nothing is updated, the scale
// is halved, and the step does not count (its number corrects Adam's moments). After 2000 good steps in a row the scale doubles, as that of
// torch.amp.GradScaler does.
#include "compiler/passes/scale_loss.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "compiler/ops/ops.h"
#include "compiler/support/check.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

constexpr float first_scale = 65536;

TensorId add_scale(Module& module) {
  Tensor scale;
  scale.name = "loss_scale";
  while (llvm::any_of(module.tensors, [&](const Tensor& t) { return t.name == scale.name; })) scale.name += "_";
  scale.role = Role::parameter;
  std::string bytes(sizeof first_scale, '\0');
  std::memcpy(bytes.data(), &first_scale, sizeof first_scale);
  scale.weight = Weight{"", 0, static_cast<int64_t>(bytes.size()), std::make_shared<const std::string>(std::move(bytes))};
  return module.tensors.add(std::move(scale));
}

TensorId add_state(Module& module, const std::string& name) {
  Tensor state;
  state.name = name;
  state.role = Role::state;
  return module.tensors.add(std::move(state));
}

// The constant 1 from which gradients begin.
TensorId seed_of(const Module& module) {
  const std::string name = "grad(" + module.tensors[module.loss].name + ")";
  for (int64_t t = 0; t < module.tensors.size(); ++t)
    if (module.tensors[TensorId(t)].name == name && module.tensors[TensorId(t)].role == Role::constant) return TensorId(t);
  SSCC_CHECK(false, "gradients begin with a constant");
}

}  // namespace

void scale_loss(Module& module) {
  const TensorId seed = seed_of(module);
  const auto reads_seed = [&](OpId id) { return llvm::is_contained(module.ops[id].inputs, seed); };
  const auto first = llvm::find_if(module.order, reads_seed);
  if (first == module.order.end()) return;
  const TensorId scale = add_scale(module);
  const std::string name = module.tensors[scale].name;
  const TensorId good_steps = add_state(module, name + ".moment1"), taken = add_state(module, name + ".moment2");

  // Gradients begin with the scale.
  TensorId from = scale;
  if (!module.tensors[seed].shape.empty()) {
    const Op& reader = module.ops[*first];
    const Origin origin{reader.name, reader.type, Phase::backward, reader.forward};
    insert_before(module, *first, [&] { from = Builder(module, origin).reshape(scale, module.tensors[seed].shape); });
  }
  for (OpId id : module.order) std::replace(module.ops[id].inputs.begin(), module.ops[id].inputs.end(), seed, from);

  // The norm is that of the gradients without it.
  const OpId root = module.tensors[module.grad_norm].producers[0];
  const Origin norm{"grad_norm", "GradientNorm", Phase::update, OpId()};
  Tensor scaled = module.tensors[module.grad_norm];
  scaled.name = "scaled_grad_norm";
  scaled.producers = {root};
  const TensorId scaled_norm = module.tensors.add(std::move(scaled));
  module.ops[root].outputs[0] = scaled_norm;
  module.tensors[module.grad_norm].producers.clear();
  const auto after_root = std::next(llvm::find(module.order, root));
  SSCC_CHECK(after_root != module.order.end(), "updates follow the gradient norm");
  insert_before(module, *after_root, [&] { Builder(module, norm).into(module.grad_norm).pointwise(Scalar::div, {scaled_norm, scale}); });

  // What updates multiply by: no number where the norm is none. In place of the clipping factor, if there is one.
  std::map<TensorId, TensorId> factor_for;
  for (OpId id : std::vector<OpId>(module.order)) {
    if (module.ops[id].kind != Kind::update) continue;
    const size_t moments = module.ops[id].outputs.size() - 1;
    const TensorId clip = module.ops[id].inputs.size() > 2 + moments ? module.ops[id].inputs.back() : TensorId();
    auto [factor, fresh] = factor_for.try_emplace(clip);
    if (fresh)
      insert_before(module, id, [&] {
        Builder b(module, norm);
        const TensorId nothing = b.pointwise(Scalar::sub, {module.grad_norm, module.grad_norm});  // 0, or no number
        b.named("gradient_factor");
        factor->second = clip.valid() ? b.pointwise(Scalar::add, {nothing, clip}) : b.pointwise(Scalar::scale_shift, {nothing}, 1, 1);
      });
    Op& update = module.ops[id];
    update.inputs.resize(2 + moments);
    update.inputs.append({factor->second, scale, taken});
  }

  rt::UpdateRule rule;
  rule.optimizer = rt::Optimizer::loss_scale;
  Builder(module, {name, "Update", Phase::update, OpId()}).update(scale, module.grad_norm, {good_steps, taken}, TensorId(), rule);
  for (OpId id : module.order)
    if (module.ops[id].kind == Kind::update) attach_rule(module, id);
}

}  // namespace sscc
