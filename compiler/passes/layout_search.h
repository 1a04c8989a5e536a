// Layouts of a tensor on a group of devices, and the cheapest way from one to another.
//
// The devices of a group are told apart by *digits*, as those of a mesh are by its coordinates. A layout says of each digit what it stands for:
//   R   copies of the same values
//   V   shares of a sum (or another join)
//   Di  blocks of dimension i; the digits of one dimension nest, outermost first
// <V(4) D1(2)> on 8 devices: four shares of the sum, of either half of dimension 1. A layout so described is exact: it says which block and which
// share each device has, not only how many there are.
//
// A step moves digits from one place to another; devices that differ in these digits only form one call:
//   slice           R -> Di        nothing travels
//   all_gather      Di.. -> R      the innermost digits of any dimensions, in one call
//   reduce_scatter  V -> Di..      all shares at once
//   all_reduce      V -> R         all shares at once
//   all_to_all      Di.. -> Dj..   innermost digits, appended elsewhere
// Factors are integral by construction, and every call has at least two members. Shares are joined all at once: whoever joins some first sends what
// is joined again, which costs no less (docs/decisions/0003-layouts-are-digits.md). So what a step leaves is always complete.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "compiler/ir/region.h"

namespace sscc {

using Digits = std::vector<int>;          // some digits of a group, by number
using DigitSizes = std::vector<int64_t>;  // of each digit: how many values it has, at least 2

struct Layout {
  Digits sum;                // V, ascending
  std::vector<Digits> dims;  // of each dimension: its digits, outermost first
  auto operator<=>(const Layout& other) const = default;
  bool operator==(const Layout&) const = default;
};

// How many shares, or blocks, these digits tell apart.
int64_t count_of(const DigitSizes& sizes, const Digits& digits);
// Elements of a block.
int64_t block_elements(const Shape& lengths, const DigitSizes& sizes, const Layout& layout);

struct LayoutStep {
  enum class Kind { slice, all_gather, reduce_scatter, all_reduce, all_to_all } kind = Kind::slice;
  Digits moved;  // ascending
  Layout to;
};

// Compared by elements that travel, then calls and messages, then steps.
struct PathCost {
  int64_t elements = 0, messages = 0, steps = 0;
  PathCost operator+(const PathCost& other) const { return {elements + other.elements, messages + other.messages, steps + other.steps}; }
  auto operator<=>(const PathCost&) const = default;
};

// Every step from a layout. `kept` digits stay where they are.
std::vector<LayoutStep> steps_from(const Shape& lengths, const DigitSizes& sizes, const Layout& from, const Digits& kept = {});
PathCost cost_of(const Shape& lengths, const DigitSizes& sizes, const Layout& from, const LayoutStep& step);

// What is reached from a layout, and how.
struct Reached {
  PathCost cost;
  Layout before;    // of the last step
  LayoutStep step;  // the last one; meaningless for the layout that all begins with
};
std::map<Layout, Reached> all_paths(const Shape& lengths, const DigitSizes& sizes, const Layout& from, const Digits& kept = {});

struct LayoutPath {
  PathCost cost;
  std::vector<LayoutStep> steps;
};
// Within one group; nothing if no steps lead there. Digits that are outermost in the same dimension of both stay.
std::optional<LayoutPath> cheapest_path(const Shape& lengths, const DigitSizes& sizes, const Layout& from, const Layout& to);

// From one group to another that has no device in common with it: steps among the senders, then a message from each sender to each receiver that
// needs something of it, which leaves the receivers with the layout `arrives`, then steps among the receivers.
struct Crossing {
  PathCost cost;
  std::vector<LayoutStep> before;
  Layout leaves, arrives;
  std::vector<LayoutStep> after;
};
// Of the crossings there are, only those that
//   with_calls   have a collective on one side at least
//   in_parts     bring every element over once, and have the copies gathered by one call among the receivers
// In parts, senders that have nothing to join make no calls.
enum class CrossingKind { any, with_calls, in_parts };
std::optional<Crossing> cheapest_crossing(const Shape& lengths, const DigitSizes& senders, const Layout& from, const DigitSizes& receivers,
                                          const Layout& to, CrossingKind kind = CrossingKind::any);

}  // namespace sscc
