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
//   reduce_scatter  V -> Di..
//   all_reduce      V -> R
//   all_to_all      Di.. -> Dj..   innermost digits, appended elsewhere
// Factors are integral by construction, and every call has at least two members. Where all links are alike shares are joined all at once: whoever joins
// some first sends what is joined again, which costs no less (docs/decisions/0003-layouts-are-digits.md). Where they are not, a sum may be joined by
// turns, over the fast links first, so that less is left for the slow ones; until all are joined nothing else is done.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "compiler/ir/cluster.h"
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

// Compared by time, where links are known; then by elements that travel, calls and messages, steps.
struct PathCost {
  int64_t elements = 0, messages = 0, steps = 0;
  int64_t picoseconds = 0;  // whole numbers: sums of them do not depend on their order
  PathCost operator+(const PathCost& other) const {
    return {elements + other.elements, messages + other.messages, steps + other.steps, picoseconds + other.picoseconds};
  }
  auto operator<=>(const PathCost& other) const { return key() <=> other.key(); }
  bool operator==(const PathCost&) const = default;

 private:
  std::array<int64_t, 4> key() const { return {picoseconds, elements, messages, steps}; }
};

// How devices that differ in a digit reach each other. Empty: not known, and time is not compared.
struct DigitLinks {
  std::vector<Link> links;    // by digit
  int64_t element_bytes = 0;  // of the tensor
  bool known() const { return !links.empty(); }
  auto operator<=>(const DigitLinks&) const = default;
};
int64_t picoseconds(double seconds);

// Every step from a layout. `kept` digits stay where they are. `by_turns`: a step may join some of the shares.
std::vector<LayoutStep> steps_from(const Shape& lengths, const DigitSizes& sizes, const Layout& from, const Digits& kept = {}, bool by_turns = false);
PathCost cost_of(const Shape& lengths, const DigitSizes& sizes, const Layout& from, const LayoutStep& step, const DigitLinks& links = {});

// What is reached from a layout, and how.
struct Reached {
  PathCost cost;
  Layout before;    // of the last step
  LayoutStep step;  // the last one; meaningless for the layout that all begins with
};
std::map<Layout, Reached> all_paths(const Shape& lengths, const DigitSizes& sizes, const Layout& from, const Digits& kept = {},
                                    const DigitLinks& links = {});

struct LayoutPath {
  PathCost cost;
  std::vector<LayoutStep> steps;
};
// Within one group; nothing if no steps lead there. Digits that are outermost in the same dimension of both stay.
std::optional<LayoutPath> cheapest_path(const Shape& lengths, const DigitSizes& sizes, const Layout& from, const Layout& to,
                                        const DigitLinks& links = {});

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
struct CrossingLinks {
  DigitLinks senders, receivers;
  Link between;  // the slowest
  auto operator<=>(const CrossingLinks&) const = default;
};
std::optional<Crossing> cheapest_crossing(const Shape& lengths, const DigitSizes& senders, const Layout& from, const DigitSizes& receivers,
                                          const Layout& to, CrossingKind kind = CrossingKind::any, const CrossingLinks& links = {});

}  // namespace sscc
