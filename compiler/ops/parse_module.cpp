#include "compiler/ops/parse_module.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "compiler/ops/ops.h"
#include "compiler/ops/verify.h"
#include "compiler/support/strings.h"

namespace sscc {
namespace {

constexpr int64_t most_elements = int64_t{1} << 40;

struct Malformed {
  std::string what;
};

// One line, read from left to right.
class Line {
 public:
  Line(std::string_view text, int number) : text_(text), number_(number) {}

  int number() const { return number_; }
  int column() const { return static_cast<int>(at_) + 1; }
  bool at_end() {
    skip();
    return at_ == text_.size();
  }
  bool take(std::string_view expected) {
    skip();
    if (text_.substr(at_, expected.size()) != expected) return false;
    at_ += expected.size();
    return true;
  }
  bool next_is(char c) {
    skip();
    return at_ < text_.size() && text_[at_] == c;
  }
  void expect(std::string_view expected) {
    if (!take(expected)) throw Malformed{"expected '" + std::string(expected) + "'"};
  }
  // Up to a blank or one of these.
  std::string word(std::string_view ends = "") {
    skip();
    const size_t begin = at_;
    while (at_ < text_.size() && text_[at_] != ' ' && ends.find(text_[at_]) == std::string_view::npos) ++at_;
    if (begin == at_) throw Malformed{"expected a word"};
    return std::string(text_.substr(begin, at_ - begin));
  }
  int64_t integer() { return number<int64_t>("an integer"); }
  double real() { return number<double>("a number"); }
  std::string quoted_text() {
    expect("\"");
    std::string result;
    for (;; ++at_) {
      if (at_ == text_.size()) throw Malformed{"expected '\"'"};
      if (text_[at_] == '"') break;
      if (text_[at_] == '\\' && at_ + 1 < text_.size()) ++at_;
      result += text_[at_];
    }
    ++at_;
    return result;
  }
  // "[0 1 2]"
  std::vector<int64_t> integers() {
    expect("[");
    std::vector<int64_t> values;
    while (!take("]")) values.push_back(integer());
    return values;
  }

 private:
  void skip() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }
  template <class T>
  T number(const char* what) {
    skip();
    T value{};
    const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
    if (error != std::errc()) throw Malformed{std::string("expected ") + what};
    at_ = static_cast<size_t>(end - text_.data());
    return value;
  }

  std::string_view text_;
  int number_;
  size_t at_ = 0;
};

template <class Value, size_t n>
Value one_of(const std::pair<const char*, Value> (&values)[n], const std::string& word, const char* what) {
  for (const auto& [name, value] : values)
    if (word == name) return value;
  throw Malformed{"no such " + std::string(what) + ": '" + word + "'"};
}

const std::pair<const char*, Role> roles[] = {{"input", Role::input},       {"label", Role::label},           {"parameter", Role::parameter},
                                              {"constant", Role::constant}, {"activation", Role::activation}, {"gradient", Role::gradient},
                                              {"state", Role::state}};
const std::pair<const char*, Join> joins[] = {{"sum", Join::sum}, {"max", Join::max}, {"min", Join::min}, {"logsumexp", Join::logsumexp}};
const std::pair<const char*, DType> types[] = {{"f32", DType::f32},   {"f64", DType::f64}, {"f16", DType::f16},
                                               {"bf16", DType::bf16}, {"i64", DType::i64}, {"i32", DType::i32},
                                               {"i8", DType::i8},     {"u8", DType::u8},   {"b1", DType::b1}};
const std::pair<const char*, Phase> phases[] = {{"forward", Phase::forward}, {"backward", Phase::backward}, {"update", Phase::update}};
const std::pair<const char*, rt::Optimizer> optimizers[] = {
    {"sgd", rt::Optimizer::sgd}, {"adam", rt::Optimizer::adam}, {"adamw", rt::Optimizer::adamw}, {"loss_scale", rt::Optimizer::loss_scale}};

class Parser {
 public:
  Parser(std::string_view text, const std::string& path, Diagnostics& diagnostics) : path_(path), diagnostics_(diagnostics) {
    int number = 1;
    for (size_t begin = 0; begin < text.size(); ++number) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      lines_.emplace_back(text.substr(begin, end - begin), number);
      begin = end + 1;
    }
  }

  Module run() {
    size_t now = 0;
    try {
      for (; now < lines_.size(); ++now) read(lines_[now]);
      now = lines_.empty() ? 0 : lines_.size() - 1;
      finish_ids();  // of a module without operators
    } catch (const Malformed& malformed) {
      if (!lines_.empty()) report(lines_[now], malformed.what);
      return std::move(module_);
    }
    const std::string problem = problem_of(module_);
    if (!problem.empty()) diagnostics_.error(Code::bad_module, {path_, 0, 0, ""}, problem);
    return std::move(module_);
  }

 private:
  void report(const Line& line, const std::string& what) { diagnostics_.error(Code::bad_module, {path_, line.number(), line.column(), ""}, what); }

  void read(Line& line) {
    if (line.at_end()) return;
    if (line.take("%")) return read_tensor(line);
    if (line.take("@")) return read_op(line);
    if (line.take("axes")) return read_axes(line);
    const std::string word = line.word();
    if (word == "module") {
      module_.name = line.quoted_text();
    } else if (word == "mesh") {
      while (!line.at_end()) {
        MeshAxis axis{line.word("="), 1};
        line.expect("=");
        axis.length = line.integer();
        if (axis.length < 1 || axis.length > (1 << 20) || module_.meshes[0].size() > (1 << 20)) throw Malformed{"no length of a mesh axis"};
        module_.meshes[0].axes.push_back(std::move(axis));
      }
    } else if (word == "inputs" || word == "labels" || word == "outputs") {
      auto& list = word == "inputs" ? module_.inputs : word == "labels" ? module_.labels : module_.outputs;
      for (const int64_t id : ids(line)) pending_.push_back({&list, id});
    } else if (word == "loss" || word == "grad_norm") {
      line.expect("%");
      (word == "loss" ? loss_ : grad_norm_) = line.integer();
    } else {
      throw Malformed{"'" + word + "' is no part of a module before 'transform'"};
    }
    if (!line.at_end()) throw Malformed{"expected the end of the line"};
  }

  // "(%1, _, %2)"; -1 for "_".
  std::vector<int64_t> ids(Line& line) {
    std::vector<int64_t> result;
    line.expect("(");
    if (line.take(")")) return result;
    do {
      if (line.take("_")) {
        result.push_back(-1);
      } else {
        line.expect("%");
        result.push_back(line.integer());
      }
    } while (line.take(","));
    line.expect(")");
    return result;
  }
  TensorId tensor(int64_t id) const {
    if (id < 0 || id >= module_.tensors.size()) throw Malformed{"there is no tensor %" + std::to_string(id) + " before this line"};
    return TensorId(id);
  }

  // -- %3 = tensor "name" f32[8x16] activation ... ----------------------------------------------------------------------------------------------

  void read_tensor(Line& line) {
    if (line.integer() != module_.tensors.size()) throw Malformed{"tensors are numbered from 0, one after another"};
    if (!module_.order.empty()) throw Malformed{"tensors stand before operators"};
    line.expect("=");
    line.expect("tensor");
    Tensor t;
    t.name = line.quoted_text();
    t.dtype = one_of(types, line.word("["), "type");
    line.expect("[");
    int64_t elements = 1;
    while (!line.take("]")) {
      if (!t.shape.empty()) line.expect("x");
      t.shape.push_back(line.integer());
      if (t.shape.back() < 1 || t.shape.back() > most_elements / elements) throw Malformed{"no length of a dimension"};
      elements *= t.shape.back();
      if (t.shape.size() > static_cast<size_t>(rt::max_rank)) throw Malformed{"more dimensions than kernels take"};
    }
    t.role = one_of(roles, line.word(), "role");
    const auto self = TensorId(module_.tensors.size());
    while (!line.at_end()) {
      const std::string word = line.word("=");
      if (word == "trainable") {
        t.trainable = true;
      } else if (word == "join") {
        line.expect("=");
        t.join = one_of(joins, line.word(), "join");
      } else if (word == "gradient_of" || word == "next_version_of") {
        line.expect("=%");
        const int64_t of = line.integer();
        if (of < 0 || of >= self.index) throw Malformed{"it stands before that tensor"};
        (word == "gradient_of" ? t.gradient_of : t.next_version_of) = TensorId(of);
      } else {
        throw Malformed{"'" + word + "' is no part of a tensor before 'transform'"};
      }
    }
    module_.add_tensor(std::move(t));
  }

  // -- @3 = contract "name" type="MatMul" forward equation=mk,kn->mn (%0, %1) -> (%2) ... ----------------------------------------------------------

  void read_op(Line& line) {
    finish_ids();
    const int64_t number = line.integer();
    if (number < 0 || number > static_cast<int64_t>(16 * lines_.size())) throw Malformed{"no number of an operator"};
    line.expect("=");
    Op op;
    op.kind = kind_of(line.word());
    op.name = line.quoted_text();
    line.expect("type=");
    op.type = line.quoted_text();
    op.phase = one_of(phases, line.word(), "phase");
    op.attributes = read_attributes(line, op.kind);
    for (const int64_t id : ids(line)) op.inputs.push_back(id < 0 ? TensorId() : tensor(id));
    line.expect("->");
    for (const int64_t id : ids(line)) op.outputs.push_back(id < 0 ? TensorId() : tensor(id));
    while (!line.at_end()) {
      const std::string word = line.word("=");
      line.expect("=");
      if (word == "of") {
        line.expect("@");
        const int64_t forward = line.integer();
        if (forward < 0 || forward >= module_.ops.size() || module_.ops[OpId(forward)].outputs.empty())
          throw Malformed{"there is no operator @" + std::to_string(forward) + " before this one"};
        op.forward = OpId(forward);
      } else if (word == "layer") {
        op.layer = static_cast<int>(std::clamp<int64_t>(line.integer(), 0, 1 << 20));
      } else if (word == "role") {
        op.roles.push_back(line.word());
      } else {
        throw Malformed{"'" + word + "' is no part of an operator before 'transform'"};
      }
    }
    const std::string problem = problem_of(module_, op);
    if (!problem.empty()) throw Malformed{problem};
    op.is_layout = definition(op.kind).is_layout;
    if (!op.name.empty()) op.absorbed = {op.name};
    while (module_.ops.size() <= number) module_.ops.add({});  // some were replaced by others, and have no line
    const OpId self(number);
    if (!module_.ops[self].outputs.empty()) throw Malformed{"two operators have this number"};
    for (const TensorId output : op.outputs)
      if (output.valid()) module_.tensors[output].producers.push_back(self);
    module_.ops[self] = std::move(op);
    module_.order.push_back(self);
    attach_rule(module_, self);
  }

  static Kind kind_of(const std::string& word) {
    for (int k = 0; k <= static_cast<int>(Kind::update); ++k)
      if (word == name_of(static_cast<Kind>(k))) return static_cast<Kind>(k);
    throw Malformed{"no such kind of operator: '" + word + "'"};
  }

  Attributes read_attributes(Line& line, Kind kind) {
    Attributes attributes = empty_attributes(kind);
    while (!line.next_is('(')) {
      const std::string key = line.word("=(");
      line.expect("=");
      if (!std::visit([&](auto& a) { return set(a, key, line); }, attributes)) throw Malformed{"'" + key + "' is no attribute of " + name_of(kind)};
    }
    return attributes;
  }

  static Attributes empty_attributes(Kind kind) {
    switch (kind) {
      case Kind::pointwise: return PointwiseAttributes();
      case Kind::contract: return ContractAttributes();
      case Kind::reduce: return ReduceAttributes();
      case Kind::transpose: return TransposeAttributes();
      case Kind::slice:
      case Kind::pad: return SliceAttributes();
      case Kind::split:
      case Kind::concat:
      case Kind::gather:
      case Kind::scatter_add:
      case Kind::softmax:
      case Kind::softmax_grad: return DimAttributes();
      case Kind::norm:
      case Kind::norm_grad:
      case Kind::norm_grad_scale: return NormAttributes();
      case Kind::convolve:
      case Kind::convolve_transposed:
      case Kind::convolve_grad_weight:
      case Kind::max_pool:
      case Kind::max_pool_grad:
      case Kind::sum_pool:
      case Kind::sum_pool_grad: return WindowAttributes();
      case Kind::pick:
      case Kind::cross_entropy_grad: return ClassAttributes();
      case Kind::update: return UpdateAttributes();
      case Kind::reshape:
      case Kind::expand: return NoAttributes();
    }
    return NoAttributes();
  }

  static bool set(NoAttributes&, const std::string&, Line&) { return false; }
  static bool set(PointwiseAttributes& a, const std::string& key, Line& line) {
    if (key == "alpha") return a.alpha = line.real(), true;
    if (key == "beta") return a.beta = line.real(), true;
    if (key != "function") return false;
    const std::string name = line.word();
#define SSCC_FUNCTION(f, arity) \
  if (name == #f) return a.function = Scalar::f, true;
    SSCC_SCALAR_FUNCTIONS(SSCC_FUNCTION)
#undef SSCC_FUNCTION
    throw Malformed{"no such function: '" + name + "'"};
  }
  static bool set(ContractAttributes& a, const std::string& key, Line& line) {
    if (key == "scale") return a.scale = line.real(), true;
    if (key != "equation") return false;
    const std::string text = line.word();
    const size_t comma = text.find(','), arrow = text.find("->");
    if (comma == std::string::npos || arrow == std::string::npos || comma > arrow) throw Malformed{"no equation: '" + text + "'"};
    a.lhs = text.substr(0, comma);
    a.rhs = text.substr(comma + 1, arrow - comma - 1);
    a.out = text.substr(arrow + 2);
    for (const char c : a.lhs + a.rhs + a.out)
      if (!std::isalpha(static_cast<unsigned char>(c))) throw Malformed{"labels are letters"};
    return true;
  }
  static bool set(ReduceAttributes& a, const std::string& key, Line& line) {
    if (key == "scale") return a.scale = line.real(), true;
    if (key == "keep_dims") return a.keep_dims = line.integer() != 0, true;
    if (key == "join") return a.join = one_of(joins, line.word(), "join"), true;
    if (key != "dims") return false;
    for (const int64_t d : line.integers()) a.dims.push_back(small(d));
    return true;
  }
  static bool set(TransposeAttributes& a, const std::string& key, Line& line) {
    if (key != "permutation") return false;
    for (const int64_t d : line.integers()) a.permutation.push_back(small(d));
    return true;
  }
  static bool set(SliceAttributes& a, const std::string& key, Line& line) {
    if (key != "starts" && key != "steps") return false;
    for (const int64_t value : line.integers()) (key == "starts" ? a.starts : a.steps).push_back(value);
    return true;
  }
  static bool set(DimAttributes& a, const std::string& key, Line& line) { return key == "dim" && (a.dim = small(line.integer()), true); }
  static bool set(NormAttributes& a, const std::string& key, Line& line) {
    if (key == "epsilon") return a.epsilon = line.real(), true;
    if (key == "centred") return a.centred = line.integer() != 0, true;
    if (key != "over" && key != "along") return false;
    for (const int64_t d : line.integers()) {
      if (d < 0 || d >= rt::max_rank) throw Malformed{"there is no such dimension"};
      (key == "over" ? a.over : a.along) |= DimMask{1} << d;
    }
    return true;
  }
  static bool set(WindowAttributes& a, const std::string& key, Line& line) {
    if (key == "scale") return a.scale = line.real(), true;
    auto* const values = key == "kernel"     ? &a.window.kernel
                         : key == "stride"   ? &a.window.stride
                         : key == "dilation" ? &a.window.dilation
                         : key == "pad"      ? &a.window.pad
                                             : nullptr;
    if (!values) return false;
    const std::vector<int64_t> given = line.integers();
    if (given.size() > std::size(*values)) throw Malformed{"more dimensions than kernels take"};
    for (const int64_t value : given)
      if (value < 0 || value > (int64_t{1} << 31)) throw Malformed{"no length of a window"};
    std::copy(given.begin(), given.end(), *values);
    return true;
  }
  static bool set(ClassAttributes& a, const std::string& key, Line& line) {
    if (key == "ignore_index") return a.ignore_index = line.integer(), true;
    return key == "dim" && (a.dim = small(line.integer()), true);
  }
  static bool set(UpdateAttributes& a, const std::string& key, Line& line) {
    rt::UpdateRule& rule = a.rule;
    if (key == "optimizer") return rule.optimizer = one_of(optimizers, line.word(), "optimizer"), true;
    const std::pair<const char*, double*> numbers[] = {{"lr", &rule.lr},       {"momentum", &rule.momentum}, {"beta1", &rule.beta1},
                                                       {"beta2", &rule.beta2}, {"eps", &rule.eps},           {"weight_decay", &rule.weight_decay}};
    for (const auto& [name, value] : numbers)
      if (key == name) return *value = line.real(), true;
    return false;
  }
  static int small(int64_t value) { return static_cast<int>(std::clamp<int64_t>(value, -1, 1 << 20)); }

  // -- axes m=8 k+=16<1: name, mark, length, axis of the forward operator; the rule itself is the kind's ------------------------------------------

  void read_axes(Line& line) {
    if (module_.order.empty()) throw Malformed{"axes belong to an operator"};
    Op& op = module_.ops[module_.order.back()];
    for (Axis& axis : op.rule.axes) {
      std::string name = line.word("=");
      line.expect("=");
      if (name.substr(0, axis.name.size()) != axis.name || line.integer() != axis.length)
        throw Malformed{"the operator's next axis is " + quoted(axis.name)};
      if (!line.take("<")) continue;
      const int64_t forward = line.integer();
      const int64_t count = op.forward.valid() ? static_cast<int64_t>(module_.ops[op.forward].rule.axes.size()) : 0;
      if (forward < 0 || forward >= count) throw Malformed{"the forward operator has no such axis"};
      axis.forward_axis = static_cast<int>(forward);
    }
    if (!line.at_end()) throw Malformed{"the operator has no more axes"};
  }

  // Lists above the tensors that they name.
  void finish_ids() {
    for (const Pending& each : pending_) each.list->push_back(tensor(each.id));
    pending_.clear();
    if (loss_ >= 0) module_.loss = tensor(std::exchange(loss_, -1));
    if (grad_norm_ >= 0) module_.grad_norm = tensor(std::exchange(grad_norm_, -1));
  }

  struct Pending {
    std::vector<TensorId>* list;
    int64_t id;
  };
  const std::string& path_;
  Diagnostics& diagnostics_;
  std::vector<Line> lines_;
  std::vector<Pending> pending_;
  int64_t loss_ = -1, grad_norm_ = -1;
  Module module_;
};

}  // namespace

Module parse_module(std::string_view text, const std::string& path, Diagnostics& diagnostics) { return Parser(text, path, diagnostics).run(); }

}  // namespace sscc
