// Everybody takes what he lacks from the same devices; what several take from one is a broadcast:
//
//   x on 0, needed on 0 1 2                        ->  broadcast of x, 0 to 1 2
//   x[0:4] on 0, x[4:8] on 1, x needed on 2 3      ->  broadcast of x[0:4], of x[4:8]; 2 and 3 put them together
//
// A broadcast is a call, and all of its members must get to it. One whose giver does not run the same slots (another stage) begins with a message to the
// first of the receivers, who gives it to the others.
#include "compiler/passes/broadcasts.h"

#include <algorithm>
#include <map>

#include "compiler/support/check.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

using How = Delivery::How;

class Broadcasts {
 public:
  Broadcasts(const Meetings& meetings, const std::vector<const Delivery*>& wanted, const std::vector<Source>& sources)
      : meetings_(meetings), sources_(sources), tensor_(wanted[0]->tensor), place_(meetings.first_of(wanted)) {
    for (const Delivery* delivery : wanted)
      for (const int32_t device : delivery->devices) needs_.push_back({device, delivery->region, {}});
  }

  std::optional<std::vector<Delivery>> run(std::string& why_not) {
    if (llvm::any_of(sources_, [](const Source& source) { return !source.part.whole(); })) {
      why_not = "what devices have of it are shares, which are to be joined";
      return std::nullopt;
    }
    for (size_t first = 0; first < needs_.size(); ++first)
      if (needs_[first].messages.empty()) cover_all_of(needs_[first].region);
    // A value that comes in one piece is there then.
    const bool are_whole = llvm::all_of(needs_, [](const Need& need) { return need.messages.size() == 1; });
    for (const Gift& gift : gifts_)
      if (!give(gift, !are_whole, why_not)) return std::nullopt;
    for (const Need& need : needs_)
      if (!are_whole) put_together(need);
    return std::move(result_);
  }

 private:
  struct Need {
    int32_t device = 0;
    Region region;
    Messages messages;  // what it has itself, and what it is given
  };
  // What one device gives to several.
  struct Gift {
    Message message;
    std::vector<int32_t> to;
  };

  // Those who need a region take what they lack from the same devices: first from who has given least.
  void cover_all_of(const Region& region) {
    std::map<int32_t, int64_t> elements_given;
    for (const Gift& gift : gifts_) elements_given[gift.message.from] += gift.message.region.elements();
    std::vector<Source> others = sources_;
    llvm::stable_sort(others, [&](const Source& a, const Source& b) { return elements_given[a.device] < elements_given[b.device]; });
    for (Need& need : needs_) {
      if (!(need.region == region)) continue;
      std::vector<Source> own_first = others;
      std::stable_partition(own_first.begin(), own_first.end(), [&](const Source& source) { return source.device == need.device; });
      std::vector<Uncovered> uncovered = {{region, Part()}};
      Contributions taken;
      for (const Source& source : own_first) take(uncovered, source, taken);
      SSCC_CHECK(uncovered.empty(), "all that is needed is somewhere");
      need.messages = as_messages(taken, need.device);
      for (const Message& message : need.messages) {
        if (message.from == need.device) continue;
        const auto same =
            llvm::find_if(gifts_, [&](const Gift& gift) { return gift.message.from == message.from && gift.message.region == message.region; });
        if (same == gifts_.end())
          gifts_.push_back({message, {need.device}});
        else if (!llvm::is_contained(same->to, need.device))  // not twice, for two regions that it needs
          same->to.push_back(need.device);
      }
    }
  }

  Delivery delivery(How how, const Region& region, std::vector<int32_t> devices, Message message, bool on_the_way) const {
    Delivery result;
    result.how = how;
    result.tensor = tensor_;
    result.region = region;
    result.devices.assign(devices.begin(), devices.end());
    result.messages = {std::move(message)};
    result.on_the_way = on_the_way;
    result.segment = place_.segment;
    result.before = place_.before;
    return result;
  }

  bool give(const Gift& gift, bool on_the_way, std::string& why_not) {
    const Region& region = gift.message.region;
    int32_t from = gift.message.from;
    Contributions given = gift.message.contributions;
    std::vector<int32_t> receivers = gift.to;
    llvm::sort(receivers);
    int64_t elements = 0;
    for (const Contribution& c : given) elements += c.region.elements();
    const std::string what = region.to_string() + " of rank " + std::to_string(from);
    if (receivers.size() < 2) return why_not = "only rank " + std::to_string(receivers[0]) + " needs " + what, false;
    if (elements != region.elements()) return why_not = what + " is in several places", false;
    std::vector<int32_t> group = receivers;
    group.insert(llvm::lower_bound(group, from), from);
    if (!meetings_.run_alike(group, place_.segment)) {
      if (!meetings_.run_alike(receivers, place_.segment)) return why_not = "those who need " + what + " do not run the same slots", false;
      const int32_t first = receivers[0];
      result_.push_back(delivery(How::point_to_point, region, {first}, {from, first, region, std::move(given)}, on_the_way));
      from = first;
      given = {{first, OpId(), 0, region, Part()}};
      group = receivers;
    }
    result_.push_back(delivery(How::broadcast, region, std::move(group), {from, from, region, std::move(given)}, on_the_way));
    return true;
  }

  void put_together(const Need& need) {
    Contributions all;
    for (const Message& message : need.messages) {
      if (message.from == need.device)
        llvm::append_range(all, message.contributions);
      else
        all.push_back({need.device, OpId(), 0, message.region, Part()});
    }
    result_.push_back(delivery(How::local, need.region, {need.device}, {need.device, need.device, need.region, std::move(all)}, false));
  }

  const Meetings& meetings_;
  const std::vector<Source>& sources_;
  TensorId tensor_;
  Standing place_;
  std::vector<Need> needs_;
  std::vector<Gift> gifts_;
  std::vector<Delivery> result_;
};

}  // namespace

std::optional<std::vector<Delivery>> broadcasts_of(const Meetings& meetings, const std::vector<const Delivery*>& wanted,
                                                   const std::vector<Source>& sources, std::string& why_not) {
  return Broadcasts(meetings, wanted, sources).run(why_not);
}

}  // namespace sscc
