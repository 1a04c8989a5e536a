#include "compiler/program/fusing.h"

#include <algorithm>

namespace sscc {

std::vector<Ranks> ranks_by_body(const Programs& programs) {
  std::vector<Ranks> ranks(programs.bodies.size());
  for (const RankProgram& rank : programs.ranks) ranks[static_cast<size_t>(rank.body)].push_back(&rank);
  return ranks;
}

bool are_equal_claims(const Ranks& ranks, int32_t a, int32_t b) {
  return std::all_of(ranks.begin(), ranks.end(), [&](const RankProgram* rank) {
    const Claim &x = rank->claims[static_cast<size_t>(a)], &y = rank->claims[static_cast<size_t>(b)];
    return x.tensor == y.tensor && x.region == y.region && x.part == y.part;
  });
}

std::string origins_of(llvm::ArrayRef<const Instruction*> instructions) {
  std::string origins;
  std::set<std::string> named;
  for (const Instruction* i : instructions)
    if (named.insert(i->origin).second) origins += (origins.empty() ? "" : ", ") + i->origin;
  return origins;
}

void drop_unused_buffers(Body& body) {
  std::vector<char> used(static_cast<size_t>(body.buffers.size()), 0);
  auto each_view = [&](auto visit) {
    for (ProgramSegment& segment : body.segments)
      for (Instruction& i : segment.instructions) {
        for (View& view : i.outs) visit(view);
        for (View& view : i.ins) visit(view);
      }
  };
  each_view([&](View& view) { used[static_cast<size_t>(view.buffer.index)] = 1; });
  Store<Buffer, BufferId> kept;
  std::vector<BufferId> renamed(used.size());
  for (int64_t b = 0; b < body.buffers.size(); ++b)
    if (used[static_cast<size_t>(b)] || body.buffers[BufferId(b)].source != Buffer::Source::none)
      renamed[static_cast<size_t>(b)] = kept.add(std::move(body.buffers[BufferId(b)]));
  each_view([&](View& view) { view.buffer = renamed[static_cast<size_t>(view.buffer.index)]; });
  body.buffers = std::move(kept);
}

std::set<OpId> named_by_precedences(const Module& module) {
  std::set<OpId> named;
  for (const Precedence& precedence : module.precedences) {
    named.insert(precedence.first.begin(), precedence.first.end());
    named.insert(precedence.second.begin(), precedence.second.end());
  }
  return named;
}

}  // namespace sscc
