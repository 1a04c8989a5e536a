// Every operator, whole: each sample is compiled and run, undivided, divided along every axis of its rule, and changed in one element at a time.
//
//   the rule     an element of an input reaches only elements of the output that lie at the same positions along the axes that both have
//   the splits   two and three pieces along any axis, joined by the rule, give the whole: outputs and gradients
//   the gradient equals central differences in float64
//
// A kind of operator that no sample reaches, forward or backward, fails the test.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <set>
#include <sstream>

#include "compiler/driver/compile.h"
#include "compiler/ops/ops.h"
#include "compiler/plan/read_text.h"
#include "compiler/simulate/interpret.h"
#include "sscc_rt/tensor_files.h"

namespace sscc {
namespace {

namespace fs = std::filesystem;
using Values = std::vector<double>;

// -- samples ------------------------------------------------------------------------------------------------------------------------------------------

// Makes a module around one operator: parameters in, a weighted sum of its results as the loss.
class Sample {
 public:
  explicit Sample(std::string name) : name_(std::move(name)), random_(7) { module_.name = "sample"; }

  Builder builder() { return Builder(module_, {"op", name_, Phase::forward, {}}); }
  // Values of magnitude 0.2 to 1.5, of both signs unless `positive`, no two alike: away from where functions have corners.
  TensorId parameter(Shape shape, bool positive = false) {
    Values values;
    for (int64_t i = 0; i < elements(shape); ++i) {
      const double size = 0.2 + 1.3 * static_cast<double>(random_() % 9973) / 9973;
      values.push_back(positive || random_() % 2 == 0 ? size : -size);
    }
    return add("p" + std::to_string(module_.tensors.size()), Role::parameter, std::move(shape), values);
  }
  TensorId constant(Shape shape) { return add("c" + std::to_string(module_.tensors.size()), Role::constant, std::move(shape), {}); }
  TensorId integers(Shape shape, int64_t below) {
    std::string bytes;
    for (int64_t i = 0; i < elements(shape); ++i) {
      const auto value = static_cast<int64_t>(random_() % static_cast<uint64_t>(below));
      bytes.append(reinterpret_cast<const char*>(&value), 8);
    }
    return add_bytes("i" + std::to_string(module_.tensors.size()), Role::constant, DType::i64, std::move(shape), std::move(bytes));
  }
  const Shape& shape(TensorId id) const { return module_.tensors[id].shape; }
  Module& module() { return module_; }

  Module finish(llvm::ArrayRef<TensorId> results) {
    TensorId loss;
    const auto made = [&](const char* type) {
      return Builder(module_, {std::string("/tail_") + std::to_string(module_.tensors.size()), type, Phase::forward, {}});
    };
    for (TensorId result : results) {
      module_.outputs.push_back(result);
      if (module_.tensors[result].dtype != DType::f64) result = made("Cast").pointwise(Scalar::identity, {result}, 0, 0, DType::f64);
      TensorId weighted = made("Mul").pointwise(Scalar::mul, {result, constant(shape(result))});
      llvm::SmallVector<int, 5> all;
      for (size_t d = 0; d < shape(weighted).size(); ++d) all.push_back(static_cast<int>(d));
      if (!all.empty()) weighted = made("ReduceSum").reduce(weighted, all, false, Join::sum);
      loss = loss.valid() ? made("Add").pointwise(Scalar::add, {loss, weighted}) : weighted;
    }
    loss = made("Identity").named("loss").pointwise(Scalar::scale_shift, {loss}, 1, 0);
    module_.outputs.insert(module_.outputs.begin(), loss);
    return std::move(module_);
  }

 private:
  TensorId add(std::string name, Role role, Shape shape, Values values) {
    while (values.size() < static_cast<size_t>(elements(shape))) values.push_back(static_cast<double>(1 + random_() % 7) / 4);
    return add_bytes(std::move(name), role, DType::f64, std::move(shape),
                     std::string(reinterpret_cast<const char*>(values.data()), values.size() * 8));
  }
  TensorId add_bytes(std::string name, Role role, DType dtype, Shape shape, std::string bytes) {
    Tensor t;
    t.name = std::move(name);
    t.dtype = dtype;
    t.shape = std::move(shape);
    t.role = role;
    const auto length = static_cast<int64_t>(bytes.size());
    t.weight = Weight{"", 0, length, std::make_shared<const std::string>(std::move(bytes))};
    return module_.add_tensor(std::move(t));
  }

  std::string name_;
  std::mt19937_64 random_;
  Module module_;
};

struct Case {
  std::string name;
  std::function<Module(Sample&)> make;
  bool has_gradient = true;
};

bool is_positive_only(Scalar f) { return f == Scalar::log || f == Scalar::sqrt || f == Scalar::rsqrt || f == Scalar::pow || f == Scalar::pow_scalar; }

// Functions that have a gradient; gradients themselves are reached through them.
const Scalar smooth[] = {Scalar::neg,        Scalar::abs,         Scalar::exp,        Scalar::log, Scalar::sqrt,      Scalar::rsqrt,
                         Scalar::reciprocal, Scalar::square,      Scalar::tanh,       Scalar::erf, Scalar::sigmoid,   Scalar::softplus,
                         Scalar::relu,       Scalar::leaky_relu,  Scalar::gelu_erf,   Scalar::sin, Scalar::gelu_tanh, Scalar::cos,
                         Scalar::clip,       Scalar::scale_shift, Scalar::pow_scalar, Scalar::add, Scalar::sub,       Scalar::mul,
                         Scalar::div,        Scalar::pow,         Scalar::max,        Scalar::min, Scalar::identity};
const Scalar rough[] = {Scalar::floor, Scalar::ceil,       Scalar::round,   Scalar::sign,         Scalar::equal,
                        Scalar::less,  Scalar::less_equal, Scalar::greater, Scalar::greater_equal};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const bool is_smooth : {true, false})
    for (const Scalar f : is_smooth ? llvm::ArrayRef<Scalar>(smooth) : llvm::ArrayRef<Scalar>(rough))
      all.push_back({rt::name_of(f),
                     [f](Sample& s) {
                       llvm::SmallVector<TensorId, 3> in;
                       for (int i = 0; i < rt::arity_of(f); ++i) in.push_back(s.parameter(i == 0 ? Shape{4, 6} : Shape{6}, is_positive_only(f)));
                       return s.finish({s.builder().pointwise(f, in, f == Scalar::clip ? -0.7 : 1.5, f == Scalar::clip ? 0.9 : 0.25)});
                     },
                     is_smooth});
  const auto add = [&](const char* name, std::function<Module(Sample&)> make) { all.push_back({name, std::move(make), true}); };
  add("where", [](Sample& s) {
    const TensorId a = s.parameter({4, 6}), b = s.parameter({4, 6});
    const TensorId condition = s.builder().pointwise(Scalar::less, {s.constant({4, 6}), s.constant({6})});
    return s.finish({s.builder().pointwise(Scalar::where, {condition, a, b})});
  });
  add("matmul", [](Sample& s) { return s.finish({s.builder().contract(s.parameter({4, 6}), "mk", s.parameter({6, 3}), "kn", "mn")}); });
  add("matmul_transposed", [](Sample& s) {
    return s.finish({s.builder().contract(s.parameter({6, 4}), "km", s.parameter({3, 6}), "nk", "mn", 0.5)});
  });
  add("batched_matmul", [](Sample& s) {
    return s.finish({s.builder().contract(s.parameter({2, 3, 4}), "bmk", s.parameter({2, 4, 3}), "bkn", "bmn")});
  });
  add("outer_product", [](Sample& s) { return s.finish({s.builder().contract(s.parameter({4}), "m", s.parameter({3}), "n", "nm")}); });
  for (const Join join : {Join::sum, Join::max, Join::min, Join::logsumexp})
    for (const bool keep : {false, true})
      all.push_back({"reduce", [join, keep](Sample& s) { return s.finish({s.builder().reduce(s.parameter({4, 3, 2}), {1}, keep, join)}); }, true});
  add("mean", [](Sample& s) { return s.finish({s.builder().reduce(s.parameter({4, 3, 2}), {0, 2}, false, Join::sum, 0.125)}); });
  add("reshape", [](Sample& s) { return s.finish({s.builder().reshape(s.parameter({4, 6}), {2, 2, 3, 2})}); });
  add("reshape_join", [](Sample& s) { return s.finish({s.builder().reshape(s.parameter({2, 3, 4}), {6, 4})}); });
  add("transpose", [](Sample& s) { return s.finish({s.builder().transpose(s.parameter({2, 3, 4}), {2, 0, 1})}); });
  add("slice", [](Sample& s) { return s.finish({s.builder().slice(s.parameter({6, 4}), {2, 0}, {2, 4}, {2, 1})}); });
  add("split", [](Sample& s) {
    const auto parts = s.builder().split(s.parameter({2, 6}), 1, {4, 2});
    return s.finish(parts);
  });
  add("concat", [](Sample& s) { return s.finish({s.builder().concat({s.parameter({2, 4}), s.parameter({2, 2})}, 1)}); });
  add("pad", [](Sample& s) { return s.finish({s.builder().pad(s.parameter({2, 3}), {4, 6}, {1, 0}, {1, 2})}); });
  add("expand", [](Sample& s) { return s.finish({s.builder().expand(s.parameter({1, 4}), {3, 2, 4})}); });
  add("gather", [](Sample& s) { return s.finish({s.builder().gather(s.parameter({6, 4}), s.integers({2, 3}, 6), 0)}); });
  add("gather_inner", [](Sample& s) { return s.finish({s.builder().gather(s.parameter({3, 6, 2}), s.integers({4}, 6), 1)}); });
  add("softmax", [](Sample& s) { return s.finish({s.builder().softmax(s.parameter({4, 6}), 1)}); });
  add("softmax_outer", [](Sample& s) { return s.finish({s.builder().softmax(s.parameter({3, 4, 2}), 1)}); });
  const auto add_norm = [&](const char* name, Shape shape, NormAttributes how, int weights) {  // none, scale, scale and bias
    add(name, [shape, how, weights](Sample& s) {
      const TensorId x = s.parameter(shape);
      TensorId of_shape[2];
      for (int i = 0; i < weights; ++i) of_shape[i] = s.parameter(lengths_in(how.along, shape));
      return s.finish({s.builder().norm(x, of_shape[0], of_shape[1], how).y});
    });
  };
  add_norm("layer_norm", {4, 6}, {0b10, 0b10, true, 1e-5}, 2);
  add_norm("layer_norm_plain", {2, 2, 6}, {0b100, 0b100, true, 1e-3}, 1);
  add_norm("rms_norm", {3, 4}, {0b10, 0b10, false, 1e-3}, 1);
  add_norm("instance_norm", {2, 3, 4}, {0b100, 0b010, true, 1e-3}, 2);
  add_norm("batch_norm", {3, 2, 4}, {0b101, 0b010, true, 1e-3}, 2);
  add_norm("group_norm", {2, 2, 3, 2}, {0b1100, 0b0110, true, 1e-3}, 2);
  add_norm("norm_in_the_middle", {2, 4, 3}, {0b010, 0b110, false, 1e-3}, 0);
  // Windows that overlap, that lie side by side, that leave gaps, that fit to no division; groups.
  const auto window = [](std::initializer_list<int64_t> kernel, std::initializer_list<int64_t> stride, std::initializer_list<int64_t> pad,
                         int64_t dilation = 1) {
    rt::Window w;
    std::copy(kernel.begin(), kernel.end(), w.kernel);
    std::copy(stride.begin(), stride.end(), w.stride);
    std::copy(pad.begin(), pad.end(), w.pad);
    for (size_t d = 0; d < kernel.size(); ++d) w.dilation[d] = dilation;
    return w;
  };
  struct Geometry {
    const char* name;
    rt::Window window;
    Shape large, small, weight;
  };
  const std::vector<Geometry> geometries = {{"3", window({3}, {1}, {1}), {2, 2, 6}, {2, 3, 6}, {3, 2, 3}},
                                            {"5_dilated", window({3}, {1}, {2}, 2), {1, 1, 6}, {1, 2, 6}, {2, 1, 3}},
                                            {"3_by_2", window({3}, {2}, {1}), {2, 2, 8}, {2, 2, 4}, {2, 2, 3}},
                                            {"2_by_2", window({2}, {2}, {0}), {2, 2, 6}, {2, 2, 3}, {2, 2, 2}},
                                            {"1_by_2", window({1}, {2}, {0}), {1, 2, 6}, {1, 2, 3}, {2, 2, 1}},
                                            {"valid", window({3}, {1}, {0}), {2, 1, 6}, {2, 2, 4}, {2, 1, 3}},
                                            {"7_by_3", window({7}, {3}, {2}), {1, 1, 9}, {1, 2, 3}, {2, 1, 7}},
                                            {"grouped", window({3}, {1}, {1}), {1, 4, 4}, {1, 6, 4}, {6, 2, 3}},
                                            {"depthwise", window({3}, {1}, {1}), {1, 3, 4}, {1, 3, 4}, {3, 1, 3}},
                                            {"plane", window({3, 2}, {1, 2}, {1, 0}), {1, 1, 4, 4}, {1, 2, 4, 2}, {2, 1, 3, 2}},
                                            {"volume", window({3, 1, 3}, {1, 1, 1}, {1, 0, 1}), {1, 1, 3, 2, 2}, {1, 1, 3, 2, 2}, {1, 1, 3, 1, 3}}};
  for (const Geometry& g : geometries) {
    all.push_back({std::string("convolve ") + g.name,
                   [g](Sample& s) { return s.finish({s.builder().convolve(s.parameter(g.large), s.parameter(g.weight), g.small, g.window)}); }});
    all.push_back({std::string("convolve_transposed ") + g.name, [g](Sample& s) {
                     return s.finish({s.builder().convolve_transposed(s.parameter(g.small), s.parameter(g.weight), g.large, g.window)});
                   }});
    if (g.large[1] != g.small[1]) continue;
    all.push_back({std::string("max_pool ") + g.name,
                   [g](Sample& s) { return s.finish({s.builder().max_pool(s.parameter(g.large), g.small, g.window).small}); }});
    all.push_back({std::string("sum_pool ") + g.name,
                   [g](Sample& s) { return s.finish({s.builder().sum_pool(s.parameter(g.large), g.small, g.window, 0.5)}); }});
  }
  add("cross_entropy", [](Sample& s) {
    Builder b = s.builder();
    return s.finish({softmax_cross_entropy(s.module(), b, s.parameter({6, 4}), s.integers({6}, 4), 1, 2, "token_mean")});
  });
  return all;
}

// -- running ------------------------------------------------------------------------------------------------------------------------------------------

class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / ("sscc_registry_" + std::to_string(getpid()))) { fs::create_directories(path_); }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

struct Run {
  std::string refused;                    // why the plan was refused; empty: it ran
  std::map<std::string, Values> tensors;  // outputs "0", "1", ...; gradients by parameter
  double loss() const { return tensors.at("0")[0]; }
};

Values values_of(const rt::StoredTensor& tensor) {
  int64_t count = 1;
  for (const int64_t d : tensor.dims) count *= d;
  Values values;
  for (int64_t i = 0; i < count; ++i) {
    if (tensor.dtype == DType::f64) {
      values.push_back(0);
      std::memcpy(&values.back(), tensor.data + i * 8, 8);
    } else {
      values.push_back(std::to_integer<int>(tensor.data[i * static_cast<int64_t>(rt::size_of(tensor.dtype))]));
    }
  }
  return values;
}

Run run(const Module& module, const std::string& plan, const Folder& folder, bool trains, std::set<Kind>* kinds = nullptr) {
  Compilation c;
  c.module = module;
  Diagnostics diagnostics;
  const std::string recipe =
      R"({"loss": {"kind": "graph_output", "output": "loss"}, "optimizer": {"kind": "adamw", "lr": 0.1}, "clip_grad_norm": 1.0})";
  PlanAndRecipe read =
      read_plan_text(plan, "plan.json", trains ? "recipe" : "", {}, c.module, diagnostics, [&](const std::string&) { return recipe; });
  c.plan = std::move(read.plan);
  c.recipe = std::move(read.recipe);
  c.module.meshes[0] = c.plan.mesh;
  if (!diagnostics.has_errors()) run_passes({"differentiate.."}, c, diagnostics);
  Run result;
  if (diagnostics.has_errors()) {
    for (const Diagnostic& each : diagnostics.all())
      if (each.severity == Severity::error) result.refused = to_text(each);
    return result;
  }
  if (kinds)
    for (const OpId id : c.module.order) kinds->insert(c.module.ops[id].kind);
  rt::Options options;
  options.data = "synthetic";
  options.steps = 1;
  options.outputs = folder / "outputs";
  if (trains) options.grads = folder / "grads.safetensors";
  options.quiet = true;
  REQUIRE(interpret(c.programs, options) == 0);
  for (size_t i = 0; i < module.outputs.size(); ++i)
    result.tensors[std::to_string(i)] = values_of(rt::read_pb(folder / "outputs/step_0/output_" + std::to_string(i) + ".pb"));
  if (trains)
    for (const auto& [name, tensor] : rt::read_safetensors(folder / "grads.safetensors")) result.tensors[name] = values_of(tensor);
  return result;
}

// A module with one element of a parameter moved.
Module moved(const Module& module, TensorId parameter, int64_t element, double by) {
  Module other = module;
  std::string bytes = *other.tensors[parameter].weight->bytes;
  double value;
  std::memcpy(&value, bytes.data() + element * 8, 8);
  value += by;
  std::memcpy(bytes.data() + element * 8, &value, 8);
  other.tensors[parameter].weight->bytes = std::make_shared<const std::string>(std::move(bytes));
  return other;
}

std::vector<TensorId> parameters_of(const Module& module) {
  std::vector<TensorId> result;
  for (int64_t t = 0; t < module.tensors.size(); ++t)
    if (module.tensors[TensorId(t)].role == Role::parameter) result.push_back(TensorId(t));
  return result;
}

const char* const one_rank = R"({"version": 1})";

// -- the three checks -----------------------------------------------------------------------------------------------------------------------------------

// Position of an element of an operand along an axis.
int64_t position(const Occurrence& o, int64_t axis_length, const Shape& shape, int64_t element) {
  for (size_t d = shape.size(); d-- > static_cast<size_t>(o.dim) + 1;) element /= shape[d];
  return element % shape[static_cast<size_t>(o.dim)] / o.stride % axis_length;
}

// May this element of input `input` reach this element of output `output`, by the rule?
bool may_reach(const Module& module, const Op& op, int input, int64_t from, int output, int64_t to) {
  const int n = static_cast<int>(op.inputs.size());
  for (const Occurrence& a : op.rule.occurrences)
    for (const Occurrence& b : op.rule.occurrences) {
      if (a.operand != input || b.operand != n + output || a.axis != b.axis) continue;
      const Axis& axis = op.rule.axes[static_cast<size_t>(a.axis)];
      if (axis.mark != Mark::plain) continue;
      if (position(a, axis.length, module.tensors[op.inputs[static_cast<size_t>(input)]].shape, from) !=
          position(b, axis.length, module.tensors[op.outputs[static_cast<size_t>(output)]].shape, to))
        return false;
    }
  return true;
}

void check_rule(const Module& module, const Run& whole, const Folder& folder) {
  for (const OpId id : module.order) {
    const Op& op = module.ops[id];
    if (op.name != "op") continue;
    for (size_t i = 0; i < op.inputs.size(); ++i) {
      if (!op.inputs[i].valid() || module.tensors[op.inputs[i]].role != Role::parameter) continue;
      for (int64_t e = 0; e < elements(module.tensors[op.inputs[i]].shape); ++e) {
        const Run changed = run(moved(module, op.inputs[i], e, 0.37), one_rank, folder, false);
        for (size_t o = 0; o < op.outputs.size(); ++o) {
          const auto at = std::find(module.outputs.begin(), module.outputs.end(), op.outputs[o]);
          if (at == module.outputs.end()) continue;
          const std::string name = std::to_string(at - module.outputs.begin());
          for (size_t k = 0; k < whole.tensors.at(name).size(); ++k) {
            if (whole.tensors.at(name)[k] == changed.tensors.at(name)[k]) continue;
            INFO("element " << e << " of input " << i << " reaches element " << k << " of output " << o);
            CHECK(may_reach(module, op, static_cast<int>(i), e, static_cast<int>(o), static_cast<int64_t>(k)));
          }
        }
      }
    }
  }
}

void check_gradient(const Module& module, const Run& whole, const Folder& folder) {
  constexpr double step = 1e-6;
  for (const TensorId p : parameters_of(module))
    for (int64_t e = 0; e < elements(module.tensors[p].shape); ++e) {
      const double high = run(moved(module, p, e, step), one_rank, folder, false).loss(),
                   low = run(moved(module, p, e, -step), one_rank, folder, false).loss();
      const double difference = (high - low) / (2 * step), gradient = whole.tensors.at(module.tensors[p].name)[static_cast<size_t>(e)];
      INFO("gradient of " << module.tensors[p].name << ", element " << e << ": " << gradient << ", by differences " << difference);
      CHECK(std::abs(gradient - difference) <= 1e-7 + 1e-6 * std::abs(difference));
    }
}

// How many divisions ran.
int check_splits(const Module& module, const Run& whole, const Folder& folder, bool trains) {
  int ran = 0;
  std::set<std::string> tried;
  for (const OpId id : module.order) {
    const Op& op = module.ops[id];
    if (op.name != "op") continue;
    for (const Axis& axis : op.rule.axes)
      for (const int pieces : {2, 3}) {
        const std::string plan = R"({"version": 1, "mesh": {"a": )" + std::to_string(pieces) +
                                 R"(}, "transform": [{"ops": {"name": "op", "type": ")" + op.type + R"("}, "dim": ")" + axis.name +
                                 R"(", "split": "a"}]})";
        if (axis.length < pieces || !tried.insert(plan).second) continue;
        const Run divided = run(module, plan, folder, trains);
        INFO("axis " << axis.name << " in " << pieces << " pieces");
        const bool may_be_refused = axis.mark != Mark::plain && axis.mark != Mark::sum && axis.mark != Mark::window;
        if (!divided.refused.empty()) {
          INFO(divided.refused);
          CHECK((may_be_refused || divided.refused.find("SSC2105") != std::string::npos || divided.refused.find("SSC2103") != std::string::npos));
          continue;
        }
        ++ran;
        for (const auto& [name, values] : whole.tensors)
          for (size_t k = 0; k < values.size(); ++k) {
            INFO("tensor " << name << ", element " << k << ": " << values[k] << " whole, " << divided.tensors.at(name)[k] << " divided");
            CHECK(std::abs(values[k] - divided.tensors.at(name)[k]) <= 1e-12 * std::max(1.0, std::abs(values[k])));
          }
      }
  }
  return ran;
}

}  // namespace

TEST_CASE("every operator keeps to its rule, its splits and its gradient") {
  const Folder folder;
  std::set<Kind> kinds;
  int divided = 0;
  for (const Case& each : cases()) {
    INFO(each.name);
    Sample sample(each.name);
    const Module module = each.make(sample);
    const Run whole = run(module, one_rank, folder, each.has_gradient, &kinds);
    REQUIRE(whole.refused == "");
    check_rule(module, whole, folder);
    if (each.has_gradient) check_gradient(module, whole, folder);
    divided += check_splits(module, whole, folder, each.has_gradient);
  }
  CHECK(divided > 100);
  for (int k = 0; k <= static_cast<int>(Kind::update); ++k) {
    INFO("no sample reaches " << name_of(static_cast<Kind>(k)));
    CHECK(kinds.contains(static_cast<Kind>(k)));
  }
}

}  // namespace sscc
