// The devices are put in an order, and their number in it is written in mixed radix, with the prime factors of their count as digits. What tells the
// blocks of a dimension apart, or the shares, is then a number of its own that must be made of some of these digits:
//
//   device        0  1  2  3  4  5    = digits a (2), b (3)
//   block of x:0  0  0  0  1  1  1    = a
//   share         0  1  2  0  1  2    = b                        ->  <V(b) D0(a)>
//
// Primes in any order, devices in the order of their numbers, then in that of what they have.
#include "compiler/passes/device_layout.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

std::vector<int64_t> prime_factors(int64_t n) {
  std::vector<int64_t> factors;
  for (int64_t p = 2; n > 1; ++p)
    for (; n % p == 0; n /= p) factors.push_back(p);
  return factors;
}

using Numbers = std::vector<int32_t>;  // by device

// What devices tell apart: the block of each dimension, and the share.
struct Numbering {
  std::vector<Numbers> blocks;  // by dimension
  Numbers shares;
};

std::optional<Numbering> numbering_of(const std::vector<const Holding*>& holdings) {
  Numbering numbering;
  for (size_t d = 0; d < holdings[0]->region.rank(); ++d) {
    std::vector<const Intervals*> blocks;
    for (const Holding* holding : holdings) blocks.push_back(&holding->region.dim(d));
    llvm::sort(blocks, [](const Intervals* a, const Intervals* b) { return a->begin_position() < b->begin_position(); });
    blocks.erase(std::unique(blocks.begin(), blocks.end(), [](const Intervals* a, const Intervals* b) { return *a == *b; }), blocks.end());
    Numbers& numbers = numbering.blocks.emplace_back();
    for (const Holding* holding : holdings) {
      const auto at =
          llvm::partition_point(blocks, [&](const Intervals* b) { return b->begin_position() < holding->region.dim(d).begin_position(); });
      numbers.push_back(static_cast<int32_t>(at - blocks.begin()));
    }
  }
  std::vector<Part> shares;
  Part all = Part::none();
  for (const Holding* holding : holdings) {
    const auto at = llvm::find(shares, holding->part);
    numbering.shares.push_back(static_cast<int32_t>(at - shares.begin()));
    if (at != shares.end()) continue;
    if (overlaps(all, holding->part)) return std::nullopt;
    all = unite(all, holding->part);
    shares.push_back(holding->part);
  }
  if (!all.whole()) return std::nullopt;
  return numbering;
}

// The digits, outermost first, that a number is made of; nothing if it is made otherwise.
std::optional<Digits> digits_of(const Numbers& numbers, const std::vector<int64_t>& sizes) {
  std::vector<std::pair<int64_t, int>> weights;
  int64_t stride = static_cast<int64_t>(numbers.size());
  for (size_t digit = 0; digit < sizes.size(); ++digit) {
    stride /= sizes[digit];
    if (const int64_t weight = numbers[static_cast<size_t>(stride)] - numbers[0]; weight != 0) weights.emplace_back(weight, static_cast<int>(digit));
  }
  llvm::sort(weights, std::greater<>());
  int64_t expected = 1;
  for (const auto& [weight, digit] : llvm::reverse(weights)) {
    if (weight != expected) return std::nullopt;
    expected *= sizes[static_cast<size_t>(digit)];
  }
  for (size_t i = 0; i < numbers.size(); ++i) {
    int64_t number = 0;
    for (const auto& [weight, digit] : weights) {
      int64_t below = 1;
      for (size_t inner = static_cast<size_t>(digit) + 1; inner < sizes.size(); ++inner) below *= sizes[inner];
      number += weight * (static_cast<int64_t>(i) / below % sizes[static_cast<size_t>(digit)]);
    }
    if (number != numbers[i]) return std::nullopt;
  }
  Digits digits;
  for (const auto& [weight, digit] : weights) digits.push_back(digit);
  return digits;
}

std::optional<Layout> layout_of(const Numbering& numbering, const std::vector<int64_t>& sizes) {
  Layout layout;
  std::vector<char> used(sizes.size(), 0);
  const auto add = [&](const Numbers& numbers, Digits& to) {
    const std::optional<Digits> digits = digits_of(numbers, sizes);
    if (!digits) return false;
    for (const int digit : *digits) {
      if (used[static_cast<size_t>(digit)]) return false;
      used[static_cast<size_t>(digit)] = 1;
    }
    to = *digits;
    return true;
  };
  layout.dims.resize(numbering.blocks.size());
  for (size_t d = 0; d < numbering.blocks.size(); ++d)
    if (!add(numbering.blocks[d], layout.dims[d])) return std::nullopt;
  if (!add(numbering.shares, layout.sum)) return std::nullopt;
  llvm::sort(layout.sum);
  return layout;
}

// -- digits that are treated alike ----------------------------------------------------------------------------------------------------------------

// Does `b` follow `a` immediately, in one dimension, or are both in no dimension, and of one kind?
bool belong_together(const Layout& layout, int a, int b) {
  for (const Digits& dim : layout.dims) {
    const auto at = llvm::find(dim, a);
    if (at != dim.end()) return at + 1 != dim.end() && *(at + 1) == b;
    if (llvm::is_contained(dim, b)) return false;
  }
  return llvm::is_contained(layout.sum, a) == llvm::is_contained(layout.sum, b);
}

void rename(Digits& digits, const std::vector<int>& names) {
  Digits renamed;
  for (const int digit : digits)
    if (names[static_cast<size_t>(digit)] >= 0) renamed.push_back(names[static_cast<size_t>(digit)]);
  digits = renamed;
}

// `b` becomes the inner part of `a`.
void merge(GroupLayouts& layouts, int a, int b) {
  DeviceGroup& group = layouts.group;
  const auto outer = static_cast<size_t>(a), inner = static_cast<size_t>(b);
  for (size_t i = 0; i < group.devices.size(); ++i)
    group.digits[outer][i] = group.digits[outer][i] * static_cast<int32_t>(group.sizes[inner]) + group.digits[inner][i];
  group.sizes[outer] *= group.sizes[inner];
  std::vector<int> names;
  for (int digit = 0; digit < static_cast<int>(group.sizes.size()); ++digit) names.push_back(digit == b ? -1 : digit - (digit > b));
  group.sizes.erase(group.sizes.begin() + b);
  group.digits.erase(group.digits.begin() + b);
  for (Layout* layout : {&layouts.from, &layouts.to}) {
    rename(layout->sum, names);
    for (Digits& dim : layout->dims) rename(dim, names);
  }
}

void merge_digits(GroupLayouts& layouts, const Cluster& cluster) {
  for (bool merged = true; merged;) {
    merged = false;
    const int count = static_cast<int>(layouts.group.sizes.size());
    for (int a = 0; a < count && !merged; ++a)
      for (int b = 0; b < count && !merged; ++b)
        if (a != b && belong_together(layouts.from, a, b) && belong_together(layouts.to, a, b) &&
            layouts.group.level(cluster, a) == layouts.group.level(cluster, b)) {
          merge(layouts, a, b);
          merged = true;
        }
  }
}

// -- devices --------------------------------------------------------------------------------------------------------------------------------------

// The devices in this order.
std::optional<GroupLayouts> layouts_in_order(const std::vector<Holding>& from, const std::vector<Holding>& to, const std::vector<size_t>& order,
                                             const Cluster& cluster) {
  std::optional<Numbering> there, here;
  for (auto& [holdings, numbering] : {std::pair{&from, &there}, std::pair{&to, &here}}) {
    if (holdings->empty()) continue;
    std::vector<const Holding*> ordered;
    for (const size_t i : order) ordered.push_back(&(*holdings)[i]);
    *numbering = numbering_of(ordered);
    if (!*numbering) return std::nullopt;
  }
  std::vector<int64_t> sizes = prime_factors(static_cast<int64_t>(order.size()));
  do {
    GroupLayouts result;
    const std::optional<Layout> a = layout_of(there ? *there : *here, sizes), b = layout_of(here ? *here : *there, sizes);
    if (!a || !b) continue;
    result.from = *a;
    result.to = *b;
    result.group.sizes.assign(sizes.begin(), sizes.end());
    result.group.digits.assign(sizes.size(), std::vector<int32_t>(order.size()));
    for (const Holding& holding : from.empty() ? to : from) result.group.devices.push_back(holding.device);
    for (size_t i = 0; i < order.size(); ++i) {
      auto rest = static_cast<int64_t>(i);
      for (size_t digit = sizes.size(); digit-- > 0; rest /= sizes[digit])
        result.group.digits[digit][order[i]] = static_cast<int32_t>(rest % sizes[digit]);
    }
    merge_digits(result, cluster);
    return result;
  } while (std::next_permutation(sizes.begin(), sizes.end()));
  return std::nullopt;
}

bool is_exact(const Space& space, const DeviceGroup& group, const Layout& layout, const std::vector<Holding>& holdings) {
  for (size_t i = 0; i < holdings.size(); ++i)
    if (!(group.region(space, layout, i) == holdings[i].region)) return false;
  return true;
}

}  // namespace

Space::Space(const std::vector<Region>& regions) {
  for (size_t d = 0; d < regions[0].rank(); ++d) {
    std::vector<Intervals>& finest = finest_.emplace_back();
    for (const Region& region : regions) {
      const Intervals& block = region.dim(d);
      if (!finest.empty() && block.length() > finest[0].length()) continue;
      if (!finest.empty() && block.length() < finest[0].length()) finest.clear();
      finest.push_back(block);
    }
    llvm::sort(finest, [](const Intervals& a, const Intervals& b) { return a.begin_position() < b.begin_position(); });
    finest.erase(std::unique(finest.begin(), finest.end()), finest.end());
    lengths_.push_back(finest[0].length() * static_cast<int64_t>(finest.size()));
  }
}

Region Space::block(const Shape& index, const Shape& count) const {
  llvm::SmallVector<Intervals, 4> dims;
  for (size_t d = 0; d < finest_.size(); ++d) {
    const int64_t each = finest_[d][0].length(), begin = lengths_[d] / count[d] * index[d], end = begin + lengths_[d] / count[d];
    Intervals positions;
    for (int64_t k = begin / each; k * each < end; ++k) {
      const Intervals part = finest_[d][static_cast<size_t>(k)].from_to(std::max(begin - k * each, int64_t{0}), std::min(end - k * each, each));
      positions = positions.empty() ? part : unite(positions, part);
    }
    dims.push_back(std::move(positions));
  }
  return Region(dims);
}

Region DeviceGroup::region(const Space& space, const Layout& layout, size_t device) const {
  Shape index, count;
  for (const Digits& dim : layout.dims) {
    int64_t block = 0;
    for (const int digit : dim) block = block * sizes[static_cast<size_t>(digit)] + digits[static_cast<size_t>(digit)][device];
    index.push_back(block);
    count.push_back(count_of(sizes, dim));
  }
  return space.block(index, count);
}

std::vector<std::vector<size_t>> DeviceGroup::calls(const Digits& moved) const {
  std::map<std::vector<int32_t>, std::vector<size_t>> by_rest;
  for (size_t i = 0; i < devices.size(); ++i) {
    std::vector<int32_t> rest;
    for (size_t digit = 0; digit < sizes.size(); ++digit)
      if (!llvm::is_contained(moved, static_cast<int>(digit))) rest.push_back(digits[digit][i]);
    by_rest[rest].push_back(i);
  }
  std::vector<std::vector<size_t>> result;
  for (auto& [rest, call] : by_rest) result.push_back(std::move(call));
  llvm::sort(result);
  return result;
}

size_t DeviceGroup::level(const Cluster& cluster, int digit) const {
  if (cluster.is_flat()) return 0;
  size_t level = 0;
  for (const std::vector<size_t>& call : calls({digit})) {
    std::vector<int32_t> members;
    for (const size_t member : call) members.push_back(devices[member]);
    level = std::max(level, cluster.level_of(members));
  }
  return level;
}

std::optional<GroupLayouts> layouts_of(const Space& space, const std::vector<Holding>& from, const std::vector<Holding>& to, const Cluster& cluster) {
  const size_t count = std::max(from.size(), to.size());
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  const auto exact = [&](const std::optional<GroupLayouts>& found) {
    return found && is_exact(space, found->group, found->from, from) && is_exact(space, found->group, found->to, to);
  };
  std::optional<GroupLayouts> found = layouts_in_order(from, to, order, cluster);
  if (exact(found)) return found;
  const auto first_positions = [](const Holding& holding) {
    Shape positions;
    for (size_t d = 0; d < holding.region.rank(); ++d) positions.push_back(holding.region.dim(d).begin_position());
    return positions;
  };
  llvm::stable_sort(order, [&](size_t a, size_t b) {
    for (const std::vector<Holding>* holdings : {&to, &from}) {
      if (holdings->empty()) continue;
      const Shape x = first_positions((*holdings)[a]), y = first_positions((*holdings)[b]);
      if (x != y) return x < y;
    }
    return false;
  });
  found = layouts_in_order(from, to, order, cluster);
  return exact(found) ? found : std::nullopt;
}

}  // namespace sscc
