// Kernels that read indices and labels.
#include "sscc_rt/rank.h"
#include "test/unit/cuda/mirror.h"

using namespace sscc::rt;
using namespace sscc::rt::test;

TEST_CASE("gather of a piece, and its gradient") {
  // Rows 4..8 of a table of 12; indices outside the piece give 0, negative ones count from the end.
  const int64_t offset = 4, length = 12;
  const DType type = GENERATE(DType::f32, DType::f64, DType::bf16, DType::f16, DType::i64, DType::i32), index_type = GENERATE(DType::i64, DType::i32);
  const Layout layout = GENERATE(Layout::dense, Layout::rows, Layout::spread);
  const bool adds = GENERATE(false, true), is_wide = GENERATE(false, true);
  const int64_t inner = GENERATE(1, 3, 64);
  const DType table = is_wide ? arithmetic_type(type) : type;  // a small float's may be float
  Mirror data(table, {2, 5, inner}, layout), out(type, {2, 2, 3, inner}, layout), gradient(table, {2, 5, inner}, layout),
      dy(type, {2, 2, 3, inner}, layout), indices(index_type, {2, 3}, layout);
  data.integers(-9, 9), dy.integers(-9, 9), indices.integers(-12, 11), gradient.integers(-9, 9);
  host_kernels()->gather(out.host(), data.host(), indices.host(), 1, offset, length);
  gather(out.device(), data.device(), indices.device(), 1, offset, length);
  CHECK(out.difference() == 0);
  host_kernels()->scatter_add(gradient.host(), indices.host(), dy.host(), 1, offset, length, adds);
  scatter_add(gradient.device(), indices.device(), dy.device(), 1, offset, length, adds);
  CHECK(gradient.difference() == 0);
  throw_data_errors();
}

TEST_CASE("an embedding's gradient: the sums of the processor, bit by bit, and again") {
  Mirror gradient(DType::f32, {500, 96}), dy(DType::f32, {3000, 96}), indices(DType::i64, {3000});
  dy.reals(-1, 1), indices.integers(0, 499);
  host_kernels()->scatter_add(gradient.host(), indices.host(), dy.host(), 0, 0, 500, false);
  scatter_add(gradient.device(), indices.device(), dy.device(), 0, 0, 500, false);
  CHECK(gradient.difference(0) == 0);
  const auto first = gradient.downloaded();
  scatter_add(gradient.device(), indices.device(), dy.device(), 0, 0, 500, false);
  CHECK(gradient.downloaded() == first);
}

TEST_CASE("pick and the gradient of cross entropy, of a piece of the classes") {
  // Classes 5..9 of 12; label -100 is ignored.
  const int64_t offset = 5, classes = 12, ignored = GENERATE(-100, 7);
  const DType type = GENERATE(DType::f32, DType::f64, DType::bf16, DType::f16), label_type = GENERATE(DType::i64, DType::i32);
  const Layout layout = GENERATE(Layout::dense, Layout::spread);
  const DType wide = arithmetic_type(type);
  Mirror logits(type, {4, 5, 3}, layout), out(wide, {4, 3}, layout), lse(wide, {4, 3}, layout), dloss(wide, {4, 3}, layout),
      dlogits(type, {4, 5, 3}, layout), labels(label_type, {4, 3}, layout);
  logits.reals(-2, 2), lse.reals(2, 3), dloss.reals(-1, 1), labels.integers(0, 11);
  host_kernels()->pick(out.host(), logits.host(), labels.host(), 1, offset, classes, ignored);
  pick(out.device(), logits.device(), labels.device(), 1, offset, classes, ignored);
  CHECK(out.difference() == 0);
  host_kernels()->cross_entropy_grad(dlogits.host(), logits.host(), lse.host(), labels.host(), dloss.host(), 1, offset, ignored);
  cross_entropy_grad(dlogits.device(), logits.device(), lse.device(), labels.device(), dloss.device(), 1, offset, ignored);
  CHECK(dlogits.difference() <= 1);
  throw_data_errors();
}

TEST_CASE("a long row of classes") {
  Mirror logits(DType::f32, {3, 5000}), lse(DType::f32, {3}), dloss(DType::f32, {3}), dlogits(DType::f32, {3, 5000}), labels(DType::i64, {3});
  logits.reals(-2, 2), lse.reals(8, 9), dloss.reals(-1, 1), labels.integers(0, 4999);
  host_kernels()->cross_entropy_grad(dlogits.host(), logits.host(), lse.host(), labels.host(), dloss.host(), 1, 0, -100);
  cross_entropy_grad(dlogits.device(), logits.device(), lse.device(), labels.device(), dloss.device(), 1, 0, -100);
  CHECK(dlogits.difference() <= 1);
}

TEST_CASE("what is out of range is told as the processor tells it, once") {
  Mirror data(DType::f32, {5, 3}), out(DType::f32, {2, 3}), bad(DType::i64, {2}), picked(DType::f32, {5});
  data.reals(-1, 1), bad.constant(12);
  gather(out.device(), data.device(), bad.device(), 0, 4, 12);
  check(cudaStreamSynchronize(compute_stream()), "wait");
  CHECK_THROWS_WITH(throw_data_errors(), "an index of 12 is outside of a dimension of length 12");
  throw_data_errors();
  bad.constant(-13);
  scatter_add(data.device(), bad.device(), out.device(), 0, 4, 12, false);
  check(cudaStreamSynchronize(compute_stream()), "wait");
  CHECK_THROWS_AS(throw_data_errors(), DataError);
  Mirror labels(DType::i32, {5});
  labels.constant(-1);
  pick(picked.device(), data.device(), labels.device(), 1, 0, 3, -100);
  check(cudaStreamSynchronize(compute_stream()), "wait");
  CHECK_THROWS_WITH(throw_data_errors(), "a label of -1 is outside of [0, 3)");
}
