// Axis classes on operators made by hand (the model's own are in test/golden/axes): which ranges are the same axis, and which are not.
#include "compiler/ir/axes.h"

#include <catch2/catch.hpp>

using namespace sscc;

namespace {

struct Graph {
  Module module;

  TensorId tensor(Shape shape, Role role = Role::activation) {
    Tensor t;
    t.name = "t" + std::to_string(module.tensors.size());
    t.shape = std::move(shape);
    t.role = role;
    return module.tensors.add(std::move(t));
  }

  // An operator whose axes have these lengths; occurrences: {axis, operand, dim, stride}.
  OpId op(llvm::SmallVector<TensorId, 4> inputs, TensorId output, const std::vector<int64_t>& axes, std::vector<Occurrence> occurrences) {
    Op o;
    o.name = "op" + std::to_string(module.ops.size());
    o.inputs = std::move(inputs);
    o.outputs = {output};
    for (int64_t each : axes) o.rule.axes.push_back({.name = "a", .length = each});
    o.rule.occurrences = {occurrences.begin(), occurrences.end()};
    return module.add_op(std::move(o));
  }

  // y[i..] = f(x[i..])
  OpId elementwise(TensorId x, TensorId y) {
    const Shape& shape = module.tensors[x].shape;
    std::vector<Occurrence> occurrences;
    for (int d = 0; d < static_cast<int>(shape.size()); ++d) {
      occurrences.push_back({d, 0, d, 1});
      occurrences.push_back({d, 1, d, 1});
    }
    return op({x}, y, {shape.begin(), shape.end()}, occurrences);
  }

  // [a, b] <-> [a b]
  OpId merge(TensorId x, TensorId y) {
    const Shape& shape = module.tensors[x].shape;
    return op({x}, y, {shape[0], shape[1]}, {{0, 0, 0, 1}, {1, 0, 1, 1}, {0, 1, 0, shape[1]}, {1, 1, 0, 1}});
  }
  OpId split(TensorId x, TensorId y) {
    const Shape& shape = module.tensors[y].shape;
    return op({x}, y, {shape[0], shape[1]}, {{0, 0, 0, shape[1]}, {1, 0, 0, 1}, {0, 1, 0, 1}, {1, 1, 1, 1}});
  }
};

using Cuts = std::vector<int64_t>;

}  // namespace

TEST_CASE("a reshape's factors are the axes that they come from") {
  Graph g;
  const TensorId x = g.tensor({8, 24}), flat = g.tensor({192}), y = g.tensor({8, 24});
  g.merge(x, flat);
  g.split(flat, y);
  const AxisClasses classes(g.module);
  CHECK(classes.cuts(flat, 0) == Cuts{1, 24, 192});
  CHECK(classes.range_class(x, 0, 1, 8) == classes.range_class(flat, 0, 24, 192));
  CHECK(classes.range_class(x, 1, 1, 24) == classes.range_class(flat, 0, 1, 24));
  CHECK(classes.range_class(x, 0, 1, 8) == classes.range_class(y, 0, 1, 8));
  CHECK(classes.range_class(x, 0, 1, 8) != classes.range_class(x, 1, 1, 24));
  CHECK(classes.range_class(flat, 0, 8, 192) == -1);
}

TEST_CASE("ranges made of the same two ranges are the same range") {
  Graph g;
  const TensorId x = g.tensor({8, 24}), one = g.tensor({192}), two = g.tensor({192});
  g.merge(x, one);
  g.merge(x, two);
  const AxisClasses classes(g.module);
  CHECK(classes.range_class(one, 0, 1, 192) == classes.range_class(two, 0, 1, 192));
}

TEST_CASE("12 read as 3x4 and as 4x3: both readings stand side by side") {
  Graph g;
  const TensorId x = g.tensor({12}), three = g.tensor({3, 4}), four = g.tensor({4, 3});
  g.split(x, three);
  g.split(x, four);
  const AxisClasses classes(g.module);
  CHECK(classes.cuts(x, 0) == Cuts{1, 3, 4, 12});
  CHECK(classes.range_class(x, 0, 4, 12) == classes.range_class(three, 0, 1, 3));
  CHECK(classes.range_class(x, 0, 3, 12) == classes.range_class(four, 0, 1, 4));
  CHECK(classes.range_class(three, 0, 1, 3) != classes.range_class(four, 1, 1, 3));
  CHECK(classes.factors(x, 0).empty());  // the cuts do not nest
}

TEST_CASE("a cut travels through operators that do not know it") {
  Graph g;
  const TensorId a = g.tensor({4, 6}), x = g.tensor({24}), y = g.tensor({24}), z = g.tensor({24});
  g.elementwise(x, y);
  g.elementwise(y, z);
  g.split(z, a);
  const AxisClasses classes(g.module);
  CHECK(classes.cuts(x, 0) == Cuts{1, 6, 24});
  CHECK(classes.range_class(x, 0, 6, 24) == classes.range_class(a, 0, 1, 4));
  const std::vector<Factor> factors = classes.factors(x, 0);
  REQUIRE(factors.size() == 2);
  CHECK(factors[0].stride == 6);
  CHECK(factors[0].length == 4);
  CHECK(factors[1].stride == 1);
  CHECK(factors[1].length == 6);
}

TEST_CASE("axes of equal length are not the same axis") {
  Graph g;
  const TensorId x = g.tensor({8, 8}), w = g.tensor({8, 8}, Role::parameter), y = g.tensor({8, 8});
  // y[m, n] = sum over k of x[m, k] w[k, n]
  g.op({x, w}, y, {8, 8, 8}, {{0, 0, 0, 1}, {2, 0, 1, 1}, {2, 1, 0, 1}, {1, 1, 1, 1}, {0, 2, 0, 1}, {1, 2, 1, 1}});
  const AxisClasses classes(g.module);
  CHECK(classes.range_class(x, 1, 1, 8) == classes.range_class(w, 0, 1, 8));
  CHECK(classes.range_class(y, 1, 1, 8) == classes.range_class(w, 1, 1, 8));
  CHECK(classes.range_class(x, 0, 1, 8) == classes.range_class(y, 0, 1, 8));
  CHECK(classes.range_class(x, 0, 1, 8) != classes.range_class(x, 1, 1, 8));
  CHECK(classes.range_class(w, 0, 1, 8) != classes.range_class(w, 1, 1, 8));
}

TEST_CASE("a constant is a tensor of its own for each operator; a parameter is one") {
  for (const Role role : {Role::constant, Role::parameter}) {
    Graph g;
    const TensorId shared = g.tensor({16}, role), x[] = {g.tensor({16}), g.tensor({16})};
    for (const TensorId each : x) g.op({each, shared}, g.tensor({16}), {16}, {{0, 0, 0, 1}, {0, 1, 0, 1}, {0, 2, 0, 1}});
    const AxisClasses classes(g.module);
    CHECK((classes.range_class(x[0], 0, 1, 16) == classes.range_class(x[1], 0, 1, 16)) == (role == Role::parameter));
  }
}

TEST_CASE("the order of operators does not matter") {
  // As above with 12 = 3x4 = 4x3, from both ends of a chain.
  for (const bool reversed : {false, true}) {
    Graph g;
    const TensorId x = g.tensor({12}), y = g.tensor({12}), three = g.tensor({3, 4}), four = g.tensor({4, 3});
    if (!reversed) g.split(x, three);
    g.split(y, four);
    g.elementwise(x, y);
    if (reversed) g.split(x, three);
    const AxisClasses classes(g.module);
    CHECK(classes.cuts(x, 0) == Cuts{1, 3, 4, 12});
    CHECK(classes.cuts(y, 0) == Cuts{1, 3, 4, 12});
    CHECK(classes.range_class(y, 0, 4, 12) == classes.range_class(three, 0, 1, 3));
    CHECK(classes.range_class(x, 0, 3, 12) == classes.range_class(four, 0, 1, 4));
  }
}

TEST_CASE("a dimension of length 1 holds no axis") {
  Graph g;
  const TensorId x = g.tensor({1, 8}), y = g.tensor({1, 8});
  g.op({x}, y, {8}, {{0, 0, 1, 1}, {0, 1, 1, 1}});
  const AxisClasses classes(g.module);
  CHECK(classes.cuts(x, 0).empty());
  CHECK(classes.range_class(x, 0, 1, 1) == -1);
}
