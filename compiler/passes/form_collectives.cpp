// Uniform transfers become collectives.
//
//   exchange of partial sums over one region                 ->  all_reduce      2(n-1)B instead of n(n-1)B bytes
//   exchange of equal blocks that differ in one dimension    ->  all_gather      the same bytes, one call
//   n receivers, each a message from all n of its region     ->  reduce_scatter  the same bytes, one call
//   anything else                                            ->  point to point
//
// Joins other than sum, max and min (log-sum-exp) travel point to point and are joined where they arrive.
#include <algorithm>
#include <map>
#include <set>

#include "compiler/passes/passes.h"
#include "compiler/support/check.h"

namespace sscc {
namespace {

class Collectives {
 public:
  explicit Collectives(Module& module) : module_(module) {
    for (size_t i = 0; i < module.order.size(); ++i) position_[module.order[i]] = i;
  }

  void run() {
    std::vector<Delivery> result;
    for (Delivery& delivery : module_.deliveries) {
      if (delivery.how == Delivery::How::exchange)
        lower_exchange(delivery, result);
      else
        result.push_back(std::move(delivery));
    }
    module_.deliveries = form_reduce_scatters(std::move(result));
  }

 private:
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

  void lower_exchange(Delivery& delivery, std::vector<Delivery>& result) {
    const Join join = module_.tensors[delivery.tensor].join;
    bool partial = false;
    for (const Message& message : delivery.messages) partial |= !is_whole(message);
    if (delivery.devices.size() > 1 && !partial && are_equal_blocks(delivery)) {
      delivery.how = Delivery::How::all_gather;
      result.push_back(std::move(delivery));
    } else if (delivery.devices.size() > 1 && partial && join != Join::logsumexp) {
      delivery.how = Delivery::How::all_reduce;
      result.push_back(std::move(delivery));
    } else {
      for (int32_t device : delivery.devices) {
        Delivery one = delivery;
        one.how = Delivery::How::point_to_point;
        one.devices = {device};
        for (Message& message : one.messages) message.to = device;
        result.push_back(std::move(one));
      }
    }
  }

  size_t position(OpId op) const { return op.valid() ? position_.at(op) : position_.size(); }

  static bool all_send_all_of_it(const Delivery& delivery) {
    if (delivery.how != Delivery::How::point_to_point || delivery.messages.size() < 2) return false;
    for (const Message& message : delivery.messages) {
      if (!(message.region == delivery.region)) return false;
      if (is_whole(message)) return false;
    }
    return true;
  }

  std::vector<Delivery> form_reduce_scatters(std::vector<Delivery> deliveries) {
    // By tensor, segment, senders and size of the piece: the receivers that could form one call.
    using Key = std::tuple<TensorId, int, std::vector<int32_t>, int64_t>;
    std::map<Key, std::vector<size_t>> sets;
    for (size_t i = 0; i < deliveries.size(); ++i) {
      const Delivery& d = deliveries[i];
      if (!all_send_all_of_it(d) || module_.tensors[d.tensor].join == Join::logsumexp) continue;
      std::vector<int32_t> senders;
      for (const Message& message : d.messages) senders.push_back(message.from);
      sets[{d.tensor, d.segment, senders, d.region.elements()}].push_back(i);
    }
    std::set<size_t> gone;
    for (const auto& [key, members] : sets) {
      const auto& senders = std::get<2>(key);
      std::set<int32_t> receivers;
      for (size_t i : members) receivers.insert(deliveries[i].devices[0]);
      if (members.size() != senders.size() || !std::equal(senders.begin(), senders.end(), receivers.begin(), receivers.end())) continue;
      Delivery all = deliveries[members[0]];
      all.how = Delivery::How::reduce_scatter;
      all.devices = senders;
      all.messages.clear();
      all.regions.resize(senders.size());
      for (size_t i : members) {
        Delivery& one = deliveries[i];
        const size_t k = static_cast<size_t>(std::find(senders.begin(), senders.end(), one.devices[0]) - senders.begin());
        all.regions[k] = one.region;
        if (position(one.before) < position(all.before)) all.before = one.before;
        all.region = enclose(all.region, one.region);
        for (Message& message : one.messages) all.messages.push_back(std::move(message));
        gone.insert(i);
      }
      gone.erase(members[0]);
      deliveries[members[0]] = std::move(all);
    }
    std::vector<Delivery> result;
    for (size_t i = 0; i < deliveries.size(); ++i)
      if (!gone.contains(i)) result.push_back(std::move(deliveries[i]));
    return result;
  }

  Module& module_;
  std::map<OpId, size_t> position_;
};

}  // namespace

void form_collectives(Module& module) { Collectives(module).run(); }

}  // namespace sscc
