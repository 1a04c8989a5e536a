// Transfers become collectives.
//
// Deliveries of one tensor in one segment that, together, change one layout into another become the cheapest sequence of collectives
// (collective_paths.h), if that is cheaper than what they are by themselves: all at once, else each set of devices that have to do with each other.
//
// By themselves:
//   exchange of partial sums over one region   ->  all_reduce    2(n-1)B instead of n(n-1)B bytes
//   exchange of equal blocks                   ->  all_gather    the same bytes, one call
//   anything else                              ->  point to point
//
// Joins other than sum, max and min (log-sum-exp) travel point to point and are joined where they arrive.
#include <algorithm>
#include <map>
#include <numeric>
#include <unordered_set>

#include "compiler/passes/collective_paths.h"
#include "compiler/passes/form_buckets.h"
#include "compiler/passes/passes.h"
#include "compiler/support/check.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

constexpr int64_t large_bytes = 64 << 10;

class Collectives {
 public:
  explicit Collectives(Module& module) : module_(module), paths_(module) {}

  void run() {
    std::vector<Delivery> all = std::move(module_.deliveries);
    module_.deliveries.clear();
    for (size_t begin = 0, end = 0; begin < all.size(); begin = end) {
      while (end < all.size() && all[end].tensor == all[begin].tensor) ++end;
      form({&all[begin], end - begin});
    }
  }

 private:
  // A set of deliveries, by index, and what takes their place, where the first of them stood.
  struct Formed {
    std::vector<size_t> instead_of;
    std::vector<Delivery> deliveries;
  };

  // All deliveries of a tensor.
  void form(llvm::MutableArrayRef<Delivery> deliveries) {
    std::map<int, std::vector<size_t>> by_segment;
    for (size_t i = 0; i < deliveries.size(); ++i)
      if (deliveries[i].how != Delivery::How::local && !hands_on(deliveries[i])) by_segment[deliveries[i].segment].push_back(i);
    std::map<size_t, Formed> formed;  // by first index
    std::vector<char> is_formed(deliveries.size(), 0);
    for (const auto& [segment, set] : by_segment)
      for (Formed& each : form_set(deliveries, set)) {
        for (const size_t i : each.instead_of) is_formed[i] = 1;
        const size_t first = each.instead_of[0];
        formed[first] = std::move(each);
      }
    for (size_t i = 0; i < deliveries.size(); ++i) {
      if (const auto it = formed.find(i); it != formed.end())
        llvm::move(it->second.deliveries, std::back_inserter(module_.deliveries));
      else if (!is_formed[i])
        llvm::move(by_itself(deliveries[i]), std::back_inserter(module_.deliveries));
    }
  }

  // Does somebody give what an earlier delivery left him?
  bool hands_on(const Delivery& delivery) const {
    const auto homes = module_.homes.find(delivery.tensor);
    const bool has_homes = module_.tensors[delivery.tensor].producers.empty() && homes != module_.homes.end();
    return llvm::any_of(delivery.messages, [&](const Message& message) {
      return llvm::any_of(message.contributions, [&](const Contribution& c) {
        const auto is_home = [&](const Home& home) { return home.device == c.device && home.region.contains(c.region); };
        return !c.op.valid() && !(has_homes && llvm::any_of(homes->second, is_home));
      });
    });
  }

  // Sets of these deliveries that are cheaper together.
  std::vector<Formed> form_set(llvm::ArrayRef<Delivery> deliveries, const std::vector<size_t>& set) {
    std::vector<Formed> result;
    const bool all_at_best = llvm::all_of(set, [&](size_t i) { return is_at_best(deliveries[i]); });
    if (all_at_best && !has_large_copies(deliveries, set)) return result;
    const std::vector<Source> sources = sources_of(module_, deliveries[0].tensor);
    const auto parts = connected(deliveries, set);
    if (parts.size() == 1 || has_large_copies(deliveries, set))
      if (auto cheaper = cheaper_together(deliveries, set, sources)) {
        result.push_back({set, std::move(*cheaper)});
        return result;
      }
    for (const std::vector<size_t>& part : parts)
      if (auto cheaper = parts.size() > 1 ? cheaper_together(deliveries, part, sources) : std::nullopt) result.push_back({part, std::move(*cheaper)});
    return result;
  }

  // One call among those who need it, in which nobody is sent what he does not lack.
  bool is_at_best(const Delivery& delivery) const {
    if (delivery.how != Delivery::How::exchange || delivery.messages.size() != delivery.devices.size()) return false;
    return by_itself(delivery)[0].how == Delivery::How::all_gather ||
           llvm::all_of(delivery.messages, [&](const Message& message) { return message.region == delivery.region; });
  }

  // Do several sets of devices join the same large value? Then each could join a part of it. Ranks have programs of their own then, each for its part,
  // and small values are sent twice: not worth it for these.
  bool has_large_copies(llvm::ArrayRef<Delivery> deliveries, const std::vector<size_t>& set) const {
    const auto size = static_cast<int64_t>(rt::size_of(module_.tensors[deliveries[0].tensor].dtype));
    std::unordered_set<Region> seen;
    return llvm::any_of(set,
                        [&](size_t i) { return deliveries[i].region.elements() * size >= large_bytes && !seen.insert(deliveries[i].region).second; });
  }

  std::optional<std::vector<Delivery>> cheaper_together(llvm::ArrayRef<Delivery> deliveries, const std::vector<size_t>& set,
                                                        const std::vector<Source>& sources) {
    std::vector<const Delivery*> wanted;
    PathCost alone;
    for (const size_t i : set) {
      wanted.push_back(&deliveries[i]);
      alone = alone + CollectivePaths::cost_of(by_itself(deliveries[i]));
    }
    return paths_.find(wanted, sources, alone);
  }

  // Deliveries that share a device, directly or over others, belong together.
  std::vector<std::vector<size_t>> connected(llvm::ArrayRef<Delivery> deliveries, const std::vector<size_t>& set) const {
    std::vector<int32_t> parent(static_cast<size_t>(module_.devices()));
    std::iota(parent.begin(), parent.end(), 0);
    const auto root = [&](int32_t device) {
      while (parent[static_cast<size_t>(device)] != device)
        device = parent[static_cast<size_t>(device)] = parent[static_cast<size_t>(parent[static_cast<size_t>(device)])];
      return device;
    };
    for (const size_t i : set) {
      const int32_t first = root(deliveries[i].devices[0]);
      for (const int32_t device : deliveries[i].devices) parent[static_cast<size_t>(root(device))] = first;
      for (const Message& message : deliveries[i].messages) parent[static_cast<size_t>(root(message.from))] = first;
    }
    std::map<int32_t, std::vector<size_t>> parts;
    for (const size_t i : set) parts[root(deliveries[i].devices[0])].push_back(i);
    std::vector<std::vector<size_t>> result;
    for (auto& [device, part] : parts) result.push_back(std::move(part));
    return result;
  }

  // Do the contributions, joined by the sender, make up all of the message's region?
  static bool is_whole(const Message& message) {
    std::vector<std::pair<Region, Part>> missing = {{message.region, Part()}};
    for (const Contribution& c : message.contributions) {
      std::vector<std::pair<Region, Part>> rest;
      for (auto& [region, part] : missing) {
        const Region common = intersect(region, c.region);
        const Part shared = intersect(part, c.part);
        if (common.empty() || shared.empty()) {
          rest.push_back({std::move(region), part});
          continue;
        }
        const Part left = subtract(part, shared);
        if (!left.empty()) rest.push_back({common, left});
        for (Region& outside : subtract(region, common)) rest.push_back({std::move(outside), part});
      }
      missing = std::move(rest);
    }
    return missing.empty();
  }

  // Blocks of one shape that differ in one dimension only.
  static bool are_equal_blocks(const Delivery& delivery) {
    int differing = -1;
    const Region& first = delivery.messages[0].region;
    for (const Message& message : delivery.messages) {
      if (!is_whole(message)) return false;
      for (size_t d = 0; d < first.rank(); ++d) {
        if (message.region.dim(d) == first.dim(d)) continue;
        if (message.region.dim(d).length() != first.dim(d).length()) return false;
        if (differing >= 0 && differing != static_cast<int>(d)) return false;
        differing = static_cast<int>(d);
      }
    }
    return delivery.messages.size() == delivery.devices.size();
  }

  // What a delivery is without others.
  std::vector<Delivery> by_itself(const Delivery& delivery) const {
    if (delivery.how != Delivery::How::exchange) return {delivery};
    const bool is_partial = llvm::any_of(delivery.messages, [](const Message& message) { return !is_whole(message); });
    if (delivery.devices.size() > 1 && (is_partial ? module_.tensors[delivery.tensor].join != Join::logsumexp : are_equal_blocks(delivery))) {
      Delivery call = delivery;
      call.how = is_partial ? Delivery::How::all_reduce : Delivery::How::all_gather;
      return {call};
    }
    std::vector<Delivery> result;
    for (int32_t device : delivery.devices) {
      Delivery one = delivery;
      one.how = Delivery::How::point_to_point;
      one.devices = {device};
      for (Message& message : one.messages) message.to = device;
      result.push_back(std::move(one));
    }
    return result;
  }

  Module& module_;
  CollectivePaths paths_;
};

}  // namespace

void form_collectives(Module& module) {
  Collectives(module).run();
  form_buckets(module);
}

}  // namespace sscc
