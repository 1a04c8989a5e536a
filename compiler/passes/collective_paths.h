// The cheapest sequence of collectives for deliveries that, together, change one layout into another (layout_search.h).
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "compiler/ir/module.h"
#include "compiler/passes/cover.h"
#include "compiler/passes/device_layout.h"
#include "compiler/passes/layout_search.h"

namespace sscc {

class CollectivePaths {
 public:
  explicit CollectivePaths(const Module& module);

  // What deliveries cost as they are: elements that travel, calls and messages.
  static PathCost cost_of(const std::vector<Delivery>& deliveries);

  // `wanted`: deliveries of one tensor in one segment, none of them local, none of what an earlier one left. `sources`: of the tensor. Deliveries that
  // leave the same regions on the same devices for less than `limit`; nothing if there are none, or the change is not uniform. All that is wanted
  // comes at once, when the first of it is needed.
  std::optional<std::vector<Delivery>> find(const std::vector<const Delivery*>& wanted, const std::vector<Source>& sources, const PathCost& limit);

 private:
  struct Place {
    int segment = 0;
    OpId before;
  };
  struct Change;

  std::optional<std::vector<Delivery>> within(const Change& change, const PathCost& limit);
  std::optional<std::vector<Delivery>> between(const Change& change, const PathCost& limit);
  // Where senders join what they have made for somebody else.
  std::optional<Place> place_of_senders(const Change& change) const;
  Place place_of(const std::vector<const Delivery*>& wanted) const;
  // Do these devices go through the same slots, so that they may wait for each other in this segment?
  bool run_alike(const std::vector<Holding>& holdings, int segment) const;

  const Module& module_;
  std::vector<size_t> position_;      // by operator
  std::vector<int> segment_;          // by operator
  std::vector<int> timetable_class_;  // by device: equal for equal timetables
  std::map<std::tuple<Shape, DigitSizes, Layout, Layout>, std::optional<LayoutPath>> paths_;
  std::map<std::tuple<Shape, DigitSizes, Layout, DigitSizes, Layout>, std::optional<Crossing>> crossings_;
};

}  // namespace sscc
