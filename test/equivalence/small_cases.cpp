// Every small case: chains of one or two operators and a sum, trained; every division of every operator (whole on a device, along each axis over a mesh
// axis, over two, nested, in time, or repeated everywhere), every cut into stages, 2 to 4 devices. All ranks together compute, bit for bit, what one
// rank computes.
//
//   small_cases [--every N] [--offset K] [--verbose]     default: each case of which the number is K modulo N; --every 1: all
//
// A refusal must have one of the codes that such plans may have. A refusal by a checker, a bug, or a difference is a failure.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <set>

#include "compiler/ir/print.h"
#include "compiler/ops/build.h"
#include "compiler/passes/passes.h"
#include "test/equivalence/random_plan.h"
#include "test/equivalence/trial.h"

namespace sscc::equivalence {
namespace {

// -- models -----------------------------------------------------------------------------------------------------------------------------------------

const std::vector<std::string> kinds = {"MatMul", "SharedMatMul", "Add", "AddInput", "Relu", "Reduce", "Split", "Merge", "Transpose"};

// x -> kind -> kind -> ... -> sum; nothing where a kind does not fit.
std::optional<Model> chain(const std::vector<std::string>& of) {
  Module module;
  Random random(1);
  module.name = "chain";
  Tensor input;
  input.name = "x";
  input.dtype = DType::f64;
  input.shape = {4, 4};
  input.role = Role::input;
  TensorId x = module.add_tensor(input);
  module.inputs = {x};
  TensorId shared;
  bool has_bias = false;
  const auto shape = [&](TensorId id) -> const Shape& { return module.tensors[id].shape; };
  for (const std::string& kind : of) {
    Builder builder(module, {"/" + kind + std::to_string(module.ops.size()), kind, Phase::forward, {}});
    const Shape s = shape(x);
    const size_t rank = s.size();
    if (kind == "MatMul" || kind == "SharedMatMul") {
      const bool is_shared = kind == "SharedMatMul" && shared.valid() && shape(shared)[0] == s.back();
      if (kind == "SharedMatMul" && !is_shared) return std::nullopt;
      if (!is_shared) shared = add_parameter(module, "w" + std::to_string(module.ops.size()), {s.back(), 4}, random);
      const std::string labels = std::string("abcd").substr(0, rank - 1);
      x = builder.contract(x, labels + "k", shared, "kn", labels + "n");
    } else if (kind == "Add") {
      has_bias = true;
      x = builder.pointwise(Scalar::add, {x, add_parameter(module, "w" + std::to_string(module.ops.size()), {s.back()}, random)});
    } else if (kind == "AddInput") {
      if (s != input.shape) return std::nullopt;
      x = builder.pointwise(Scalar::add, {x, module.inputs[0]});
    } else if (kind == "Relu") {
      x = builder.pointwise(Scalar::relu, {x});
    } else if (kind == "Reduce") {
      if (rank < 2) return std::nullopt;
      x = builder.reduce(x, {0}, false, Join::sum);
    } else if (kind == "Split") {
      Shape split(s.begin(), s.end() - 1);
      split.append({2, s.back() / 2});
      x = builder.reshape(x, split);
    } else if (kind == "Merge") {
      if (rank < 2) return std::nullopt;
      Shape merged(s.begin(), s.end() - 2);
      merged.push_back(s[rank - 2] * s[rank - 1]);
      x = builder.reshape(x, merged);
    } else {
      if (rank != 2) return std::nullopt;
      x = builder.transpose(x, {1, 0});
    }
  }
  llvm::SmallVector<int, 5> all;
  for (size_t d = 0; d < shape(x).size(); ++d) all.push_back(static_cast<int>(d));
  module.outputs = {Builder(module, {"/Sum", "ReduceSum", Phase::forward, {}}).named("loss").reduce(x, all, false, Join::sum)};
  if (shape(x) != input.shape || x != module.inputs[0]) module.outputs.push_back(x);
  find_blocks(module);
  Model model;
  model.module = std::move(module);
  if (shared.valid() || has_bias) model.recipe = exact_recipe;
  return model;
}

// -- plans ------------------------------------------------------------------------------------------------------------------------------------------

struct Mesh {
  std::vector<std::pair<std::string, int64_t>> axes;
  std::string text() const {
    std::string text;
    for (const auto& [name, length] : axes) text += (text.empty() ? "{\"" : ", \"") + name + "\": " + std::to_string(length);
    return text + "}";
  }
  int64_t devices() const {
    int64_t n = 1;
    for (const auto& [name, length] : axes) n *= length;
    return n;
  }
};
const std::vector<Mesh> meshes = {{{{"a", 2}}}, {{{"a", 3}}}, {{{"a", 4}}}, {{{"a", 2}, {"b", 2}}}};

// What a plan says of one operator.
struct Choice {
  std::vector<std::string> transform;
  std::string assign;
};

// Every division of an operator over these mesh axes, in time, and every device that can have it whole.
std::vector<Choice> choices(const Op& op, const std::vector<std::string>& axes, int64_t devices) {
  std::vector<std::string> ways = {R"({"time": 2})"};
  for (const std::string& axis : axes) ways.push_back("\"" + axis + "\"");
  if (axes.size() == 2) ways.push_back("[\"a\", \"b\"]");
  const auto rule = [&](const Axis& axis, const std::string& way) {
    return R"({"ops": ")" + op.name + R"(", "dim": ")" + axis.name + R"(", "split": )" + way + "}";
  };
  std::vector<Choice> result = {{}};
  for (int64_t d = 0; d < devices; ++d) result.push_back({{}, R"({"ops": ")" + op.name + R"(", "on": )" + std::to_string(d) + "}"});
  for (const Axis& axis : op.rule.axes)
    for (const std::string& way : ways) result.push_back({{rule(axis, way)}, ""});
  for (const Axis& outer : op.rule.axes)
    for (const Axis& inner : op.rule.axes)
      if (axes.size() == 2 && outer.name != inner.name) result.push_back({{rule(outer, "\"a\""), rule(inner, "\"b\"")}, ""});
  return result;
}

// What a plan says of the whole step.
struct Frame {
  RandomPlan plan;
  std::vector<std::string> free_axes;  // those that operators may be divided over
  int64_t places = 0;                  // devices on which an operator may be put
};

std::vector<Frame> frames(const Module& module, const Mesh& mesh) {
  const std::string halves = R"({"axis": "x:0", "split": {"time": 2}})";
  std::vector<std::string> all;
  for (const auto& [name, length] : mesh.axes) all.push_back(name);
  std::vector<Frame> result = {{{mesh.text(), {}, {}, ""}, all, mesh.devices()}, {{mesh.text(), {halves}, {}, ""}, all, mesh.devices()}};
  // Stages over the first axis: its other cuts begin at the same operator or at the ones after it.
  const std::vector<std::string> rest(all.begin() + 1, all.end());
  for (size_t first = 1; first < module.order.size(); ++first) {
    std::string cuts;
    for (int64_t stage = 1; stage < mesh.axes[0].second; ++stage) {
      const size_t at = std::min(first + static_cast<size_t>(stage) - 1, module.order.size() - 1);
      cuts += (cuts.empty() ? "\"" : ", \"") + module.ops[module.order[at]].name + "\"";
    }
    const std::string stages = R"({"stages": "a", "cut_before": [)" + cuts + "]}";
    result.push_back({{mesh.text(), {}, {stages}, ""}, rest, 0});
    result.push_back({{mesh.text(), {halves}, {stages}, R"({"schedule": "gpipe"})"}, rest, 0});
    result.push_back({{mesh.text(), {halves}, {stages}, R"({"schedule": "1f1b"})"}, rest, 0});
  }
  return result;
}

// -- cases ------------------------------------------------------------------------------------------------------------------------------------------

// Too many pieces, axes that cannot be divided, a mesh axis that both divides and places, micro-batches that meet, ranks without work, orders that do
// not fit.
const std::set<std::string> may_refuse = {"SSC2102", "SSC2103", "SSC2105", "SSC2106", "SSC2108", "SSC2201", "SSC2203", "SSC2301", "SSC2302"};

class Cases {
 public:
  Cases(int64_t every, int64_t offset, bool verbose) : every_(every), offset_(offset), verbose_(verbose) {}

  void run(const Model& model) {
    Random random(1);
    write_data(model, folder_ / "data", random);
    const Result one = run_trial(model, one_rank, folder_, "one");
    if (one.outcome != Outcome::equal) return fail(model, one_rank, one.why);
    for (const Mesh& mesh : meshes)
      for (const Frame& frame : frames(model.module, mesh)) run(model, frame);
    run_batch(model);
  }

  bool report() const {
    int64_t refused = 0;
    for (const auto& [code, count] : refused_) refused += count;
    std::printf("%lld cases, of which %lld run here: %lld equal, %lld refused, %lld failed\n", static_cast<long long>(number_),
                static_cast<long long>(equal_ + refused + failed_), static_cast<long long>(equal_), static_cast<long long>(refused),
                static_cast<long long>(failed_));
    for (const auto& [code, count] : refused_) std::printf("  refused %s %lld\n", code.c_str(), static_cast<long long>(count));
    return failed_ == 0 && equal_ > 0;
  }

 private:
  // All combinations of the operators' choices, as an odometer.
  void run(const Model& model, const Frame& frame) {
    std::vector<std::vector<Choice>> by_operator;
    for (const OpId id : model.module.order) by_operator.push_back(choices(model.module.ops[id], frame.free_axes, frame.places));
    std::vector<size_t> at(by_operator.size(), 0);
    for (size_t o = 0; o < at.size();) {
      if (number_++ % every_ == offset_) {
        RandomPlan plan = frame.plan;
        for (size_t k = 0; k < at.size(); ++k) {
          const Choice& choice = by_operator[k][at[k]];
          plan.transform.insert(plan.transform.end(), choice.transform.begin(), choice.transform.end());
          if (!choice.assign.empty()) plan.assign.push_back(choice.assign);
        }
        batch_.push_back(plan.text());
        if (batch_.size() == 100) run_batch(model);
      }
      for (o = 0; o < at.size() && ++at[o] == by_operator[o].size(); ++o) at[o] = 0;
    }
  }

  // A process for many cases; if a bug ends it, one for each.
  void run_batch(const Model& model) {
    const std::vector<std::string> plans = std::move(batch_);
    batch_.clear();
    std::vector<Result> results;
    const Result together = apart([&] {
      std::string whys;
      for (const std::string& plan : plans) {
        const Result result = run(model, plan);
        whys += std::to_string(static_cast<int>(result.outcome)) + result.why + '\0';
      }
      return Result{Outcome::equal, whys};
    });
    for (size_t p = 0, begin = 0; p < plans.size(); ++p) {
      if (together.outcome == Outcome::failed) {
        count(model, plans[p], apart([&] { return run(model, plans[p]); }));
        continue;
      }
      const size_t end = together.why.find('\0', begin);
      count(model, plans[p], {static_cast<Outcome>(together.why[begin] - '0'), together.why.substr(begin + 1, end - begin - 1)});
      begin = end + 1;
    }
  }

  Result run(const Model& model, const std::string& plan) const {
    Result many = run_trial(model, plan, folder_, "many");
    if (many.outcome != Outcome::equal) return many;
    many.why = difference(folder_, "one", "many");
    if (!many.why.empty()) many.outcome = Outcome::failed;
    return many;
  }

  void count(const Model& model, const std::string& plan, const Result& result) {
    if (result.outcome == Outcome::equal) {
      ++equal_;
      return;
    }
    const size_t bracket = result.why.find("[SSC");
    const std::string code = bracket == std::string::npos ? "" : result.why.substr(bracket + 1, 7);
    if (result.outcome == Outcome::failed || !may_refuse.contains(code)) return fail(model, plan, result.why);
    if (++refused_[code] == 1 && verbose_) std::cout << plan << result.why << "\n";
  }

  void fail(const Model& model, const std::string& plan, const std::string& why) {
    if (++failed_ <= 5) std::cout << "FAILED: " << why << "\n-- the model\n" << print(model.module) << "-- the plan\n" << plan << std::endl;
  }

  int64_t every_, offset_;
  bool verbose_;
  Folder folder_;
  std::vector<std::string> batch_;
  int64_t number_ = 0, equal_ = 0, failed_ = 0;
  std::map<std::string, int64_t> refused_;
};

int main_of(int argc, char** argv) {
  int64_t every = 1, offset = 0;
  bool verbose = false;
  for (int i = 1; i < argc; ++i) {
    const auto value = [&] { return i + 1 < argc ? std::atoll(argv[++i]) : 0; };
    if (std::strcmp(argv[i], "--every") == 0) every = std::max<int64_t>(1, value());
    if (std::strcmp(argv[i], "--offset") == 0) offset = value();
    if (std::strcmp(argv[i], "--verbose") == 0) verbose = true;
  }
  Cases cases(every, offset, verbose);
  for (const std::string& first : kinds) {
    if (const auto model = chain({first})) cases.run(*model);
    for (const std::string& second : kinds)
      if (const auto model = chain({first, second})) cases.run(*model);
  }
  return cases.report() ? 0 : 1;
}

}  // namespace
}  // namespace sscc::equivalence

int main(int argc, char** argv) { return sscc::equivalence::main_of(argc, argv); }
