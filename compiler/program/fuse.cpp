// Fusion of pointwise instructions.
//
//   t1 = scale_shift(x); t2 = tanh(t1); t3 = mul(t2, y)      ->      t3 = [scale_shift, tanh, mul](x, y)
//
// Neighbours over the same elements join a group; an input that an earlier member makes becomes a step of the expression, and a result that nobody
// outside reads never reaches memory. Layout operators are views by now, so neighbours in the model are neighbours here.
#include <algorithm>
#include <set>

#include "compiler/program/fusing.h"
#include "compiler/program/lower.h"
#include "compiler/support/check.h"

namespace sscc {
namespace {

constexpr size_t max_steps = 24;

bool same(const View& a, const View& b) { return a.buffer == b.buffer && a.offset == b.offset && a.dims == b.dims && a.strides == b.strides; }

// How many views of all instructions read each buffer.
std::vector<int64_t> count_reads(const Body& body) {
  std::vector<int64_t> reads(static_cast<size_t>(body.buffers.size()), 0);
  for (const ProgramSegment& segment : body.segments)
    for (const Instruction& i : segment.instructions) {
      for (const View& view : i.ins) ++reads[static_cast<size_t>(view.buffer.index)];
      if (i.accumulate)
        for (const View& view : i.outs) ++reads[static_cast<size_t>(view.buffer.index)];
    }
  return reads;
}

class Group {
 public:
  Group(const std::vector<int64_t>& reads, const Ranks& ranks) : reads_(reads), ranks_(ranks) {}

  bool accepts(const Instruction& next) const {
    if (next.opcode != Opcode::pointwise || next.accumulate) return false;
    if (members_.empty()) return true;
    if (next.on_host != members_[0].on_host) return false;
    if (next.outs[0].dims != members_[0].outs[0].dims || members_.size() >= max_steps) return false;
    size_t fresh = 0;
    for (const View& in : next.ins) {
      bool made = false;
      for (const Instruction& member : members_)
        for (const View& out : member.outs) {
          made |= same(out, in);
          if (out.buffer == in.buffer && !same(out, in)) return false;
        }
      fresh += !made;
    }
    for (const Instruction& member : members_)
      for (const View& out : next.outs) {
        for (const View& in : member.ins)
          if (in.buffer == out.buffer) return false;
        for (const View& other : member.outs)
          if (other.buffer == out.buffer) return false;
      }
    return inputs_ + fresh + outputs_ + next.outs.size() <= static_cast<size_t>(rt::max_operands);
  }

  void add(Instruction instruction) {
    inputs_ += instruction.ins.size();
    outputs_ += instruction.outs.size();
    members_.push_back(std::move(instruction));
  }

  void flush(std::vector<Instruction>& result) {
    if (members_.size() == 1) result.push_back(std::move(members_[0]));
    if (members_.size() > 1) result.push_back(fused());
    members_.clear();
    inputs_ = outputs_ = 0;
  }

 private:
  Instruction fused() const {
    Instruction result;
    result.opcode = Opcode::pointwise;
    result.op = members_.back().op;
    result.on_host = members_.back().on_host;
    result.tensor = members_.back().tensor;
    result.piece = -1;
    std::vector<const Instruction*> members;
    for (const Instruction& member : members_) members.push_back(&member);
    result.origin = origins_of(members);
    PointwiseExpression expression;
    std::vector<std::pair<View, int32_t>> made;  // view -> step
    std::vector<int32_t> claims;                 // of made
    std::map<int32_t, int64_t> inside;           // reads of a buffer inside the group
    for (const Instruction& member : members_) {
      const auto& e = std::get<PointwiseExpression>(member.expression);
      const int32_t base = static_cast<int32_t>(expression.steps.size());
      for (rt::ScalarStep step : e.steps) {
        for (int a = 0; a < rt::arity_of(step.function); ++a)
          step.args[a] = step.args[a] < 0
                             ? ~(base + ~step.args[a])
                             : argument(result, made, member.ins[static_cast<size_t>(step.args[a])], member.reads[static_cast<size_t>(step.args[a])]);
        expression.steps.push_back(step);
      }
      expression.ops.insert(expression.ops.end(), e.ops.begin(), e.ops.end());
      for (const View& in : member.ins) ++inside[in.buffer.index];
      for (size_t o = 0; o < member.outs.size(); ++o) {
        made.push_back({member.outs[o], base + e.results[o]});
        claims.push_back(member.writes[o]);
      }
    }
    for (size_t k = 0; k < made.size(); ++k) {
      const auto& [view, step] = made[k];
      if (reads_[static_cast<size_t>(view.buffer.index)] > inside[view.buffer.index] || step + 1 == static_cast<int32_t>(expression.steps.size())) {
        result.outs.push_back(view);
        result.writes.push_back(claims[k]);
        expression.results.push_back(step);
      }
    }
    result.expression = std::move(expression);
    return result;
  }

  // One memory may hold, say, a broadcast scalar for different regions: what is read twice as the same thing is one operand.
  int32_t argument(Instruction& result, const std::vector<std::pair<View, int32_t>>& made, const View& in, int32_t claim) const {
    for (const auto& [view, step] : made)
      if (same(view, in)) return ~step;
    for (size_t i = 0; i < result.ins.size(); ++i)
      if (same(result.ins[i], in) && are_equal_claims(ranks_, result.reads[i], claim)) return static_cast<int32_t>(i);
    result.ins.push_back(in);
    result.reads.push_back(claim);
    return static_cast<int32_t>(result.ins.size()) - 1;
  }

  const std::vector<int64_t>& reads_;
  const Ranks& ranks_;  // that share the body
  std::vector<Instruction> members_;
  size_t inputs_ = 0, outputs_ = 0;
};

}  // namespace

void fuse(Programs& programs) {
  const std::vector<Ranks> ranks = ranks_by_body(programs);
  for (size_t b = 0; b < programs.bodies.size(); ++b) {
    Body& body = programs.bodies[b];
    const std::vector<int64_t> reads = count_reads(body);
    for (ProgramSegment& segment : body.segments) {
      std::vector<Instruction> result;
      Group group(reads, ranks[b]);
      for (Instruction& i : segment.instructions) {
        if (!group.accepts(i)) group.flush(result);
        if (group.accepts(i))
          group.add(std::move(i));
        else
          result.push_back(std::move(i));
      }
      group.flush(result);
      segment.instructions = std::move(result);
    }
    drop_unused_buffers(body);
  }
}

}  // namespace sscc
