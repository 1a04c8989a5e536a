// Contractions, reductions, copies and updates against the processor's kernels.
#include <array>
#include <deque>
#include <limits>
#include <string>

#include "test/unit/cuda/mirror.h"

using namespace sscc::rt;
using namespace sscc::rt::test;

TEST_CASE("contract: every kind of label and layout") {
  const auto [equation, lhs_dims, rhs_dims, out_dims] = GENERATE(
      std::tuple("mk,kn->mn", Dims{70, 33}, Dims{33, 66}, Dims{70, 66}), std::tuple("km,kn->mn", Dims{32, 24}, Dims{32, 40}, Dims{24, 40}),
      std::tuple("mk,nk->nm", Dims{16, 24}, Dims{32, 24}, Dims{32, 16}), std::tuple("mk,kn->nm", Dims{5, 7}, Dims{7, 3}, Dims{3, 5}),
      std::tuple("bhmk,bhnk->bhmn", Dims{2, 3, 4, 5}, Dims{2, 3, 6, 5}, Dims{2, 3, 4, 6}),
      std::tuple("bmhk,bnhk->bhmn", Dims{2, 8, 3, 16}, Dims{2, 9, 3, 16}, Dims{2, 3, 8, 9}),
      std::tuple("bhmn,bnhk->bmhk", Dims{2, 3, 8, 9}, Dims{2, 9, 3, 16}, Dims{2, 8, 3, 16}),
      std::tuple("abk,kn->abn", Dims{2, 3, 8}, Dims{8, 4}, Dims{2, 3, 4}), std::tuple("abm,abn->mn", Dims{2, 3, 5}, Dims{2, 3, 4}, Dims{5, 4}),
      std::tuple("bhmk,hkn->bmn", Dims{2, 3, 4, 5}, Dims{3, 5, 6}, Dims{2, 4, 6}), std::tuple("k,k->", Dims{9}, Dims{9}, Dims{}),
      std::tuple("m,n->mn", Dims{4}, Dims{6}, Dims{4, 6}), std::tuple("mk,k->m", Dims{4, 6}, Dims{6}, Dims{4}),
      std::tuple("mk,n->mn", Dims{4, 6}, Dims{5}, Dims{4, 5}), std::tuple("bmk,kn->bnm", Dims{3, 1, 4}, Dims{4, 5}, Dims{3, 5, 1}));
  const DType type = GENERATE(DType::f32, DType::f64, DType::bf16, DType::f16, DType::i64, DType::i32);
  const Layout layout = GENERATE(Layout::dense, Layout::offset, Layout::rows, Layout::spread);
  const bool adds = GENERATE(false, true);
  Mirror lhs(type, lhs_dims, layout), rhs(type, rhs_dims, layout), out(type, out_dims, layout);
  // Integers whose sums are exact in every type.
  lhs.integers(-2, 2), rhs.integers(-2, 2), out.integers(-9, 9);
  const double scale = is_float(type) ? 0.5 : 2;
  host_kernels()->contract(out.host(), lhs.host(), rhs.host(), equation, scale, adds);
  contract(out.device(), lhs.device(), rhs.device(), equation, scale, adds);
  INFO(equation << " " << name_of(type) << " layout " << static_cast<int>(layout) << " adds " << adds);
  CHECK(out.difference() <= (is_float(type) ? 0.3 : 0));
}

TEST_CASE("contract_epilogue: with cuBLASLt's epilogues, and behind the product where it has none") {
  const Scalar function = GENERATE(Scalar::identity, Scalar::relu, Scalar::gelu_tanh, Scalar::gelu_tanh_grad);
  const bool has_base = GENERATE(false, true), has_bias = GENERATE(false, true);
  const bool keeps_value = function == Scalar::gelu_tanh && GENERATE(false, true);
  const DType type = GENERATE(DType::f32, DType::f64, DType::bf16, DType::f16);
  const Layout layout = GENERATE(Layout::dense, Layout::rows, Layout::spread);
  const auto [equation, lhs_dims, rhs_dims, out_dims] = GENERATE(
      std::tuple("mk,kn->mn", Dims{24, 16}, Dims{16, 40}, Dims{24, 40}), std::tuple("abk,nk->abn", Dims{2, 3, 8}, Dims{16, 8}, Dims{2, 3, 16}),
      std::tuple("bmk,bkn->bmn", Dims{2, 4, 8}, Dims{2, 8, 16}, Dims{2, 4, 16}), std::tuple("mk,kn->nm", Dims{5, 7}, Dims{7, 3}, Dims{3, 5}));
  Mirror lhs(type, lhs_dims), rhs(type, rhs_dims), base(type, out_dims, layout), before(type, out_dims, layout), out(type, out_dims, layout),
      pre(type, out_dims, layout), bias(arithmetic_type(type), {out_dims.back()}, layout == Layout::rows ? Layout::offset : Layout::dense);
  lhs.reals(-1, 1), rhs.reals(-1, 1), base.reals(-1, 1), before.reals(-2, 2), bias.reals(-1, 1);
  const auto run = [&](const auto& kernel, const auto& side) {
    kernel(side(out), keeps_value ? side(pre) : nothing, side(lhs), side(rhs), has_base ? side(base) : nothing, has_bias ? side(bias) : nothing,
           function == Scalar::gelu_tanh_grad ? side(before) : nothing, equation, 0.5, function);
  };
  run(host_kernels()->contract_epilogue, [](const Mirror& mirror) { return mirror.host(); });
  run(contract_epilogue, [](const Mirror& mirror) { return mirror.device(); });
  INFO(equation << " " << name_of(type) << " " << name_of(function) << " layout " << static_cast<int>(layout));
  CHECK(out.difference() <= 1);
  CHECK(pre.difference() <= 1);
}

TEST_CASE("contract: real numbers, small floats into float, broadcast operands") {
  Mirror lhs(DType::f32, {130, 300}), rhs(DType::f32, {300, 70}), out(DType::f32, {130, 70});
  lhs.reals(-1, 1), rhs.reals(-1, 1);
  host_kernels()->contract(out.host(), lhs.host(), rhs.host(), "mk,kn->mn", 1, false);
  contract(out.device(), lhs.device(), rhs.device(), "mk,kn->mn", 1, false);
  CHECK(out.difference(0.1) <= 1);  // no TF32

  for (const DType small : {DType::bf16, DType::f16}) {
    Mirror a(small, {40, 64}), b(small, {64, 24}), c(DType::f32, {40, 24});
    a.reals(-1, 1), b.reals(-1, 1), c.reals(-1, 1);
    host_kernels()->contract(c.host(), a.host(), b.host(), "mk,kn->mn", 1, true);
    contract(c.device(), a.device(), b.device(), "mk,kn->mn", 1, true);
    CHECK(c.difference() <= 1);
  }

  const auto repeated = [](Tensor view) {
    view.strides[0] = 0;
    return view;
  };
  Mirror wide(DType::f32, {6, 5}), other(DType::f32, {5, 4}), sum(DType::f32, {6, 4});
  wide.integers(-3, 3), other.integers(-3, 3);
  host_kernels()->contract(sum.host(), repeated(wide.host()), other.host(), "mk,kn->mn", 1, false);
  contract(sum.device(), repeated(wide.device()), other.device(), "mk,kn->mn", 1, false);
  CHECK(sum.difference() == 0);
}

TEST_CASE("reduce: subsets of dimensions, joins, types") {
  const auto [dims, reduced] = GENERATE(table<Dims, uint32_t>({{{3, 4, 2, 5}, 0b0001},
                                                               {{3, 4, 2, 5}, 0b1010},
                                                               {{3, 4, 2, 5}, 0b0110},
                                                               {{3, 4, 2, 5}, 0b1111},
                                                               {{3, 4, 2, 5}, 0b1000},
                                                               {{5, 3000}, 0b10},
                                                               {{40000}, 0b1},
                                                               {{2, 20000}, 0b10},
                                                               {{9000, 40}, 0b01},
                                                               {{600, 33}, 0b10}}));
  const Join join = GENERATE(Join::sum, Join::max, Join::min, Join::logsumexp);
  const DType type = GENERATE(DType::f32, DType::f64, DType::bf16, DType::f16, DType::i64, DType::i32);
  if (join == Join::logsumexp && !is_float(type)) return;
  const Layout layout = GENERATE(Layout::dense, Layout::spread);
  const bool adds = GENERATE(false, true), widens = GENERATE(false, true);
  Dims kept;
  for (size_t d = 0; d < dims.size(); ++d)
    if (!(reduced >> d & 1)) kept.push_back(dims[d]);
  Mirror in(type, dims, layout), out(widens ? arithmetic_type(type) : type, kept, layout);
  in.integers(-2, 2), out.integers(-4, 4);
  const double scale = join == Join::sum && is_float(type) ? 0.125 : 1;
  host_kernels()->reduce(out.host(), in.host(), reduced, join, scale, adds);
  reduce(out.device(), in.device(), reduced, join, scale, adds);
  INFO(dims.size() << " dims, mask " << reduced << " join " << static_cast<int>(join) << " " << name_of(type) << " adds " << adds);
  CHECK(out.difference() <= (is_float(type) ? 1 : 0));
}

TEST_CASE("reduce: infinities, and numbers that are none") {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const double value = GENERATE_COPY(infinity, -infinity, std::nan(""), 1e30);
  const Join join = GENERATE(Join::sum, Join::max, Join::logsumexp);
  Mirror in(DType::f32, {2, 40}), out(DType::f32, {2});
  in.constant(value);
  host_kernels()->reduce(out.host(), in.host(), 0b10, join, 1, false);
  reduce(out.device(), in.device(), 0b10, join, 1, false);
  CHECK(out.difference() <= 1);
}

TEST_CASE("copy, fill and pad") {
  const DType type = GENERATE(DType::f32, DType::f64, DType::bf16, DType::i64, DType::i32, DType::b1);
  const Layout from = GENERATE(Layout::dense, Layout::rows, Layout::spread), to = GENERATE(Layout::dense, Layout::offset, Layout::spread);
  const Dims dims = GENERATE(Dims{3, 4, 8}, Dims{64}, Dims{5, 7}, Dims{2, 40, 36});
  Mirror in(type, dims, from), out(type, dims, to);
  in.integers(0, type == DType::b1 ? 1 : 9), out.integers(0, type == DType::b1 ? 1 : 9);
  if (type != DType::b1) {
    host_kernels()->copy(out.host(), in.host(), true);
    copy(out.device(), in.device(), true);
    CHECK(out.difference() == 0);
  }
  host_kernels()->copy(out.host(), in.host(), false);
  copy(out.device(), in.device(), false);
  CHECK(out.difference() == 0);
  for (const double value : {0.0, 1.0}) {
    host_kernels()->fill(out.host(), value);
    fill(out.device(), value);
    CHECK(out.difference() == 0);
  }

  // The transpose, as a view.
  if (dims.size() == 3) {
    const auto turned = [](Tensor view) {
      std::swap(view.dims[1], view.dims[2]);
      std::swap(view.strides[1], view.strides[2]);
      return view;
    };
    Mirror result(type, {dims[0], dims[2], dims[1]}, to);
    host_kernels()->copy(result.host(), turned(in.host()), false);
    copy(result.device(), turned(in.device()), false);
    CHECK(result.difference() == 0);
  }
  if (dims.size() == 2) {
    Mirror whole(type, {19, 15}, to);
    const int64_t starts[] = {1, 14}, steps[] = {4, -2};
    const bool adds = type != DType::b1 && GENERATE(false, true);
    whole.integers(0, 1);
    host_kernels()->pad(whole.host(), in.host(), starts, steps, adds);
    pad(whole.device(), in.device(), starts, steps, adds);
    CHECK(whole.difference() == 0);
  }
}

TEST_CASE("copies between types of floats") {
  const auto [from, to] =
      GENERATE(table<DType, DType>({{DType::f32, DType::bf16}, {DType::bf16, DType::f32}, {DType::f32, DType::f16}, {DType::f16, DType::f32}}));
  const Layout layout = GENERATE(Layout::dense, Layout::offset, Layout::spread);
  const bool adds = GENERATE(false, true);
  Mirror in(from, {7, 40}, layout), out(to, {7, 40}, layout);
  in.reals(-4, 4), out.integers(-2, 2);
  host_kernels()->copy(out.host(), in.host(), adds);
  copy(out.device(), in.device(), adds);
  CHECK(out.difference() <= 1);
}

TEST_CASE("update: optimizers, clipped or not, in place or not, steps counted here or on the device") {
  const DType type = GENERATE(DType::f32, DType::f64);
  const Layout layout = GENERATE(Layout::dense, Layout::offset, Layout::spread);
  const Optimizer optimizer = GENERATE(Optimizer::sgd, Optimizer::adam, Optimizer::adamw);
  const bool clipped = GENERATE(false, true), counts_on_device = GENERATE(false, true);
  const UpdateRule rule{.optimizer = optimizer, .lr = 0.1, .momentum = 0.9, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01};
  const Dims dims = {7, 40};
  Mirror p(type, dims, layout), g(type, dims, layout), m(type, dims, layout), v(type, dims, layout), clip(type, {});
  p.reals(-1, 1), g.reals(-1, 1), m.reals(-1, 1), v.reals(0, 1), clip.constant(0.5);
  const bool has_momentum = optimizer != Optimizer::sgd || GENERATE(false, true), is_adam = optimizer != Optimizer::sgd;
  set_device_step(1);
  for (int64_t t = 1; t <= 3; ++t) {
    const auto step = [&](const auto& run, const auto& side, int64_t count) {
      const Tensor first = has_momentum ? side(m) : nothing, second = is_adam ? side(v) : nothing;
      run(std::array{UpdateOperands{side(p), first, second, side(p), side(g), first, second}}, clipped ? side(clip) : nothing, nothing, nothing, rule,
          count);
    };
    step(
        host_kernels()->update, [](const Mirror& mirror) { return mirror.host(); }, t);
    step(
        update, [](const Mirror& mirror) { return mirror.device(); }, counts_on_device ? step_on_device : t);
    advance_device_step();
  }
  CHECK(p.difference() <= 1);
  CHECK(m.difference() <= 1);
  CHECK(v.difference() <= 1);
}

namespace {

// More tensors than a launch takes, of all lengths and layouts.
std::vector<std::pair<Dims, Layout>> many_shapes() {
  std::vector<std::pair<Dims, Layout>> shapes = {{{}, Layout::dense}, {{300, 70}, Layout::dense}, {{70000}, Layout::offset}};
  for (int64_t n = 1; n < 200; ++n) shapes.push_back({{n % 7 + 1, n}, n % 11 == 0 ? Layout::spread : n % 5 == 0 ? Layout::offset : Layout::dense});
  return shapes;
}

}  // namespace

TEST_CASE("update: many parameters at once") {
  const DType type = GENERATE(DType::f32, DType::f64);
  const Optimizer optimizer = GENERATE(Optimizer::sgd, Optimizer::adamw);
  const bool in_place = GENERATE(false, true), is_scaled = GENERATE(false, true);
  const double clip_factor = GENERATE(0.5, std::numeric_limits<double>::quiet_NaN());
  const UpdateRule rule{.optimizer = optimizer, .lr = 0.1, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01};
  const bool has_moments = optimizer != Optimizer::sgd;
  std::deque<Mirror> memory;
  const auto made = [&](const Dims& dims, Layout layout) -> Mirror& { return memory.emplace_back(type, dims, layout); };
  std::vector<UpdateOperands> on_host, on_device;
  for (const auto& [dims, layout] : many_shapes()) {
    Mirror &p = made(dims, layout).reals(-1, 1), &g = made(dims, layout).reals(-1, 1);
    Mirror &m = made(dims, layout).reals(-1, 1), &v = made(dims, layout).reals(0, 1);
    const bool aside = !in_place && dims.size() != 1;
    Mirror &new_p = aside ? made(dims, layout) : p, &new_m = aside ? made(dims, layout) : m, &new_v = aside ? made(dims, layout) : v;
    const auto side = [&](const auto& of) {
      const auto moment = [&](const Mirror& mirror) { return has_moments ? of(mirror) : nothing; };
      return UpdateOperands{of(new_p), moment(new_m), moment(new_v), of(p), of(g), moment(m), moment(v)};
    };
    on_host.push_back(side([](const Mirror& mirror) { return mirror.host(); }));
    on_device.push_back(side([](const Mirror& mirror) { return mirror.device(); }));
  }
  Mirror &clip = made({}, Layout::dense).constant(clip_factor), &scale = made({}, Layout::dense).constant(64), &taken = made({}, Layout::dense);
  taken.constant(6);
  const auto scalar = [&](const Tensor& view) { return is_scaled ? view : nothing; };
  host_kernels()->update(on_host, clip.host(), scalar(scale.host()), scalar(taken.host()), rule, 3);
  update(on_device, clip.device(), scalar(scale.device()), scalar(taken.device()), rule, 3);
  for (const Mirror& each : memory) CHECK(each.difference() <= 1);
}

TEST_CASE("sum_of_squares: of many tensors, the same every time") {
  const DType type = GENERATE(DType::f32, DType::f64);
  const bool adds = GENERATE(false, true);
  std::deque<Mirror> memory;
  std::vector<Tensor> on_host, on_device;
  for (const auto& [dims, layout] : many_shapes()) {
    Mirror& each = memory.emplace_back(type, dims, layout).reals(-1, 1);
    on_host.push_back(each.host());
    on_device.push_back(each.device());
  }
  for (std::vector<Tensor>* ins : {&on_host, &on_device}) {
    Tensor empty = ins->back();
    empty.dims[0] = 0;
    ins->push_back(empty);
  }
  Mirror out(type, {}), again(type, {});
  out.constant(5), again.constant(5);
  host_kernels()->sum_of_squares(out.host(), on_host, adds);
  sum_of_squares(out.device(), on_device, adds);
  sum_of_squares(again.device(), on_device, adds);
  CHECK(out.difference(0.01) <= 1);
  CHECK(out.downloaded() == again.downloaded());
}
