// From overlap of views to transfers (the uncovered-region method).
//
// For each tensor, the sources are what its producers' pieces write (a region, a part of the join) or its homes; the needs are what its readers'
// pieces read (a region, the whole join). A need is covered exactly once: we keep the list of (region, part) still uncovered and take from each
// source in turn what it has of it; the device's own sources first, then those that have sent least. A source whose part is a sum of more than is
// uncovered cannot be taken apart and is passed over.
//
//   x = x{0..1/2} on rank 0 + x{1/2..1} on rank 1, needed whole on both     ->  one exchange {0, 1}      (an all-reduce)
//   x[0:4] on rank 0, x[4:8] on rank 1, x[0:8] needed on both               ->  one exchange {0, 1}      (an all-gather)
//   x[0:8] on rank 0, x[2:6] needed on rank 1                               ->  one message of x[2:6]
//
// What one piece or home has whole is there for readers on its device: that takes no delivery, unless the host or the next step asks for it, or it is to
// be there before its reader runs.
//
// Devices that need the same region and can cover it among themselves form groups, each as small as possible: with replicas, several groups
// side by side. Everybody else receives point to point, also from devices that a group has just served.
#include <algorithm>
#include <map>
#include <set>

#include "compiler/passes/cover.h"
#include "compiler/passes/passes.h"
#include "compiler/support/check.h"
#include "compiler/support/parallel.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

struct Need {
  int32_t device = 0;
  int segment = 0;
  OpId before;  // invalid: end of the segment
  size_t position = 0;
  bool is_said = false;  // has a delivery, even if the device itself has the value
};

class Materializer {
 public:
  explicit Materializer(Module& module) : module_(module), sent_(static_cast<size_t>(module.devices()), 0) {
    position_.assign(static_cast<size_t>(module.ops.size()), 0);
    segment_.assign(static_cast<size_t>(module.ops.size()), -1);
    for (size_t i = 0; i < module.order.size(); ++i) position_[static_cast<size_t>(module.order[i].index)] = i;
    for (size_t s = 0; s < module.segments.size(); ++s)
      for (OpId id : module.segments[s].ops) segment_[static_cast<size_t>(id.index)] = static_cast<int>(s);
    for (const auto& slots : module.timetable) {
      std::set<int>& runs = runs_.emplace_back();
      for (const Slot& slot : slots) runs.insert(slot.segment);
    }
  }

  void run() {
    const auto readers = module_.consumers();
    // Tensors side by side; then, in their order, what is sent by whoever has sent least so far.
    std::vector<Brought> brought(static_cast<size_t>(module_.tensors.size()));
    in_parallel(brought.size(), [&](size_t t) {
      const TensorId tensor(static_cast<int64_t>(t));
      Needs needs;
      for (OpId reader : readers[t]) add_reader(needs, tensor, reader);
      add_host_needs(needs, tensor);
      if (!needs.empty()) brought[t] = bring(tensor, needs);
    });
    size_t deliveries = 0;
    for (const Brought& each : brought) deliveries += each.deliveries.size() + each.rest.size();
    module_.deliveries.reserve(deliveries);
    for (Brought& each : brought) {
      for (const auto& [region, need] : each.rest) receive(each, region, need);
      llvm::move(each.deliveries, std::back_inserter(module_.deliveries));
    }
  }

 private:
  using Needs = std::map<int32_t, std::vector<std::pair<Region, Need>>>;  // by device, in order of first use
  // What brings a tensor to its readers.
  struct Brought {
    TensorId tensor;
    std::vector<Delivery> deliveries;
    std::vector<Source> sources;
    std::vector<Source> received;               // complete values that groups leave on their devices
    std::vector<size_t> made_by;                // the delivery of each
    std::vector<std::pair<Region, Need>> rest;  // needs of devices that no group covers
  };

  int epilogue() const { return static_cast<int>(module_.segments.size()) - 1; }

  // Where a value must be there for a reader. A value of the step that micro-batches read is brought once, at the prologue's end; a parameter that is
  // stored elsewhere, in every segment that reads it (once, if the plan says so, or the segment does not run where it is stored): it is dropped after.
  Need need_of(TensorId tensor, const Region& region, int32_t device, OpId reader) const {
    const size_t r = static_cast<size_t>(reader.index);
    const SegmentKind kind = module_.segments[static_cast<size_t>(segment_[r])].kind;
    const Tensor& t = module_.tensors[tensor];
    const bool from_prologue =
        !is_stored(t) && llvm::all_of(t.producers, [&](OpId producer) { return segment_[static_cast<size_t>(producer.index)] == 0; });
    const TensorId stored = t.rounded_from.valid() ? t.rounded_from : tensor;
    const bool once = from_prologue || (is_stored(t) && !is_at_home(stored, device, region) &&
                                        (module_.tensors[stored].gather_once || !all_homes_run(stored, segment_[r])));
    if (once && kind != SegmentKind::prologue) return {device, 0, OpId(), module_.order.size(), true};
    return {device, segment_[r], reader, position_[r], is_asked_for(tensor)};
  }

  // By the host: every rank that has it hands it over, so that ranks stay alike.
  bool is_asked_for(TensorId tensor) const { return tensor == module_.loss || tensor == module_.grad_norm || is_output(module_, tensor); }

  bool is_at_home(TensorId tensor, int32_t device, const Region& region) const {
    const std::vector<Home>& homes = module_.homes.at(tensor);
    return std::any_of(homes.begin(), homes.end(), [&](const Home& home) { return home.device == device && home.region.contains(region); });
  }
  bool all_homes_run(TensorId tensor, int segment) const {
    const std::vector<Home>& homes = module_.homes.at(tensor);
    return std::all_of(homes.begin(), homes.end(), [&](const Home& home) { return runs_[static_cast<size_t>(home.device)].contains(segment); });
  }

  void add_reader(Needs& needs, TensorId tensor, OpId reader) const {
    const Op& op = module_.ops[reader];
    for (size_t i = 0; i < op.inputs.size(); ++i) {
      if (op.inputs[i] != tensor) continue;
      for (const Piece& piece : op.pieces) {
        const Region region = region_of(module_, op, static_cast<int>(i), piece);
        add(needs, region, need_of(tensor, region, piece.device, reader), is_stored(module_.tensors[tensor]));
      }
    }
  }

  // One entry for each device and region; one that lies in a region that is there by then is served by that.
  static void add(Needs& needs, Region region, Need need, bool is_dropped = false) {
    auto& list = needs[need.device];
    for (auto& [there, first] : list)
      if (there.contains(region) && (!is_dropped || first.segment == need.segment || first.segment == 0)) {
        first.is_said |= need.is_said;
        return;
      }
    list.push_back({std::move(region), need});
  }

  // Values that the host or the next step reads: loss and gradient norm, outputs where they are made, new versions at home.
  void add_host_needs(Needs& needs, TensorId tensor) const {
    const Tensor& t = module_.tensors[tensor];
    const Need end{0, epilogue(), OpId(), module_.order.size(), true};
    if (tensor == module_.loss || tensor == module_.grad_norm) {
      // Rank 0 logs it; ranks that run what rank 0 runs, and those who make it, have it as well, so that ranks stay alike.
      std::set<int32_t> devices;
      for (size_t d = 0; d < module_.timetable.size(); ++d)
        if (runs_as_rank_0(module_.timetable[d])) devices.insert(static_cast<int32_t>(d));
      for (OpId producer : t.producers)
        for (const Piece& piece : module_.ops[producer].pieces) devices.insert(piece.device);
      for (int32_t device : devices) {
        Need need = end;
        need.device = device;
        add(needs, Region(t.shape), need);
      }
    }
    if (t.next_version_of.valid())
      for (const Home& home : module_.homes.at(t.next_version_of)) {
        Need need = end;
        need.device = home.device;
        add(needs, home.region, need);
      }
    if (!is_output(module_, tensor)) return;
    std::set<std::string> seen;
    for (OpId producer : t.producers) {
      const Op& op = module_.ops[producer];
      const int output =
          static_cast<int>(op.inputs.size() + static_cast<size_t>(std::find(op.outputs.begin(), op.outputs.end(), tensor) - op.outputs.begin()));
      // What micro-batches add to is whole at the end.
      const bool is_sum = t.scope == Scope::step && op.scope == Scope::micro_batch;
      const int segment = is_sum ? epilogue() : segment_[static_cast<size_t>(producer.index)];
      for (const Piece& piece : op.pieces) {
        Region region = region_of(module_, op, output, piece);
        if (seen.insert(region.to_string()).second) add(needs, std::move(region), {piece.device, segment, OpId(), module_.order.size(), true});
      }
    }
  }

  bool runs_as_rank_0(const std::vector<Slot>& slots) const {
    const std::vector<Slot>& first = module_.timetable[0];
    return std::equal(slots.begin(), slots.end(), first.begin(), first.end(),
                      [](const Slot& a, const Slot& b) { return a.segment == b.segment && a.micro_batch == b.micro_batch; });
  }

  // -- deliveries ---------------------------------------------------------------------------------------------------------------------------------

  Brought bring(TensorId tensor, const Needs& needs) const {
    Brought result;
    result.tensor = tensor;
    result.sources = sources_of(module_, tensor);
    SSCC_CHECK(!result.sources.empty(), "tensor without a source: " + module_.tensors[tensor].name);
    std::map<int32_t, std::vector<const Source*>> by_device;
    for (const Source& source : result.sources) by_device[source.device].push_back(&source);

    // Needs that remain after looking at the device itself, by region (in order of first use).
    std::vector<std::pair<Region, std::vector<Need>>> groups;
    for (const auto& [device, list] : needs)
      for (const auto& [region, need] : list) {
        if (deliver_locally(result, region, need, by_device[device])) continue;
        auto it = std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == region; });
        if (it == groups.end()) {
          groups.push_back({region, {}});
          it = groups.end() - 1;
        }
        it->second.push_back(need);
      }
    for (auto& [region, waiting] : groups) form_groups(result, region, waiting, by_device);
    return result;
  }

  static bool deliver_locally(Brought& brought, const Region& region, const Need& need, const std::vector<const Source*>& own) {
    std::vector<Uncovered> uncovered = {{region, Part()}};
    Contributions taken;
    for (const Source* source : own) take(uncovered, *source, taken);
    if (!uncovered.empty()) return false;
    if (!need.is_said && taken.size() == 1 && taken[0].part.whole()) return true;
    Delivery delivery;
    delivery.how = Delivery::How::local;
    delivery.tensor = brought.tensor;
    delivery.region = region;
    delivery.devices = {need.device};
    delivery.messages = as_messages(taken, need.device);
    delivery.segment = need.segment;
    delivery.before = need.before;
    brought.deliveries.push_back(std::move(delivery));
    return true;
  }

  // Devices that need one region: groups that cover it among themselves. Those left over go to `rest`.
  static void form_groups(Brought& brought, const Region& region, std::vector<Need>& waiting,
                          const std::map<int32_t, std::vector<const Source*>>& by_device) {
    std::sort(waiting.begin(), waiting.end(), [](const Need& a, const Need& b) { return a.device < b.device; });
    while (!waiting.empty()) {
      std::vector<Uncovered> uncovered = {{region, Part()}};
      Contributions taken;
      std::vector<size_t> members;
      for (size_t w = 0; w < waiting.size() && !uncovered.empty(); ++w) {
        if (waiting[w].segment != waiting[0].segment) continue;
        const size_t before = taken.size();
        if (auto own = by_device.find(waiting[w].device); own != by_device.end())
          for (const Source* source : own->second) take(uncovered, *source, taken);
        if (taken.size() > before) members.push_back(w);
      }
      if (!uncovered.empty() || members.empty() || members[0] != 0) {
        brought.rest.push_back({region, waiting[0]});
        waiting.erase(waiting.begin());
        continue;
      }
      Delivery delivery;
      delivery.how = Delivery::How::exchange;
      delivery.tensor = brought.tensor;
      delivery.region = region;
      const Need* first = &waiting[members[0]];
      for (size_t m : members) {
        delivery.devices.push_back(waiting[m].device);
        if (waiting[m].position < first->position) first = &waiting[m];
        brought.received.push_back({waiting[m].device, OpId(), 0, region, Part()});
        brought.made_by.push_back(brought.deliveries.size());
      }
      delivery.segment = first->segment;
      delivery.before = first->before;
      delivery.messages = as_messages(taken, -1);
      brought.deliveries.push_back(std::move(delivery));
      for (size_t m = members.size(); m-- > 0;) waiting.erase(waiting.begin() + static_cast<std::ptrdiff_t>(members[m]));
    }
  }

  // A group's value is there for those who need it later, and earlier in the group's own segment: the group then meets earlier.
  bool comes_before(Delivery& delivery, const Need& need) const {
    const bool is_dropped = is_stored(module_.tensors[delivery.tensor]) && delivery.segment != 0;  // a stored parameter, after its segment
    if (is_dropped && delivery.segment != need.segment) return false;
    const size_t meets = delivery.before.valid() ? position_[static_cast<size_t>(delivery.before.index)] : module_.order.size();
    if (meets <= need.position) return true;
    if (delivery.segment != need.segment) return false;
    delivery.before = need.before;
    return true;
  }

  void receive(Brought& brought, const Region& region, const Need& need) {
    const TensorId tensor = brought.tensor;
    std::vector<const Source*> candidates;
    for (size_t r = 0; r < brought.received.size(); ++r)
      if (brought.received[r].region.contains(region) && comes_before(brought.deliveries[brought.made_by[r]], need))
        candidates.push_back(&brought.received[r]);
    for (const Source& source : brought.sources) candidates.push_back(&source);
    // Own first; then complete values from who has sent least, then nearest.
    auto rank_of = [&](const Source* s) {
      return std::tuple(s->device != need.device, !s->part.whole(), sent_[static_cast<size_t>(s->device)], std::abs(s->device - need.device),
                        s->device);
    };
    std::stable_sort(candidates.begin(), candidates.end(), [&](const Source* a, const Source* b) { return rank_of(a) < rank_of(b); });
    std::vector<Uncovered> uncovered = {{region, Part()}};
    Contributions taken;
    for (const Source* source : candidates) take(uncovered, *source, taken);
    SSCC_CHECK(uncovered.empty(), "nobody has " + region.to_string() + " of " + module_.tensors[tensor].name);
    Delivery delivery;
    delivery.how = Delivery::How::point_to_point;
    delivery.tensor = tensor;
    delivery.region = region;
    delivery.devices = {need.device};
    delivery.messages = as_messages(taken, need.device);
    delivery.segment = need.segment;
    delivery.before = need.before;
    const int64_t size = static_cast<int64_t>(rt::size_of(module_.tensors[tensor].dtype));
    for (const Message& message : delivery.messages)
      if (message.from != message.to) sent_[static_cast<size_t>(message.from)] += message.region.elements() * size;
    brought.deliveries.push_back(std::move(delivery));
  }

  Module& module_;
  std::vector<size_t> position_;
  std::vector<int> segment_;
  std::vector<std::set<int>> runs_;  // segments of each device
  std::vector<int64_t> sent_;        // bytes by device so far
};

}  // namespace

void materialize(Module& module) { Materializer(module).run(); }

}  // namespace sscc
