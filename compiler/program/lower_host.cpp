// What processors beside devices do. Each has a memory of its own: what stands in the other one is copied before an instruction, and what belongs there
// behind it. Lowering has marked instructions and homes; here every other buffer gets its memory, and copies are put in:
//
//   w, s = update (w, g, s)            on the host, with s                  w, g on the device
//   ->  h:w = copy (w)   h:g = copy (g)   h:next w, s = update (h:w, h:g, s)   w = copy (h:next w)
//
// A value is on the host if instructions make it there alone, and no message or collective takes or leaves it.
#include <map>

#include "compiler/program/lower_rank.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {

class HostCrossing {
 public:
  explicit HostCrossing(RankLowering& rank) : rank_(rank), body_(rank.body) {}

  void run() {
    const bool is_used = llvm::any_of(body_.buffers, [](const Buffer& buffer) { return buffer.on_host; }) ||
                         llvm::any_of(body_.segments, [](const ProgramSegment& segment) {
                           return llvm::any_of(segment.instructions, [](const Instruction& i) { return i.on_host; });
                         });
    if (!is_used) return;
    for (const auto& [id, value] : rank_.homes_) home_in_[value.view.buffer] = {id, value.region};
    place_buffers();
    for (ProgramSegment& segment : body_.segments) {
      crossed_.clear();
      for (Instruction& i : std::exchange(segment.instructions, {})) add(std::move(i), segment.instructions);
    }
  }

 private:
  using Instructions = std::vector<Instruction>;
  struct Crossed {
    View from;
    int32_t claim = 0;  // what it holds
    View to;
  };

  // Copies and zeros go wherever they are needed; but what an operator on the host merely copies is there.
  static bool is_neutral(const Instruction& i) { return i.opcode == Opcode::copy || i.opcode == Opcode::fill || i.opcode == Opcode::capture; }
  static bool communicates(const Instruction& i) { return std::holds_alternative<Communication>(i.expression); }
  bool is_on_host(const View& view) const { return body_.buffers[view.buffer].on_host; }

  TensorId reads(const Instruction& i, size_t k) const { return rank_.claims[static_cast<size_t>(i.reads[k])].tensor; }

  void place_buffers() {
    const auto count = static_cast<size_t>(body_.buffers.size());
    std::vector<char> on_host(count, 0), on_device(count, 0);
    for (const ProgramSegment& segment : body_.segments)
      for (const Instruction& i : segment.instructions) {
        if (is_neutral(i) && !i.on_host) continue;
        for (const View& view : i.outs) (i.on_host ? on_host : on_device)[static_cast<size_t>(view.buffer.index)] = 1;
        if (communicates(i))
          for (const View& view : i.ins) on_device[static_cast<size_t>(view.buffer.index)] = 1;
      }
    for (size_t b = 0; b < count; ++b)
      if (Buffer& buffer = body_.buffers[BufferId(static_cast<int64_t>(b))]; buffer.source == Buffer::Source::none)
        buffer.on_host = on_host[b] && !on_device[b];
  }

  void add(Instruction i, Instructions& list) {
    if (is_neutral(i)) {
      const auto here = [&](const View& view) { return is_on_host(view); };
      i.on_host = llvm::all_of(i.ins, here) && llvm::all_of(i.outs, here);
      forget(i.outs);
      list.push_back(std::move(i));
      return;
    }
    if (list.empty() || !list.back().with_next) call_ = list.size();
    Instructions before;
    for (size_t k = 0; k < i.ins.size(); ++k)
      if (is_on_host(i.ins[k]) != i.on_host) i.ins[k] = crossed(i, k, before);
    list.insert(list.begin() + static_cast<std::ptrdiff_t>(call_), std::make_move_iterator(before.begin()), std::make_move_iterator(before.end()));
    // A kernel adds to all of its results or to none.
    Instructions behind;
    const bool crosses = llvm::any_of(i.outs, [&](const View& view) { return is_on_host(view) != i.on_host; });
    const bool accumulate = i.accumulate;
    if (crosses) i.accumulate = false;
    for (size_t k = 0; crosses && k < i.outs.size(); ++k) {
      if (is_on_host(i.outs[k]) == i.on_host && !accumulate) continue;
      const View aside = new_view(i.outs[k], i.on_host);
      behind.push_back(copy(i.outs[k], aside, i.writes[k]));
      behind.back().accumulate = accumulate;
      i.outs[k] = aside;
    }
    forget(i.outs);
    list.push_back(std::move(i));
    for (Instruction& each : behind) {
      forget(each.outs);
      list.push_back(std::move(each));
    }
  }

  // What operand k reads, in the other memory: of a parameter all, which other readers share, but for updates, which may have a part.
  View crossed(const Instruction& reader, size_t k, Instructions& list) {
    const View& view = reader.ins[k];
    const auto home = home_in_.find(view.buffer);
    const bool is_shared = home != home_in_.end() && reader.opcode != Opcode::update && reads(reader, k) == home->second.first;
    const View from = is_shared ? whole_buffer(view.buffer, home->second.second.local_shape()) : view;
    const int32_t claim = is_shared ? rank_.claim(home->second.first, home->second.second) : reader.reads[k];
    auto known = llvm::find_if(crossed_, [&](const Crossed& each) { return same_place(each.from, from) && is_same(each.claim, claim); });
    if (known == crossed_.end()) {
      crossed_.push_back({from, claim, new_view(from, reader.on_host)});
      known = std::prev(crossed_.end());
      list.push_back(copy(known->to, from, claim));
    }
    if (!is_shared) return known->to;
    View same = view;
    same.buffer = known->to.buffer;
    return same;
  }
  bool is_same(int32_t a, int32_t b) const {
    const Claim &first = rank_.claims[static_cast<size_t>(a)], &second = rank_.claims[static_cast<size_t>(b)];
    return first.tensor == second.tensor && first.region == second.region && first.part == second.part;
  }

  // A contiguous place of the same shape.
  View new_view(const View& like, bool on_host) {
    const std::string name = body_.buffers[like.buffer].name;
    const DType type = body_.buffers[like.buffer].dtype;
    const BufferId id = rank_.new_buffer((on_host ? "h:" : "d:") + name, type, elements(like.dims));
    body_.buffers[id].on_host = on_host;
    return whole_buffer(id, like.dims);
  }

  Instruction copy(const View& to, const View& from, int32_t claim) const {
    Instruction i;
    i.opcode = Opcode::copy;
    i.tensor = rank_.claims[static_cast<size_t>(claim)].tensor;
    i.outs.push_back(to);
    i.ins.push_back(from);
    i.reads.push_back(claim);
    i.writes.append(2, claim);
    return i;
  }

  void forget(llvm::ArrayRef<View> written) {
    for (const View& view : written) llvm::erase_if(crossed_, [&](const Crossed& each) { return each.from.buffer == view.buffer; });
  }

  RankLowering& rank_;
  Body& body_;
  std::map<BufferId, std::pair<TensorId, Region>> home_in_;
  size_t call_ = 0;               // where the instruction begins that is added now, or the one call of which it is a part
  std::vector<Crossed> crossed_;  // in this segment, as it still is
};

void RankLowering::cross_to_host() { HostCrossing(*this).run(); }

}  // namespace sscc
