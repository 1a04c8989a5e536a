// Kernels that work on whole rows: softmax and norms.
#include "test/unit/cuda/mirror.h"

using namespace sscc::rt;
using namespace sscc::rt::test;

TEST_CASE("softmax along any dimension, and its gradient") {
  const auto [dims, dim] =
      GENERATE(table<Dims, int>({{{3, 4, 5}, 0}, {{3, 4, 5}, 1}, {{3, 4, 5}, 2}, {{7, 1000}, 1}, {{3, 3000}, 1}, {{70, 20}, 1}}));
  const DType type = GENERATE(DType::f32, DType::f64, DType::bf16, DType::f16);
  const Layout layout = GENERATE(Layout::dense, Layout::spread);
  Mirror x(type, dims, layout), y(type, dims, layout), dy(type, dims, layout), dx(type, dims, layout);
  x.reals(-3, 3), dy.reals(-1, 1);
  host_kernels()->softmax(y.host(), x.host(), dim);
  softmax(y.device(), x.device(), dim);
  CHECK(y.difference() <= 1);
  y.reals(0, 1);  // the same on both sides
  host_kernels()->softmax_grad(dx.host(), y.host(), dy.host(), dim);
  softmax_grad(dx.device(), y.device(), dy.device(), dim);
  CHECK(dx.difference() <= 1);
}

TEST_CASE("softmax of very large and masked values") {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  for (const double value : {1e30, -infinity}) {
    Mirror x(DType::f32, {2, 40}), y(DType::f32, {2, 40});
    x.constant(value);
    host_kernels()->softmax(y.host(), x.host(), 1);
    softmax(y.device(), x.device(), 1);
    CHECK(y.difference() <= 1);
  }
}

TEST_CASE("norms and their gradients") {
  const auto [dims, over, along] = GENERATE(table<Dims, uint32_t, uint32_t>({{{3, 2, 4, 5}, 0b1100, 0b1100},     // layer, of several dimensions
                                                                             {{70, 64}, 0b10, 0b10},             // of short rows
                                                                             {{5, 3000}, 0b10, 0b10},            // of long rows
                                                                             {{2000, 40}, 0b10, 0b10},           // of many rows
                                                                             {{33}, 0b1, 0b1},                   // of one row
                                                                             {{4, 6, 30}, 0b100, 0b010},         // instance
                                                                             {{4, 6, 5, 6}, 0b1101, 0b0010},     // batch
                                                                             {{50, 40}, 0b01, 0b10},             // batch, without space
                                                                             {{2, 3, 30000}, 0b101, 0b010},      // batch, in slices
                                                                             {{3, 2, 4, 9}, 0b1100, 0b0110}}));  // group
  const DType type = GENERATE(DType::f32, DType::f64, DType::bf16, DType::f16);
  const DType wide = arithmetic_type(type);
  const Layout layout = GENERATE(Layout::dense, Layout::spread);
  const bool is_centred = GENERATE(true, false), adds = GENERATE(false, true);
  const int weights = is_centred ? 2 : GENERATE(0, 1);  // scale and bias, scale, none
  const auto chosen = [all = dims](uint32_t mask) {
    Dims some;
    for (size_t d = 0; d < all.size(); ++d)
      if (mask >> d & 1) some.push_back(all[d]);
    return some;
  };
  const Dims lead = chosen(~over), inner = chosen(along);
  Mirror x(type, dims, layout), y(type, dims, layout), mean(wide, lead, layout), rstd(wide, lead, layout), scale(wide, inner, layout),
      bias(wide, inner, layout), dy(type, dims, layout), dx(type, dims, layout), dscale(wide, inner, layout), dbias(wide, inner, layout);
  x.reals(-2, 2), scale.reals(0.5, 2), bias.reals(-1, 1), dy.reals(-1, 1), dscale.constant(10), dbias.constant(20), dx.reals(-1, 1);
  const auto if_there = [](bool is_there, const Tensor& tensor) { return is_there ? tensor : nothing; };
  host_kernels()->norm(y.host(), rstd.host(), if_there(is_centred, mean.host()), x.host(), if_there(weights > 0, scale.host()),
                       if_there(weights > 1, bias.host()), over, along, 1e-5);
  norm(y.device(), rstd.device(), if_there(is_centred, mean.device()), x.device(), if_there(weights > 0, scale.device()),
       if_there(weights > 1, bias.device()), over, along, 1e-5);
  CHECK(y.difference() <= 1);
  CHECK(mean.difference() <= 1);
  CHECK(rstd.difference() <= 1);
  mean.reals(-0.1, 0.1), rstd.reals(0.5, 1);  // the same on both sides
  host_kernels()->norm_grad(dx.host(), dy.host(), x.host(), rstd.host(), if_there(is_centred, mean.host()), if_there(weights > 0, scale.host()), over,
                            along, adds);
  norm_grad(dx.device(), dy.device(), x.device(), rstd.device(), if_there(is_centred, mean.device()), if_there(weights > 0, scale.device()), over,
            along, adds);
  CHECK(dx.difference() <= 1);
  host_kernels()->norm_grad_scale(dscale.host(), if_there(weights > 1, dbias.host()), dy.host(), x.host(), rstd.host(),
                                  if_there(is_centred, mean.host()), over, along, adds);
  norm_grad_scale(dscale.device(), if_there(weights > 1, dbias.device()), dy.device(), x.device(), rstd.device(), if_there(is_centred, mean.device()),
                  over, along, adds);
  CHECK(dscale.difference() <= 1);
  CHECK(dbias.difference() <= 1);
}

TEST_CASE("sums repeat bit by bit") {
  Mirror x(DType::f32, {3000, 96}), sum(DType::f32, {}), columns(DType::f32, {96}), weights(DType::f32, {96, 80}), product(DType::f32, {3000, 80});
  x.reals(-1, 1), weights.reals(-1, 1);
  const auto run = [&] {
    reduce(sum.device(), x.device(), 0b11, Join::sum, 1, false);
    reduce(columns.device(), x.device(), 0b01, Join::logsumexp, 1, false);
    contract(product.device(), x.device(), weights.device(), "mk,kn->mn", 1, false);
    return std::vector{sum.downloaded(), columns.downloaded(), product.downloaded()};
  };
  const auto first = run();
  for (int i = 0; i < 3; ++i) CHECK(run() == first);
}
