// What a plan's `before` asks for. Operators that are to come first leave marks: the n-th on their rank. What an instruction can rely on is a clock,
// the number of marks of each rank that have been left when it begins: those of the instruction before it on its stream, of what it waits for, and of
// what it is sent. Nothing else is known to have ended, and that is what is checked.
//
// A rank's clocks are made in the order of its instructions. The messages of a group call are through in another: a receive is noted until the rank
// comes to what stands behind it. A send says what is known before it, whichever sends of its group are through.
#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <tuple>

#include "compiler/program/check.h"
#include "compiler/program/runs.h"
#include "compiler/program/walk.h"
#include "compiler/support/strings.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

using Clock = std::shared_ptr<const std::vector<int32_t>>;  // by rank; shared, for most instructions add nothing

Clock later_of(const Clock& a, const Clock& b) {
  if (a == b || !b) return a;
  if (!a) return b;
  const auto is_enough = [](const Clock& x, const Clock& y) { return std::equal(x->begin(), x->end(), y->begin(), std::greater_equal<>()); };
  if (is_enough(a, b)) return a;
  if (is_enough(b, a)) return b;
  auto both = std::make_shared<std::vector<int32_t>>(*a);
  for (size_t r = 0; r < both->size(); ++r) (*both)[r] = std::max((*both)[r], (*b)[r]);
  return both;
}

llvm::SmallVector<OpId, 1> ops_of(const Instruction& i) {
  const auto* expression = std::get_if<PointwiseExpression>(&i.expression);
  llvm::SmallVector<OpId, 1> ops;
  if (expression && !expression->ops.empty())
    for (const auto& [op, piece] : expression->ops) ops.push_back(op);
  else if (i.op.valid())
    ops.push_back(i.op);
  return ops;
}

class OrderCheck {
 public:
  OrderCheck(const Module& module, const Programs& programs, Diagnostics& diagnostics)
      : module_(module), programs_(programs), diagnostics_(diagnostics), ranks_(programs.ranks.size()) {
    for (const Body& body : programs.bodies) runs_of_.emplace_back(body);
    for (size_t r = 0; r < ranks_.size(); ++r) ranks_[r].kept.resize(static_cast<size_t>(runs_of(static_cast<int32_t>(r)).places()));
    for (size_t p = 0; p < module.precedences.size(); ++p) {
      for (OpId id : module.precedences[p].first) marking_.insert(id);
      for (OpId id : module.precedences[p].second) follows_[id].push_back(p);
    }
    count_runs();
  }

  bool run() {
    Visitor visitor;
    visitor.instruction = [&](const Step& step) {
      switch (step.what->opcode) {
        case Opcode::send: messages_[step.message] = ended_at(step); break;
        case Opcode::receive: {
          const auto message = messages_.extract(step.message);
          ranks_[static_cast<size_t>(step.rank)].received[{step.segment, step.micro_batch, step.instruction}] = message.mapped();
          break;
        }
        default: visit(step, {});
      }
      return is_kept_;
    };
    visitor.collective = [&](const std::vector<Step>& members) {
      std::vector<Clock> sent;
      for (const Step& member : members) sent.push_back(begin(member));
      for (const Step& member : members) visit(member, sent);
      return is_kept_;
    };
    walk(programs_, wiring_of(programs_), visitor);
    return is_kept_;
  }

 private:
  struct Rank {
    int32_t slot = 0;                                                 // of its schedule, where it is
    std::vector<Clock> streams;                                       // what has ended on each
    std::vector<Clock> ended;                                         // by instruction of the slot, as far as it is
    std::vector<Clock> kept;                                          // of runs that are waited for, by place
    std::map<std::tuple<int32_t, int32_t, int32_t>, Clock> received;  // by segment, micro-batch and instruction: what it is not past yet
    int32_t marks = 0;
  };
  struct Mark {
    int32_t rank = 0, number = 0;
  };
  using Run = std::pair<OpId, int32_t>;  // of an operator, in a micro-batch

  // How often each operator that is to come first runs, on all ranks together.
  void count_runs() {
    for (const RankProgram& rank : programs_.ranks) {
      const Body& body = programs_.bodies[static_cast<size_t>(rank.body)];
      for (const ProgramSlot& slot : body.schedule)
        for (const Instruction& i : body.segments[static_cast<size_t>(slot.segment)].instructions)
          for (OpId id : ops_of(i))
            if (marking_.contains(id)) ++runs_[{id, slot.micro_batch}];
    }
  }

  const Body& body(int32_t rank) const { return programs_.bodies[static_cast<size_t>(programs_.ranks[static_cast<size_t>(rank)].body)]; }

  const Runs& runs_of(int32_t rank) const { return runs_of_[static_cast<size_t>(programs_.ranks[static_cast<size_t>(rank)].body)]; }

  // What has ended when it may begin.
  Clock begin(const Step& step) {
    go_to(step);
    return known(step.rank, *step.what);
  }
  // When it has ended: of a send that the rank is past, too.
  Clock ended_at(const Step& step) {
    Rank& rank = ranks_[static_cast<size_t>(step.rank)];
    go_to(step);
    if (rank.ended.size() == static_cast<size_t>(step.instruction)) end(step.rank, *step.what, known(step.rank, *step.what));
    return rank.ended[static_cast<size_t>(step.instruction)];
  }

  // Past all that stands before the step: sends and receives that are through.
  void go_to(const Step& step) {
    Rank& rank = ranks_[static_cast<size_t>(step.rank)];
    const Body& program = body(step.rank);
    while (true) {
      const ProgramSlot& slot = program.schedule[static_cast<size_t>(rank.slot)];
      const std::vector<Instruction>& list = program.segments[static_cast<size_t>(slot.segment)].instructions;
      const bool is_here = slot.segment == step.segment && slot.micro_batch == step.micro_batch;
      const size_t until = is_here ? static_cast<size_t>(step.instruction) : list.size();
      while (rank.ended.size() < until) {
        const Instruction& i = list[rank.ended.size()];
        Clock clock = known(step.rank, i);
        const auto came = rank.received.find({slot.segment, slot.micro_batch, static_cast<int32_t>(rank.ended.size())});
        if (came != rank.received.end()) {
          clock = later_of(clock, came->second);
          rank.received.erase(came);
        }
        end(step.rank, i, clock);
      }
      if (is_here) return;
      rank.ended.clear();
      ++rank.slot;
    }
  }

  // Of the instruction that the rank comes to next: by its stream and its waits.
  Clock known(int32_t number, const Instruction& i) const {
    const Rank& rank = ranks_[static_cast<size_t>(number)];
    const auto stream = static_cast<size_t>(i.stream);
    Clock clock = stream < rank.streams.size() ? rank.streams[stream] : Clock();
    runs_of(number).for_each_awaited(rank.slot, static_cast<int32_t>(rank.ended.size()),
                                     [&](int32_t place) { clock = later_of(clock, rank.kept[static_cast<size_t>(place)]); });
    return clock;
  }
  void end(int32_t number, const Instruction& i, const Clock& clock) {
    Rank& rank = ranks_[static_cast<size_t>(number)];
    rank.streams.resize(std::max(rank.streams.size(), static_cast<size_t>(i.stream) + 1));
    rank.streams[static_cast<size_t>(i.stream)] = clock;
    const int32_t place = runs_of(number).place_of(rank.slot, static_cast<int32_t>(rank.ended.size()));
    if (place >= 0) rank.kept[static_cast<size_t>(place)] = clock;
    rank.ended.push_back(clock);
  }

  void visit(const Step& step, const std::vector<Clock>& sent) {
    Clock clock = begin(step);
    for (const Clock& each : sent) clock = later_of(clock, each);
    for (OpId id : ops_of(*step.what)) {  // of those that are fused, each makes an element before the next reads it
      if (const auto it = follows_.find(id); it != follows_.end())
        for (const size_t precedence : it->second) check(step, id, module_.precedences[precedence], clock);
      if (marking_.contains(id)) clock = leave_mark(step.rank, {id, step.micro_batch}, clock);
    }
    end(step.rank, *step.what, clock);
  }

  Clock leave_mark(int32_t rank, const Run& run, const Clock& clock) {
    auto marked = clock ? std::make_shared<std::vector<int32_t>>(*clock) : std::make_shared<std::vector<int32_t>>(ranks_.size(), 0);
    const int32_t number = ++ranks_[static_cast<size_t>(rank)].marks;
    (*marked)[static_cast<size_t>(rank)] = number;
    marks_[run].push_back({rank, number});
    return marked;
  }

  void check(const Step& step, OpId id, const Precedence& precedence, const Clock& clock) {
    const Op& op = module_.ops[id];
    for (OpId first : precedence.first) {
      if (first == id) continue;
      const Op& other = module_.ops[first];
      const bool is_same = op.scope == Scope::micro_batch && other.scope == Scope::micro_batch && op.variant == other.variant;
      for (auto it = runs_.lower_bound({first, INT32_MIN}); it != runs_.end() && it->first.first == first; ++it) {
        if (is_same && it->first.second != step.micro_batch) continue;
        const std::vector<Mark>& marks = marks_[it->first];
        const auto unknown = llvm::find_if(marks, [&](const Mark& mark) { return !clock || (*clock)[static_cast<size_t>(mark.rank)] < mark.number; });
        if (marks.size() == static_cast<size_t>(it->second) && unknown == marks.end()) continue;
        return refuse(step, op, other, it->first.second, unknown == marks.end() ? -1 : unknown->rank, precedence.where);
      }
    }
  }

  void refuse(const Step& step, const Op& op, const Op& first, int32_t micro_batch, int32_t rank, const Location& where) {
    if (!is_kept_) return;
    is_kept_ = false;
    diagnostics_.error(Code::order_not_kept, where,
                       "rank " + std::to_string(step.rank) + " can begin " + quoted(op.name) + " of micro-batch " + std::to_string(step.micro_batch) +
                           " before " + (rank < 0 ? std::string("every rank") : "rank " + std::to_string(rank)) + " has ended " + quoted(first.name) +
                           " of micro-batch " + std::to_string(micro_batch),
                       "", op.name);
  }

  const Module& module_;
  const Programs& programs_;
  Diagnostics& diagnostics_;
  std::vector<Runs> runs_of_;  // by body
  std::vector<Rank> ranks_;
  std::set<OpId> marking_;                       // that are to come first
  std::map<OpId, std::vector<size_t>> follows_;  // what is to come behind: by precedence
  std::map<Run, int32_t> runs_;                  // instructions of each run, on all ranks
  std::map<Run, std::vector<Mark>> marks_;       // left so far
  std::map<int64_t, Clock> messages_;            // on their way
  bool is_kept_ = true;
};

}  // namespace

bool check_order(const Module& module, const Programs& programs, Diagnostics& diagnostics) {
  return module.precedences.empty() || OrderCheck(module, programs, diagnostics).run();
}

}  // namespace sscc
