// Kernels that work on whole rows: softmax and layer norm.
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

TEST_CASE("layer_norm and its gradients") {
  const auto [lead, inner] = GENERATE(table<Dims, Dims>({{{3, 2}, {4, 5}}, {{70}, {64}}, {{5}, {3000}}, {{2000}, {40}}, {{}, {33}}}));
  const DType type = GENERATE(DType::f32, DType::f64, DType::bf16, DType::f16);
  const DType wide = arithmetic_type(type);
  const Layout layout = GENERATE(Layout::dense, Layout::spread);
  const bool biased = GENERATE(false, true), adds = GENERATE(false, true);
  Dims dims = lead;
  dims.insert(dims.end(), inner.begin(), inner.end());
  const int first = static_cast<int>(lead.size());
  Mirror x(type, dims, layout), y(type, dims, layout), mean(wide, lead, layout), rstd(wide, lead, layout), scale(wide, inner, layout),
      bias(wide, inner, layout), dy(type, dims, layout), dx(type, dims, layout), dscale(wide, inner, layout), dbias(wide, inner, layout);
  x.reals(-2, 2), scale.reals(0.5, 2), bias.reals(-1, 1), dy.reals(-1, 1), dscale.constant(10), dbias.constant(20), dx.reals(-1, 1);
  host_kernels()->layer_norm(y.host(), mean.host(), rstd.host(), x.host(), scale.host(), biased ? bias.host() : nothing, first, 1e-5);
  layer_norm(y.device(), mean.device(), rstd.device(), x.device(), scale.device(), biased ? bias.device() : nothing, first, 1e-5);
  CHECK(y.difference() <= 1);
  CHECK(mean.difference() <= 1);
  CHECK(rstd.difference() <= 1);
  mean.reals(-0.1, 0.1), rstd.reals(0.5, 1);  // the same on both sides
  host_kernels()->layer_norm_grad(dx.host(), dy.host(), x.host(), scale.host(), mean.host(), rstd.host(), first, adds);
  layer_norm_grad(dx.device(), dy.device(), x.device(), scale.device(), mean.device(), rstd.device(), first, adds);
  CHECK(dx.difference() <= 1);
  const auto bias_gradient = [&](const Tensor& tensor) { return biased ? tensor : nothing; };
  host_kernels()->layer_norm_grad_scale(dscale.host(), bias_gradient(dbias.host()), dy.host(), x.host(), mean.host(), rstd.host(), first, adds);
  layer_norm_grad_scale(dscale.device(), bias_gradient(dbias.device()), dy.device(), x.device(), mean.device(), rstd.device(), first, adds);
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
