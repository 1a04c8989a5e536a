#include "compiler/program/traffic.h"

#include "compiler/program/calls.h"

namespace sscc {

bool is_communication(Opcode opcode) { return opcode >= Opcode::send && opcode <= Opcode::all_to_all; }

bool is_signal(const Instruction& i) {
  const auto is_empty = [](const View& view) { return elements(view.dims) == 0; };
  return (i.opcode == Opcode::send && is_empty(i.ins[0])) || (i.opcode == Opcode::receive && is_empty(i.outs[0]));
}

std::pair<int64_t, int64_t> bytes_of_copy(const Body& body, const View& view, int64_t copy) {
  const Buffer& buffer = body.buffers[view.buffer];
  const auto size = static_cast<int64_t>(rt::size_of(buffer.dtype));
  int64_t last = view.offset;
  for (size_t d = 0; d < view.dims.size(); ++d) {
    if (view.dims[d] == 0) return {0, 0};
    last += (view.dims[d] - 1) * view.strides[d];
  }
  const int64_t begin = buffer.offset + copy * buffer.stride;
  return {begin + view.offset * size, begin + (last + 1) * size};
}

std::pair<int64_t, int64_t> bytes_of_all_copies(const Body& body, const View& view) {
  const Buffer& buffer = body.buffers[view.buffer];
  if (buffer.copies == 1) return bytes_of_copy(body, view, 0);
  return {buffer.offset, buffer.offset + (buffer.copies - 1) * buffer.stride + buffer.elements * static_cast<int64_t>(rt::size_of(buffer.dtype))};
}

bool waits_for_sends(const Body& body, const ProgramSegment& segment, const Instruction& i) {
  const auto is_send = [](const ProgramSegment& of, int32_t at) { return of.instructions[static_cast<size_t>(at)].opcode == Opcode::send; };
  return llvm::any_of(i.waits, [&](int32_t other) { return is_send(segment, other); }) || llvm::any_of(i.waits_before, [&](const EarlierRun& run) {
           return is_send(body.segments[static_cast<size_t>(run.segment)], run.instruction);
         });
}

int64_t bytes_of(const Body& body, const View& view) {
  return elements(view.dims) * static_cast<int64_t>(rt::size_of(body.buffers[view.buffer].dtype));
}

int64_t bytes_of_call(const Body& body, const Instruction& i) {
  const bool is_told_by_input = i.opcode == Opcode::send || i.opcode == Opcode::reduce_scatter || i.outs.empty();  // no outs: the root of a broadcast
  return bytes_of(body, is_told_by_input ? i.ins[0] : i.outs[0]);
}

Traffic count_traffic(const Programs& programs) {
  Traffic traffic;
  for (const RankProgram& rank : programs.ranks) {
    const Body& body = programs.bodies[static_cast<size_t>(rank.body)];
    std::vector<int64_t> runs(body.segments.size(), 0);
    for (const ProgramSlot& slot : body.schedule) ++runs[static_cast<size_t>(slot.segment)];
    for (size_t s = 0; s < body.segments.size(); ++s) {
      const std::vector<Instruction>& instructions = body.segments[s].instructions;
      for (size_t at = 0; at < instructions.size(); ++at) {
        const Instruction& i = instructions[at];
        if (!is_communication(i.opcode) || i.opcode == Opcode::receive) continue;  // counted where it is sent
        const auto& c = std::get<Communication>(i.expression);
        int64_t bytes = bytes_of_call(body, i);
        if (i.opcode != Opcode::send) {
          const std::vector<int32_t>& group = rank.constants.groups[static_cast<size_t>(c.group)];
          if (group[0] != rank.rank) continue;
          const int64_t others = static_cast<int64_t>(group.size()) - 1;
          bytes *= i.opcode == Opcode::all_reduce ? 2 * others : others;
        }
        Traffic::Kind& kind = traffic.by_kind[name_of(i.opcode)];
        const int64_t calls = is_with_previous(instructions, at) ? 0 : runs[s];
        kind.count += calls;
        kind.bytes += runs[s] * bytes;
        traffic.messages += calls;
        traffic.bytes += runs[s] * bytes;
      }
    }
  }
  return traffic;
}

}  // namespace sscc
