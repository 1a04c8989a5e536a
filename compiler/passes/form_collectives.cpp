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
//
// Where a rule of the plan's `communication` says how values travel, its deliveries are formed apart from the others, as it says: by messages, by
// collectives whatever they cost, round a ring (ring.h), in parts (layout_search.h) or by broadcasts (broadcasts.h).
#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <unordered_set>

#include "compiler/passes/broadcasts.h"
#include "compiler/passes/collective_paths.h"
#include "compiler/passes/form_buckets.h"
#include "compiler/passes/lowering_rules.h"
#include "compiler/passes/passes.h"
#include "compiler/passes/ring.h"
#include "compiler/support/check.h"
#include "compiler/support/strings.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

constexpr int64_t large_bytes = 64 << 10;

class Collectives {
 public:
  Collectives(Module& module, const std::vector<CommunicationRule>& rules, const Cluster& cluster, Diagnostics& diagnostics)
      : module_(module),
        plan_rules_(rules),
        diagnostics_(diagnostics),
        meetings_(module),
        cluster_(cluster),
        paths_(module, meetings_, cluster),
        rules_(module, meetings_, rules) {}

  void run() {
    std::vector<Delivery> all = std::move(module_.deliveries);
    module_.deliveries.clear();
    module_.deliveries.reserve(all.size());
    for (size_t begin = 0, end = 0; begin < all.size(); begin = end) {
      while (end < all.size() && all[end].tensor == all[begin].tensor) ++end;
      form({&all[begin], end - begin});
    }
    rules_.report_unmatched(diagnostics_);
    for (const auto& [rule, unfit] : no_calls_)
      if (!has_calls_.contains(rule)) report(plan_rules_[static_cast<size_t>(rule)], unfit);
  }

 private:
  using Lowering = CommunicationRule::Lowering;

  // A set of deliveries, by index, and what takes their place, where the first of them stood.
  struct Formed {
    std::vector<size_t> instead_of;
    std::vector<Delivery> deliveries;
  };
  // Deliveries of a tensor that are formed together: in one segment, under one rule (-1: none), of what an earlier delivery left or not.
  struct Set {
    int segment, rule;
    bool hands_on;
    auto operator<=>(const Set&) const = default;
  };

  // All deliveries of a tensor.
  void form(llvm::MutableArrayRef<Delivery> deliveries) {
    std::map<Set, std::vector<size_t>> sets;
    for (size_t i = 0; i < deliveries.size(); ++i)
      if (deliveries[i].how != Delivery::How::local) sets[{deliveries[i].segment, rule_of(deliveries[i]), hands_on(deliveries[i])}].push_back(i);
    std::map<size_t, Formed> formed;  // by first index
    std::vector<char> is_formed(deliveries.size(), 0);
    for (const auto& [kind, set] : sets) {
      if (kind.rule < 0 && kind.hands_on) continue;
      for (Formed& each : kind.rule < 0 ? form_set(deliveries, set) : form_by_rule(deliveries, set, kind)) {
        for (const size_t i : each.instead_of) is_formed[i] = 1;
        const size_t first = each.instead_of[0];
        formed[first] = std::move(each);
      }
    }
    for (size_t i = 0; i < deliveries.size(); ++i) {
      if (const auto it = formed.find(i); it != formed.end())
        llvm::move(it->second.deliveries, std::back_inserter(module_.deliveries));
      else if (!is_formed[i])
        llvm::move(by_itself(std::move(deliveries[i])), std::back_inserter(module_.deliveries));
    }
  }

  int rule_of(const Delivery& delivery) {
    const int rule = plan_rules_.empty() ? -1 : rules_.rule_of(delivery);
    return rule >= 0 && plan_rules_[static_cast<size_t>(rule)].lowering == Lowering::automatic ? -1 : rule;
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

  // One call among those who need it, in which nobody is sent what he does not lack, over links that are all alike.
  bool is_at_best(const Delivery& delivery) const {
    if (delivery.how != Delivery::How::exchange || delivery.messages.size() != delivery.devices.size()) return false;
    if (cluster_.level_of(delivery.devices) > 0) return false;
    return how_by_itself(delivery) == Delivery::How::all_gather ||
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
    std::vector<Delivery> alone;
    for (const size_t i : set) {
      wanted.push_back(&deliveries[i]);
      llvm::move(by_itself(deliveries[i]), std::back_inserter(alone));
    }
    return paths_.find(wanted, sources, {paths_.cost_of(alone)}).deliveries;
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
    llvm::ArrayRef<Contribution> all = message.contributions;
    if (all.size() == 1) return all[0].part.whole() && all[0].region.contains(message.region);
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

  // What a delivery is without others; an exchange that is no one call: messages.
  Delivery::How how_by_itself(const Delivery& delivery) const {
    if (delivery.how != Delivery::How::exchange) return delivery.how;
    if (delivery.devices.size() == 1) return Delivery::How::point_to_point;
    const bool is_partial = llvm::any_of(delivery.messages, [](const Message& message) { return !is_whole(message); });
    if (is_partial) return module_.tensors[delivery.tensor].join != Join::logsumexp ? Delivery::How::all_reduce : Delivery::How::point_to_point;
    return are_equal_blocks(delivery) ? Delivery::How::all_gather : Delivery::How::point_to_point;
  }

  std::vector<Delivery> by_itself(Delivery delivery) const {
    const Delivery::How how = how_by_itself(delivery);
    if (how == Delivery::How::point_to_point) return messages_of(std::move(delivery));
    delivery.how = how;
    std::vector<Delivery> result;
    result.push_back(std::move(delivery));
    return result;
  }

  // Everybody gets what he lacks from everybody who has it.
  static std::vector<Delivery> messages_of(Delivery delivery) {
    std::vector<Delivery> result;
    if (delivery.how != Delivery::How::exchange) {
      result.push_back(std::move(delivery));
      return result;
    }
    for (int32_t device : delivery.devices) {
      Delivery one = delivery;
      one.how = Delivery::How::point_to_point;
      one.devices = {device};
      for (Message& message : one.messages) message.to = device;
      result.push_back(std::move(one));
    }
    return result;
  }

  // -- by a rule of the plan ----------------------------------------------------------------------------------------------------------------------

  // Nothing, and an error, where the rule asks for what cannot be. Copies that go to copies have nothing to do with each other before they are brought
  // over in parts or given by one: then all together, else each set of devices by itself if that can be.
  std::vector<Formed> form_by_rule(llvm::ArrayRef<Delivery> deliveries, const std::vector<size_t>& set, const Set& kind) {
    const Lowering lowering = plan_rules_[static_cast<size_t>(kind.rule)].lowering;
    const std::vector<Source> sources = kind.hands_on ? handed_on(deliveries, set) : sources_of(module_, deliveries[0].tensor);
    std::string why_not;
    const auto formed = [&](const std::vector<size_t>& part) { return lowered(deliveries, part, sources, lowering, why_not); };
    const auto together = [&]() -> std::vector<Formed> {
      auto all = formed(set);
      return all ? std::vector<Formed>{{set, std::move(*all)}} : std::vector<Formed>();
    };
    const bool together_first = lowering == Lowering::local_all_gather || lowering == Lowering::broadcast;
    std::vector<Formed> result = together_first ? together() : std::vector<Formed>();
    if (result.empty()) {
      const auto parts = connected(deliveries, set);
      for (const std::vector<size_t>& part : parts)
        if (auto one = formed(part)) result.push_back({part, std::move(*one)});
      if (result.size() < parts.size()) {
        if (std::vector<Formed> all = together_first ? std::vector<Formed>() : together(); !all.empty())
          result = std::move(all);
        else
          does_not_fit(kind, {deliveries[0].tensor, kind.segment, why_not});
      }
    }
    if (!result.empty()) has_calls_.insert(kind.rule);
    return result;
  }

  std::optional<std::vector<Delivery>> lowered(llvm::ArrayRef<Delivery> deliveries, const std::vector<size_t>& part,
                                               const std::vector<Source>& sources, Lowering lowering, std::string& why_not) {
    std::vector<const Delivery*> wanted;
    for (const size_t i : part) wanted.push_back(&deliveries[i]);
    const auto found = [&](CrossingKind kind) {
      CollectivePaths::Found path = paths_.find(wanted, sources, {std::nullopt, kind});
      why_not = std::move(path.why_not);
      return std::move(path.deliveries);
    };
    switch (lowering) {
      case Lowering::automatic: break;
      case Lowering::point_to_point: {
        std::vector<Delivery> result;
        for (const Delivery* each : wanted) llvm::move(messages_of(*each), std::back_inserter(result));
        return result;
      }
      case Lowering::collective: return collectives(wanted, found(CrossingKind::with_calls));
      case Lowering::ring: return rings(wanted, found(CrossingKind::with_calls), why_not);
      case Lowering::local_all_gather: return found(CrossingKind::in_parts);
      case Lowering::broadcast: return broadcasts_of(meetings_, wanted, sources, why_not);
    }
    return std::nullopt;
  }

  // A change of layouts, or else exchanges that are calls by themselves.
  std::optional<std::vector<Delivery>> collectives(const std::vector<const Delivery*>& wanted, std::optional<std::vector<Delivery>> path) const {
    if (path) return path;
    std::vector<Delivery> result;
    for (const Delivery* each : wanted) llvm::move(by_itself(*each), std::back_inserter(result));
    const auto is_call = [](const Delivery& each) { return each.how != Delivery::How::point_to_point; };
    return llvm::any_of(result, is_call) ? std::optional(std::move(result)) : std::nullopt;
  }

  // Of a change of layouts, or of exchanges; blocks that go round a ring need not be equal.
  std::optional<std::vector<Delivery>> rings(const std::vector<const Delivery*>& wanted, std::optional<std::vector<Delivery>> calls,
                                             std::string& why_not) const {
    if (!calls) {
      calls.emplace();
      for (const Delivery* each : wanted) {
        const bool is_gather =
            each->how == Delivery::How::exchange && each->messages.size() == each->devices.size() && llvm::all_of(each->messages, is_whole);
        if (!is_gather) {
          llvm::move(by_itself(*each), std::back_inserter(*calls));
          continue;
        }
        calls->push_back(*each);
        calls->back().how = Delivery::How::all_gather;
      }
    }
    std::vector<Delivery> result;
    for (const Delivery& each : *calls) {
      if (each.how == Delivery::How::local) {
        result.push_back(each);
        continue;
      }
      if (each.how == Delivery::How::point_to_point || each.how == Delivery::How::all_to_all) {
        if (why_not.empty()) why_not = "it is neither a sum nor a gather among the devices that have it";
        return std::nullopt;
      }
      auto ring = ring_of(each, why_not);
      if (!ring) return std::nullopt;
      llvm::move(*ring, std::back_inserter(result));
    }
    return result;
  }

  // What earlier deliveries have left on those who give it on.
  static std::vector<Source> handed_on(llvm::ArrayRef<Delivery> deliveries, const std::vector<size_t>& set) {
    std::vector<Source> sources;
    for (const size_t i : set)
      for (const Message& message : deliveries[i].messages)
        for (const Contribution& c : message.contributions) sources.push_back({c.device, c.op, c.piece, c.region, c.part});
    return sources;
  }

  struct Unfit {
    TensorId tensor;
    int segment = 0;
    std::string why;
  };

  // Collectives are taken wherever values can travel by them; the other lowerings must fit all that a rule matches.
  void does_not_fit(const Set& kind, const Unfit& unfit) {
    const CommunicationRule& rule = plan_rules_[static_cast<size_t>(kind.rule)];
    if (rule.lowering == Lowering::collective)
      no_calls_.try_emplace(kind.rule, unfit);
    else if (reported_.insert(kind.rule).second)
      report(rule, unfit);
  }

  void report(const CommunicationRule& rule, const Unfit& unfit) {
    diagnostics_.error(Code::lowering_does_not_fit, rule.where,
                       quoted(module_.tensors[in_first_variant(module_, unfit.tensor)].name) + " cannot travel as " + quoted(rule.word) +
                           " in segment " + module_.segments[static_cast<size_t>(unfit.segment)].name() + ": " + unfit.why,
                       "narrow the rule by 'tensor', 'phase', 'over', 'from' or 'to', or let a later one say 'auto' for this");
  }

  Module& module_;
  const std::vector<CommunicationRule>& plan_rules_;
  Diagnostics& diagnostics_;
  Meetings meetings_;
  const Cluster& cluster_;
  CollectivePaths paths_;
  LoweringRules rules_;
  std::map<int, Unfit> no_calls_;  // by rule that asks for collectives: the first that cannot travel by them
  std::set<int> has_calls_;        // rules that something travels by as they ask
  std::set<int> reported_;         // rules that ask for what cannot be
};

}  // namespace

void form_collectives(Module& module, const Plan& plan, const Cluster& cluster, Diagnostics& diagnostics) {
  Collectives(module, plan.communication, cluster, diagnostics).run();
  form_buckets(module);
}

}  // namespace sscc
