#include "compiler/codegen/print_instruction.h"

#include <cmath>
#include <set>

#include "compiler/codegen/source_text.h"
#include "compiler/program/calls.h"
#include "compiler/program/views.h"
#include "compiler/support/check.h"

namespace sscc {
namespace {

constexpr size_t columns = 150;

bool contiguous(const View& view) {
  int64_t stride = 1;
  for (size_t d = view.dims.size(); d-- > 0;) {
    if (view.dims[d] != 1 && view.strides[d] != stride) return false;
    stride *= view.dims[d];
  }
  return true;
}

// A call under construction: its function and its arguments, operands of the instruction for the most part.
class Call {
 public:
  Call(const Body& body, llvm::ArrayRef<Instruction> members, const ProgramNames& names, FusedFunctions& fused)
      : body(body), members(members), instruction(members.front()), names(names), fused(fused), function_(name_of(instruction.opcode)) {}

  const Body& body;
  const llvm::ArrayRef<Instruction> members;
  const Instruction& instruction;  // the first
  const ProgramNames& names;
  FusedFunctions& fused;

  Call& function(std::string name) {
    function_ = std::move(name);
    return *this;
  }
  Call& word(std::string text) {
    arguments_.push_back(std::move(text));
    return *this;
  }
  Call& number(int64_t value) { return word(integer_literal(value)); }
  Call& real(double value) { return word(double_literal(value)); }
  Call& list(llvm::ArrayRef<int64_t> values) { return word(braces(values)); }
  Call& dims(const std::string& what, DimMask mask) {
    const llvm::SmallVector<int, 4> dims = dims_in(mask);
    return word(what + "(" + braces(Shape(dims.begin(), dims.end())) + ")");
  }
  // Operands that a kernel can do without may be missing at the end of the list.
  Call& operands(llvm::ArrayRef<View> views, size_t count) {
    for (size_t i = 0; i < count; ++i) word(i < views.size() ? text_of(views[i]) : "no_tensor");
    return *this;
  }
  Call& outs(size_t count) { return operands(instruction.outs, count); }
  Call& ins(size_t count) { return operands(instruction.ins, count); }
  // In braces, from argument `first` on, or as arguments of a function.
  Call& enclose(size_t first, const char* opening = "{", const char* closing = "}") {
    arguments_[first].insert(0, opening);
    arguments_.back() += closing;
    return *this;
  }
  // What comes next begins a line.
  Call& break_line() {
    line_begins_.insert(count());
    return *this;
  }
  size_t count() const { return arguments_.size(); }
  Call& operand_list(llvm::ArrayRef<View> views) {
    std::string text = "{";
    for (const View& view : views) text += (text.size() > 1 ? ", " : "") + text_of(view);
    return word(text + "}");
  }
  Call& constant(int32_t index) { return word(index < 0 ? "0" : "rank.offset_constant(" + std::to_string(index) + ")"); }
  Call& ignore_index(int64_t index) { return word(index == INT64_MIN ? "no_ignore_index" : integer_literal(index)); }
  Call& accumulation() { return word(instruction.accumulate ? "accumulate" : "overwrite"); }

  std::string statement() const {
    std::string line = "  " + function_ + "(";
    const std::string indent(line.size(), ' ');
    std::string result;
    for (size_t i = 0; i < arguments_.size(); ++i) {
      const std::string argument = arguments_[i] + (i + 1 < arguments_.size() ? "," : "");
      if (i > 0 && (line_begins_.contains(i) || line.size() + argument.size() + 3 > columns)) {
        result += line + "\n";
        line = indent + argument;
      } else {
        line += (i > 0 ? " " : "") + argument;
      }
    }
    return result + line + ");\n";
  }

 private:
  std::string text_of(const View& view) const {
    std::string text = "view(buf::" + names.buffers[static_cast<size_t>(view.buffer.index)] + ", ";
    const bool plain = contiguous(view);
    if (view.offset != 0 || !plain) text += std::to_string(view.offset) + ", ";
    text += braces(view.dims);
    if (!plain) text += ", " + braces(view.strides);
    return text + ")";
  }

  std::string function_;
  std::vector<std::string> arguments_;
  std::set<size_t> line_begins_;
};

template <class Expression>
const Expression& expression_of(const Call& call) {
  return std::get<Expression>(call.instruction.expression);
}

void print_pointwise(Call& call) {
  const Instruction& instruction = call.instruction;
  const auto& expression = expression_of<PointwiseExpression>(call);
  // One function of operands of one type is known to the runtime; all else is compiled.
  const auto has_type = [&](const View& view) { return call.body.buffers[view.buffer].dtype == expression.steps[0].dtype; };
  const bool single =
      expression.steps.size() == 1 && instruction.outs.size() == 1 && has_type(instruction.outs[0]) && llvm::all_of(instruction.ins, has_type);
  if (!single) {
    call.function("fused::" + call.fused.name_for(call.body, instruction))
        .operand_list(instruction.outs)
        .operand_list(instruction.ins)
        .accumulation();
    return;
  }
  const rt::ScalarStep& step = expression.steps[0];
  llvm::SmallVector<View, 3> arguments;  // a step may name operands in any order
  for (int i = 0; i < rt::arity_of(step.function); ++i) arguments.push_back(instruction.ins[static_cast<size_t>(step.args[i])]);
  call.outs(1).word(std::string("Scalar::") + rt::name_of(step.function)).operand_list(arguments);
  const bool has_constants = step.alpha != 0 || step.beta != 0;
  call.word(has_constants ? "{" + double_literal(step.alpha) + ", " + double_literal(step.beta) + "}" : "{}").accumulation();
}

void print_norm(Call& call) {
  const auto& norm = expression_of<NormExpression>(call);
  const auto what = [&]() -> Call& { return call.dims("over", norm.over).dims("along", norm.along); };
  if (call.instruction.opcode == Opcode::norm) {
    call.outs(3).ins(3);
    what().real(norm.epsilon);
    return;
  }
  if (call.instruction.opcode == Opcode::norm_grad_scale) {
    call.outs(2).ins(4);
  } else {
    const llvm::ArrayRef<View> ins = call.instruction.ins;  // dy, x, rstd, [mean], [scale]
    const size_t statistics = norm.centred ? 2 : 1;
    call.outs(1).operands(ins.take_front(2 + statistics), 4).operands(ins.drop_front(2 + statistics), 1);
  }
  what().accumulation();
}

void print_update(Call& call) {
  const bool has_lines = call.members.size() > 1;
  for (const Instruction& each : call.members) {
    if (has_lines) call.break_line();
    const size_t first = call.count(), moments = each.outs.size() - 1;
    const llvm::ArrayRef<View> of_moments = llvm::ArrayRef<View>(each.ins).slice(2, moments);
    const bool in_place = same_place(each.outs[0], each.ins[0]) && llvm::equal(llvm::ArrayRef<View>(each.outs).drop_front(), of_moments, same_place);
    if (!in_place) call.operands(each.outs, 3);
    call.operands(each.ins, 2).operands(of_moments, in_place ? moments : 2);
    in_place ? call.enclose(first, "in_place(", ")") : call.enclose(first);
  }
  call.enclose(0);
  if (has_lines) call.break_line();
  call.operands(scalars_of_update(call.instruction), 3);
  call.word(call.names.rule(expression_of<UpdateExpression>(call).rule)).word("rank.step()");
}

std::string rule_text(const rt::AttentionRule& rule) {
  static const char* const masks[] = {"none", "add", "replace", "keep"};
  std::string text = "{.scale = " + double_literal(rule.scale);
  if (rule.mask != rt::AttentionMask::none) text += std::string(", .mask = AttentionMask::") + masks[static_cast<int>(rule.mask)];
  if (std::isfinite(rule.low)) text += ", .low = " + double_literal(rule.low);
  if (std::isfinite(rule.high)) text += ", .high = " + double_literal(rule.high);
  return text + "}";
}

// As much of a window as there are dimensions of space; what is as in most windows is left out.
std::string window_text(const rt::Window& window, size_t space) {
  std::string text;
  const auto add = [&](const char* name, const int64_t(&values)[rt::max_space], int64_t otherwise) {
    const llvm::ArrayRef<int64_t> used(values, space);
    if (llvm::any_of(used, [&](int64_t value) { return value != otherwise; }))
      text += (text.empty() ? "." : ", .") + std::string(name) + " = " + braces(Shape(used.begin(), used.end()));
  };
  add("kernel", window.kernel, 1);
  add("stride", window.stride, 1);
  add("dilation", window.dilation, 1);
  add("pad", window.pad, 0);
  return "Window{" + text + "}";
}

void print_windows(Call& call) {
  const auto& [window, scale] = expression_of<WindowExpression>(call);
  const Opcode opcode = call.instruction.opcode;
  call.outs(call.instruction.outs.size()).ins(call.instruction.ins.size());
  call.word(window_text(window, call.instruction.ins[0].dims.size() - 2));
  if (opcode == Opcode::sum_pool || opcode == Opcode::sum_pool_grad) call.real(scale);
  if (opcode != Opcode::max_pool && opcode != Opcode::sum_pool) call.accumulation();
}

void print_epilogue(Call& call) {
  const auto& e = expression_of<EpilogueExpression>(call);
  const llvm::ArrayRef<View> ins = call.instruction.ins;
  const size_t bias = e.has_base ? 3 : 2, before = bias + e.has_bias;
  call.outs(2).ins(2).operands(ins.slice(2, e.has_base), 1).operands(ins.slice(bias, e.has_bias), 1).operands(ins.drop_front(before), 1);
  call.word(string_literal(e.equation)).real(e.scale).word(std::string("Scalar::") + rt::name_of(e.function));
}

void print_attention(Call& call) {
  const bool is_forward = call.instruction.opcode == Opcode::attention;
  const auto& attention = expression_of<AttentionExpression>(call);
  call.outs(is_forward ? 2 : 3).ins(is_forward ? 5 : 8).word(string_literal(attention.equation)).word(rule_text(attention.rule));
}

void print_sum_of_squares(Call& call) {
  call.function("sum_of_squares").outs(1);
  for (const Instruction& each : call.members) call.operands(each.ins, 1);
  call.enclose(1).accumulation();
}

void print_communication(Call& call) {
  const auto& communication = expression_of<Communication>(call);
  const Opcode opcode = call.instruction.opcode;
  switch (opcode) {
    case Opcode::send: call.function("rank.send").ins(1).number(communication.peer); break;
    case Opcode::receive: call.function("rank.receive").outs(1).number(communication.peer); break;
    case Opcode::all_reduce: call.function("rank.all_reduce").outs(1).number(communication.group); break;
    case Opcode::all_gather: call.function("rank.all_gather").outs(1).ins(1).number(communication.group); break;
    case Opcode::reduce_scatter: call.function("rank.reduce_scatter").outs(1).ins(1).number(communication.group); break;
    case Opcode::broadcast: {
      const bool is_root = call.instruction.outs.empty();
      call.function("rank.broadcast").operands(is_root ? llvm::ArrayRef<View>(call.instruction.ins) : call.instruction.outs, 1);
      call.number(communication.group).number(communication.root);
      break;
    }
    case Opcode::all_to_all: call.function("rank.all_to_all").outs(1).ins(1).number(communication.group); break;
    default: SSCC_CHECK(false, "not a communication");
  }
  if (opcode == Opcode::all_reduce || opcode == Opcode::reduce_scatter) call.word(std::string("Join::") + word_of(communication.join));
  call.number(communication.transfer).word(communication.crosses_micro_batches ? "0" : "micro_batch");
}

void print_capture(Call& call) {
  const auto& capture = expression_of<Capture>(call);
  switch (capture.what) {
    case Capture::What::loss: call.function("rank.capture_loss").ins(1); break;
    case Capture::What::grad_norm: call.function("rank.capture_grad_norm").ins(1); break;
    case Capture::What::output:
      call.function("rank.capture_output").word(string_literal(capture.tensor)).ins(1).number(capture.regions).word("micro_batch");
      break;
    case Capture::What::gradient:
      call.function("rank.capture_gradient").word(string_literal(capture.tensor)).ins(1).number(capture.regions);
      if (call.instruction.ins.size() > 1) call.operands(llvm::ArrayRef<View>(call.instruction.ins).drop_front(), 1);
      break;
  }
}

void print_lookup(Call& call) {
  const auto& index = expression_of<IndexExpression>(call);
  switch (call.instruction.opcode) {
    case Opcode::gather: call.outs(1).ins(2).number(index.dim).constant(index.offset).number(index.length); break;
    case Opcode::scatter_add: call.outs(1).ins(2).number(index.dim).constant(index.offset).number(index.length).accumulation(); break;
    case Opcode::pick: call.outs(1).ins(2).number(index.dim).constant(index.offset).number(index.length).ignore_index(index.ignore_index); break;
    case Opcode::cross_entropy_grad: call.outs(1).ins(4).number(index.dim).constant(index.offset).ignore_index(index.ignore_index); break;
    default: SSCC_CHECK(false, "not a lookup");
  }
}

void print_arguments(Call& call) {
  switch (call.instruction.opcode) {
    case Opcode::contract: {
      if (is_sum_of_squares(call.body, call.instruction)) return print_sum_of_squares(call);
      const auto& contraction = expression_of<ContractExpression>(call);
      call.outs(1).ins(2).word(string_literal(contraction.equation)).real(contraction.scale).accumulation();
      break;
    }
    case Opcode::contract_epilogue: print_epilogue(call); break;
    case Opcode::pointwise: print_pointwise(call); break;
    case Opcode::reduce: {
      const auto& reduction = expression_of<ReduceExpression>(call);
      call.outs(1).ins(1).dims("over", reduction.reduced).word(std::string("Join::") + word_of(reduction.join)).real(reduction.scale).accumulation();
      break;
    }
    case Opcode::copy: call.outs(1).ins(1).accumulation(); break;
    case Opcode::fill: call.outs(1).real(expression_of<FillValue>(call).value); break;
    case Opcode::gather:
    case Opcode::scatter_add:
    case Opcode::pick:
    case Opcode::cross_entropy_grad: print_lookup(call); break;
    case Opcode::softmax: call.outs(1).ins(1).number(expression_of<DimExpression>(call).dim); break;
    case Opcode::softmax_grad: call.outs(1).ins(2).number(expression_of<DimExpression>(call).dim); break;
    case Opcode::attention:
    case Opcode::attention_grad: print_attention(call); break;
    case Opcode::norm:
    case Opcode::norm_grad:
    case Opcode::norm_grad_scale: print_norm(call); break;
    case Opcode::convolve:
    case Opcode::convolve_transposed:
    case Opcode::convolve_grad_weight:
    case Opcode::max_pool:
    case Opcode::max_pool_grad:
    case Opcode::sum_pool:
    case Opcode::sum_pool_grad: print_windows(call); break;
    case Opcode::pad: {
      const auto& padding = expression_of<PadExpression>(call);
      call.outs(1).ins(1).list(padding.starts).list(padding.steps).accumulation();
      break;
    }
    case Opcode::update: print_update(call); break;
    case Opcode::send:
    case Opcode::receive:
    case Opcode::all_reduce:
    case Opcode::all_gather:
    case Opcode::reduce_scatter:
    case Opcode::broadcast:
    case Opcode::all_to_all: print_communication(call); break;
    case Opcode::capture: print_capture(call); break;
  }
}

}  // namespace

std::string type_and_shape(const Body& body, const View& view) {
  std::string text = word_of(body.buffers[view.buffer].dtype);
  for (size_t d = 0; d < view.dims.size(); ++d) text += (d ? "x" : " ") + std::to_string(view.dims[d]);
  return text;
}

const std::string& ProgramNames::rule(const rt::UpdateRule& rule) const {
  for (const NamedRule& named : update_rules) {
    if (named.rule == rule) return named.name;
  }
  SSCC_CHECK(false, "an update rule without a name");
}

std::string print_call(const Body& body, llvm::ArrayRef<Instruction> call, const ProgramNames& names, FusedFunctions& fused) {
  Call printed(body, call, names, fused);
  print_arguments(printed);
  return printed.statement();
}

}  // namespace sscc
