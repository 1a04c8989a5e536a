#include "compiler/ops/verify.h"

#include <algorithm>
#include <set>

#include "compiler/ops/windows.h"
#include "compiler/support/strings.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

using Dims = llvm::ArrayRef<int64_t>;

// The operator under inspection; each check returns what is wrong.
class Inspector {
 public:
  Inspector(const Module& module, const Op& op) : module_(module), op_(op) {}

  std::string run() const {
    switch (op_.kind) {
      case Kind::pointwise: return pointwise();
      case Kind::contract: return contract();
      case Kind::reduce: return reduce();
      case Kind::reshape: return count(1, 1) ? "" : operands();
      case Kind::transpose: return transpose();
      case Kind::slice: return strided(in(0), out(0));
      case Kind::pad: return strided(out(0), in(0));
      case Kind::split: return parts(op_.inputs, op_.outputs);
      case Kind::concat: return parts(op_.outputs, op_.inputs);
      case Kind::expand: return broadcasts(in(0), out(0)) ? "" : "the operand does not broadcast";
      case Kind::gather: return lookup(in(0), in(1), out(0));
      case Kind::scatter_add: return lookup(out(0), in(0), in(1));
      case Kind::softmax: return all_equal({in(0), out(0)}, dim());
      case Kind::softmax_grad: return all_equal({in(0), in(1), out(0)}, dim());
      case Kind::norm: return norm();
      case Kind::norm_grad: return norm_grad();
      case Kind::norm_grad_scale: return norm_grad_scale();
      case Kind::convolve:
      case Kind::convolve_transposed:
      case Kind::convolve_grad_weight:
      case Kind::max_pool:
      case Kind::max_pool_grad:
      case Kind::sum_pool:
      case Kind::sum_pool_grad: return windows(*window_operands(op_.kind));
      case Kind::pick: return classes(in(0), {in(1), out(0)});
      case Kind::cross_entropy_grad: return classes(in(0), {in(1), in(2), in(3)});
      case Kind::update: return all_equal({in(0), in(1), out(0)}, 0);
    }
    return "";
  }

  // Operands that the kind reads and writes, and attributes of its sort, are there.
  std::string form() const {
    const auto [inputs, outputs, attributes] = needs();
    if (op_.inputs.size() < inputs || op_.outputs.size() < outputs) return "operands are missing";
    for (size_t i = 0; i < inputs; ++i)
      if (!op_.inputs[i].valid()) return "operands are missing";
    for (size_t i = 0; i < outputs; ++i)
      if (!op_.outputs[i].valid()) return "operands are missing";
    if (op_.attributes.index() != attributes) return "attributes of another kind";
    return "";
  }

 private:
  struct Needs {
    size_t inputs, outputs, attributes;
  };
  template <class T>
  static constexpr size_t index_of() {
    return Attributes(T()).index();
  }
  Needs needs() const {
    switch (op_.kind) {
      case Kind::pointwise: return {1, 1, index_of<PointwiseAttributes>()};
      case Kind::contract: return {2, 1, index_of<ContractAttributes>()};
      case Kind::reduce: return {1, 1, index_of<ReduceAttributes>()};
      case Kind::reshape: return {1, 1, index_of<NoAttributes>()};
      case Kind::expand: return {1, 1, index_of<NoAttributes>()};
      case Kind::transpose: return {1, 1, index_of<TransposeAttributes>()};
      case Kind::slice: return {1, 1, index_of<SliceAttributes>()};
      case Kind::pad: return {1, 1, index_of<SliceAttributes>()};
      case Kind::split: return {1, 1, index_of<DimAttributes>()};
      case Kind::concat: return {1, 1, index_of<DimAttributes>()};
      case Kind::gather: return {2, 1, index_of<DimAttributes>()};
      case Kind::scatter_add: return {2, 1, index_of<DimAttributes>()};
      case Kind::softmax: return {1, 1, index_of<DimAttributes>()};
      case Kind::softmax_grad: return {2, 1, index_of<DimAttributes>()};
      case Kind::norm: return {1, 2 + statistics(), index_of<NormAttributes>()};
      case Kind::norm_grad: return {3 + statistics(), 1, index_of<NormAttributes>()};
      case Kind::norm_grad_scale: return {3 + statistics(), 1, index_of<NormAttributes>()};
      case Kind::convolve:
      case Kind::convolve_transposed:
      case Kind::convolve_grad_weight: return {2, 1, index_of<WindowAttributes>()};
      case Kind::max_pool: return {1, 2, index_of<WindowAttributes>()};
      case Kind::max_pool_grad: return {2, 1, index_of<WindowAttributes>()};
      case Kind::sum_pool:
      case Kind::sum_pool_grad: return {1, 1, index_of<WindowAttributes>()};
      case Kind::pick: return {2, 1, index_of<ClassAttributes>()};
      case Kind::cross_entropy_grad: return {4, 1, index_of<ClassAttributes>()};
      case Kind::update: return {2, 1, index_of<UpdateAttributes>()};
    }
    return {0, 0, 0};
  }

  DType type_of(TensorId id) const { return module_.tensors[id].dtype; }
  Dims shape(TensorId id) const { return module_.tensors[id].shape; }
  Dims in(size_t i) const { return shape(op_.inputs[i]); }
  Dims out(size_t i) const { return shape(op_.outputs[i]); }
  int dim() const { return std::get<DimAttributes>(op_.attributes).dim; }
  static std::string operands() { return "the operands' shapes do not fit"; }
  bool count(size_t inputs, size_t outputs) const {
    return op_.inputs.size() == inputs && op_.outputs.size() == outputs && product(in(0)) == product(out(0));
  }
  static int64_t product(Dims dims) {
    int64_t n = 1;
    for (const int64_t d : dims) n *= d;
    return n;
  }
  static bool broadcasts(Dims from, Dims to) {
    if (from.size() > to.size()) return false;
    for (size_t d = 0; d < from.size(); ++d)
      if (from[d] != 1 && from[d] != to[d + to.size() - from.size()]) return false;
    return true;
  }

  std::string pointwise() const {
    const Scalar function = std::get<PointwiseAttributes>(op_.attributes).function;
    if (op_.inputs.size() != static_cast<size_t>(rt::arity_of(function)) || op_.outputs.size() != 1)
      return "function " + std::string(rt::name_of(function)) + " has another number of operands";
    for (const TensorId input : op_.inputs)
      if (!input.valid() || !broadcasts(shape(input), out(0))) return "an operand does not broadcast to the result";
    return "";
  }

  std::string contract() const {
    const auto& a = std::get<ContractAttributes>(op_.attributes);
    std::map<char, int64_t> lengths;
    for (const auto& [labels, dims] : {std::pair(a.lhs, in(0)), std::pair(a.rhs, in(1)), std::pair(a.out, out(0))}) {
      if (labels.size() != dims.size()) return "as many labels as dimensions are needed";
      if (std::set<char>(labels.begin(), labels.end()).size() != labels.size()) return "a label stands twice in an operand";
      for (size_t d = 0; d < labels.size(); ++d)
        if (lengths.try_emplace(labels[d], dims[d]).first->second != dims[d]) return "lengths of label '" + std::string(1, labels[d]) + "' differ";
    }
    for (const char label : a.out)
      if ((a.lhs + a.rhs).find(label) == std::string::npos) return "a label of the result is in no operand";
    return "";
  }

  std::string reduce() const {
    const auto& a = std::get<ReduceAttributes>(op_.attributes);
    Shape expected;
    std::set<int> dims(a.dims.begin(), a.dims.end());
    if (dims.size() != a.dims.size()) return "a dimension is reduced twice";
    for (const int d : dims)
      if (d < 0 || d >= static_cast<int>(in(0).size())) return "there is no such dimension";
    for (size_t d = 0; d < in(0).size(); ++d) {
      if (!dims.contains(static_cast<int>(d)))
        expected.push_back(in(0)[d]);
      else if (a.keep_dims)
        expected.push_back(1);
    }
    return Dims(expected) == out(0) ? "" : operands();
  }

  std::string transpose() const {
    const auto& permutation = std::get<TransposeAttributes>(op_.attributes).permutation;
    if (permutation.size() != in(0).size() || permutation.size() != out(0).size()) return operands();
    std::set<int> seen;
    for (size_t d = 0; d < permutation.size(); ++d) {
      if (permutation[d] < 0 || permutation[d] >= static_cast<int>(permutation.size()) || !seen.insert(permutation[d]).second)
        return "no permutation";
      if (out(0)[d] != in(0)[static_cast<size_t>(permutation[d])]) return operands();
    }
    return "";
  }

  // `inner` lies in `outer` at starts, in steps.
  std::string strided(Dims outer, Dims inner) const {
    const auto& a = std::get<SliceAttributes>(op_.attributes);
    if (outer.size() != inner.size() || a.starts.size() != outer.size() || a.steps.size() != outer.size()) return operands();
    for (size_t d = 0; d < outer.size(); ++d)
      if (a.starts[d] < 0 || a.steps[d] < 1 || a.steps[d] > outer[d] || a.starts[d] >= outer[d] ||
          a.starts[d] + (inner[d] - 1) * a.steps[d] >= outer[d])
        return "the slice lies outside";
    return "";
  }

  std::string parts(llvm::ArrayRef<TensorId> whole, llvm::ArrayRef<TensorId> pieces) const {
    if (whole.size() != 1) return "operands are missing";
    const Dims all = shape(whole[0]);
    if (dim() < 0 || dim() >= static_cast<int>(all.size())) return "there is no such dimension";
    int64_t sum = 0;
    for (const TensorId piece : pieces) {
      if (!piece.valid() || shape(piece).size() != all.size()) return operands();
      for (size_t d = 0; d < all.size(); ++d)
        if (static_cast<int>(d) != dim() && shape(piece)[d] != all[d]) return operands();
      sum += shape(piece)[static_cast<size_t>(dim())];
    }
    return sum == all[static_cast<size_t>(dim())] ? "" : operands();
  }

  std::string lookup(Dims data, Dims indices, Dims result) const {
    if (dim() < 0 || dim() >= static_cast<int>(data.size())) return "there is no such dimension";
    Shape expected(data.begin(), data.begin() + dim());
    expected.append(indices.begin(), indices.end());
    expected.append(data.begin() + dim() + 1, data.end());
    return Dims(expected) == result ? "" : operands();
  }

  std::string all_equal(std::initializer_list<Dims> shapes, int dim) const {
    for (const Dims each : shapes)
      if (each != *shapes.begin()) return operands();
    if (op_.kind != Kind::update && (dim < 0 || dim >= static_cast<int>(shapes.begin()->size()))) return "there is no such dimension";
    return "";
  }

  // Beside rstd: a mean, or none.
  size_t statistics() const {
    const auto* a = std::get_if<NormAttributes>(&op_.attributes);
    return a && a->centred ? 1 : 0;
  }
  using Operands = llvm::ArrayRef<TensorId>;
  std::string norm() const {
    if (op_.inputs.size() > 3 || op_.outputs.size() != 2 + statistics()) return operands();
    return norm(in(0), Operands(op_.outputs).drop_front(), Operands(op_.inputs).drop_front(), {out(0)});
  }
  std::string norm_grad() const {
    const Operands behind = Operands(op_.inputs).drop_front(2);
    const size_t kept = 1 + statistics();
    if (behind.size() > kept + 1 || op_.outputs.size() != 1) return operands();
    return norm(in(1), behind.take_front(kept), behind.drop_front(kept), {in(0), out(0)});
  }
  std::string norm_grad_scale() const {
    if (op_.inputs.size() != 3 + statistics() || op_.outputs.size() > 2) return operands();
    return norm(in(1), Operands(op_.inputs).drop_front(2), op_.outputs, {in(0)});
  }
  std::string norm(Dims x, Operands kept, Operands along, std::initializer_list<Dims> full) const {
    const auto& a = std::get<NormAttributes>(op_.attributes);
    if (a.over == 0 || (a.over | a.along) >> x.size() != 0) return "there is no such dimension";
    const auto has = [&](DimMask mask) {
      return [&, lengths = lengths_in(mask, x)](TensorId id) { return id.valid() && shape(id) == Dims(lengths); };
    };
    const bool fits = llvm::all_of(kept, has(~a.over)) && llvm::all_of(along, has(a.along));
    // Statistics, scale and bias have the type that the norm is computed in.
    const DType type = type_of(op_.kind == Kind::norm ? op_.inputs[0] : op_.inputs[1]);
    const auto is_computed = [&](TensorId id) { return type_of(id) == rt::arithmetic_type(type); };
    if (fits && (!rt::is_float(type) || !llvm::all_of(kept, is_computed) || !llvm::all_of(along, is_computed)))
      return "the operands' types do not fit";
    return fits && llvm::all_of(full, [&](Dims each) { return each == x; }) ? "" : operands();
  }

  std::string windows(const WindowOperands& at) const {
    const rt::Window& window = std::get<WindowAttributes>(op_.attributes).window;
    const Dims large = shape(operand(op_, at.large)), small = shape(operand(op_, at.small));
    if (large.size() < 3 || large.size() > 2 + static_cast<size_t>(rt::max_space) || small.size() != large.size() || small[0] != large[0])
      return operands();
    for (size_t d = 0; d < static_cast<size_t>(rt::max_space); ++d)
      if (window.kernel[d] < 1 || window.stride[d] < 1 || window.dilation[d] < 1 || window.pad[d] < 0) return "no such window";
    for (size_t d = 2; d < large.size(); ++d) {
      const int64_t stride = window.stride[d - 2], pad = window.pad[d - 2], reach = (window.kernel[d - 2] - 1) * window.dilation[d - 2];
      if (reach < pad || (small[d] - 1) * stride - pad >= large[d]) return "a window lies outside";
      if (op_.kind == Kind::max_pool && !all_see(window, d - 2, small[d], large[d])) return "a window sees nothing";
    }
    if (at.taps >= 0 && shape(operand(op_, at.taps)) != small) return operands();
    for (const int index : {at.large, at.small, at.weight})
      if (index >= 0 && !rt::is_float(type_of(operand(op_, index)))) return "the operands' types do not fit";
    if (at.taps >= 0 && type_of(operand(op_, at.taps)) != DType::u8) return "the operands' types do not fit";
    if (at.weight < 0) return small[1] == large[1] ? "" : operands();
    const Dims weight = shape(operand(op_, at.weight));
    if (weight.size() != large.size() || weight[0] != small[1] || large[1] % weight[1] != 0 || small[1] % (large[1] / weight[1]) != 0)
      return operands();
    for (size_t d = 2; d < weight.size(); ++d)
      if (weight[d] != window.kernel[d - 2]) return operands();
    return "";
  }

  std::string classes(Dims scores, std::initializer_list<Dims> others) const {
    const int dim = std::get<ClassAttributes>(op_.attributes).dim;
    if (dim < 0 || dim >= static_cast<int>(scores.size())) return "there is no such dimension";
    Shape expected(scores.begin(), scores.end());
    expected.erase(expected.begin() + dim);
    for (const Dims each : others)
      if (each != Dims(expected)) return operands();
    return op_.kind == Kind::cross_entropy_grad && out(0) != scores ? operands() : "";
  }

  const Module& module_;
  const Op& op_;
};

}  // namespace

std::string problem_of(const Module& module, const Op& op) {
  const Inspector inspector(module, op);
  const std::string problem = inspector.form();
  return problem.empty() ? inspector.run() : problem;
}

std::string problem_of(const Module& module) {
  std::vector<char> made(static_cast<size_t>(module.tensors.size()), 0);
  for (int64_t t = 0; t < module.tensors.size(); ++t) made[static_cast<size_t>(t)] = module.tensors[TensorId(t)].producers.empty();
  const auto about = [](const Op& op, const std::string& problem) { return std::string(name_of(op.kind)) + " " + quoted(op.name) + ": " + problem; };
  for (const OpId id : module.order) {
    const Op& op = module.ops[id];
    for (const TensorId input : op.inputs)
      if (input.valid() && !made[static_cast<size_t>(input.index)])
        return about(op, "reads " + quoted(module.tensors[input].name) + " before it is made");
    const std::string problem = problem_of(module, op);
    if (!problem.empty()) return about(op, problem);
    for (const TensorId output : op.outputs) {
      if (!output.valid()) continue;
      const auto& producers = module.tensors[output].producers;
      if (std::find(producers.begin(), producers.end(), id) == producers.end()) return about(op, "is not entered as what makes its result");
      made[static_cast<size_t>(output.index)] = 1;
    }
  }
  return "";
}

}  // namespace sscc
