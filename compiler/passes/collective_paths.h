// The cheapest sequence of collectives for deliveries that, together, change one layout into another (layout_search.h).
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "compiler/ir/module.h"
#include "compiler/passes/cover.h"
#include "compiler/passes/device_layout.h"
#include "compiler/passes/layout_search.h"
#include "compiler/passes/meetings.h"

namespace sscc {

class CollectivePaths {
 public:
  CollectivePaths(const Module& module, const Meetings& meetings, const Cluster& cluster) : module_(module), meetings_(meetings), cluster_(cluster) {}

  // What deliveries cost as they are: elements that travel, calls and messages; with a cluster, until the last of their devices is done.
  PathCost cost_of(const std::vector<Delivery>& deliveries) const;

  // What is asked for: less than this cost, if there is a limit; between devices, a crossing of this kind.
  struct Wish {
    std::optional<PathCost> limit;
    CrossingKind kind = CrossingKind::any;
  };
  struct Found {
    std::optional<std::vector<Delivery>> deliveries;
    std::string why_not;  // where there are none
  };
  // `wanted`: deliveries of one tensor in one segment, none of them local. `sources`: who has what of the tensor. Deliveries that leave the same
  // regions on the same devices; none if the change is not uniform. All that is wanted comes at once, when the first of it is needed.
  Found find(const std::vector<const Delivery*>& wanted, const std::vector<Source>& sources, const Wish& wish);

 private:
  struct Change;

  Found within(const Change& change, const Wish& wish);
  Found between(const Change& change, const Wish& wish);
  // Where senders join what they have made for somebody else.
  std::optional<Standing> place_of_senders(const Change& change) const;
  bool run_alike(const std::vector<Holding>& holdings, int segment) const;
  DigitLinks links_of(const DeviceGroup& group, TensorId tensor) const;

  const Module& module_;
  const Meetings& meetings_;
  const Cluster& cluster_;
  std::map<std::tuple<Shape, DigitSizes, Layout, Layout, DigitLinks>, std::optional<LayoutPath>> paths_;
  std::map<std::tuple<Shape, DigitSizes, Layout, DigitSizes, Layout, CrossingKind, CrossingLinks>, std::optional<Crossing>> crossings_;
};

}  // namespace sscc
