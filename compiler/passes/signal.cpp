// What `before` asks between devices and no data says: empty messages.
//
//   before [A, B], A on devices 0 and 1, B on devices 1 and 2
//   device 1 runs A first, by its order; device 2 hears of device 1 through what B reads   ->   signal 0 -> 1, signal 0 -> 2
//
// Of what is to come first, a device runs some in each of its segments; the last of them speaks for all, as the first of what is to come later does.
// Data says it only if what each of the one makes reaches each of the other, through whatever operators and deliveries.
#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include "compiler/passes/passes.h"
#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/Sequence.h"

namespace sscc {
namespace {

// Where the results of an operator's pieces go.
class Flow {
 public:
  explicit Flow(const Module& module) : module_(module), readers_(module.consumers()) {
    for (size_t i = 0; i < module.order.size(); ++i) position_[module.order[i]] = static_cast<int64_t>(i);
    for (size_t s = 0; s < module.segments.size(); ++s)
      for (OpId id : module.segments[s].ops) segment_[id] = static_cast<int>(s);
    for (const Delivery& delivery : module.deliveries) deliveries_[delivery.tensor].push_back(&delivery);
  }

  int64_t position(OpId id) const { return position_.at(id); }
  int segment(OpId id) const { return segment_.at(id); }

  using At = std::pair<OpId, int32_t>;  // an operator's only piece on a device. Where there are several, data may have come from some of them only.

  // All that cannot begin before it has ended, up to a position: data flows along the module's order.
  std::set<At> downstream(const At& of, int64_t until) {
    std::set<At> found;
    std::vector<At> stack = {of};
    while (!stack.empty()) {
      const At at = stack.back();
      stack.pop_back();
      for (const At& next : next_of(at))
        if (position(next.first) <= until && found.insert(next).second) stack.push_back(next);
    }
    return found;
  }

 private:
  const std::vector<At>& next_of(const At& at) {
    const auto [it, fresh] = next_.try_emplace(at);
    if (fresh && piece_on(at)) it->second = readers_of(at);
    return it->second;
  }

  const Piece* piece_on(const At& at) {
    auto [it, fresh] = pieces_.try_emplace(at.first);
    if (fresh) {
      for (const Piece& piece : module_.ops[at.first].pieces) {
        const auto [only, is_first] = it->second.try_emplace(piece.device, &piece);
        if (!is_first) only->second = nullptr;
      }
    }
    const auto found = it->second.find(at.second);
    return found == it->second.end() ? nullptr : found->second;
  }

  std::vector<At> readers_of(const At& at) {
    std::vector<At> result;
    const Op& op = module_.ops[at.first];
    for (size_t o = 0; o < op.outputs.size(); ++o) {
      if (!op.outputs[o].valid()) continue;
      const Region made = region_of(module_, op, static_cast<int>(op.inputs.size() + o), *piece_on(at));
      add_readers(op.outputs[o], at.second, made, nullptr, result);
      std::map<int32_t, std::vector<const Delivery*>> left;  // by device: what has come to it of the tensor, in order
      const auto it = deliveries_.find(op.outputs[o]);
      if (it == deliveries_.end()) continue;
      for (const Delivery* delivery : it->second) {
        if (!carries(*delivery, at, made, left)) continue;
        for (const int32_t device : delivery->devices) {
          const Region* region = delivery->left_on(device);
          if (!region) continue;
          left[device].push_back(delivery);
          if (overlaps(*region, made)) add_readers(delivery->tensor, device, intersect(*region, made), delivery, result);
        }
      }
    }
    return result;
  }

  // Is what it brings made of the piece's result, or of what that has become on its way? What came beside it says nothing.
  static bool carries(const Delivery& delivery, const At& at, const Region& made, const std::map<int32_t, std::vector<const Delivery*>>& left) {
    return llvm::any_of(delivery.messages, [&](const Message& message) {
      return llvm::any_of(message.contributions, [&](const Contribution& c) {
        if (c.op.valid()) return c.op == at.first && c.device == at.second;
        if (!overlaps(c.region, made)) return false;
        const auto here = left.find(c.device);
        return here != left.end() && llvm::any_of(here->second, [&](const Delivery* earlier) {
                 return earlier->part == c.part && earlier->left_on(c.device)->contains(c.region);
               });
      });
    });
  }

  // Those on the device that read what lies in the region; of a delivery, those that stand behind it in its segment.
  void add_readers(TensorId tensor, int32_t device, const Region& region, const Delivery* delivery, std::vector<At>& result) {
    for (OpId reader : readers_[static_cast<size_t>(tensor.index)]) {
      const At at{reader, device};
      const Piece* piece = piece_on(at);
      if (!piece) continue;
      if (delivery && !(delivery->before.valid() && segment(reader) == delivery->segment && position(reader) >= position(delivery->before))) continue;
      const Op& op = module_.ops[reader];
      for (size_t i = 0; i < op.inputs.size(); ++i)
        if (op.inputs[i] == tensor && overlaps(region_of(module_, op, static_cast<int>(i), *piece), region)) {
          result.push_back(at);
          break;
        }
    }
  }

  const Module& module_;
  const std::vector<llvm::SmallVector<OpId, 2>> readers_;
  std::map<OpId, int64_t> position_;
  std::map<OpId, int> segment_;
  std::map<TensorId, std::vector<const Delivery*>> deliveries_;
  std::map<At, std::vector<At>> next_;
  std::unordered_map<OpId, std::unordered_map<int32_t, const Piece*>> pieces_;  // null: several
};

// Operators by device and segment, in the module's order.
using Runs = std::map<std::pair<int32_t, int>, std::vector<OpId>>;

Runs runs_of(const Module& module, const Flow& flow, std::vector<OpId> ops) {
  llvm::sort(ops, [&](OpId a, OpId b) { return flow.position(a) < flow.position(b); });
  Runs runs;
  for (OpId id : ops)
    for (const Piece& piece : module.ops[id].pieces) {
      std::vector<OpId>& here = runs[{piece.device, flow.segment(id)}];
      if (here.empty() || here.back() != id) here.push_back(id);
    }
  return runs;
}

}  // namespace

void signal(Module& module) {
  if (module.precedences.empty()) return;
  Flow flow(module);
  std::set<std::pair<Flow::At, Flow::At>> given;
  for (const Precedence& precedence : module.precedences) {
    const Runs first = runs_of(module, flow, precedence.first), second = runs_of(module, flow, precedence.second);
    int64_t until = -1;
    for (const OpId id : precedence.second) until = std::max(until, flow.position(id));
    for (const auto& [here, earlier] : first) {
      std::vector<std::set<Flow::At>> reached;
      for (const OpId a : earlier) reached.push_back(flow.downstream({a, here.first}, until));
      for (const auto& [there, later] : second) {
        const int32_t from = here.first, to = there.first;
        const auto is_said = [&](size_t k) { return llvm::all_of(later, [&](OpId c) { return earlier[k] == c || reached[k].contains({c, to}); }); };
        if (from == to || llvm::all_of(llvm::seq<size_t>(earlier.size()), is_said)) continue;
        const OpId after = earlier.back(), before = later.front();
        if (given.insert({{after, from}, {before, to}}).second) module.signals.push_back({from, to, after, before});
      }
    }
  }
}

}  // namespace sscc
