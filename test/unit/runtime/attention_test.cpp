// Attention against its definition in double, label by label, and its gradients against differences.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <string>

#include "test/unit/runtime/strided.h"

using namespace sscc::rt;
using namespace sscc::rt::test;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
using Lengths = std::map<char, int64_t>;

struct Equation {
  std::string text;
  std::string q, k, v, scores, out;
  explicit Equation(const std::string& equation) : text(equation) {
    std::array<std::string*, 5> parts{&q, &k, &v, &scores, &out};
    size_t part = 0;
    for (size_t i = 0; i < equation.size(); ++i) {
      if (equation[i] == ',' || equation[i] == '-')
        ++part;
      else if (equation[i] != '>')
        *parts[part] += equation[i];
    }
  }
  bool is_key(char label) const { return q.find(label) == std::string::npos && k.find(label) != std::string::npos; }
};

Dims dims_of(const std::string& labels, const Lengths& lengths) {
  Dims dims;
  for (const char label : labels) dims.push_back(lengths.at(label));
  return dims;
}

// Row-major values with labels.
struct Labelled {
  std::string labels;
  Dims dims;
  std::vector<double> values;
  double& at(const std::array<int64_t, 128>& index) {
    int64_t offset = 0;
    for (size_t d = 0; d < labels.size(); ++d) offset = offset * dims[d] + (dims[d] == 1 ? 0 : index[static_cast<size_t>(labels[d])]);
    return values[static_cast<size_t>(offset)];
  }
};
Labelled zeros(const std::string& labels, const Lengths& lengths) {
  Labelled result{labels, dims_of(labels, lengths), {}};
  int64_t count = 1;
  for (const int64_t length : result.dims) count *= length;
  result.values.assign(static_cast<size_t>(count), 0);
  return result;
}
template <class T>
Labelled labelled(const std::string& labels, const Array<T>& array) {
  Labelled result{labels, Dims(array.view().dims, array.view().dims + array.view().rank), {}};
  for (const T value : array.values()) result.values.push_back(static_cast<double>(value));
  return result;
}

template <class Visit>
void for_labels(const std::string& labels, const Lengths& lengths, std::array<int64_t, 128>& index, const Visit& visit, size_t depth = 0) {
  if (depth == labels.size()) return visit();
  int64_t& i = index[static_cast<size_t>(labels[depth])];
  for (i = 0; i < lengths.at(labels[depth]); ++i) for_labels(labels, lengths, index, visit, depth + 1);
}

struct Problem {
  Equation equation;
  Lengths lengths;
  AttentionRule rule;
  double value = 0;
  bool rounds_to_float = false;
  Labelled q, k, v, dout, mask;
};
struct Answer {
  Labelled out, log_sums, dq, dk, dv;
};

// What kernels.h says, one sum after the other.
Answer defined(Problem p) {
  const Equation& e = p.equation;
  std::string all = e.scores, rows, keys, summed, values;
  for (const char label : e.scores) (e.is_key(label) ? keys : rows) += label;
  for (const char label : e.q)
    if (e.scores.find(label) == std::string::npos) summed += label;
  for (const char label : e.out)
    if (e.scores.find(label) == std::string::npos) values += label;

  Labelled s = zeros(e.scores, p.lengths), weights = s, passes = s;
  Labelled largest = zeros(rows, p.lengths), total = largest, delta = largest;
  Answer a{zeros(e.out, p.lengths), largest, zeros(e.q, p.lengths), zeros(e.k, p.lengths), zeros(e.v, p.lengths)};
  std::array<int64_t, 128> at{};
  largest.values.assign(largest.values.size(), -infinity);
  for_labels(all, p.lengths, at, [&] {
    double sum = 0;
    for_labels(summed, p.lengths, at, [&] { sum += p.q.at(at) * p.k.at(at); });
    double score = p.rule.scale * sum;
    bool passed = true;
    if (p.rule.mask == AttentionMask::add) {
      score += p.mask.at(at);
      if (p.rounds_to_float) score = static_cast<double>(static_cast<float>(score));  // -1e9 leaves nothing of it
    } else if (p.rule.mask != AttentionMask::none) {
      passed = (p.mask.at(at) != 0) == (p.rule.mask == AttentionMask::keep);
      if (!passed) score = p.value;
    }
    s.at(at) = std::min(std::max(score, p.rule.low), p.rule.high);
    passes.at(at) = passed;
    largest.at(at) = std::max(largest.at(at), s.at(at));
  });
  for_labels(all, p.lengths, at, [&] { total.at(at) += weights.at(at) = std::exp(s.at(at) - largest.at(at)); });
  for_labels(rows, p.lengths, at, [&] { a.log_sums.at(at) = largest.at(at) == -infinity ? -infinity : largest.at(at) + std::log(total.at(at)); });
  for_labels(all, p.lengths, at, [&] {
    const double weight = weights.at(at) /= total.at(at);
    double dp = 0;
    for_labels(values, p.lengths, at, [&] {
      a.out.at(at) += weight * p.v.at(at);
      a.dv.at(at) += weight * p.dout.at(at);
      dp += p.dout.at(at) * p.v.at(at);
    });
    s.at(at) = dp;
    delta.at(at) += weight * dp;
  });
  for_labels(all, p.lengths, at, [&] {
    if (passes.at(at) == 0) return;
    const double ds = p.rule.scale * weights.at(at) * (s.at(at) - delta.at(at));
    for_labels(summed, p.lengths, at, [&] {
      a.dq.at(at) += ds * p.k.at(at);
      a.dk.at(at) += ds * p.q.at(at);
    });
  });
  return a;
}

template <class T>
constexpr double tolerance = std::is_same_v<T, double>  ? 1e-12
                             : std::is_same_v<T, float> ? 2e-5
                             : std::is_same_v<T, f16>   ? 4e-3
                                                        : 3e-2;

// By how much more than rounding, relative to the largest of the element, the root mean square of all, and a tenth (operands are about 1, and a
// gradient may be a difference of equals). At most 1 where they agree.
template <class T>
double difference(const Array<T>& got, const Labelled& wanted, double allowed) {
  const std::vector<T> values = got.values();
  double squares = 0, worst = 0;
  for (const double value : wanted.values) squares += std::isfinite(value) ? value * value : 0;
  const double typical = std::sqrt(squares / static_cast<double>(std::max<size_t>(1, wanted.values.size())));
  for (size_t i = 0; i < values.size(); ++i) {
    const double value = static_cast<double>(values[i]), right = wanted.values[i];
    if (value == right || (value != value && right != right)) continue;
    const double ratio = std::fabs(value - right) / (allowed * std::max({std::fabs(right), typical, 0.1}));
    worst = std::max(worst, std::isfinite(ratio) ? ratio : 1e300);
  }
  return worst;
}

// Everything that a call takes. The mask has the last `mask_rank` labels of the scores, those in `repeated` with length 1.
template <class T, class M>
struct Call {
  using Real = Arithmetic<T>;
  Equation equation;
  Lengths lengths;
  std::string mask_labels;
  Array<T> q, k, v, dout, out, dq, dk, dv;
  Array<Real> log_sums;
  Array<M> mask;
  Array<float> value{{}};
  AttentionRule rule;

  Call(const std::string& text, const Lengths& sizes, bool spread, size_t mask_rank, const std::string& repeated)
      : equation(text),
        lengths(sizes),
        mask_labels(equation.scores.substr(equation.scores.size() - std::min(mask_rank, equation.scores.size()))),
        q(dims_of(equation.q, sizes), spread),
        k(dims_of(equation.k, sizes), spread),
        v(dims_of(equation.v, sizes), spread),
        dout(dims_of(equation.out, sizes), spread),
        out(dims_of(equation.out, sizes), spread),
        dq(dims_of(equation.q, sizes), spread),
        dk(dims_of(equation.k, sizes), spread),
        dv(dims_of(equation.v, sizes), spread),
        log_sums(rows_of(equation, sizes), spread),
        mask(mask_dims(repeated), spread) {
    q.reals(-2, 2), k.reals(-2, 2), v.reals(-1, 1), dout.reals(-1, 1);
    int64_t depth = 1;
    for (const char label : equation.q) depth *= equation.scores.find(label) == std::string::npos ? lengths[label] : 1;
    rule.scale = 0.7 / std::sqrt(static_cast<double>(std::max<int64_t>(depth, 1)));
    value.constant(-1e9f);
  }

  static Dims rows_of(const Equation& equation, const Lengths& lengths) {
    Dims dims = dims_of(equation.scores, lengths);
    for (size_t d = 0; d < dims.size(); ++d)
      if (equation.is_key(equation.scores[d])) dims[d] = 1;
    return dims;
  }
  Dims mask_dims(const std::string& repeated) const {
    Dims dims = dims_of(mask_labels, lengths);
    for (size_t d = 0; d < dims.size(); ++d)
      if (repeated.find(mask_labels[d]) != std::string::npos) dims[d] = 1;
    return dims;
  }
  // The scores' dims, with stride 0 along keys.
  Tensor sums() const {
    Tensor view = log_sums;
    for (size_t d = 0; d < equation.scores.size(); ++d) {
      if (!equation.is_key(equation.scores[d])) continue;
      view.dims[d] = lengths.at(equation.scores[d]);
      view.strides[d] = 0;
    }
    return view;
  }

  void forward() { attention(out, sums(), q, k, v, mask, value, equation.text.c_str(), rule); }
  void backward() { attention_grad(dq, dk, dv, q, k, v, out, sums(), dout, mask, value, equation.text.c_str(), rule); }

  // A row's gradients where it has no number would be none at all.
  void check(double slack = 1, bool with_gradients = true) {
    const Answer wanted =
        defined({equation, lengths, rule, static_cast<double>(value.values()[0]), !std::is_same_v<T, double>, labelled(equation.q, q),
                 labelled(equation.k, k), labelled(equation.v, v), labelled(equation.out, dout), labelled(mask_labels, mask)});
    const size_t gaps = out.memory().size() - out.values().size();
    forward();
    CHECK(difference(out, wanted.out, tolerance<T> * slack) <= 1);
    CHECK(difference(log_sums, wanted.log_sums, tolerance<Real> * slack) <= 1);
    CHECK(out.untouched_elements() == gaps);
    if (!with_gradients) return;
    backward();
    CHECK(difference(dq, wanted.dq, tolerance<T> * slack * 2) <= 1);
    CHECK(difference(dk, wanted.dk, tolerance<T> * slack * 2) <= 1);
    CHECK(difference(dv, wanted.dv, tolerance<T> * slack * 2) <= 1);
  }
};

const std::vector<std::pair<std::string, Lengths>> equations = {
    {"abxz,abyz,abyw,abxy->abxw", {{'a', 2}, {'b', 3}, {'x', 7}, {'y', 9}, {'z', 5}, {'w', 6}}},
    {"abxz,abzy,abyw,abxy->abxw", {{'a', 2}, {'b', 1}, {'x', 130}, {'y', 270}, {'z', 8}, {'w', 4}}},
    {"bxhz,byhz,byhw,bhxy->bxhw", {{'b', 2}, {'h', 2}, {'x', 129}, {'y', 128}, {'z', 16}, {'w', 16}}},
    {"bhgxz,bhyz,bhyw,bhgxy->bhgxw", {{'b', 2}, {'h', 2}, {'g', 3}, {'x', 50}, {'y', 140}, {'z', 4}, {'w', 5}}},  // heads that share keys
    {"xhgz,yhz,yhw,hgxy->xhgw", {{'h', 2}, {'g', 2}, {'x', 11}, {'y', 13}, {'z', 3}, {'w', 4}}},
    {"xz,yz,yw,xy->xw", {{'x', 1}, {'y', 300}, {'z', 64}, {'w', 64}}},
    {"z,yz,yw,y->w", {{'y', 12}, {'z', 3}, {'w', 2}}},                                      // one query
    {"xz,uyz,yuw,xuy->xw", {{'x', 5}, {'u', 4}, {'y', 40}, {'z', 3}, {'w', 2}}},            // keys of two labels
    {"xzt,ytz,yvw,xy->wxv", {{'x', 5}, {'y', 4}, {'z', 3}, {'t', 2}, {'v', 2}, {'w', 3}}},  // sums and values of two labels
};

}  // namespace

TEMPLATE_TEST_CASE("attention: labels, layouts and types", "", float, double, bf16, f16) {
  const auto [text, lengths] = GENERATE(from_range(equations));
  const bool spread = GENERATE(false, true);
  CAPTURE(text, spread);
  Call<TestType, uint8_t> call(text, lengths, spread, 9, "");
  call.check();
}

TEMPLATE_TEST_CASE("attention: masks of every kind and shape", "", float, double, bf16) {
  const auto [text, lengths] = GENERATE(from_range(equations));
  const auto kind = GENERATE(AttentionMask::replace, AttentionMask::keep);
  const bool spread = GENERATE(false, true);
  const size_t rank = GENERATE(1, 2, 9);
  const std::string repeated = GENERATE("", "x", "b", "y");
  const double value = GENERATE(-1e9, -3.0, -infinity);
  CAPTURE(text, spread, rank, repeated, value);
  Call<TestType, uint8_t> call(text, lengths, spread, rank, repeated);
  call.rule.mask = kind;
  call.value.constant(static_cast<float>(value));
  call.mask.integers(0, 1);
  call.check();
}

TEMPLATE_TEST_CASE("attention: what is added", "", float, double, bf16) {
  const auto [text, lengths] = GENERATE(from_range(equations));
  const std::string repeated = GENERATE("", "x", "b");
  const double low = GENERATE(-1.0, -30.0, -1e4, -3.4e38, -infinity);
  CAPTURE(text, repeated, low);
  Call<TestType, std::conditional_t<std::is_same_v<TestType, bf16>, bf16, float>> call(text, lengths, true, 9, repeated);
  call.rule.mask = AttentionMask::add;
  call.mask.reals(low == -infinity ? -1 : low, 1);
  call.check();
}

namespace {

// masked(query, key) for every position of the scores' last two labels.
template <class CallType, class Masked>
void set_mask(CallType& call, const Masked& masked, double yes, double no) {
  const auto rows = call.mask.view().dims[0], columns = call.mask.view().dims[1];
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      const Tensor& view = call.mask.view();
      using M = std::decay_t<decltype(call.mask.at({0, 0}))>;
      static_cast<M*>(view.data)[i * view.strides[0] + j * view.strides[1]] = static_cast<M>(masked(i, j) ? yes : no);
    }
}

struct Pattern {
  const char* name;
  bool (*masked)(int64_t, int64_t);
};
const Pattern patterns[] = {
    {"causal", [](int64_t i, int64_t j) { return j > i; }},
    {"window", [](int64_t i, int64_t j) { return j > i || j < i - 100; }},          // the first blocks of keys are masked
    {"padded at the left", [](int64_t i, int64_t j) { return j > i || j < 200; }},  // rows below 200 have no key
    {"padded at the right", [](int64_t, int64_t j) { return j >= 150; }},
    {"some rows have no key", [](int64_t i, int64_t) { return i % 7 == 0; }},
    {"nothing", [](int64_t, int64_t) { return true; }},
};

}  // namespace

TEMPLATE_TEST_CASE("attention: blocks that masks leave out change nothing", "", float, double, f16) {
  const Pattern pattern = GENERATE(from_range(std::begin(patterns), std::end(patterns)));
  const double value = GENERATE(-1e9, -10.0, -100.0, -1000.0, -3.4e38, -infinity);
  const double low = GENERATE(-infinity, -65504.0);
  CAPTURE(pattern.name, value, low);
  const Lengths lengths{{'b', 2}, {'x', 420}, {'y', 420}, {'z', 8}, {'w', 8}};
  SECTION("replace") {
    Call<TestType, uint8_t> call("bxz,byz,byw,bxy->bxw", lengths, false, 2, "");
    call.rule.mask = AttentionMask::replace;
    call.rule.low = low;
    call.value.constant(static_cast<float>(value));
    set_mask(call, pattern.masked, 1, 0);
    call.check(2);
  }
  SECTION("add") {
    Call<TestType, float> call("bxz,byz,byw,bxy->bxw", lengths, false, 2, "");
    call.rule.mask = AttentionMask::add;
    call.rule.low = low;
    set_mask(call, pattern.masked, value, 0);
    call.check(2);
  }
}

TEST_CASE("attention: a block is not left out for its mask where the scores beside it are as low") {
  // What is masked comes first in memory, and has the larger scores.
  Call<double, uint8_t> call("xz,yz,yw,xy->xw", {{'x', 3}, {'y', 400}, {'z', 2}, {'w', 2}}, false, 2, "");
  call.rule.mask = AttentionMask::replace;
  call.rule.scale = -1e4;
  call.q.constant(1), call.k.constant(1);
  for (const double value : {-2e4 + 5, -2e4 - 700, -2e4 - 800, -1e4}) {
    call.value.constant(static_cast<float>(value));
    set_mask(
        call, [](int64_t, int64_t j) { return j < 256; }, 1, 0);
    call.check(1e3);  // scores of -2e4 have 4 digits less
  }
}

TEST_CASE("attention: blocks without weight are not computed") {
  const bool adds = GENERATE(false, true);
  const auto run = [](auto& call, double yes) {
    call.v.constant(0.5f);
    const Tensor v = call.v.view();
    for (int64_t y = 256; y < 400; ++y) static_cast<float*>(v.data)[y * v.strides[0]] = std::nanf("");
    set_mask(
        call, [](int64_t, int64_t j) { return j >= 200; }, yes, 0);
    call.forward();
    for (const float value : call.out.values()) CHECK(value == Approx(0.5).epsilon(1e-6));
    call.backward();
    for (const float gradient : call.dq.values()) CHECK(std::isfinite(gradient));
  };
  const Lengths lengths{{'x', 300}, {'y', 400}, {'z', 2}, {'w', 2}};
  if (adds) {
    Call<float, float> call("xz,yz,yw,xy->xw", lengths, false, 2, "");
    call.rule.mask = AttentionMask::add;
    run(call, -1e9);
  } else {
    Call<float, uint8_t> call("xz,yz,yw,xy->xw", lengths, false, 2, "");
    call.rule.mask = AttentionMask::replace;
    run(call, 1);
  }
}

TEST_CASE("attention: gradients are differences of the forward") {
  const auto [text, lengths] = GENERATE(from_range(equations));
  const auto kind = GENERATE(AttentionMask::none, AttentionMask::replace, AttentionMask::keep);
  Call<double, uint8_t> call(text, lengths, true, 9, "");
  call.rule.mask = kind;
  call.value.constant(-0.5f);
  call.mask.integers(0, 1);
  const auto loss = [&] {
    call.forward();
    const std::vector<double> out = call.out.values(), dout = call.dout.values();
    double sum = 0;
    for (size_t i = 0; i < out.size(); ++i) sum += out[i] * dout[i];
    return sum;
  };
  loss();
  call.backward();
  for (const auto& [input, gradient] : {std::pair{&call.q, &call.dq}, std::pair{&call.k, &call.dk}, std::pair{&call.v, &call.dv}}) {
    const Tensor view = input->view();
    for (int trial = 0; trial < 5; ++trial) {
      Dims index;
      int64_t offset = 0;
      for (int d = 0; d < view.rank; ++d) {
        index.push_back(randomness()() % view.dims[d]);
        offset += index.back() * view.strides[d];
      }
      double& element = static_cast<double*>(view.data)[offset];
      const double before = element, step = 1e-5;
      element = before + step;
      const double above = loss();
      element = before - step;
      const double below = loss();
      element = before;
      CHECK(gradient->at(index) == Approx((above - below) / (2 * step)).margin(1e-8).epsilon(1e-6));
    }
  }
}

TEST_CASE("attention: results do not depend on the number of threads, and log_sums may be left out") {
  const auto [text, lengths] = GENERATE(from_range(equations));
  Call<float, uint8_t> call(text, lengths, false, 9, "");
  call.rule.mask = AttentionMask::keep;
  call.mask.integers(0, 1);
  const auto run = [&](int threads) {
    set_kernel_threads(threads);
    call.forward(), call.backward();
    set_kernel_threads(1);
    return std::vector{call.out.values(), call.log_sums.values(), call.dq.values(), call.dk.values(), call.dv.values()};
  };
  const auto one = run(1);
  for (const int threads : {2, 3, 16}) CHECK(run(threads) == one);
  call.out.constant(0);
  attention(call.out, {}, call.q, call.k, call.v, call.mask, call.value, text.c_str(), call.rule);
  CHECK(call.out.values() == one[0]);
}

TEST_CASE("attention: operands that repeat one element") {
  Call<float, uint8_t> call("abxz,abyz,abyw,abxy->abxw", {{'a', 2}, {'b', 3}, {'x', 4}, {'y', 5}, {'z', 6}, {'w', 7}}, false, 9, "");
  // One key's head for all.
  const auto repeated = [](Tensor view) {
    view.strides[1] = 0;
    return view;
  };
  attention(call.out, call.sums(), call.q, repeated(call.k), repeated(call.v), {}, {}, call.equation.text.c_str(), call.rule);
  const Answer wanted = [&] {
    Labelled k = labelled("abyz", call.k), v = labelled("abyw", call.v);
    for (size_t i = 0; i < k.values.size(); ++i) k.values[i] = k.values[i / 90 * 90 + i % 30];
    for (size_t i = 0; i < v.values.size(); ++i) v.values[i] = v.values[i / 105 * 105 + i % 35];
    return defined({call.equation, call.lengths, call.rule, 0, false, labelled("abxz", call.q), k, v, labelled("abxw", call.dout), {}});
  }();
  CHECK(difference(call.out, wanted.out, tolerance<float>) <= 1);
}

TEST_CASE("attention: nothing to do, and nothing to see") {
  Call<float, uint8_t> no_keys("xz,yz,yw,xy->xw", {{'x', 3}, {'y', 0}, {'z', 2}, {'w', 2}}, false, 2, "");
  no_keys.forward(), no_keys.backward();
  CHECK(no_keys.out.values() == std::vector<float>(6, 0));
  CHECK(no_keys.dq.values() == std::vector<float>(6, 0));
  Call<float, uint8_t> no_queries("xz,yz,yw,xy->xw", {{'x', 0}, {'y', 3}, {'z', 2}, {'w', 2}}, false, 2, "");
  no_queries.forward(), no_queries.backward();
  CHECK(no_queries.dk.values() == std::vector<float>(6, 0));
  CHECK(no_queries.dv.values() == std::vector<float>(6, 0));
  Call<float, uint8_t> no_depth("xz,yz,yw,xy->xw", {{'x', 2}, {'y', 3}, {'z', 0}, {'w', 2}}, false, 2, "");
  no_depth.check();
}

TEST_CASE("attention: equations and types that are none") {
  Call<float, uint8_t> call("xz,yz,yw,xy->xw", {{'x', 3}, {'y', 3}, {'z', 3}, {'w', 3}}, false, 2, "");
  const std::string wrong = GENERATE("xz,yz,yw->xw", "xz,yz,yw,xy->xy", "xz,yz,yw,xw->xw", "xx,yz,yw,xy->xw", "xz,yz,yw,xyz->xw", "x,yz,yw,xy->xw",
                                     "xzq,yz,yw,xy->xw", "xz,yz,yz,xy->xz", "az,yz,yw,xy->xw");
  CAPTURE(wrong);
  CHECK_THROWS_AS(attention(call.out, {}, call.q, call.k, call.v, {}, {}, wrong.c_str(), call.rule), std::logic_error);
  call.rule.mask = AttentionMask::add;
  CHECK_THROWS_AS(call.forward(), std::logic_error);  // booleans
  Array<double> other({3, 3});
  CHECK_THROWS_AS(attention(other, {}, call.q, call.k, call.v, {}, {}, "xz,yz,yw,xy->xw", {}), std::logic_error);
}
