// Attention and its gradients: by tensor cores (bf16 and f16 in whole pieces of 16 bytes) and from wherever elements lie (everything else).
#include <limits>
#include <map>
#include <string>

#include "test/unit/cuda/mirror.h"

using namespace sscc::rt;
using namespace sscc::rt::test;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
using Lengths = std::map<char, int64_t>;

Dims dims_of(const std::string& labels, const Lengths& lengths) {
  Dims dims;
  for (const char label : labels) dims.push_back(lengths.at(label));
  return dims;
}

// Labels of q, k, v, the scores and out.
std::vector<std::string> parts_of(const std::string& equation) {
  std::vector<std::string> parts(1);
  for (const char c : equation) {
    if (c == ',' || c == '-')
      parts.emplace_back();
    else if (c != '>')
      parts.back() += c;
  }
  return parts;
}

struct Problem {
  std::string equation;
  Lengths lengths;
};

// Operands on both sides. The mask has the scores' labels, those in `repeated` with length 1.
struct Call {
  std::string equation;
  Lengths lengths;
  std::vector<std::string> parts;
  Mirror q, k, v, dout, out, dq, dk, dv, log_sums, mask, value;
  AttentionRule rule;

  Call(const Problem& problem, DType type, Layout layout, DType mask_type = DType::b1, const std::string& repeated = "")
      : equation(problem.equation),
        lengths(problem.lengths),
        parts(parts_of(equation)),
        q(type, dims_of(parts[0], lengths), layout),
        k(type, dims_of(parts[1], lengths), layout),
        v(type, dims_of(parts[2], lengths), layout),
        dout(type, dims_of(parts[4], lengths), layout),
        out(type, dims_of(parts[4], lengths), layout),
        dq(type, dims_of(parts[0], lengths), layout),
        dk(type, dims_of(parts[1], lengths), layout),
        dv(type, dims_of(parts[2], lengths), layout),
        log_sums(arithmetic_type(type), shortened([&](char label) { return is_key(label); }), layout),
        mask(mask_type, shortened([&](char label) { return repeated.find(label) != std::string::npos; }), layout),
        value(DType::f32, {}) {
    q.reals(-2, 2), k.reals(-2, 2), v.reals(-1, 1), dout.reals(-1, 1);
    double depth = 1;
    for (const char label : parts[0]) depth *= parts[3].find(label) == std::string::npos ? static_cast<double>(lengths[label]) : 1;
    rule.scale = 0.7 / std::sqrt(depth);
    value.constant(-1e9);
  }

  bool is_key(char label) const { return parts[0].find(label) == std::string::npos && parts[1].find(label) != std::string::npos; }
  template <class Is>
  Dims shortened(const Is& is_short) const {
    Dims dims = dims_of(parts[3], lengths);
    for (size_t d = 0; d < dims.size(); ++d)
      if (is_short(parts[3][d])) dims[d] = 1;
    return dims;
  }
  Tensor sums(Tensor view) const {
    for (size_t d = 0; d < parts[3].size(); ++d) {
      if (!is_key(parts[3][d])) continue;
      view.dims[d] = lengths.at(parts[3][d]);
      view.strides[d] = 0;
    }
    return view;
  }

  void forward() {
    host_kernels()->attention(out.host(), sums(log_sums.host()), q.host(), k.host(), v.host(), mask.host(), value.host(), equation.c_str(), rule);
    attention(out.device(), sums(log_sums.device()), q.device(), k.device(), v.device(), mask.device(), value.device(), equation.c_str(), rule);
  }
  void backward_on_device() {
    attention_grad(dq.device(), dk.device(), dv.device(), q.device(), k.device(), v.device(), out.device(), sums(log_sums.device()), dout.device(),
                   mask.device(), value.device(), equation.c_str(), rule);
  }
  void check() {
    forward();
    CHECK(out.difference() <= 1);
    CHECK(log_sums.difference(is_small(out.device().dtype) ? 10 : 1) <= 1);  // of products of small floats
    host_kernels()->attention_grad(dq.host(), dk.host(), dv.host(), q.host(), k.host(), v.host(), out.host(), sums(log_sums.host()), dout.host(),
                                   mask.host(), value.host(), equation.c_str(), rule);
    backward_on_device();
    CHECK(dq.difference(2) <= 1);
    CHECK(dk.difference(2) <= 1);
    CHECK(dv.difference(2) <= 1);
  }
};

const std::vector<Problem> problems = {
    {"abxz,abyz,abyw,abxy->abxw", {{'a', 2}, {'b', 2}, {'x', 70}, {'y', 130}, {'z', 64}, {'w', 64}}},
    {"bxhz,byhz,byhw,bhxy->bxhw", {{'b', 1}, {'h', 2}, {'x', 65}, {'y', 64}, {'z', 72}, {'w', 40}}},
    {"bhgxz,bhyz,bhyw,bhgxy->bhgxw", {{'b', 1}, {'h', 2}, {'g', 3}, {'x', 50}, {'y', 70}, {'z', 16}, {'w', 8}}},  // heads that share keys
    {"xz,yz,yw,xy->xw", {{'x', 1}, {'y', 200}, {'z', 128}, {'w', 128}}},
    {"xz,yz,yw,xy->xw", {{'x', 20}, {'y', 40}, {'z', 200}, {'w', 256}}},
    {"xz,yz,yw,xy->xw", {{'x', 10}, {'y', 40}, {'z', 264}, {'w', 300}}},                            // too deep for tensor cores
    {"xz,yz,yw,xy->xw", {{'x', 5}, {'y', 7}, {'z', 3}, {'w', 5}}},                                  // no whole pieces
    {"abxz,abzy,abyw,abxy->abxw", {{'a', 1}, {'b', 2}, {'x', 40}, {'y', 48}, {'z', 8}, {'w', 8}}},  // keys are dense
    {"xz,uyz,yuw,xuy->xw", {{'x', 5}, {'u', 4}, {'y', 20}, {'z', 8}, {'w', 16}}},                   // keys of two labels
    {"xzt,ytz,yvw,xy->wxv", {{'x', 5}, {'y', 4}, {'z', 3}, {'t', 2}, {'v', 2}, {'w', 3}}},
    {"z,yz,yw,y->w", {{'y', 12}, {'z', 8}, {'w', 8}}},
};

}  // namespace

TEST_CASE("attention: labels, layouts and types") {
  const Problem problem = GENERATE(from_range(problems));
  const DType type = GENERATE(DType::f32, DType::f64, DType::bf16, DType::f16);
  const Layout layout = GENERATE(Layout::dense, Layout::rows, Layout::spread);
  CAPTURE(problem.equation, type, layout);
  Call(problem, type, layout).check();
}

TEST_CASE("attention: masks") {
  const Problem problem = GENERATE(from_range(problems));
  const DType type = GENERATE(DType::f32, DType::bf16);
  const AttentionMask kind = GENERATE(AttentionMask::replace, AttentionMask::keep, AttentionMask::add);
  const std::string repeated = GENERATE("", "x", "b", "y");
  CAPTURE(problem.equation, type, kind, repeated);
  const bool adds = kind == AttentionMask::add;
  Call call(problem, type, Layout::dense, adds ? type : DType::b1, repeated);
  call.rule.mask = kind;
  adds ? call.mask.reals(-4, 1) : call.mask.integers(0, 1);
  call.check();
}

namespace {

struct Pattern {
  const char* name;
  bool (*masked)(int64_t, int64_t);
};
const Pattern patterns[] = {
    {"causal", [](int64_t i, int64_t j) { return j > i; }},
    {"window", [](int64_t i, int64_t j) { return j > i || j < i - 70; }},           // the first tiles of keys are masked
    {"padded at the left", [](int64_t i, int64_t j) { return j > i || j < 100; }},  // rows below 100 have no key
    {"padded at the right", [](int64_t, int64_t j) { return j >= 70; }},
    {"nothing", [](int64_t, int64_t) { return true; }},
};

}  // namespace

TEST_CASE("attention: tiles that masks leave out change nothing") {
  const Pattern pattern = GENERATE(from_range(std::begin(patterns), std::end(patterns)));
  const DType type = GENERATE(DType::f32, DType::f64, DType::f16);
  const double value = GENERATE(-1e9, -10.0, -3.4e38, -infinity), low = GENERATE(-infinity, -65504.0);
  const bool adds = GENERATE(false, true);
  CAPTURE(pattern.name, type, value, low, adds);
  Call call({"bxz,byz,byw,bxy->bxw", {{'b', 2}, {'x', 170}, {'y', 170}, {'z', 16}, {'w', 8}}}, type, Layout::dense, adds ? DType::f32 : DType::b1,
            "b");
  call.rule.mask = adds ? AttentionMask::add : AttentionMask::replace;
  call.rule.low = low;
  call.value.constant(value);
  call.mask.by_index([&](const Dims& at) { return pattern.masked(at[1], at[2]) ? (adds ? value : 1) : 0; });
  call.check();
}

TEST_CASE("attention: tiles without weight are not computed") {
  const DType type = GENERATE(DType::f32, DType::bf16);
  const bool adds = GENERATE(false, true);
  Call call({"xz,yz,yw,xy->xw", {{'x', 130}, {'y', 200}, {'z', 16}, {'w', 16}}}, type, Layout::dense, adds ? DType::f32 : DType::b1);
  call.rule.mask = adds ? AttentionMask::add : AttentionMask::replace;
  call.mask.by_index([&](const Dims& at) { return at[1] >= 64 ? (adds ? -infinity : 1) : 0; });
  call.v.by_index([](const Dims& at) { return at[0] >= 128 ? std::nan("") : 0.5; });
  call.forward();
  host_kernels()->fill(call.out.host(), 0.5);
  CHECK(call.out.difference() <= 1);
}

TEST_CASE("attention: sums repeat bit by bit, and log_sums may be left out") {
  const DType type = GENERATE(DType::f32, DType::f16);
  Call call({"bxz,byz,byw,bxy->bxw", {{'b', 2}, {'x', 100}, {'y', 150}, {'z', 16}, {'w', 16}}}, type, Layout::dense);
  const auto run = [&] {
    call.forward(), call.backward_on_device();
    return std::vector{call.out.downloaded(), call.log_sums.downloaded(), call.dq.downloaded(), call.dk.downloaded(), call.dv.downloaded()};
  };
  const auto first = run();
  CHECK(run() == first);
  call.out.constant(0);
  attention(call.out.device(), nothing, call.q.device(), call.k.device(), call.v.device(), nothing, nothing, call.equation.c_str(), call.rule);
  CHECK(call.out.downloaded() == first[0]);
}

TEST_CASE("attention: nothing to do, and nothing to see") {
  const DType type = GENERATE(DType::f32, DType::bf16);
  Call no_keys({"xz,yz,yw,xy->xw", {{'x', 3}, {'y', 0}, {'z', 8}, {'w', 8}}}, type, Layout::offset);
  no_keys.check();
  Call no_queries({"xz,yz,yw,xy->xw", {{'x', 0}, {'y', 3}, {'z', 8}, {'w', 8}}}, type, Layout::offset);
  no_queries.check();
}
