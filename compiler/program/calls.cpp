#include "compiler/program/calls.h"

#include "compiler/program/traffic.h"
#include "compiler/program/views.h"
#include "compiler/support/check.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringRef.h"

namespace sscc {
namespace {

bool are_same(llvm::ArrayRef<View> a, llvm::ArrayRef<View> b) { return a.size() == b.size() && llvm::equal(a, b, same_place); }

}  // namespace

bool is_with_previous(llvm::ArrayRef<Instruction> segment, size_t index) { return index > 0 && segment[index - 1].with_next; }

llvm::ArrayRef<Instruction> call_at(llvm::ArrayRef<Instruction> segment, size_t first) {
  size_t count = 1;
  while (first + count < segment.size() && segment[first + count - 1].with_next) ++count;
  return segment.slice(first, count);
}

bool is_sum_of_squares(const Body& body, const Instruction& i) {
  const auto* contraction = std::get_if<ContractExpression>(&i.expression);
  if (!contraction || contraction->scale != 1 || !i.outs[0].dims.empty() || !same_place(i.ins[0], i.ins[1])) return false;
  const DType type = body.buffers[i.outs[0].buffer].dtype;
  if ((type != DType::f32 && type != DType::f64) || body.buffers[i.ins[0].buffer].dtype != type) return false;
  const auto [lhs, rest] = llvm::StringRef(contraction->equation).split(',');
  return rest == lhs.str() + "->";
}

llvm::ArrayRef<View> scalars_of_update(const Instruction& update) {
  const size_t moments = update.outs.size() - 1;
  SSCC_CHECK(update.ins.size() >= 2 + moments, "an update reads its parameter, its gradient and its moments");
  return llvm::ArrayRef<View>(update.ins).drop_front(2 + moments);
}

bool may_be_one_call(const Body& body, const Instruction& i, const Instruction& next) {
  const auto type_of = [&](const View& view) { return body.buffers[view.buffer].dtype; };
  if (i.opcode != next.opcode || i.on_host != next.on_host || i.stream != next.stream || i.outs.empty() || next.outs.empty() ||
      type_of(i.outs[0]) != type_of(next.outs[0]))
    return false;
  if (i.opcode == Opcode::update)
    return std::get<UpdateExpression>(i.expression).rule == std::get<UpdateExpression>(next.expression).rule && i.outs.size() == next.outs.size() &&
           are_same(scalars_of_update(i), scalars_of_update(next));
  if (i.opcode == Opcode::contract)
    return is_sum_of_squares(body, i) && is_sum_of_squares(body, next) && next.accumulate && same_place(i.outs[0], next.outs[0]);
  if (!is_communication(i.opcode) || i.opcode == Opcode::broadcast) return false;
  const auto &call = std::get<Communication>(i.expression), &other = std::get<Communication>(next.expression);
  return call.group >= 0 && other.group == call.group && other.join == call.join;
}

std::string origin_of(llvm::ArrayRef<Instruction> call) {
  size_t others = 0;
  for (const Instruction& i : call) others += i.origin != call.front().origin;
  return call.front().origin + (others > 0 ? " and " + std::to_string(others) + " more" : "");
}

}  // namespace sscc
