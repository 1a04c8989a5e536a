#include "compiler/program/index_bounds.h"

#include <algorithm>

namespace sscc {
namespace {

// The operand that holds indices; null for instructions without one.
const View* indices_of(const Instruction& instruction) {
  switch (instruction.opcode) {
    case Opcode::scatter_add: return &instruction.ins[0];
    case Opcode::gather:
    case Opcode::pick: return &instruction.ins[1];
    case Opcode::cross_entropy_grad: return &instruction.ins[2];
    default: return nullptr;
  }
}

}  // namespace

std::map<std::string, int64_t> index_bounds(const Programs& programs) {
  std::map<std::string, int64_t> bounds;
  for (const Body& body : programs.bodies) {
    for (const ProgramSegment& segment : body.segments) {
      for (const Instruction& instruction : segment.instructions) {
        const View* indices = indices_of(instruction);
        if (!indices || body.buffers[indices->buffer].source != Buffer::Source::input) continue;
        const int64_t length = std::get<IndexExpression>(instruction.expression).length;
        const auto [bound, is_new] = bounds.try_emplace(body.buffers[indices->buffer].tensor, length);
        if (!is_new) bound->second = std::min(bound->second, length);
      }
    }
  }
  return bounds;
}

}  // namespace sscc
