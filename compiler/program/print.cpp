#include "compiler/program/print.h"

#include "llvm/Support/FormatVariadic.h"

namespace sscc {
namespace {

std::string print_view(const Body& body, const View& view) {
  std::string text = body.buffers[view.buffer].name + "[" + to_string(view.dims) + "]";
  if (view.offset != 0 || !view.is_contiguous()) {
    text += "+" + std::to_string(view.offset);
    if (!view.is_contiguous()) {
      text += "/";
      for (size_t d = 0; d < view.strides.size(); ++d) text += (d ? "x" : "") + std::to_string(view.strides[d]);
    }
  }
  return text;
}

std::string print_expression(const Instruction& i) {
  if (const auto* e = std::get_if<PointwiseExpression>(&i.expression)) {
    std::string text = " {";
    for (size_t s = 0; s < e->steps.size(); ++s) {
      const rt::ScalarStep& step = e->steps[s];
      text += (s ? "; " : " ") + std::string("v") + std::to_string(s) + " = " + rt::name_of(step.function) + "(";
      for (int a = 0; a < rt::arity_of(step.function); ++a)
        text += (a ? ", " : "") + (step.args[a] < 0 ? "v" + std::to_string(~step.args[a]) : "in" + std::to_string(step.args[a]));
      text += ")";
    }
    return text + " }";
  }
  if (const auto* e = std::get_if<ContractExpression>(&i.expression)) return " " + e->equation;
  if (const auto* e = std::get_if<EpilogueExpression>(&i.expression)) {
    std::string text = " " + e->equation;
    if (e->has_base) text += " + base";
    if (e->has_bias) text += " + bias";
    return e->function == rt::Scalar::identity ? text : text + " " + rt::name_of(e->function);
  }
  if (const auto* e = std::get_if<AttentionExpression>(&i.expression)) {
    static const char* const masks[] = {"", " mask added", " mask replaces", " mask keeps"};
    return " " + e->equation + " scale " + llvm::formatv("{0}", e->rule.scale).str() + masks[static_cast<int>(e->rule.mask)];
  }
  if (const auto* e = std::get_if<WindowExpression>(&i.expression)) {
    const auto numbers = [&](const int64_t(&values)[rt::max_space]) { return to_string(Shape(values, values + i.ins[0].dims.size() - 2)); };
    const rt::Window& w = e->window;
    return " kernel " + numbers(w.kernel) + " stride " + numbers(w.stride) + " dilation " + numbers(w.dilation) + " pad " + numbers(w.pad);
  }
  if (const auto* e = std::get_if<ReduceExpression>(&i.expression)) return " mask " + std::to_string(e->reduced);
  if (const auto* e = std::get_if<Communication>(&i.expression))
    return (e->group >= 0 ? " group#" + std::to_string(e->group) : " peer#" + std::to_string(e->peer)) + " transfer " + std::to_string(e->transfer);
  if (const auto* e = std::get_if<Capture>(&i.expression)) return " " + e->tensor;
  return "";
}

// "after 3, 0F:12, 0F:7-1": instruction 3 of this run, 12 of the last run of 0F, 7 of the run before that.
std::string print_waits(const Body& body, const Instruction& i) {
  std::string text;
  const auto separator = [&] { return text.empty() ? " after " : ", "; };
  for (const int32_t other : i.waits) text += separator() + std::to_string(other);
  for (const EarlierRun& run : i.waits_before) {
    text += separator() + body.segments[static_cast<size_t>(run.segment)].name + ":" + std::to_string(run.instruction);
    if (run.age > 0) text += "-" + std::to_string(run.age);
  }
  return text;
}

void print_body(std::string& text, const Body& body, size_t index) {
  text += "program " + std::to_string(index) + ": arena " + std::to_string(body.arena_bytes) + " bytes" +
          (body.host_bytes > 0 ? ", on the host " + std::to_string(body.host_bytes) : "") + "\n";
  for (const Buffer& b : body.buffers)
    text += "  buffer " + b.name + " " + std::to_string(b.elements) + " x " + std::to_string(b.copies) + " at " + std::to_string(b.offset) +
            (b.on_host ? " on host\n" : "\n");
  for (const ProgramSegment& segment : body.segments) {
    if (segment.instructions.empty()) continue;
    text += "  segment " + segment.name + (segment.variant > 0 ? " variant " + std::to_string(segment.variant) : "") + "\n";
    for (const Instruction& i : segment.instructions) {
      text += "    ";
      for (size_t o = 0; o < i.outs.size(); ++o) text += (o ? ", " : "") + print_view(body, i.outs[o]);
      text += std::string(i.accumulate ? " += " : " = ") + name_of(i.opcode) + print_expression(i) + (i.with_next ? " with next (" : " (");
      for (size_t k = 0; k < i.ins.size(); ++k) text += (k ? ", " : "") + print_view(body, i.ins[k]);
      text += ")";
      if (i.on_host) text += " on host";
      if (i.stream != 0) text += " stream " + std::to_string(i.stream);
      text += print_waits(body, i) + "  # " + i.origin + "\n";
    }
  }
  text += "  schedule";
  for (const ProgramSlot& slot : body.schedule)
    text += " " + body.segments[static_cast<size_t>(slot.segment)].name + "." + std::to_string(slot.micro_batch);
  text += "\n";
}

}  // namespace

std::string print(const Programs& programs) {
  std::string text;
  for (size_t b = 0; b < programs.bodies.size(); ++b) print_body(text, programs.bodies[b], b);
  for (const RankProgram& rank : programs.ranks) {
    text += "rank " + std::to_string(rank.rank) + ": program " + std::to_string(rank.body) + ", peers [";
    for (size_t i = 0; i < rank.constants.peers.size(); ++i) text += (i ? " " : "") + std::to_string(rank.constants.peers[i]);
    text += "], groups";
    for (const auto& group : rank.constants.groups) {
      text += " {";
      for (size_t i = 0; i < group.size(); ++i) text += (i ? " " : "") + std::to_string(group[i]);
      text += "}";
    }
    text += ", regions";
    for (const Region& region : rank.constants.regions) text += " " + region.to_string();
    text += "\n";
  }
  return text;
}

}  // namespace sscc
