// Each kernel on strided views, against loops that say what it means. Integer-valued data makes sums exact, so results are compared with ==.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <deque>

#include "sscc_rt/rank.h"
#include "test/unit/runtime/strided.h"

using namespace sscc::rt;
using namespace sscc::rt::test;

namespace {

struct Threads {
  explicit Threads(int count) { set_kernel_threads(count); }
  ~Threads() { set_kernel_threads(1); }
};

}  // namespace

TEMPLATE_TEST_CASE("contract: every kind of label, dense and strided, overwriting and adding", "", float, double) {
  const auto [equation, lhs_dims, rhs_dims, out_dims] = GENERATE(
      std::tuple("mk,kn->mn", Dims{5, 7}, Dims{7, 3}, Dims{5, 3}), std::tuple("km,kn->mn", Dims{7, 5}, Dims{7, 3}, Dims{5, 3}),
      std::tuple("mk,nk->nm", Dims{5, 7}, Dims{3, 7}, Dims{3, 5}),
      std::tuple("bhmk,bhnk->bhmn", Dims{2, 3, 4, 5}, Dims{2, 3, 6, 5}, Dims{2, 3, 4, 6}),
      std::tuple("abk,kn->abn", Dims{2, 3, 5}, Dims{5, 4}, Dims{2, 3, 4}), std::tuple("abm,abn->mn", Dims{2, 3, 5}, Dims{2, 3, 4}, Dims{5, 4}),
      std::tuple("k,k->", Dims{9}, Dims{9}, Dims{}), std::tuple("m,n->mn", Dims{4}, Dims{6}, Dims{4, 6}),
      std::tuple("mk,k->m", Dims{4, 6}, Dims{6}, Dims{4}), std::tuple("bmk,kn->bnm", Dims{3, 1, 4}, Dims{4, 5}, Dims{3, 5, 1}));
  const bool spread = GENERATE(false, true), adds = GENERATE(false, true);
  Array<TestType> lhs(lhs_dims, spread), rhs(rhs_dims, spread), out(out_dims, spread);
  lhs.integers(-4, 4), rhs.integers(-4, 4), out.integers(-9, 9);
  const std::vector<TestType> before = out.values();

  const std::string text(equation);
  const std::string l = text.substr(0, text.find(',')), r = text.substr(l.size() + 1, text.find("->") - l.size() - 1),
                    o = text.substr(text.find("->") + 2);
  std::map<char, int64_t> lengths;
  for (size_t d = 0; d < l.size(); ++d) lengths[l[d]] = lhs_dims[d];
  for (size_t d = 0; d < r.size(); ++d) lengths[r[d]] = rhs_dims[d];
  std::string labels = o;
  for (const auto& [label, length] : lengths)
    if (labels.find(label) == std::string::npos) labels += label;
  Dims all;
  for (const char label : labels) all.push_back(lengths[label]);
  const auto pick = [&](const std::string& operand, const Dims& index) {
    Dims picked;
    for (const char label : operand) picked.push_back(index[labels.find(label)]);
    return picked;
  };
  std::map<Dims, TestType> sums;
  for_each_index(all, [&](const Dims& index) { sums[pick(o, index)] += lhs.at(pick(l, index)) * rhs.at(pick(r, index)); });

  const size_t gaps = out.untouched_elements();
  contract(out, lhs, rhs, equation, 0.5, adds);
  std::vector<TestType> wanted;
  for (const auto& [index, sum] : sums) wanted.push_back((adds ? before[wanted.size()] : 0) + sum / 2);
  CHECK(out.values() == wanted);
  CHECK(out.untouched_elements() == gaps);
}

TEMPLATE_TEST_CASE("contract_epilogue: what is added, and the function", "", float, double) {
  const Scalar function = GENERATE(Scalar::identity, Scalar::relu, Scalar::gelu_tanh, Scalar::gelu_tanh_grad);
  const bool has_base = GENERATE(false, true), has_bias = GENERATE(false, true), spread = GENERATE(false, true);
  const bool keeps_value = function == Scalar::gelu_tanh && GENERATE(false, true);
  const Dims dims = {5, 6};
  Array<TestType> lhs({5, 7}, spread), rhs({7, 6}, spread), base(dims, spread), bias({6}), before(dims, spread), out(dims, spread), pre(dims, spread);
  lhs.integers(-2, 2), rhs.integers(-2, 2), base.integers(-4, 4), bias.integers(-4, 4), before.integers(-2, 2);
  Array<TestType> value(dims), wanted(dims);
  contract(value, lhs, rhs, "mk,kn->mn", 0.5, false);
  const auto apply = [&](std::initializer_list<Tensor> ins, Scalar f, const Tensor& to) {
    const ScalarStep step{f, {0, 1, 2}, 0, 0, Tensor(to).dtype};
    const int32_t result = 0;
    const Tensor outs[] = {to};
    pointwise(outs, std::span(ins.begin(), ins.size()), {&step, 1}, {&result, 1}, false);
  };
  if (has_base) apply({value, base}, Scalar::add, value);
  if (has_bias) apply({value, bias}, Scalar::add, value);
  if (function == Scalar::gelu_tanh_grad)
    apply({before, value}, function, wanted);
  else
    apply({value}, function, wanted);
  const Tensor none;
  contract_epilogue(out, keeps_value ? Tensor(pre) : none, lhs, rhs, has_base ? Tensor(base) : none, has_bias ? Tensor(bias) : none, before,
                    "mk,kn->mn", 0.5, function);
  CHECK(out.values() == wanted.values());
  if (keeps_value) CHECK(pre.values() == value.values());
}

TEST_CASE("reduce: every subset of dimensions and every join") {
  const uint32_t reduced = GENERATE(range(1u, 16u));
  const Join join = GENERATE(Join::sum, Join::max, Join::min, Join::logsumexp);
  const bool adds = join == Join::sum && GENERATE(false, true);
  const Dims dims = {3, 4, 2, 5};
  Dims kept;
  for (size_t d = 0; d < 4; ++d)
    if (!(reduced >> d & 1)) kept.push_back(dims[d]);
  Array<float> in(dims), out(kept);
  in.integers(-8, 8), out.integers(-8, 8);
  const std::vector<float> before = out.values();
  std::map<Dims, std::vector<float>> groups;
  for_each_index(dims, [&](const Dims& index) {
    Dims key;
    for (size_t d = 0; d < 4; ++d)
      if (!(reduced >> d & 1)) key.push_back(index[d]);
    groups[key].push_back(in.at(index));
  });
  const size_t gaps = out.untouched_elements();
  reduce(out, in, reduced, join, join == Join::sum ? 0.25 : 1, adds);
  CHECK(out.untouched_elements() == gaps);
  size_t i = 0;
  for (const auto& [key, values] : groups) {
    const float got = out.values()[i];
    if (join == Join::sum) {
      float sum = 0;
      for (const float value : values) sum += value;
      CHECK(got == (adds ? before[i] : 0) + sum / 4);
    } else if (join == Join::logsumexp) {
      double sum = 0;
      for (const float value : values) sum += std::exp(static_cast<double>(value));
      CHECK(got == Approx(std::log(sum)).epsilon(1e-6));
    } else {
      CHECK(got == (join == Join::max ? *std::max_element(values.begin(), values.end()) : *std::min_element(values.begin(), values.end())));
    }
    ++i;
  }
}

TEST_CASE("pointwise: broadcast operands, several steps, several results, in place") {
  const bool adds = GENERATE(false, true);
  Array<float> a({3, 1, 5}), b({4, 5}), scalar({}), sum({3, 4, 5}), scaled({3, 4, 5});
  a.integers(-9, 9), b.integers(-9, 9), scalar.constant(3), sum.integers(-9, 9), scaled.integers(-9, 9);
  const std::vector<float> sum_before = sum.values(), scaled_before = scaled.values();
  // step 0: a + b; step 1: step 0 * scalar
  const ScalarStep steps[] = {{Scalar::add, {0, 1, 0}, 0, 0, DType::f32}, {Scalar::mul, {~0, 2, 0}, 0, 0, DType::f32}};
  const int32_t results[] = {0, 1};
  const Tensor outs[] = {sum, scaled}, ins[] = {a, b, scalar};
  pointwise(outs, ins, steps, results, adds);
  size_t i = 0;
  for_each_index({3, 4, 5}, [&](const Dims& at) {
    const float wanted = a.at({at[0], 0, at[2]}) + b.at({at[1], at[2]});
    CHECK(sum.at(at) == wanted + (adds ? sum_before[i] : 0));
    CHECK(scaled.at(at) == wanted * 3 + (adds ? scaled_before[i] : 0));
    ++i;
  });
  // An output may be the very view of an input.
  Array<float> x({6, 300});
  x.integers(-9, 9);
  const std::vector<float> before = x.values();
  const ScalarStep square[] = {{Scalar::square, {0, 0, 0}, 0, 0, DType::f32}};
  const int32_t result[] = {0};
  const Tensor same[] = {x};
  pointwise(same, same, square, result, false);
  for (size_t k = 0; k < before.size(); ++k) CHECK(x.values()[k] == before[k] * before[k]);
}

TEST_CASE("copy, fill and pad") {
  Array<float> in({3, 4, 5}), out({3, 4, 5});
  in.integers(-9, 9), out.integers(-9, 9);
  const std::vector<float> before = out.values();
  copy(out, in, true);
  for (size_t i = 0; i < before.size(); ++i) CHECK(out.values()[i] == before[i] + in.values()[i]);
  copy(out, in, false);
  CHECK(out.values() == in.values());
  fill(out, 7);
  CHECK(out.values() == std::vector<float>(60, 7));

  const bool adds = GENERATE(false, true);
  Array<float> piece({2, 3}), whole({6, 7});
  piece.integers(1, 9), whole.constant(2);
  const int64_t starts[] = {1, 6}, steps[] = {3, -2};
  pad(whole, piece, starts, steps, adds);
  for_each_index({6, 7}, [&](const Dims& at) {
    float wanted = adds ? 2 : 0;
    for_each_index({2, 3}, [&](const Dims& i) {
      if (1 + 3 * i[0] == at[0] && 6 - 2 * i[1] == at[1]) wanted += piece.at(i);
    });
    CHECK(whole.at(at) == wanted);
  });
}

TEST_CASE("gather of a piece, and its gradient") {
  // Rows 4..9 of a table of 12; indices outside the piece give 0, negative ones count from the end.
  const int64_t offset = 4, length = 12;
  Array<float> table({2, 5, 3}), out({2, 2, 3, 3}), gradient({2, 5, 3}), dy({2, 2, 3, 3});
  Array<int64_t> indices({2, 3});
  table.integers(-9, 9), dy.integers(-9, 9), indices.integers(-12, 11), gradient.integers(-9, 9);
  const auto row = [&](int64_t i, int64_t j) { return indices.at({i, j}) + (indices.at({i, j}) < 0 ? length : 0) - offset; };
  gather(out, table, indices, 1, offset, length);
  for_each_index({2, 2, 3, 3}, [&](const Dims& at) {
    const int64_t r = row(at[1], at[2]);
    CHECK(out.at(at) == (r >= 0 && r < 5 ? table.at({at[0], r, at[3]}) : 0));
  });

  const bool adds = GENERATE(false, true);
  const std::vector<float> before = gradient.values();
  scatter_add(gradient, indices, dy, 1, offset, length, adds);
  size_t i = 0;
  for_each_index({2, 5, 3}, [&](const Dims& at) {
    float wanted = adds ? before[i] : 0;
    for_each_index({2, 3}, [&](const Dims& k) {
      if (row(k[0], k[1]) == at[1]) wanted += dy.at({at[0], k[0], k[1], at[2]});
    });
    CHECK(gradient.at(at) == wanted);
    ++i;
  });

  Array<int64_t> bad({1});
  bad.constant(12);
  Array<float> one({2, 1, 3});
  CHECK_THROWS_AS(gather(one, table, bad, 1, offset, length), DataError);
}

TEST_CASE("softmax along any dimension, and its gradient") {
  const int dim = GENERATE(0, 1, 2);
  const Dims dims = {3, 4, 5};
  Array<double> x(dims), y(dims), dy(dims), dx(dims);
  x.reals(-3, 3), dy.reals(-1, 1);
  softmax(y, x, dim);
  softmax_grad(dx, y, dy, dim);
  for_each_index(dims, [&](const Dims& at) {
    double sum = 0, inner = 0;
    Dims other = at;
    for (other[static_cast<size_t>(dim)] = 0; other[static_cast<size_t>(dim)] < dims[static_cast<size_t>(dim)]; ++other[static_cast<size_t>(dim)]) {
      sum += std::exp(x.at(other));
      inner += y.at(other) * dy.at(other);
    }
    CHECK(y.at(at) == Approx(std::exp(x.at(at)) / sum).epsilon(1e-12));
    CHECK(dx.at(at) == Approx(y.at(at) * (dy.at(at) - inner)).epsilon(1e-12).margin(1e-14));
  });
}

TEST_CASE("softmax of very large and masked values") {
  Array<float> x({1, 3}), y({1, 3});
  x.constant(1e30f);
  softmax(y, x, 1);
  CHECK(y.values() == std::vector<float>(3, 1 / 3.0f));
  static_cast<float*>(x.view().data)[0] = -std::numeric_limits<float>::infinity();
  softmax(y, x, 1);
  CHECK(y.values() == std::vector<float>{0, 0.5f, 0.5f});
}

// The dimensions of a mask, of an index or of dims.
Dims chosen(const Dims& all, uint32_t mask) {
  Dims some;
  for (size_t d = 0; d < all.size(); ++d)
    if (mask >> d & 1) some.push_back(all[d]);
  return some;
}

TEST_CASE("norms and their gradients, of whatever dimensions") {
  const auto [dims, over, along] = GENERATE(table<Dims, uint32_t, uint32_t>({{{3, 2, 4, 5}, 0b1100, 0b1100},  // layer
                                                                             {{3, 4, 2, 5}, 0b1100, 0b0010},  // instance
                                                                             {{3, 4, 2, 5}, 0b1101, 0b0010},  // batch
                                                                             {{6, 5}, 0b01, 0b10},            // batch, without space
                                                                             {{3, 2, 4, 5}, 0b1100, 0b0110},  // group
                                                                             {{2, 3, 5000}, 0b101, 0b010},    // batch, of much space
                                                                             {{3, 4, 5}, 0b010, 0b110}}));
  const bool is_centred = GENERATE(true, false), spread = GENERATE(true, false), adds = GENERATE(false, true);
  const int weights = GENERATE(0, 1, 2);  // none, scale, scale and bias
  const Dims lead = chosen(dims, ~over), inner = chosen(dims, along);
  Array<double> x(dims, spread), y(dims, spread), mean(lead, spread), rstd(lead, spread), scale(inner, spread), bias(inner, spread), dy(dims, spread),
      dx(dims, spread), dscale(inner, spread), dbias(inner, spread);
  x.reals(-1, 3), scale.reals(0.5, 2), bias.reals(-1, 1), dy.reals(-1, 1), dx.constant(3), dscale.constant(10), dbias.constant(20);
  const Tensor m = is_centred ? mean.view() : Tensor{}, gamma = weights > 0 ? scale.view() : Tensor{}, beta = weights > 1 ? bias.view() : Tensor{};
  norm(y, rstd, m, x, gamma, beta, over, along, 1e-5);
  norm_grad(dx, dy, x, rstd, m, gamma, over, along, adds);
  norm_grad_scale(dscale, weights > 1 ? dbias.view() : Tensor{}, dy, x, rstd, m, over, along, adds);

  struct Sums {
    double count = 0, x = 0, squares = 0, g = 0, gx = 0;
  };
  std::map<Dims, Sums> groups;
  const auto group = [&, over = over](const Dims& at) -> Sums& { return groups[chosen(at, ~over)]; };
  const auto mean_at = [&](const Dims& at) { return is_centred ? group(at).x / group(at).count : 0; };
  const auto rstd_at = [&](const Dims& at) { return 1 / std::sqrt(group(at).squares / group(at).count + 1e-5); };
  const auto normal = [&](const Dims& at) { return (x.at(at) - mean_at(at)) * rstd_at(at); };
  const auto g = [&, along = along](const Dims& at) { return dy.at(at) * (weights > 0 ? scale.at(chosen(at, along)) : 1); };
  for_each_index(dims, [&](const Dims& at) { group(at).count += 1, group(at).x += x.at(at); });
  for_each_index(dims, [&](const Dims& at) { group(at).squares += std::pow(x.at(at) - mean_at(at), 2); });
  for_each_index(dims, [&](const Dims& at) { group(at).g += is_centred ? g(at) : 0, group(at).gx += g(at) * normal(at); });
  std::map<Dims, std::pair<double, double>> of_weights;
  for_each_index(dims, [&, along = along](const Dims& at) {
    const Dims weight = chosen(at, along);
    const double wanted = normal(at) * (weights > 0 ? scale.at(weight) : 1) + (weights > 1 ? bias.at(weight) : 0);
    if (std::abs(y.at(at) - wanted) > 1e-11) FAIL_CHECK(y.at(at) << " is not " << wanted);
    const Sums& sums = group(at);
    const double gradient = rstd_at(at) * (g(at) - sums.g / sums.count - normal(at) * sums.gx / sums.count) + (adds ? 3 : 0);
    if (std::abs(dx.at(at) - gradient) > 1e-11) FAIL_CHECK(dx.at(at) << " is not " << gradient);
    of_weights[weight].first += dy.at(at) * normal(at);
    of_weights[weight].second += dy.at(at);
  });
  for_each_index(lead, [&](const Dims& at) {
    const Sums& sums = groups[at];
    CHECK(rstd.at(at) == Approx(1 / std::sqrt(sums.squares / sums.count + 1e-5)).epsilon(1e-12));
    if (is_centred) CHECK(mean.at(at) == Approx(sums.x / sums.count).epsilon(1e-12));
  });
  for_each_index(inner, [&](const Dims& at) {
    CHECK(dscale.at(at) == Approx(of_weights[at].first + (adds ? 10 : 0)).epsilon(1e-9));
    if (weights > 1) CHECK(dbias.at(at) == Approx(of_weights[at].second + (adds ? 20 : 0)).epsilon(1e-9));
  });
}

TEST_CASE("the variance of what lies far from zero, of a long channel") {
  Array<float> x({2, 3, 70000}, false), y({2, 3, 70000}, false), mean({3}, false), rstd({3}, false);
  x.integers(999, 1001);  // variance 2/3 or near it, and squares that a float would round by more
  norm(y, rstd, mean, x, {}, {}, 0b101, 0b010, 0);
  for_each_index({3}, [&](const Dims& at) {
    CHECK(mean.at(at) == Approx(1000).epsilon(1e-5));
    CHECK(rstd.at(at) == Approx(std::sqrt(1.5)).epsilon(5e-3));
  });
}

TEST_CASE("pick and the gradient of cross entropy, of a piece of the classes") {
  // Classes 5..9 of 12; label -100 is ignored.
  const int64_t offset = 5, classes = 12, ignored = -100;
  Array<double> logits({4, 5, 3}), out({4, 3}), lse({4, 3}), dloss({4, 3}), dlogits({4, 5, 3});
  Array<int64_t> labels({4, 3});
  logits.reals(-2, 2), lse.reals(2, 3), dloss.reals(-1, 1), labels.integers(0, 11);
  static_cast<int64_t*>(labels.view().data)[0] = ignored;
  pick(out, logits, labels, 1, offset, classes, ignored);
  cross_entropy_grad(dlogits, logits, lse, labels, dloss, 1, offset, ignored);
  for_each_index({4, 3}, [&](const Dims& at) {
    const int64_t label = labels.at(at), position = label - offset;
    const bool here = label != ignored && position >= 0 && position < 5;
    CHECK(out.at(at) == (here ? logits.at({at[0], position, at[1]}) : 0));
    for (int64_t c = 0; c < 5; ++c) {
      const double softmax = std::exp(logits.at({at[0], c, at[1]}) - lse.at(at));
      const double wanted = label == ignored ? 0 : (softmax - (label == c + offset ? 1 : 0)) * dloss.at(at);
      CHECK(dlogits.at({at[0], c, at[1]}) == Approx(wanted).epsilon(1e-12).margin(1e-15));
    }
  });
  Array<int64_t> bad({4, 3});
  bad.constant(12);
  CHECK_THROWS_AS(pick(out, logits, bad, 1, offset, classes, ignored), DataError);
}

TEST_CASE("update: the definitions of torch.optim") {
  const Dims dims = {3, 5};
  Array<double> p(dims), g(dims), m(dims), v(dims), clip({}), new_p(dims), new_m(dims), new_v(dims);
  p.reals(-1, 1), g.reals(-1, 1), m.reals(-1, 1), v.reals(0, 1), clip.constant(0.5);
  const bool clipped = GENERATE(false, true);
  const Tensor factor = clipped ? clip.view() : Tensor{};
  const double c = clipped ? 0.5 : 1;

  UpdateRule sgd{.optimizer = Optimizer::sgd, .lr = 0.1, .momentum = 0.9, .weight_decay = 0.01};
  update(std::array{UpdateOperands{new_p, new_m, Tensor{}, p, g, m, Tensor{}}}, factor, {}, {}, sgd, 2);
  for_each_index(dims, [&](const Dims& at) {
    const double moment = 0.9 * m.at(at) + c * g.at(at) + 0.01 * p.at(at);
    CHECK(new_m.at(at) == Approx(moment).epsilon(1e-13));
    CHECK(new_p.at(at) == Approx(p.at(at) - 0.1 * moment).epsilon(1e-13));
  });

  for (const Optimizer kind : {Optimizer::adam, Optimizer::adamw}) {
    UpdateRule adam{.optimizer = kind, .lr = 0.1, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.01};
    const int64_t t = 3;
    update(std::array{UpdateOperands{new_p, new_m, new_v, p, g, m, v}}, factor, {}, {}, adam, t);
    for_each_index(dims, [&](const Dims& at) {
      const double gradient = c * g.at(at) + (kind == Optimizer::adam ? 0.01 * p.at(at) : 0);
      const double start = p.at(at) * (kind == Optimizer::adamw ? 1 - 0.1 * 0.01 : 1);
      const double first = 0.9 * m.at(at) + 0.1 * gradient, second = 0.99 * v.at(at) + 0.01 * gradient * gradient;
      const double step = 0.1 * (first / (1 - std::pow(0.9, t))) / (std::sqrt(second / (1 - std::pow(0.99, t))) + 1e-8);
      CHECK(new_m.at(at) == Approx(first).epsilon(1e-13));
      CHECK(new_v.at(at) == Approx(second).epsilon(1e-13));
      CHECK(new_p.at(at) == Approx(start - step).epsilon(1e-12));
    });
  }
}

TEST_CASE("update: several parameters at once are each as if alone") {
  const std::vector<Dims> shapes = {{3, 5}, {}, {70, 2}, {0, 4}, {9}};
  const UpdateRule adam{.optimizer = Optimizer::adamw, .lr = 0.1, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.01};
  struct Parameter {
    Array<float> p, g, m, v, wanted_p, wanted_m, wanted_v;
    explicit Parameter(const Dims& dims) : p(dims), g(dims), m(dims), v(dims), wanted_p(dims), wanted_m(dims), wanted_v(dims) {
      p.reals(-1, 1), g.reals(-1, 1), m.reals(-1, 1), v.reals(0, 1);
    }
  };
  std::deque<Parameter> parameters;
  std::vector<UpdateOperands> all;
  for (const Dims& dims : shapes) {
    Parameter& o = parameters.emplace_back(dims);
    update(std::array{UpdateOperands{o.wanted_p, o.wanted_m, o.wanted_v, o.p, o.g, o.m, o.v}}, {}, {}, {}, adam, 3);
    all.push_back({o.p, o.m, o.v, o.p, o.g, o.m, o.v});
  }
  update(all, {}, {}, {}, adam, 3);
  for (const Parameter& o : parameters) {
    CHECK(o.p.values() == o.wanted_p.values());
    CHECK(o.m.values() == o.wanted_m.values());
    CHECK(o.v.values() == o.wanted_v.values());
  }
}

TEST_CASE("sum_of_squares: over all elements of all operands, added to what is there") {
  const std::vector<Dims> shapes = {{3, 5}, {}, {40, 1000}, {0, 4}, {33000}};
  const bool strided = GENERATE(false, true), adds = GENERATE(false, true);
  double wanted = adds ? 7 : 0;
  std::deque<Array<float>> operands;
  std::vector<Tensor> ins;
  for (const Dims& dims : shapes) {
    operands.emplace_back(dims, strided).reals(-1, 1);
    for_each_index(dims, [&](const Dims& at) { wanted += std::pow(static_cast<double>(operands.back().at(at)), 2); });
    ins.push_back(operands.back());
  }
  Array<float> out({});
  out.constant(7);
  sum_of_squares(out, ins, adds);
  CHECK(out.at({}) == Approx(wanted).epsilon(1e-7));
}

TEST_CASE("results are the same bit by bit on any number of threads") {
  const Dims rows = {64, 96}, all = {64, 33, 96};
  Array<float> x(all, false), w({96, 80}, false), scale({96}, false), table({500, 96}, false);
  x.reals(-1, 1), w.reals(-1, 1), scale.reals(0.5, 2), table.reals(-1, 1);
  Array<int64_t> indices({64, 33}, false);
  indices.integers(0, 499);
  std::vector<std::vector<float>> first;
  for (const int count : {1, 2, 3, 5}) {
    const Threads threads(count);
    std::vector<std::vector<float>> results;
    const auto made = [&](const Dims& dims, const auto& kernel) {
      Array<float> out(dims, false);
      kernel(static_cast<const Tensor&>(out));
      results.push_back(out.memory());
    };
    made({64, 33, 80}, [&](const Tensor& out) { contract(out, x, w, "abk,kn->abn", 1, false); });
    made({64, 96}, [&](const Tensor& out) { reduce(out, x, 0b010, Join::sum, 1, false); });
    made({}, [&](const Tensor& out) { reduce(out, x, 0b111, Join::sum, 1, false); });
    made({96}, [&](const Tensor& out) { reduce(out, x, 0b011, Join::logsumexp, 1, false); });
    made({}, [&](const Tensor& out) { sum_of_squares(out, std::array{x.view(), scale.view()}, false); });
    made(all, [&](const Tensor& out) { softmax(out, x, 2); });
    made(all, [&](const Tensor& out) { gather(out, table, indices, 0, 0, 500); });
    made({500, 96}, [&](const Tensor& out) { scatter_add(out, indices, x, 0, 0, 500, false); });
    const Dims channels = {33};
    Array<float> of_channels(channels, false);
    of_channels.constant(0.5);
    for (const bool is_layer : {true, false}) {  // or of a batch
      const uint32_t over = is_layer ? 0b100 : 0b101, along = is_layer ? 0b100 : 0b010;
      const Dims kept = is_layer ? Dims{64, 33} : channels, weights = is_layer ? Dims{96} : channels;
      Array<float> mean(kept, false), rstd(kept, false), normal(all, false);
      const Tensor gamma = is_layer ? scale.view() : of_channels.view();
      norm(normal, rstd, mean, x, gamma, Tensor{}, over, along, 1e-5);
      results.push_back(normal.memory());
      made(all, [&](const Tensor& out) { norm_grad(out, x, normal, rstd, mean, gamma, over, along, false); });
      made(weights, [&](const Tensor& out) { norm_grad_scale(out, Tensor{}, x, normal, rstd, mean, over, along, false); });
    }
    if (first.empty()) first = results;
    for (size_t i = 0; i < results.size(); ++i) {
      INFO("kernel " << i << " on " << count << " threads");
      CHECK(std::memcmp(results[i].data(), first[i].data(), results[i].size() * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("update of a scaled loss's gradients: divided by the scale, corrected by the steps taken, skipped where the norm is none") {
  const Dims dims = {3, 5};
  Array<float> p(dims), g(dims), m(dims), v(dims), clip({}), scale({}), taken({}), scaled(dims), wanted_p(dims), wanted_m(dims), wanted_v(dims);
  p.reals(-1, 1), g.reals(-1, 1), m.reals(-1, 1), v.reals(0, 1), clip.constant(0.5), scale.constant(1024), taken.constant(6);
  pointwise(std::array{scaled.view()}, std::array{g.view()}, std::array{ScalarStep{Scalar::scale_shift, {0, 0, 0}, 1024, 0, DType::f32}},
            std::array<int32_t, 1>{0}, false);
  const UpdateRule adam{.optimizer = Optimizer::adamw, .lr = 0.1, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.01};
  update(std::array{UpdateOperands{wanted_p, wanted_m, wanted_v, p, g, m, v}}, clip, {}, {}, adam, 7);
  Array<float> old_p(dims), old_m(dims), old_v(dims);
  copy(old_p, p, false), copy(old_m, m, false), copy(old_v, v, false);
  update(std::array{UpdateOperands{p, m, v, p, scaled, m, v}}, clip, scale, taken, adam, 99);
  for_each_index(dims, [&](const Dims& at) {
    CHECK(p.at(at) == wanted_p.at(at));
    CHECK(m.at(at) == wanted_m.at(at));
    CHECK(v.at(at) == wanted_v.at(at));
  });
  clip.constant(std::nan(""));
  update(std::array{UpdateOperands{wanted_p, wanted_m, wanted_v, old_p, scaled, old_m, old_v}}, clip, scale, taken, adam, 99);
  for_each_index(dims, [&](const Dims& at) {
    CHECK(wanted_p.at(at) == old_p.at(at));
    CHECK(wanted_m.at(at) == old_m.at(at));
    CHECK(wanted_v.at(at) == old_v.at(at));
  });
}

TEST_CASE("the scale of a loss: halved where the norm is none, doubled after 2000 good steps") {
  const UpdateRule rule{.optimizer = Optimizer::loss_scale};
  Array<float> scale({}), good({}), taken({}), norm({});
  scale.constant(64), good.constant(0), taken.constant(0);
  const auto step = [&](double value) {
    norm.constant(value);
    update(std::array{UpdateOperands{scale, good, taken, scale, norm, good, taken}}, {}, {}, {}, rule, 1);
  };
  for (int i = 0; i < 1999; ++i) step(1.5);
  CHECK((scale.at({}) == 64 && good.at({}) == 1999 && taken.at({}) == 1999));
  step(2);
  CHECK((scale.at({}) == 128 && good.at({}) == 0 && taken.at({}) == 2000));
  step(3);
  for (const double value : {std::numeric_limits<double>::infinity(), std::nan("")}) step(value);
  CHECK((scale.at({}) == 32 && good.at({}) == 0 && taken.at({}) == 2001));
}
