// What a view holds through operators that have no instruction: layouts, and nothing but them.
#include "compiler/program/layouts.h"

#include <catch2/catch.hpp>

using namespace sscc;

namespace {

// x, and three operators that read it on rank 0: a reshape, a transpose of the reshaped, a cast.
struct Example {
  Example() {
    x = tensor("x", {6}, DType::f32);
    folded = made(Kind::reshape, NoAttributes(), x, {2, 3}, DType::f32);
    turned = made(Kind::transpose, TransposeAttributes{{1, 0}}, folded, {3, 2}, DType::f32);
    cast = made(Kind::pointwise, PointwiseAttributes{Scalar::identity, 0, 0}, x, {6}, DType::f64);
    copied = made(Kind::pointwise, PointwiseAttributes{Scalar::identity, 0, 0}, x, {6}, DType::f32);
  }
  TensorId tensor(const char* name, Shape shape, DType dtype) {
    Tensor t;
    t.name = name;
    t.shape = std::move(shape);
    t.dtype = dtype;
    return module.add_tensor(std::move(t));
  }
  TensorId made(Kind kind, Attributes attributes, TensorId from, Shape shape, DType dtype) {
    Op op;
    op.kind = kind;
    op.attributes = std::move(attributes);
    op.inputs = {from};
    op.outputs = {tensor("", std::move(shape), dtype)};
    op.pieces = {Piece()};
    const TensorId result = op.outputs[0];
    module.add_op(std::move(op));
    return result;
  }
  Module module;
  TensorId x, folded, turned, cast, copied;
};

}  // namespace

TEST_CASE("a layout's result is read where its source lies") {
  const Example e;
  const Layouts layouts(e.module);
  const Placed held{e.x, Region(Shape{6}), whole_buffer(BufferId(0), {6})};
  const View folded = whole_buffer(BufferId(0), {2, 3});
  CHECK(layouts.share_of(0, held, folded, e.folded, Region(Shape{2, 3})));
  CHECK(layouts.share_of(0, held, transposed(folded, {1, 0}), e.turned, Region(Shape{3, 2})));
  CHECK(layouts.share_of(0, held, held.view, e.copied, Region(Shape{6})));
  CHECK_FALSE(layouts.share_of(0, held, whole_buffer(BufferId(0), {3, 2}), e.turned, Region(Shape{3, 2})));  // not turned
  CHECK_FALSE(layouts.share_of(1, held, folded, e.folded, Region(Shape{2, 3})));                             // no piece there
}

TEST_CASE("a cast is no layout") {
  const Example e;
  const Layouts layouts(e.module);
  const Placed held{e.x, Region(Shape{6}), whole_buffer(BufferId(0), {6})};
  CHECK_FALSE(layouts.share_of(0, held, held.view, e.cast, Region(Shape{6})));
}
