// Pointwise expressions, interpreted and compiled.
#include "sscc_rt/scalar_functions.h"
#include "test/unit/cuda/fused.h"
#include "test/unit/cuda/mirror.h"

using namespace sscc::rt;
using namespace sscc::rt::test;

namespace {

constexpr Scalar all_functions[] = {
#define SSCC_LISTED(name, arity) Scalar::name,
    SSCC_SCALAR_FUNCTIONS(SSCC_LISTED)
#undef SSCC_LISTED
};

struct Operands {
  std::vector<Tensor> host, device;
  Operands(std::initializer_list<const Mirror*> mirrors) {
    for (const Mirror* mirror : mirrors) {
      host.push_back(mirror->host());
      device.push_back(mirror->device());
    }
  }
};

void run(const Operands& outs, const Operands& ins, const std::vector<ScalarStep>& steps, const std::vector<int32_t>& results, bool accumulate) {
  host_kernels()->pointwise(outs.host, ins.host, steps, results, accumulate);
  pointwise(outs.device, ins.device, steps, results, accumulate);
}

}  // namespace

TEST_CASE("pointwise: every function") {
  const DType type = GENERATE(DType::f32, DType::f64, DType::bf16, DType::f16, DType::i64, DType::i32);
  const Layout layout = GENERATE(Layout::dense, Layout::offset, Layout::spread);
  for (const Scalar function : all_functions) {
    if (is_real(function) && !is_float(type)) continue;
    const bool gives_truth = is_comparison(function) || is_logical(function);
    Mirror a(type, {3, 40}, layout), b(type, {40}, layout), c(function == Scalar::token_loss ? DType::i64 : type, {3, 1}, layout),
        condition(DType::b1, {3, 40}, layout), out(gives_truth ? DType::b1 : type, {3, 40}, layout);
    // Positive: of logarithms, roots and powers.
    if (is_float(type))
      a.reals(0.2, 2), b.reals(0.2, 2);
    else
      a.integers(1, 5), b.integers(1, 3);
    c.integers(0, 3), condition.integers(0, 1);
    const double alpha = is_float(type) ? 0.5 : 2, beta = is_float(type) ? 1.5 : 3;
    const ScalarStep step{function, {0, 1, 2}, function == Scalar::token_loss ? 2 : alpha, beta, gives_truth ? DType::b1 : arithmetic_type(type)};
    const Mirror* first = function == Scalar::where ? &condition : &a;
    Operands ins{first};
    if (arity_of(function) > 1) ins = {first, &b};
    if (arity_of(function) > 2) ins = {first, &b, &c};
    INFO(name_of(function) << " of " << name_of(type) << " layout " << static_cast<int>(layout));
    run({&out}, ins, {step}, {0}, false);
    CHECK(out.difference(4) <= 1);
    if (gives_truth) continue;
    out.integers(0, 3);
    run({&out}, ins, {step}, {0}, true);
    CHECK(out.difference(4) <= 1);
  }
}

TEST_CASE("pointwise: negative numbers") {
  const DType type = GENERATE(DType::f32, DType::f64, DType::i64, DType::i32);
  for (const Scalar function :
       {Scalar::neg, Scalar::abs, Scalar::sign, Scalar::relu, Scalar::clip, Scalar::mod, Scalar::max, Scalar::min, Scalar::square}) {
    if (function == Scalar::mod && is_float(type)) continue;
    Mirror a(type, {64}), b(type, {64}), out(type, {64});
    a.integers(-9, 9), b.integers(1, 4);
    Operands ins{&a};
    if (arity_of(function) > 1) ins = {&a, &b};
    run({&out}, ins, {{function, {0, 1, 0}, -2, 3, arithmetic_type(type)}}, {0}, false);
    INFO(name_of(function) << " of " << name_of(type));
    CHECK(out.difference() == 0);
  }
}

TEST_CASE("pointwise: conversions") {
  const DType from = GENERATE(DType::f32, DType::f64, DType::bf16, DType::i64, DType::i32, DType::i8, DType::u8, DType::b1);
  const DType to = GENERATE(DType::f32, DType::f64, DType::f16, DType::i64, DType::i32, DType::i8, DType::u8, DType::b1);
  Mirror in(from, {5, 16}), out(to, {5, 16});
  in.integers(0, from == DType::b1 ? 1 : 100);
  run({&out}, {&in}, {{Scalar::identity, {0, 0, 0}, 0, 0, arithmetic_type(to)}}, {0}, false);
  INFO(name_of(from) << " to " << name_of(to));
  CHECK(out.difference(0) == 0);
}

TEST_CASE("pointwise: broadcast operands, several steps, several results, in place") {
  const DType type = GENERATE(DType::f32, DType::f64, DType::bf16);
  const bool adds = GENERATE(false, true);
  Mirror a(type, {3, 1, 8}, Layout::spread), b(type, {4, 8}), scalar(type, {}), sum(type, {3, 4, 8}), scaled(type, {3, 4, 8}, Layout::spread);
  a.integers(-9, 9), b.integers(-9, 9), scalar.constant(3), sum.integers(-9, 9), scaled.integers(-9, 9);
  const std::vector<ScalarStep> steps = {{Scalar::add, {0, 1, 0}, 0, 0, arithmetic_type(type)},
                                         {Scalar::mul, {~0, 2, 0}, 0, 0, arithmetic_type(type)},
                                         {Scalar::less, {~0, 2, 0}, 0, 0, DType::b1},
                                         {Scalar::where, {~2, ~1, 0}, 0, 0, arithmetic_type(type)}};
  run({&sum, &scaled}, {&a, &b, &scalar}, steps, {0, 3}, adds);
  CHECK(sum.difference() <= 1);
  CHECK(scaled.difference() <= 1);
  // An output may be the very view of an input.
  Mirror x(type, {6, 300}, GENERATE(Layout::dense, Layout::spread));
  x.integers(-9, 9);
  run({&x}, {&x}, {{Scalar::square, {0, 0, 0}, 0, 0, arithmetic_type(type)}}, {0}, false);
  CHECK(x.difference() <= 1);
}

TEST_CASE("fused functions") {
  const Layout layout = GENERATE(Layout::dense, Layout::offset, Layout::rows, Layout::spread);
  const bool adds = GENERATE(false, true);
  Mirror a(DType::f32, {6, 64}, layout), b(DType::f32, {64}, layout), mask(DType::b1, {6, 64}, layout), first(DType::f32, {6, 64}, layout),
      second(DType::f32, {6, 64}, layout), truth(DType::b1, {6, 64}, layout);
  a.reals(-2, 2), b.reals(-2, 2), mask.integers(0, 1), first.reals(-1, 1), second.reals(-1, 1);
  add_gelu_where({first.device(), second.device()}, {a.device(), b.device(), mask.device()}, adds);
  const std::vector<ScalarStep> steps = {
      {Scalar::add, {0, 1, 0}, 0, 0, DType::f32}, {Scalar::gelu_tanh, {~0, 0, 0}, 0, 0, DType::f32}, {Scalar::where, {2, ~1, 1}, 0, 0, DType::f32}};
  const Operands outs{&first, &second}, ins{&a, &b, &mask};
  host_kernels()->pointwise(outs.host, ins.host, steps, std::vector<int32_t>{0, 2}, adds);
  CHECK(first.difference() <= 1);
  CHECK(second.difference() <= 1);

  less({truth.device()}, {a.device(), b.device()}, false);
  const Operands truths{&truth}, compared{&a, &b};
  host_kernels()->pointwise(truths.host, compared.host, std::vector<ScalarStep>{{Scalar::less, {0, 1, 0}, 0, 0, DType::b1}}, std::vector<int32_t>{0},
                            false);
  CHECK(truth.difference() == 0);

  Mirror x(DType::bf16, {5, 32}, layout), factor(DType::f32, {5, 1}, layout), shift(DType::bf16, {5, 32}, layout), y(DType::bf16, {5, 32}, layout);
  x.reals(-2, 2), factor.reals(-2, 2), shift.reals(-2, 2), y.reals(-1, 1);
  mul_add_small({y.device()}, {x.device(), factor.device(), shift.device()}, adds);
  const Operands result{&y}, terms{&x, &factor, &shift};
  host_kernels()->pointwise(result.host, terms.host, std::vector<ScalarStep>{{Scalar::mul_add, {0, 1, 2}, 0, 0, DType::f32}}, std::vector<int32_t>{0},
                            adds);
  CHECK(y.difference() <= 1);
}
