// A program's source, from top to bottom: what it is, names of buffers, table of buffers, update rules, a function for each segment, the
// schedule, and the description that the launcher asks for. A segment's statements stand in groups, one for each ONNX node they come from:
//
//   // /layers.0/mlp/up/MatMul (MatMul): f32 8x32x64, f32 64x128 -> f32 8x32x128
//   rank.at("/layers.0/mlp/up/MatMul", micro_batch);
//   contract(view(buf::t_layers_0_up, {256, 128}), view(...), view(...), "mk,kn->mn", 1.0, overwrite);
#include "compiler/codegen/print_program.h"

#include <algorithm>

#include "compiler/codegen/print_instruction.h"
#include "compiler/codegen/print_order.h"
#include "compiler/codegen/source_text.h"
#include "compiler/program/calls.h"
#include "compiler/program/traffic.h"
#include "compiler/support/check.h"
#include "compiler/support/strings.h"

namespace sscc {
namespace {

constexpr int longest_list = 8;  // of ranks or groups in a comment

const char* kind_of(Buffer::Source source) {
  switch (source) {
    case Buffer::Source::none: return "none";
    case Buffer::Source::parameter: return "parameter";
    case Buffer::Source::constant: return "constant";
    case Buffer::Source::state: return "state";
    case Buffer::Source::input: return "input";
  }
  return "";
}

const char* words_of(Buffer::Life life) {
  switch (life) {
    case Buffer::Life::persistent: return "persistent";
    case Buffer::Life::step: return "lives for a step";
    case Buffer::Life::micro_batch: return "lives for a micro-batch";
    case Buffer::Life::segment: return "lives within a segment";
  }
  return "";
}

// "Forward of stage 0, for one micro-batch."
std::string description_of(const ProgramSegment& of) {
  const std::string& segment = of.name;
  const std::string stage = segment.substr(0, segment.find_first_not_of("0123456789"));
  const std::string kind = segment.substr(stage.size());
  if (segment == "prologue") return "Once a step, before the micro-batches.";
  if (segment == "epilogue") return "Once a step, after the micro-batches.";
  const std::string which = ", for one micro-batch" + (of.variant > 0 ? ", variant " + std::to_string(of.variant) : std::string()) + ".";
  if (!stage.empty() && kind == "F") return "Forward of stage " + stage + which;
  if (!stage.empty() && kind == "B") return "Backward of stage " + stage + which;
  return "Segment " + comment_text(segment) + ".";
}

class Printer {
 public:
  Printer(const Programs& programs, int32_t body, Target target, FusedFunctions& fused, std::string version)
      : programs_(programs),
        number_(body),
        body_(programs.bodies[static_cast<size_t>(body)]),
        target_(target),
        fused_(fused),
        version_(std::move(version)),
        order_(target, body_) {
    for (const RankProgram& rank : programs.ranks) {
      if (rank.body == body) ranks_.push_back(&rank);
    }
    name_everything();
  }

  std::string print() {
    // Segments first: they tell whether fused functions are used.
    std::string segments;
    for (size_t i = 0; i < body_.segments.size(); ++i) print_segment(i, segments);
    print_heading(segments.find("fused::") != std::string::npos);
    print_buffers();
    print_update_rules();
    text_ += "// -- segments " + std::string(133, '-') + "\n\n";
    text_ += segments;
    print_description();
    return std::move(text_);
  }

 private:
  void name_everything() {
    Identifiers buffers;
    for (const Buffer& buffer : body_.buffers) names_.buffers.push_back(buffers.unique(buffer.name));
    Identifiers rules;
    for (const ProgramSegment& segment : body_.segments) {
      segment_names_.push_back(segment_identifiers_.unique("segment_" + segment.name));
      for (const Instruction& instruction : segment.instructions) {
        if (instruction.opcode != Opcode::update) continue;
        const rt::UpdateRule& rule = std::get<UpdateExpression>(instruction.expression).rule;
        const auto same = [&](const NamedRule& named) { return named.rule == rule; };
        if (std::none_of(names_.update_rules.begin(), names_.update_rules.end(), same)) names_.update_rules.push_back({rule, rules.unique("rule")});
      }
    }
  }

  std::string rank_list() const {
    std::string text = ranks_.size() == 1 ? "rank" : "ranks";
    for (size_t i = 0; i < ranks_.size(); ++i) {
      size_t last = i;  // runs as "2..5"
      while (last + 1 < ranks_.size() && ranks_[last + 1]->rank == ranks_[last]->rank + 1) ++last;
      text += (i ? ", " : " ") + std::to_string(ranks_[i]->rank);
      if (last > i + 1) {
        text += ".." + std::to_string(ranks_[last]->rank);
        i = last;
      }
    }
    return text;
  }

  void print_heading(bool uses_fused) {
    text_ += "// " + comment_text(programs_.model) + ", program " + std::to_string(number_) + ": " + rank_list() + ", stage " +
             std::to_string(ranks_.empty() ? 0 : ranks_[0]->stage) + ". Written by sscc " + version_ + ".\n//\n";
    text_ += "// One step: " + std::to_string(body_.micro_batches) + (body_.micro_batches == 1 ? " micro-batch, " : " micro-batches, ") +
             std::to_string(body_.schedule.size()) + " slots. Arena: " + human_bytes(body_.arena_bytes) + ", " +
             (body_.host_bytes > 0 ? "on the host: " + human_bytes(body_.host_bytes) + ", " : "") + std::to_string(body_.buffers.size()) +
             " buffers.\n";
    text_ += "// Ranks of this program differ in the constants of ranks.cpp: peers, groups, regions of files, offsets of indices.\n";
    if (target_ == Target::cuda)
      text_ +=
          "// What is called here is enqueued on the GPU: kernels, messages and each group on a stream of their own, with events between them.\n";
    text_ += "#include <cstdint>\n\n";
    if (uses_fused) text_ += "#include \"fused.h\"\n";
    text_ += "#include \"sscc_rt/bundle.h\"\n#include \"sscc_rt/kernels.h\"\n#include \"sscc_rt/rank.h\"\n#include \"sscc_rt/views.h\"\n\n";
    text_ += "using namespace sscc::rt;\n\nnamespace {\n\n";
  }

  void print_buffers() {
    text_ +=
        "// -- buffers " + std::string(134, '-') + "\n\n// Activations carry the ONNX name of their tensor.\nnamespace buf {\nenum : int32_t {\n";
    for (int64_t i = 0; i < body_.buffers.size(); ++i) {
      const Buffer& buffer = body_.buffers[BufferId(i)];
      text_ += "  " + names_.buffers[static_cast<size_t>(i)] + ",  // " + word_of(buffer.dtype) + "[" + std::to_string(buffer.elements) + "]";
      if (buffer.copies > 1) text_ += " x " + std::to_string(buffer.copies) + " copies";
      if (buffer.on_host) text_ += " on the host";
      text_ += std::string(", ") + words_of(buffer.life) + "\n";
    }
    text_ += "};\n}  // namespace buf\n\n";
    text_ +=
        "// name, type, elements of a copy, copies (micro-batch m has copy m mod copies), bytes from the arena's start, bytes between copies,\n"
        "// what fills it: kind, tensor, index of its first region among the rank's constants\n";
    text_ += "const BufferInfo buffers[] = {\n";
    for (const Buffer& buffer : body_.buffers) {
      text_ += "    {" + string_literal(buffer.name) + ", DType::" + word_of(buffer.dtype) + ", " + std::to_string(buffer.elements) + ", " +
               std::to_string(buffer.copies) + ", " + std::to_string(buffer.offset) + ", " + std::to_string(buffer.stride) +
               ", Source::" + kind_of(buffer.source) + ", " + string_literal(buffer.tensor) + ", " + std::to_string(buffer.regions) + "},\n";
    }
    text_ += "};\n\n";
  }

  void print_update_rules() {
    for (const NamedRule& named : names_.update_rules) {
      const rt::UpdateRule& rule = named.rule;
      if (rule.optimizer == rt::Optimizer::loss_scale) {
        text_ += "const UpdateRule " + named.name + "{.optimizer = Optimizer::loss_scale};\n";
        continue;
      }
      const char* optimizer = rule.optimizer == rt::Optimizer::sgd ? "sgd" : rule.optimizer == rt::Optimizer::adam ? "adam" : "adamw";
      text_ += "const UpdateRule " + named.name + "{.optimizer = Optimizer::" + optimizer + ", .lr = " + double_literal(rule.lr) +
               ", .momentum = " + double_literal(rule.momentum) + ", .beta1 = " + double_literal(rule.beta1) +
               ", .beta2 = " + double_literal(rule.beta2) + ", .eps = " + double_literal(rule.eps) +
               ", .weight_decay = " + double_literal(rule.weight_decay) + "};\n";
    }
    if (!names_.update_rules.empty()) text_ += "\n";
  }

  // "node (OpType): f32 8x4, f32 4x2 -> f32 8x2"; the shapes only where a node is one instruction.
  std::string group_comment(llvm::ArrayRef<Instruction> group) const {
    const Instruction& first = group.front();
    std::string text = comment_text(first.origin.empty() ? "(the compiler's own)" : origin_of(group));
    if (!first.type.empty()) text += " (" + comment_text(first.type) + ")";
    if (group.size() > 1) return text;
    text += ":";
    for (size_t i = 0; i < first.ins.size(); ++i) text += (i ? ", " : " ") + type_and_shape(body_, first.ins[i]);
    if (!first.outs.empty()) text += " ->";
    for (size_t i = 0; i < first.outs.size(); ++i) text += (i ? ", " : " ") + type_and_shape(body_, first.outs[i]);
    return text;
  }

  // "0 -> 2, 1 -> 3": who sends to whom, for the ranks that share the program.
  std::string peers_comment(const Communication& communication, bool sends) const {
    std::string text;
    for (size_t i = 0; i < ranks_.size(); ++i) {
      if (i == longest_list) return text + ", ...";
      const std::string me = std::to_string(ranks_[i]->rank);
      const std::string peer = std::to_string(ranks_[i]->constants.peers[static_cast<size_t>(communication.peer)]);
      text += (i ? ", " : "") + (sends ? me + " -> " + peer : peer + " -> " + me);
    }
    return text;
  }

  // "{0 1}, {2 3}": the distinct groups.
  std::string groups_comment(const Communication& communication) const {
    std::vector<std::string> groups;
    for (const RankProgram* rank : ranks_) {
      std::string text;
      for (const int32_t member : rank->constants.groups[static_cast<size_t>(communication.group)])
        text += (text.empty() ? "" : " ") + std::to_string(member);
      if (std::find(groups.begin(), groups.end(), text) == groups.end()) groups.push_back(text);
    }
    std::string text;
    for (size_t i = 0; i < groups.size(); ++i) {
      if (i == longest_list) return text + ", ...";
      text += (i ? ", {" : "{") + groups[i] + "}";
    }
    return text;
  }

  std::string communication_comment(const Instruction& instruction) const {
    const auto& communication = std::get<Communication>(instruction.expression);
    const bool sends = instruction.opcode == Opcode::send;
    const bool point_to_point = sends || instruction.opcode == Opcode::receive;
    // Of a gather the whole result is told, of a scatter the whole input.
    const bool is_told_by_input = sends || instruction.opcode == Opcode::reduce_scatter || instruction.outs.empty();
    const View& data = is_told_by_input ? instruction.ins[0] : instruction.outs[0];
    const Buffer& buffer = body_.buffers[data.buffer];
    const int64_t bytes = elements(data.dims) * static_cast<int64_t>(rt::size_of(buffer.dtype));
    const char* verb = sends                                      ? "send "
                       : instruction.opcode == Opcode::receive    ? "receive "
                       : instruction.opcode == Opcode::all_reduce ? "all-reduce "
                       : instruction.opcode == Opcode::all_gather ? "all-gather "
                       : instruction.opcode == Opcode::all_to_all ? "all-to-all "
                       : instruction.opcode == Opcode::broadcast  ? "broadcast "
                                                                  : "reduce-scatter ";
    if (is_signal(instruction))
      return std::string(sends ? "tell " : "hear from ") + "rank " + peers_comment(communication, sends) + ": " + comment_text(instruction.origin);
    return verb + comment_text(instruction.origin.empty() ? buffer.name : instruction.origin) + ": " + type_and_shape(body_, data) + ", " +
           human_bytes(bytes) + ", " +
           (point_to_point ? "rank " + peers_comment(communication, sends) : "among ranks " + groups_comment(communication));
  }

  // Kernels of a call are one statement; its collectives stand one by one in brackets.
  static size_t size_of_statement(llvm::ArrayRef<Instruction> instructions, size_t first) {
    return is_communication(instructions[first].opcode) ? 1 : call_at(instructions, first).size();
  }

  void print_segment(size_t index, std::string& text) {
    const ProgramSegment& segment = body_.segments[index];
    const std::vector<Instruction>& instructions = segment.instructions;
    text += "// " + description_of(segment) + "\n";
    text += "void " + segment_names_[index] + "([[maybe_unused]] Rank& rank, [[maybe_unused]] int micro_batch) {";
    text += instructions.empty() ? "" : "\n  const Views view(rank, micro_batch);\n";
    for (size_t begin = 0, end = 0; begin < instructions.size(); begin = end) {
      const Instruction& first = instructions[begin];
      end = begin + size_of_statement(instructions, begin);
      while (end < instructions.size() && instructions[end].origin == first.origin && instructions[end].type == first.type &&
             !is_communication(first.opcode) && !is_communication(instructions[end].opcode)) {
        end += size_of_statement(instructions, end);
      }
      const llvm::ArrayRef<Instruction> group(&first, end - begin);
      text += "\n  // " + (is_communication(first.opcode) ? communication_comment(first) : group_comment(group)) + "\n";
      text += "  rank.at(" + string_literal(origin_of(group)) + ", micro_batch);\n";
      for (size_t i = begin, size = 0; i < end; i += size) {
        size = size_of_statement(instructions, i);
        for (size_t k = i + 1; k < i + size; ++k) SSCC_CHECK(order_.before(index, k).empty(), "a call waits where it begins");
        text += order_.before(index, i) + print_call(body_, {&instructions[i], size}, names_, fused_) + order_.after(index, i + size - 1);
      }
    }
    text += "}\n\n";
  }

  void print_description() {
    text_ += "// -- the program " + std::string(130, '-') + "\n\n";
    text_ += "namespace run {\nenum : int32_t {";
    for (size_t i = 0; i < segment_names_.size(); ++i) text_ += (i ? ", " : " ") + segment_names_[i];
    text_ += " };\n}  // namespace run\n\n";
    text_ += "// (segment, micro-batch), in the order in which this rank runs them\nconst Slot schedule[] = {\n";
    std::vector<std::string> slots;
    for (const ProgramSlot& slot : body_.schedule) {
      slots.push_back("{run::" + segment_names_[static_cast<size_t>(slot.segment)] + ", " + std::to_string(slot.micro_batch) + "}");
    }
    text_ += wrapped(slots, "    ") + "};\n\n}  // namespace\n\n";
    std::vector<std::string> segments;
    for (size_t i = 0; i < segment_names_.size(); ++i) {
      const bool continues = target_ == Target::cuda && body_.segments[i].continues_group;
      segments.push_back("{" + string_literal(body_.segments[i].name) + ", " + segment_names_[i] + (continues ? ", continues_group}" : "}"));
    }
    text_ += "extern \"C\" const ProgramInfo* sscc_program() {\n  static const ProgramInfo program{\n";
    text_ += "      .arena_bytes = " + std::to_string(body_.arena_bytes) + ",\n";
    if (body_.host_bytes > 0) text_ += "      .host_bytes = " + std::to_string(body_.host_bytes) + ",\n";
    text_ += "      .micro_batches = " + std::to_string(body_.micro_batches) + ",\n";
    text_ += "      .buffers = {std::begin(buffers), std::end(buffers)},\n";
    text_ += "      .segments =\n          {\n" + wrapped(segments, "              ") + "          },\n";
    text_ += "      .schedule = {std::begin(schedule), std::end(schedule)},\n  };\n  return &program;\n}\n";
  }

  const Programs& programs_;
  const int32_t number_;
  const Body& body_;
  const Target target_;
  FusedFunctions& fused_;
  const std::string version_;
  const OrderStatements order_;
  std::vector<const RankProgram*> ranks_;
  ProgramNames names_;
  Identifiers segment_identifiers_;
  std::vector<std::string> segment_names_;
  std::string text_;
};

}  // namespace

std::string print_program(const Programs& programs, int32_t body, Target target, FusedFunctions& fused, const std::string& version) {
  return Printer(programs, body, target, fused, version).print();
}

}  // namespace sscc
