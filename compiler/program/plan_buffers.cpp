// Where every buffer lies in the arena.
//
// Time is (slot of the schedule, instruction in its segment). A buffer is live from its first write to its last read: within one run of a segment;
// over several segments of a micro-batch (then with as many copies as micro-batches are in flight, the fewest K such that m and m + K never overlap);
// or over the step. Sends and the receives behind them are one group call (walk.h): what is received has its place while what is sent is still read.
// Messages that a slot of a micro-batch begins with are received while the slot before computes, and those that it ends with are sent while the next
// one does: their values have their places then, too. What is loaded or kept lives always. Largest first, each buffer goes to the lowest offset that is
// free while it lives. Copies of one buffer lie side by side. What is on the host has its places behind the arena, found likewise.
#include <algorithm>
#include <map>
#include <set>

#include "compiler/program/lower.h"
#include "compiler/program/traffic.h"
#include "compiler/program/walk.h"
#include "compiler/support/check.h"
#include "compiler/support/parallel.h"

namespace sscc {
namespace {

constexpr int64_t alignment = 64;
int64_t aligned(int64_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

struct Range {
  int64_t first = 0, last = -1;
};  // instructions of a segment
struct Span {
  std::pair<int64_t, int64_t> first, last;
};  // (slot, instruction)

struct Item {
  BufferId buffer;
  int64_t bytes = 0;
  bool always = false;
  std::map<int, Range> in_segment;  // a safe cover: instructions of a segment during which it is live, in whatever slot
  std::vector<Span> spans;          // exact, unless it lives in one segment only
};

class Planner {
 public:
  explicit Planner(Body& body) : body_(body) {}

  void run() {
    find_accesses();
    for (int64_t b = 0; b < body_.buffers.size(); ++b) add_item(BufferId(b));
    std::stable_sort(items_.begin(), items_.end(),
                     [](const Item& a, const Item& b) { return std::tuple(!a.always, -a.bytes) < std::tuple(!b.always, -b.bytes); });
    body_.arena_bytes = place(false, 0);
    body_.host_bytes = place(true, body_.host_begin()) - body_.host_begin();
  }

 private:
  // In the memory that begins there; its end.
  int64_t place(bool on_host, int64_t begin) {
    std::vector<const Item*> placed;  // by offset
    int64_t end = begin;
    for (const Item& item : items_) {
      if (body_.buffers[item.buffer].on_host != on_host) continue;
      const int64_t offset = lowest_free(placed, item, begin);
      body_.buffers[item.buffer].offset = offset;
      end = std::max(end, offset + item.bytes);
      placed.insert(
          std::upper_bound(placed.begin(), placed.end(), offset, [&](int64_t o, const Item* p) { return o < body_.buffers[p->buffer].offset; }),
          &item);
    }
    return end;
  }

  void find_accesses() {
    accesses_.resize(static_cast<size_t>(body_.buffers.size()));
    for (size_t s = 0; s < body_.segments.size(); ++s) {
      const auto& instructions = body_.segments[s].instructions;
      const auto is_kernel = [](const Instruction& i) { return !is_communication(i.opcode); };
      const auto first_kernel = std::find_if(instructions.begin(), instructions.end(), is_kernel) - instructions.begin();
      const auto behind_kernels = instructions.rend() - std::find_if(instructions.rbegin(), instructions.rend(), is_kernel);
      computes_.push_back(behind_kernels > 0);
      int64_t group = 0;  // where the group call that instruction i belongs to begins
      for (size_t i = 0; i < instructions.size(); ++i) {
        if (i == 0 || !is_message(instructions[i - 1])) group = static_cast<int64_t>(i);
        auto touch = [&](const View& view, int64_t first) {
          const Range here{first, static_cast<int64_t>(i)};
          auto [it, fresh] = accesses_[static_cast<size_t>(view.buffer.index)].try_emplace(static_cast<int>(s), here);
          if (!fresh) it->second = {std::min(it->second.first, first), here.last};
          if (runs_once(body_, static_cast<int32_t>(s))) return;
          const auto at = static_cast<std::ptrdiff_t>(i);
          if (instructions[i].opcode == Opcode::receive && at < first_kernel) begun_with_.insert({view.buffer, static_cast<int>(s)});
          if (instructions[i].opcode == Opcode::send && at >= behind_kernels) ended_with_.insert({view.buffer, static_cast<int>(s)});
        };
        for (const View& view : instructions[i].outs) touch(view, instructions[i].opcode == Opcode::receive ? group : static_cast<int64_t>(i));
        for (const View& view : instructions[i].ins) touch(view, static_cast<int64_t>(i));
      }
    }
  }

  static bool is_message(const Instruction& i) { return i.opcode == Opcode::send || i.opcode == Opcode::receive; }

  // The next slot that computes, beside what is cut off this one, and the last one before; the slot itself if there is none.
  int64_t computes_after(int64_t t) const {
    for (int64_t next = t + 1; next < static_cast<int64_t>(body_.schedule.size()); ++next)
      if (computes_beside(t, next)) return next;
    return t;
  }
  int64_t computes_before(int64_t t) const {
    for (int64_t before = t; before-- > 0;)
      if (computes_beside(t, before)) return before;
    return t;
  }
  bool computes_beside(int64_t t, int64_t other) const {
    const ProgramSlot &one = body_.schedule[static_cast<size_t>(t)], &two = body_.schedule[static_cast<size_t>(other)];
    const bool is_cut_off = segment_of(t).module_segment == segment_of(other).module_segment && one.micro_batch == two.micro_batch;
    return !is_cut_off && computes_[static_cast<size_t>(two.segment)];
  }

  // Is it received by a call that has begun in an earlier slot?
  bool joins_group_before(const std::pair<const int, Range>& access) const {
    return access.second.first == 0 && body_.segments[static_cast<size_t>(access.first)].continues_group;
  }

  // Where the group call begins that slot t begins with: in an earlier slot, if this one continues it.
  std::pair<int64_t, int64_t> group_begin(int64_t t) const {
    if (!segment_of(t).continues_group) return {t, 0};
    for (int64_t before = t; before-- > 0;) {
      const auto& list = segment_of(before).instructions;
      auto begin = static_cast<int64_t>(list.size());
      while (begin > 0 && is_message(list[static_cast<size_t>(begin) - 1])) --begin;
      if (begin > 0) return begin == static_cast<int64_t>(list.size()) ? std::pair<int64_t, int64_t>(t, 0) : std::pair(before, begin);
      if (!list.empty()) return group_begin(before);
    }
    return {t, 0};
  }
  const ProgramSegment& segment_of(int64_t t) const { return body_.segments[static_cast<size_t>(body_.schedule[static_cast<size_t>(t)].segment)]; }

  void add_item(BufferId id) {
    Buffer& buffer = body_.buffers[id];
    const auto& accesses = accesses_[static_cast<size_t>(id.index)];
    Item item;
    item.buffer = id;
    const int64_t bytes = buffer.elements * static_cast<int64_t>(rt::size_of(buffer.dtype));
    if (buffer.source != Buffer::Source::none) {
      buffer.life = Buffer::Life::persistent;
      item.always = true;
    } else if (accesses.size() == 1 && !joins_group_before(*accesses.begin()) && !travels(id, accesses.begin()->first)) {
      buffer.life = Buffer::Life::segment;
      item.in_segment = accesses;
    } else {
      const bool each = std::all_of(accesses.begin(), accesses.end(), [&](const auto& a) { return !runs_once(body_, a.first); });
      buffer.life = each ? Buffer::Life::micro_batch : Buffer::Life::step;
      find_spans(item, buffer, accesses, each);
    }
    buffer.stride = aligned(bytes);
    item.bytes = (buffer.copies - 1) * buffer.stride + bytes;
    if (item.bytes == 0) return void(buffer.offset = 0);  // in nobody's way
    items_.push_back(std::move(item));
  }

  bool travels(BufferId buffer, int segment) const { return begun_with_.contains({buffer, segment}) || ended_with_.contains({buffer, segment}); }

  void find_spans(Item& item, Buffer& buffer, const std::map<int, Range>& accesses, bool each_micro_batch) {
    std::map<int32_t, Span> by_micro_batch;  // one entry, -1, for a buffer of the step
    for (size_t t = 0; t < body_.schedule.size(); ++t) {
      auto it = accesses.find(body_.schedule[t].segment);
      if (it == accesses.end()) continue;
      const int32_t m = each_micro_batch ? body_.schedule[t].micro_batch : -1;
      const auto slot = static_cast<int64_t>(t);
      std::pair<int64_t, int64_t> first = it->second.first == 0 ? group_begin(slot) : std::pair(slot, it->second.first), last{slot, it->second.last};
      if (each_micro_batch && begun_with_.contains({item.buffer, it->first})) first = std::min(first, {computes_before(slot), 0});
      if (each_micro_batch && ended_with_.contains({item.buffer, it->first})) {
        const int64_t next = computes_after(slot);
        last = std::max(last, {next, static_cast<int64_t>(segment_of(next).instructions.size())});
      }
      auto [span, fresh] = by_micro_batch.try_emplace(m, Span{first, last});
      if (!fresh) span->second.last = std::max(span->second.last, last);
    }
    for (const auto& [m, span] : by_micro_batch) item.spans.push_back(span);
    if (each_micro_batch) buffer.copies = copies_needed(by_micro_batch);
    // Cover by segment: every slot inside a span, in full but at its ends.
    for (const Span& span : item.spans)
      for (int64_t t = span.first.first; t <= span.last.first; ++t) {
        const int segment = body_.schedule[static_cast<size_t>(t)].segment;
        const int64_t end = static_cast<int64_t>(body_.segments[static_cast<size_t>(segment)].instructions.size());
        const Range range{t == span.first.first ? span.first.second : 0, t == span.last.first ? span.last.second : end};
        auto [it, fresh] = item.in_segment.try_emplace(segment, range);
        if (!fresh) it->second = {std::min(it->second.first, range.first), std::max(it->second.last, range.last)};
      }
  }

  // Of the micro-batches that run here: not always all of them.
  static int64_t copies_needed(const std::map<int32_t, Span>& by_micro_batch) {
    std::vector<const Span*> spans;  // null: it does not run here
    for (const auto& [m, span] : by_micro_batch) {
      spans.resize(static_cast<size_t>(m) + 1);
      spans.back() = &span;
    }
    const size_t n = spans.size();
    const auto apart = [](const Span* a, const Span* b) { return !a || !b || a->last < b->first || b->last < a->first; };
    for (size_t k = 1; k < n; ++k) {
      bool fits = true;
      for (size_t m = 0; fits && m < n; ++m)
        for (size_t other = m + k; fits && other < n; other += k) fits = apart(spans[m], spans[other]);
      if (fits) return static_cast<int64_t>(k);
    }
    return static_cast<int64_t>(std::max<size_t>(n, 1));
  }

  static bool conflict(const Item& a, const Item& b) {
    if (a.always || b.always) return true;
    if (a.spans.empty() || b.spans.empty()) {  // one of them lives in single runs of a segment
      const Item& small = a.spans.empty() ? a : b;
      const Item& other = a.spans.empty() ? b : a;
      const auto& [segment, range] = *small.in_segment.begin();
      auto it = other.in_segment.find(segment);
      return it != other.in_segment.end() && range.first <= it->second.last && it->second.first <= range.last;
    }
    for (const Span& x : a.spans)
      for (const Span& y : b.spans)
        if (x.first <= y.last && y.first <= x.last) return true;
    return false;
  }

  // `placed` is sorted by offset: the first gap between items in conflict that is wide enough.
  int64_t lowest_free(const std::vector<const Item*>& placed, const Item& item, int64_t offset) const {
    for (const Item* other : placed) {
      if (!conflict(*other, item)) continue;
      const int64_t begin = body_.buffers[other->buffer].offset;
      if (begin >= offset + item.bytes) break;
      offset = std::max(offset, aligned(begin + other->bytes));
    }
    return offset;
  }

  Body& body_;
  std::vector<std::map<int, Range>> accesses_;                  // by buffer: segment -> instructions
  std::set<std::pair<BufferId, int>> begun_with_, ended_with_;  // what segments that do not run once receive first, and send last
  std::vector<bool> computes_;                                  // by segment: has it more than communication?
  std::vector<Item> items_;
};

}  // namespace

void plan_buffers(Programs& programs) {
  in_parallel(programs.bodies.size(), [&](size_t b) { Planner(programs.bodies[b]).run(); });
}

}  // namespace sscc
