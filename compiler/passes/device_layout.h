// From what each device has, or needs, to layouts: which digits the devices of a group have, and what each digit tells apart.
//
// Promised: if layouts are found, they say exactly what the devices have; `Space` gives back every region. Not done: blocks of different size, devices
// that have different numbers of copies, blocks of one dimension that do not nest. Then nothing is found, and values travel point to point.
#pragma once

#include <optional>
#include <vector>

#include "compiler/ir/cluster.h"
#include "compiler/ir/region.h"
#include "compiler/passes/layout_search.h"

namespace sscc {

struct Holding {
  int32_t device = 0;
  Region region;
  Part part;
};

// The positions of each dimension in the order in which blocks have them: the finest blocks one after the other, so that a block is a range however its
// positions lie in the tensor.
class Space {
 public:
  // Of the regions of all holdings.
  explicit Space(const std::vector<Region>& regions);
  const Shape& lengths() const { return lengths_; }
  // Block `index[d]` of `count[d]` in each dimension.
  Region block(const Shape& index, const Shape& count) const;

 private:
  std::vector<std::vector<Intervals>> finest_;  // by dimension
  Shape lengths_;
};

struct DeviceGroup {
  std::vector<int32_t> devices;              // ascending
  DigitSizes sizes;                          // of the digits
  std::vector<std::vector<int32_t>> digits;  // by digit and device: its value
  Region region(const Space& space, const Layout& layout, size_t device) const;
  // The devices (by index) that differ in `moved` only: the calls of a step.
  std::vector<std::vector<size_t>> calls(const Digits& moved) const;
  // The level of the cluster over which devices that differ in this digit reach each other.
  size_t level(const Cluster& cluster, int digit) const;
};

struct GroupLayouts {
  DeviceGroup group;
  Layout from, to;
};
// `from` and `to` of the same devices, both ascending; one of the two may be empty, its layout is then without meaning. Digits that `from` and `to`
// treat alike are one, unless they are of different levels of the cluster.
std::optional<GroupLayouts> layouts_of(const Space& space, const std::vector<Holding>& from, const std::vector<Holding>& to,
                                       const Cluster& cluster = {});

}  // namespace sscc
