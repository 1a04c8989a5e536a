// What devices have of a tensor is one layout, what they need another:
//
//   rows on 0 1, columns needed on 0 1                          <D0(2)>        ->  <D1(2)>    all_to_all
//   x[0:4]{0..1/2} on 0, x[4:8]{0..1/2} on 1, the other half    <V(2) D0(2)>   ->  <R(4)>     two reduce_scatter, one all_gather
//     of the sum likewise on 2 and 3, x needed on all
//
// The cheapest path between the two is written as deliveries, one for each call. What a device gives to the next call is what the call before left
// there: whole, unless the shares are joined by turns (over links of different speed).
#include "compiler/passes/collective_paths.h"

#include <algorithm>
#include <set>

#include "compiler/support/check.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

using How = Delivery::How;

constexpr size_t most_digits = 6;  // of a group, after merging: more are not searched

// What each device has: its shares of one region. Nothing if a device has shares of different regions.
std::optional<std::vector<Holding>> holdings_of(const std::vector<Source>& sources, const std::set<int32_t>& devices) {
  std::map<int32_t, std::vector<Holding>> by_device;  // by region
  for (const Source& source : sources) {
    if (!devices.contains(source.device)) continue;
    auto& list = by_device[source.device];
    const auto same = llvm::find_if(list, [&](const Holding& each) { return each.region == source.region; });
    if (same == list.end())
      list.push_back({source.device, source.region, source.part});
    else if (!same->part.contains(source.part))
      same->part = unite(same->part, source.part);
  }
  std::vector<Holding> result;
  for (auto& [device, list] : by_device) {
    Holding holding = list[0];
    int64_t elements = 0;
    for (const Holding& each : list) {
      if (!(each.part == holding.part)) return std::nullopt;
      holding.region = enclose(holding.region, each.region);
      elements += each.region.elements();
    }
    if (elements != holding.region.elements()) return std::nullopt;
    result.push_back(std::move(holding));
  }
  return result;
}

// Writes the steps of one group as deliveries.
class Writer {
 public:
  Writer(TensorId tensor, const Space& space, const DeviceGroup& group, const std::vector<Holding>& from, const std::vector<Source>& sources)
      : tensor_(tensor), space_(space), group_(group) {
    for (const Holding& holding : from) {
      regions_.push_back(holding.region);
      parts_.push_back(holding.part);
      std::vector<Source>& own = own_.emplace_back();
      for (const Source& source : sources)
        if (source.device == holding.device) own.push_back(source);
    }
  }
  // Of devices that an earlier delivery has given these regions, whole.
  Writer(TensorId tensor, const Space& space, const DeviceGroup& group, const Layout& layout) : tensor_(tensor), space_(space), group_(group) {
    own_.resize(group.devices.size());
    parts_.resize(group.devices.size());
    for (size_t i = 0; i < group.devices.size(); ++i) {
      regions_.push_back(group.region(space, layout, i));
      is_left(i, regions_[i], Part());
    }
  }

  // `is_last`: what the last step leaves is what is wanted.
  void write(const std::vector<LayoutStep>& steps, int segment, OpId before, bool is_last, std::vector<Delivery>& result) {
    for (const LayoutStep& step : steps) {
      std::vector<Region> after;
      for (size_t i = 0; i < group_.devices.size(); ++i) after.push_back(group_.region(space_, step.to, i));
      const size_t first = result.size();
      if (step.kind != LayoutStep::Kind::slice) {
        for (const std::vector<size_t>& call : group_.calls(step.moved)) {
          result.push_back(call_of(step.kind, call, after));
          for (const size_t member : call) is_left(member, after[member], result.back().part);
        }
      } else if (is_last && &step == &steps.back()) {
        for (size_t i = 0; i < group_.devices.size(); ++i) result.push_back(slice_of(i, after[i]));
      }
      regions_ = std::move(after);
      for (size_t d = first; d < result.size(); ++d) {
        result[d].segment = segment;
        result[d].before = before;
        result[d].on_the_way = !is_last || &step != &steps.back();
      }
    }
  }

  // What the group's devices have now.
  std::vector<Source> sources() const {
    std::vector<Source> result;
    for (size_t i = 0; i < regions_.size(); ++i)
      for (const Source& source : own_[i]) {
        result.push_back(source);
        result.back().region = intersect(source.region, regions_[i]);
      }
    return result;
  }
  const std::vector<Region>& regions() const { return regions_; }

 private:
  // A delivery has left a value on a device: whole, or, where a sum is joined by turns, the share of those who have been joined.
  void is_left(size_t device, const Region& region, const Part& part) {
    own_[device] = {{group_.devices[device], OpId(), 0, region, part}};
    parts_[device] = part;
  }

  Contributions given(size_t device, const Region& region) const {
    std::vector<Uncovered> uncovered = {{region, parts_[device]}};
    Contributions taken;
    for (const Source& source : own_[device]) take(uncovered, source, taken);
    SSCC_CHECK(uncovered.empty(), "a device has what its layout says");
    return taken;
  }

  void add_message(Delivery& delivery, size_t from, size_t to, const Region& region) const {
    Messages message = as_messages(given(from, region), group_.devices[to]);
    delivery.messages.push_back(std::move(message[0]));
  }

  // A value that is sliced last is no delivery's yet.
  Delivery slice_of(size_t device, const Region& region) const {
    Delivery delivery;
    delivery.how = How::local;
    delivery.tensor = tensor_;
    delivery.region = region;
    delivery.devices = {group_.devices[device]};
    delivery.messages = as_messages(given(device, region), -1);
    return delivery;
  }

  Delivery call_of(LayoutStep::Kind kind, const std::vector<size_t>& call, const std::vector<Region>& after) const {
    Delivery delivery;
    delivery.tensor = tensor_;
    delivery.region = after[call[0]];
    delivery.part = parts_[call[0]];
    for (const size_t member : call) {
      delivery.devices.push_back(group_.devices[member]);
      delivery.part = unite(delivery.part, parts_[member]);
    }
    if (kind == LayoutStep::Kind::all_reduce || kind == LayoutStep::Kind::all_gather) {
      delivery.how = kind == LayoutStep::Kind::all_reduce ? How::all_reduce : How::all_gather;
      for (const size_t member : call) add_message(delivery, member, member, regions_[member]);
      return delivery;
    }
    delivery.how = kind == LayoutStep::Kind::reduce_scatter ? How::reduce_scatter : How::all_to_all;
    for (const size_t to : call) {
      delivery.region = enclose(delivery.region, after[to]);
      delivery.regions.push_back(after[to]);
      for (const size_t from : call) add_message(delivery, from, to, intersect(regions_[from], after[to]));
    }
    return delivery;
  }

  TensorId tensor_;
  const Space& space_;
  const DeviceGroup& group_;
  std::vector<Region> regions_;           // by device of the group: what it has now
  std::vector<Part> parts_;               // of these
  std::vector<std::vector<Source>> own_;  // and where from
};

}  // namespace

struct CollectivePaths::Change {
  TensorId tensor;
  const std::vector<Source>& sources;
  std::vector<Holding> from, to;
  Standing place;
};

PathCost CollectivePaths::cost_of(const std::vector<Delivery>& deliveries) const {
  PathCost cost;
  std::map<int32_t, double> seconds;  // by device
  const auto spend = [&](llvm::ArrayRef<int32_t> devices, double messages, double bytes_each) {
    if (!cluster_.is_given()) return;
    const double taken = cluster_.link_of(devices).seconds(messages, bytes_each);
    for (const int32_t device : devices) seconds[device] += taken;
  };
  for (const Delivery& delivery : deliveries) {
    const auto others = static_cast<int64_t>(delivery.devices.size()) - 1;
    const auto size = static_cast<double>(rt::size_of(module_.tensors[delivery.tensor].dtype));
    if (delivery.how == How::all_reduce || delivery.how == How::all_gather) {
      const int64_t turns = delivery.how == How::all_reduce ? 2 : 1;
      cost = cost + PathCost{turns * others * delivery.region.elements(), 1, 1};
      spend(delivery.devices, static_cast<double>(turns * others),
            static_cast<double>(delivery.region.elements()) * size / static_cast<double>(others + 1));
      continue;
    }
    for (const Message& message : delivery.messages) {
      if (message.from == message.to) continue;
      cost = cost + PathCost{message.region.elements(), 1, 1};
      spend({message.from, message.to}, 1, static_cast<double>(message.region.elements()) * size);
    }
  }
  for (const auto& [device, busy] : seconds) cost.picoseconds = std::max(cost.picoseconds, picoseconds(busy));
  return cost;
}

DigitLinks CollectivePaths::links_of(const DeviceGroup& group, TensorId tensor) const {
  DigitLinks result;
  if (!cluster_.is_given()) return result;
  result.element_bytes = static_cast<int64_t>(rt::size_of(module_.tensors[tensor].dtype));
  for (int digit = 0; digit < static_cast<int>(group.sizes.size()); ++digit)
    result.links.push_back(cluster_.levels[group.level(cluster_, digit)].link);
  return result;
}

bool CollectivePaths::run_alike(const std::vector<Holding>& holdings, int segment) const {
  std::vector<int32_t> devices;
  for (const Holding& each : holdings) devices.push_back(each.device);
  return meetings_.run_alike(devices, segment);
}

CollectivePaths::Found CollectivePaths::find(const std::vector<const Delivery*>& wanted, const std::vector<Source>& sources, const Wish& wish) {
  std::map<int32_t, Region> needs;
  std::set<int32_t> senders, holders;
  for (const Delivery* delivery : wanted) {
    for (const int32_t device : delivery->devices)
      if (const auto [it, fresh] = needs.try_emplace(device, delivery->region); !fresh && !(it->second == delivery->region))
        return {{}, "a device needs two different regions of it"};
    for (const Message& message : delivery->messages) senders.insert(message.from);
  }
  const bool is_within = llvm::all_of(senders, [&](int32_t device) { return needs.contains(device); });
  for (const Source& source : sources)
    if (!is_within || needs.contains(source.device)) holders.insert(source.device);
  std::optional<std::vector<Holding>> from = holdings_of(sources, holders);
  if (!from) return {{}, "a device has different shares of different regions of it"};
  Change change{wanted[0]->tensor, sources, std::move(*from), {}, meetings_.first_of(wanted)};
  for (const auto& [device, region] : needs) change.to.push_back({device, region, Part()});
  const bool is_partial = llvm::any_of(change.from, [](const Holding& each) { return !each.part.whole(); });
  if (is_partial && module_.tensors[change.tensor].join == Join::logsumexp) return {{}, "no collective joins log-sum-exps"};
  if (!run_alike(change.to, change.place.segment)) return {{}, "those who need it do not run the same slots"};
  if (is_within && change.from.size() == change.to.size()) return within(change, wish);
  if (is_within || llvm::any_of(holders, [&](int32_t device) { return needs.contains(device); }))
    return {{}, "some devices have of it and others do not, of those who need it"};
  return between(change, wish);
}

namespace {

const char* const not_uniform = "what devices have, or need, are no equal blocks and copies";

bool fits(const PathCost& cost, const CollectivePaths::Wish& wish) {
  const auto key = [](const PathCost& each) { return std::tuple(each.picoseconds, each.elements, each.messages); };
  return !wish.limit || key(cost) < key(*wish.limit);
}

std::vector<Region> regions_of(const std::vector<Holding>& a, const std::vector<Holding>& b) {
  std::vector<Region> regions;
  for (const std::vector<Holding>* holdings : {&a, &b})
    for (const Holding& each : *holdings) regions.push_back(each.region);
  return regions;
}

}  // namespace

CollectivePaths::Found CollectivePaths::within(const Change& change, const Wish& wish) {
  if (wish.kind == CrossingKind::in_parts) return {{}, "it stays among the devices that have it"};
  const Space space(regions_of(change.from, change.to));
  const std::optional<GroupLayouts> found = layouts_of(space, change.from, change.to, cluster_);
  if (!found || found->group.sizes.size() > most_digits) return {{}, not_uniform};
  const DigitLinks links = links_of(found->group, change.tensor);
  const auto [it, fresh] = paths_.try_emplace({space.lengths(), found->group.sizes, found->from, found->to, links});
  if (fresh) it->second = cheapest_path(space.lengths(), found->group.sizes, found->from, found->to, links);
  const std::optional<LayoutPath>& path = it->second;
  if (!path) return {{}, not_uniform};
  if (!fits(path->cost, wish)) return {{}, "messages cost less"};
  Found result{std::vector<Delivery>(), ""};
  Writer(change.tensor, space, found->group, change.from, change.sources)
      .write(path->steps, change.place.segment, change.place.before, true, *result.deliveries);
  return result;
}

std::optional<Standing> CollectivePaths::place_of_senders(const Change& change) const {
  const Tensor& tensor = module_.tensors[change.tensor];
  std::set<int> made_in;
  for (const OpId producer : tensor.producers) made_in.insert(meetings_.segment_of(producer));
  if (made_in.size() != 1 || !run_alike(change.from, *made_in.begin())) return std::nullopt;
  if (*made_in.begin() == change.place.segment) return change.place;  // not at that segment's end: there it is too late
  const Segment& segment = module_.segments[static_cast<size_t>(*made_in.begin())];
  const bool is_in_micro_batches = segment.kind == SegmentKind::forward || segment.kind == SegmentKind::backward;
  if (module_.cut.count == 1 || tensor.scope == Scope::micro_batch || !is_in_micro_batches) return Standing{*made_in.begin(), OpId()};
  // What micro-batches add to is complete at the end, which all devices run.
  if (module_.segments[static_cast<size_t>(change.place.segment)].kind != SegmentKind::epilogue) return std::nullopt;
  return change.place;
}

CollectivePaths::Found CollectivePaths::between(const Change& change, const Wish& wish) {
  const std::optional<Standing> place = place_of_senders(change);
  const bool is_whole = llvm::all_of(change.from, [](const Holding& each) { return each.part.whole(); });
  // In parts, nobody makes a call who has nothing to join.
  if (!place && !(is_whole && wish.kind == CrossingKind::in_parts)) return {{}, "those who have it do not run the same slots"};
  const Space space(regions_of(change.from, change.to));
  const std::optional<GroupLayouts> there = layouts_of(space, change.from, {}, cluster_), here = layouts_of(space, {}, change.to, cluster_);
  if (!there || !here || there->group.sizes.size() > most_digits || here->group.sizes.size() > most_digits) return {{}, not_uniform};
  CrossingLinks links{links_of(there->group, change.tensor), links_of(here->group, change.tensor), {}};
  if (cluster_.is_given()) {
    std::vector<int32_t> all = there->group.devices;
    llvm::append_range(all, here->group.devices);
    links.between = cluster_.link_of(all);
  }
  const auto [it, fresh] = crossings_.try_emplace({space.lengths(), there->group.sizes, there->from, here->group.sizes, here->to, wish.kind, links});
  if (fresh) it->second = cheapest_crossing(space.lengths(), there->group.sizes, there->from, here->group.sizes, here->to, wish.kind, links);
  const std::optional<Crossing>& crossing = it->second;
  if (!crossing)
    return {{}, wish.kind == CrossingKind::in_parts ? "no region of it has copies that cut it evenly" : "nothing of it is joined or gathered"};
  if (!fits(crossing->cost, wish)) return {{}, "messages cost less"};

  Found found{std::vector<Delivery>(), ""};
  std::vector<Delivery>& result = *found.deliveries;
  Writer senders(change.tensor, space, there->group, change.from, change.sources);
  if (place) senders.write(crossing->before, place->segment, place->before, false, result);
  Writer receivers(change.tensor, space, here->group, crossing->arrives);
  std::vector<Source> sources = senders.sources();
  std::map<int32_t, int64_t> sent;  // by sender: who has sent least is asked first
  for (size_t i = 0; i < here->group.devices.size(); ++i) {
    llvm::stable_sort(sources, [&](const Source& a, const Source& b) { return sent[a.device] < sent[b.device]; });
    Delivery delivery;
    delivery.how = How::point_to_point;
    delivery.tensor = change.tensor;
    delivery.region = receivers.regions()[i];
    delivery.devices = {here->group.devices[i]};
    std::vector<Uncovered> uncovered = {{delivery.region, Part()}};
    Contributions taken;
    for (const Source& source : sources) take(uncovered, source, taken);
    SSCC_CHECK(uncovered.empty(), "senders have all that is needed");
    delivery.messages = as_messages(taken, delivery.devices[0]);
    for (const Message& message : delivery.messages) sent[message.from] += message.region.elements();
    delivery.segment = change.place.segment;
    delivery.before = change.place.before;
    delivery.on_the_way = !crossing->after.empty();
    result.push_back(std::move(delivery));
  }
  receivers.write(crossing->after, change.place.segment, change.place.before, true, result);
  return found;
}

}  // namespace sscc
