#include "test/equivalence/random_model.h"

#include <filesystem>
#include <limits>
#include <set>

#include "compiler/ops/build.h"
#include "compiler/ops/windows.h"
#include "compiler/passes/passes.h"
#include "sscc_rt/tensor_files.h"

namespace sscc::equivalence {
namespace {

class Generator {
 public:
  Generator(Random& random, int operators) : random_(random), operators_(operators) {}

  Module run() {
    module_.name = "random";
    // All models are sequences of (batch, positions, features), mostly.
    batch_ = length();
    positions_ = length();
    const int inputs = 1 + static_cast<int>(below(random_, 2));
    for (int i = 0; i < inputs; ++i) add_input(i);
    for (int i = 0; i < operators_; ++i) add_operator();
    const int64_t end = coin(5);
    if (end == 0) attend();
    if (end == 1) normalise();
    finish();
    find_blocks(module_);
    return std::move(module_);
  }

  bool rounds() const { return rounds_; }
  bool has_state() const { return has_state_; }

 private:
  static constexpr int64_t lengths[] = {2, 3, 4, 6, 8};
  int64_t length() { return lengths[below(random_, 5)]; }
  int64_t coin(int64_t n) { return below(random_, n); }

  void add_input(int i) {
    Tensor t;
    t.name = "x" + std::to_string(i);
    t.role = Role::input;
    if (i == 0 && coin(4) == 0) {  // indices into a table
      t.dtype = DType::i64;
      t.shape = {batch_, positions_};
      const TensorId indices = module_.add_tensor(t);
      module_.inputs.push_back(indices);
      const TensorId table = parameter({4 + coin(5), length()});
      rows_[indices] = module_.tensors[table].shape[0];
      values_.push_back(builder("Gather").gather(table, indices, 0));
      return;
    }
    t.dtype = DType::f64;
    t.shape = {batch_, positions_, length()};
    module_.inputs.push_back(module_.add_tensor(t));
    values_.push_back(module_.inputs.back());
  }

  TensorId parameter(const Shape& shape) { return add_parameter(module_, "w" + std::to_string(parameters_++), shape, random_); }

  Builder builder(const char* type) { return Builder(module_, {std::string("/") + type + "_" + std::to_string(nodes_++), type, Phase::forward, {}}); }
  const Shape& shape(TensorId id) const { return module_.tensors[id].shape; }
  TensorId value() {  // the newest ones more often: graphs get deep
    const size_t back = static_cast<size_t>(coin(std::min<int64_t>(static_cast<int64_t>(values_.size()), coin(3) == 0 ? 6 : 2)));
    return values_[values_.size() - 1 - back];
  }
  // A value of this shape, if there is one.
  TensorId partner(const Shape& wanted, TensorId not_this) {
    std::vector<TensorId> fits;
    for (const TensorId id : values_)
      if (shape(id) == wanted && id != not_this) fits.push_back(id);
    return fits.empty() ? TensorId() : one_of(random_, fits);
  }

  void add_operator() {
    const TensorId x = value();
    const Shape s = shape(x);
    const size_t rank = s.size();
    if (rank == 0) return;
    TensorId y;
    switch (coin(14)) {
      case 0:
      case 1:
      case 2: y = linear(x); break;
      case 3: y = builder("Add").pointwise(Scalar::add, {x, bias(s)}); break;
      case 4:
        if (const TensorId other = partner(s, x); other.valid())
          y = builder("Add").pointwise(Scalar::add, {x, other});
        else
          y = builder("Sub").pointwise(Scalar::sub, {x, x});
        break;
      case 5: y = builder("Relu").pointwise(Scalar::relu, {x}); break;
      case 6: y = attention(x); break;
      case 7: y = reshape(x); break;
      case 8: {
        llvm::SmallVector<int, 5> permutation;
        for (size_t d = 0; d < rank; ++d) permutation.push_back(static_cast<int>(d));
        if (rank > 1)
          std::swap(permutation[static_cast<size_t>(coin(static_cast<int64_t>(rank)))],
                    permutation[static_cast<size_t>(coin(static_cast<int64_t>(rank)))]);
        y = builder("Transpose").transpose(x, permutation);
        break;
      }
      case 9: {
        const int d = static_cast<int>(coin(static_cast<int64_t>(rank)));
        const int64_t n = s[static_cast<size_t>(d)];
        if (n < 2) return;
        const int64_t first = n % 2 == 0 ? n / 2 : 1 + coin(n - 1);
        const auto parts = builder("Split").split(x, d, {first, n - first});
        if (coin(2) == 0) {
          y = builder("Concat").concat({parts[1], parts[0]}, d);
        } else {
          values_.push_back(parts[0]);
          y = parts[1];
        }
        break;
      }
      case 10: {
        if (rank < 2) return;
        const int d = static_cast<int>(coin(static_cast<int64_t>(rank)));
        y = builder("ReduceSum").reduce(x, {d}, coin(2) == 0, coin(4) == 0 ? Join::max : Join::sum);
        break;
      }
      case 11:
      case 12: y = slide(x); break;
      default: {
        if (const TensorId other = partner(s, x); other.valid() && coin(2) == 0)
          y = builder("Mul").pointwise(Scalar::mul, {x, other});
        else
          y = builder("Mul").pointwise(Scalar::scale_shift, {x}, static_cast<double>(1 + coin(2)), static_cast<double>(coin(2)));
      }
    }
    if (!y.valid() || shape(y).size() > 5 || elements(shape(y)) > 4096) return;
    values_.push_back(tame(y));
  }

  // Keeps values small: products of products would grow beyond what is exact.
  TensorId tame(TensorId x) {
    if (++since_tamed_ < 3) return x;
    since_tamed_ = 0;
    return builder("Clip").pointwise(Scalar::clip, {x}, -3, 3);
  }

  TensorId linear(TensorId x) {
    const Shape s = shape(x);
    if (s.empty()) return {};
    std::string labels, out;
    for (size_t d = 0; d < s.size(); ++d) labels += static_cast<char>('a' + d);
    TensorId w;
    for (const auto& [weight, dims] : matrices_)
      if (dims[0] == s.back() && coin(3) == 0) w = weight;  // shared
    if (!w.valid()) {
      w = parameter({s.back(), length()});
      matrices_.push_back({w, shape(w)});
    }
    out = labels.substr(0, labels.size() - 1) + "z";
    return builder("MatMul").contract(x, labels, w, labels.substr(labels.size() - 1) + "z", out);
  }

  // Convolution or pooling: windows that overlap, lie side by side or leave gaps, mostly such that their number divides the length.
  TensorId slide(TensorId x) {
    const Shape s = shape(x);
    if (s.size() < 3) return {};
    const int64_t kind = coin(5);
    const bool widens = kind == 2;  // x has a position for each window
    rt::Window w;
    Shape other = {s[0], s[1]}, kernel;
    for (size_t d = 2; d < s.size(); ++d) {
      w.kernel[d - 2] = 1 + coin(3);
      w.dilation[d - 2] = 1 + (coin(4) == 0);
      const int64_t reach = (w.kernel[d - 2] - 1) * w.dilation[d - 2];
      w.pad[d - 2] = coin(reach + 1);
      w.stride[d - 2] = widens || s[d] % 2 == 0 ? 1 + coin(2) : 1;
      int64_t length = widens ? s[d] * w.stride[d - 2] : s[d] / w.stride[d - 2];
      const int64_t least = widens ? std::max<int64_t>(1, (s[d] - 1) * w.stride[d - 2] - w.pad[d - 2] + 1) : 1;
      if (coin(5) == 0) length = std::max(least, length - 1);
      other.push_back(length);
      kernel.push_back(w.kernel[d - 2]);
    }
    for (size_t d = 2; kind == 3 && d < s.size(); ++d)
      if (!all_see(w, d - 2, other[d], s[d])) return {};
    if (kind == 3) return builder("MaxPool").max_pool(x, other, w).small;
    if (kind == 4) return builder("AveragePool").sum_pool(x, other, w, 2);
    const int64_t groups = s[1] % 2 == 0 && coin(3) == 0 ? 2 : 1, channels = 1 + coin(3);
    Shape weight = widens ? Shape{s[1], channels} : Shape{channels * groups, s[1] / groups};
    weight.append(kernel);
    other[1] = channels * groups;
    if (widens) return builder("ConvTranspose").convolve_transposed(x, parameter(weight), other, w);
    return builder("Conv").convolve(x, parameter(weight), other, w);
  }

  TensorId bias(const Shape& s) {
    return s.empty() ? parameter({1}) : parameter(coin(3) == 0 && s.size() > 1 ? Shape{s[s.size() - 2], s.back()} : Shape{s.back()});
  }

  // x x^T x over the last two dimensions: contractions of two activations.
  TensorId attention(TensorId x) {
    const Shape s = shape(x);
    if (s.size() < 2) return {};
    std::string batch;
    for (size_t d = 0; d + 2 < s.size(); ++d) batch += static_cast<char>('a' + d);
    const TensorId scores = builder("MatMul").contract(x, batch + "qk", x, batch + "rk", batch + "qr");
    const TensorId small = builder("Clip").pointwise(Scalar::clip, {scores}, -1, 1);
    return builder("MatMul").contract(small, batch + "qr", x, batch + "rk", batch + "qk");
  }

  // Attention as models have it, over the last two dimensions of a value, with one head or two, and masks of all kinds. It stands at the end: what it
  // makes are no integers, and no operator behind it has a kink.
  void attend() {
    const TensorId x = value();
    const Shape s = shape(x);
    if (s.size() < 2 || s.size() > 3 || elements(s) > 512) return;
    const std::string rows = s.size() == 2 ? "n" : "bn";
    const auto projected = [&](int64_t width) { return builder("MatMul").contract(x, rows + "d", parameter({s.back(), width}), "dw", rows + "w"); };
    const bool has_heads = coin(2) == 0;
    const auto in_heads = [&](TensorId t) {
      if (!has_heads) return t;
      Shape dims = shape(t);
      dims.back() /= 2;
      dims.insert(dims.end() - 1, 2);
      llvm::SmallVector<int, 5> permutation;
      for (size_t d = 0; d < dims.size(); ++d) permutation.push_back(static_cast<int>(d));
      std::swap(permutation[dims.size() - 2], permutation[dims.size() - 3]);
      return builder("Transpose").transpose(builder("Reshape").reshape(t, dims), permutation);
    };
    const int64_t width = 2 * (1 + coin(2)), values = 2 * (1 + coin(2));
    const TensorId q = in_heads(projected(width)), k = in_heads(projected(width)), v = in_heads(projected(values));
    std::string batch;
    for (size_t d = 0; d + 2 < shape(q).size(); ++d) batch += static_cast<char>('a' + d);
    TensorId scores = builder("MatMul").contract(q, batch + "qz", k, batch + "kz", batch + "qk");
    if (coin(2) == 0) scores = builder("Mul").pointwise(Scalar::scale_shift, {scores}, 0.5, 0);
    scores = masked(scores);
    const TensorId weights = builder("Softmax").softmax(scores, static_cast<int>(batch.size()) + 1);
    const TensorId out = builder("MatMul").contract(weights, batch + "qk", v, batch + "kw", batch + "qw");
    values_.push_back(coin(2) == 0 ? out : builder("Mul").pointwise(Scalar::mul, {out, bias(shape(out))}));
    rounds_ = true;
  }

  // A norm over some dimensions of a value, for some with a statistic that goes from step to step. It stands at the end, as attention does.
  void normalise() {
    const TensorId x = value();
    const Shape s = shape(x);
    if (s.empty() || elements(s) > 512) return;
    const int64_t sets = int64_t{1} << s.size();
    const NormAttributes how = {static_cast<DimMask>(1 + coin(sets - 1)), static_cast<DimMask>(coin(sets)), coin(2) == 0, 0.25};
    const Shape weights = lengths_in(how.along, s), kept = lengths_in(~how.over, s);
    TensorId scale, bias;
    if (!weights.empty() && coin(3) > 0) {
      scale = parameter(weights);
      if (coin(2) == 0) bias = parameter(weights);
    }
    const Builder::Norm norm = builder("Norm").norm(x, scale, bias, how);
    values_.push_back(norm.y);
    rounds_ = true;
    if (kept.empty() || coin(2) == 0) return;
    const TensorId old = builder("Mul").pointwise(Scalar::scale_shift, {add_parameter(module_, "running", kept, random_)}, 0.5, 0);
    builder("Add").named("next running").pointwise(Scalar::add, {old, norm.rstd});
    has_state_ = true;
  }

  TensorId masked(TensorId scores) {
    const size_t rank = shape(scores).size();
    const Shape matrix = {shape(scores)[rank - 2], shape(scores)[rank - 1]};
    constexpr double never = -std::numeric_limits<double>::infinity();
    const auto is_seen = [](int64_t query, int64_t key) { return key <= query; };
    switch (coin(5)) {
      case 0:
        return builder("Add").pointwise(
            Scalar::add, {scores, constant<double>(DType::f64, matrix, [&](int64_t q, int64_t k) { return is_seen(q, k) ? 0 : never; })});
      case 1: return builder("Add").pointwise(Scalar::add, {scores, parameter(matrix)});
      case 2: {
        const TensorId mask = constant<char>(DType::b1, matrix, [&](int64_t q, int64_t k) { return !is_seen(q, k); });
        return builder("Where").pointwise(
            Scalar::where, {mask, constant<double>(DType::f64, {}, [&](int64_t, int64_t) { return coin(2) == 0 ? never : -10; }), scores});
      }
      case 3: {
        const TensorId mask = constant<char>(DType::b1, matrix, [&](int64_t q, int64_t k) { return is_seen(q, k); });
        return builder("Where").pointwise(Scalar::where, {mask, scores, constant<double>(DType::f64, {}, [&](int64_t, int64_t) { return -2; })});
      }
      default: return scores;
    }
  }

  // Of rank 2 or 0.
  template <class Value, class ValueOf>
  TensorId constant(DType type, const Shape& dims, const ValueOf& value_of) {
    Tensor t;
    t.name = "c" + std::to_string(constants_++);
    t.dtype = type;
    t.shape = dims;
    t.role = Role::constant;
    std::string bytes;
    for (int64_t q = 0; q < (dims.empty() ? 1 : dims[0]); ++q)
      for (int64_t k = 0; k < (dims.empty() ? 1 : dims[1]); ++k) {
        const auto value = static_cast<Value>(value_of(q, k));
        bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
      }
    t.weight = Weight{"", 0, static_cast<int64_t>(bytes.size()), std::make_shared<const std::string>(std::move(bytes))};
    return module_.add_tensor(std::move(t));
  }

  // Splits a dimension in two, or joins two neighbours.
  TensorId reshape(TensorId x) {
    Shape s = shape(x);
    if (s.empty()) return {};
    const size_t d = static_cast<size_t>(coin(static_cast<int64_t>(s.size())));
    if (coin(2) == 0 && d + 1 < s.size()) {
      s[d] *= s[d + 1];
      s.erase(s.begin() + static_cast<std::ptrdiff_t>(d) + 1);
    } else if (s[d] % 2 == 0 && s[d] > 2) {
      s[d] /= 2;
      s.insert(s.begin() + static_cast<std::ptrdiff_t>(d) + (coin(2) == 0), 2);
    } else {
      return {};
    }
    return builder("Reshape").reshape(x, s);
  }

  // The loss: the sum of everything that nobody reads.
  void finish() {
    const auto readers = module_.consumers();
    std::vector<TensorId> ends;
    for (const TensorId id : values_)
      if (readers[static_cast<size_t>(id.index)].empty()) ends.push_back(id);
    if (ends.empty()) ends.push_back(values_.back());
    TensorId loss;
    for (size_t e = 0; e < ends.size(); ++e) {
      llvm::SmallVector<int, 5> all;
      for (size_t d = 0; d < shape(ends[e]).size(); ++d) all.push_back(static_cast<int>(d));
      const bool is_last = e + 1 == ends.size();
      Builder sum = builder("ReduceSum");
      if (is_last && !loss.valid()) sum.named("loss");
      const TensorId total = all.empty() ? ends[e] : sum.reduce(ends[e], all, false, Join::sum);
      if (!loss.valid()) {
        loss = total;
        continue;
      }
      Builder add = builder("Add");
      if (is_last) add.named("loss");
      loss = add.pointwise(Scalar::add, {loss, total});
    }
    if (module_.tensors[loss].name != "loss") loss = builder("Identity").named("loss").pointwise(Scalar::scale_shift, {loss}, 1, 0);
    module_.outputs = {loss};
    for (const TensorId id : ends)
      if (id != loss && !module_.tensors[id].producers.empty() && coin(2) == 0) module_.outputs.push_back(id);
  }

  Random& random_;
  const int operators_;
  Module module_;
  int64_t batch_ = 0, positions_ = 0;
  int parameters_ = 0, constants_ = 0, nodes_ = 0, since_tamed_ = 0;
  bool rounds_ = false, has_state_ = false;
  std::vector<TensorId> values_;
  std::vector<std::pair<TensorId, Shape>> matrices_;
  std::map<TensorId, int64_t> rows_;
};

// Does a tensor depend on a parameter?
bool is_trainable(const Module& module, TensorId tensor) {
  std::set<TensorId> depends;
  for (const OpId id : module.order) {
    const Op& op = module.ops[id];
    if (llvm::any_of(op.inputs, [&](TensorId input) { return module.tensors[input].role == Role::parameter || depends.contains(input); }))
      depends.insert(op.outputs.begin(), op.outputs.end());
  }
  return depends.contains(tensor);
}

// A class for every position of one of the model's values, some of them ignored: trained by cross entropy instead. Nothing if there is no such value.
bool classify(Model& model, Random& random) {
  Module& module = model.module;
  std::vector<TensorId> logits;
  for (const OpId id : module.order)
    for (const TensorId output : module.ops[id].outputs)
      if (module.tensors[output].shape.size() > 1 && is_trainable(module, output)) logits.push_back(output);
  if (logits.empty()) return false;
  const TensorId chosen = one_of(random, logits);
  Shape shape = module.tensors[chosen].shape;
  const int64_t axis = below(random, static_cast<int64_t>(shape.size()));
  model.classes = shape[static_cast<size_t>(axis)];
  shape.erase(shape.begin() + axis);
  model.labels = shape;
  module.tensors[module.outputs[0]].name = "total";
  if (!llvm::is_contained(module.outputs, chosen)) module.outputs.push_back(chosen);
  model.recipe = R"({"loss": {"kind": "softmax_cross_entropy", "logits": ")" + module.tensors[chosen].name +
                 R"(", "labels": "labels", "class_axis": )" + std::to_string(axis) + (below(random, 2) == 0 ? R"(, "ignore_index": 1)" : "") +
                 R"(}, "optimizer": {"kind": "sgd", "lr": 0.5}})";
  model.steps = 1;
  return true;
}

}  // namespace

const char* const exact_recipe = R"({"loss": {"kind": "graph_output", "output": "loss"}, "optimizer": {"kind": "sgd", "lr": 0.5, "momentum": 0.5}})";

TensorId add_parameter(Module& module, const std::string& name, const Shape& shape, Random& random) {
  Tensor t;
  t.name = name;
  t.dtype = DType::f64;
  t.shape = shape;
  t.role = Role::parameter;
  std::string bytes(static_cast<size_t>(elements(shape)) * 8, '\0');
  for (int64_t i = 0; i < elements(shape); ++i) {
    const double value = static_cast<double>(below(random, 3) - 1);
    std::memcpy(bytes.data() + i * 8, &value, 8);
  }
  t.weight = Weight{"", 0, static_cast<int64_t>(bytes.size()), std::make_shared<const std::string>(std::move(bytes))};
  return module.add_tensor(std::move(t));
}

Model random_model(Random& random, int operators) {
  Model model;
  Generator generator(random, operators);
  model.module = generator.run();
  model.recipe = exact_recipe;
  if (!is_trainable(model.module, model.module.outputs[0])) model.recipe.clear();
  if (generator.rounds()) {
    model.rounds = true;
    model.steps = 1;
    if (!model.recipe.empty() && generator.has_state())
      model.recipe.insert(1, R"("state": [{"initializer": "running", "updated_by": "next running"}], )");
    return model;
  }
  if (below(random, 8) == 0 && classify(model, random)) return model;
  if (model.recipe.empty() || below(random, 4) > 0) return model;
  const std::string loss = R"({"loss": {"kind": "graph_output", "output": "loss"}, "optimizer": )";
  const char* const optimizers[] = {R"({"kind": "sgd", "lr": 0.5, "weight_decay": 0.25})", R"({"kind": "adam", "lr": 0.5})",
                                    R"({"kind": "adamw", "lr": 0.5, "weight_decay": 0.25})"};
  model.recipe = loss + one_of(random, optimizers) + (below(random, 2) == 0 ? R"(, "clip_grad_norm": 0.5})" : "}");
  model.steps = 1;
  return model;
}

void write_data(const Model& model, const std::string& folder, Random& random) {
  const Module& module = model.module;
  std::filesystem::remove_all(folder);
  for (int64_t step = 0; step < model.steps; ++step) {
    const std::string path = folder + "/step_" + std::to_string(step);
    std::filesystem::create_directories(path);
    for (size_t i = 0; i < module.inputs.size(); ++i) {
      const Tensor& t = module.tensors[module.inputs[i]];
      std::vector<double> doubles;
      std::vector<float> floats;
      std::vector<int64_t> indices;
      for (int64_t e = 0; e < elements(t.shape); ++e) {
        if (t.dtype == DType::i64)
          indices.push_back(below(random, 4));
        else
          doubles.push_back(static_cast<double>(below(random, 5) - 2));
      }
      floats.assign(doubles.begin(), doubles.end());
      const void* values = t.dtype == DType::i64   ? static_cast<const void*>(indices.data())
                           : t.dtype == DType::f32 ? static_cast<const void*>(floats.data())
                                                   : doubles.data();
      rt::write_pb(path + "/input_" + std::to_string(i) + ".pb", t.name, t.dtype, std::vector<int64_t>(t.shape.begin(), t.shape.end()), values);
    }
    if (!model.labels) continue;
    std::vector<int64_t> labels;
    for (int64_t e = 0; e < elements(*model.labels); ++e) labels.push_back(below(random, model.classes));
    rt::write_pb(path + "/label_0.pb", "labels", DType::i64, std::vector<int64_t>(model.labels->begin(), model.labels->end()), labels.data());
  }
}

}  // namespace sscc::equivalence
