#include "compiler/passes/layout_search.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <set>

#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

Digits sorted(Digits digits) {
  llvm::sort(digits);
  return digits;
}

// The digits that stand for copies.
Digits copies(const DigitSizes& sizes, const Layout& layout) {
  Digits result;
  for (int digit = 0; digit < static_cast<int>(sizes.size()); ++digit)
    if (!llvm::is_contained(layout.sum, digit) && llvm::none_of(layout.dims, [&](const Digits& dim) { return llvm::is_contained(dim, digit); }))
      result.push_back(digit);
  return result;
}

// Calls `found` with the layout for every way to append all of `digits` to dimensions that can be cut so. May call it several times with one layout.
void append_all(const Shape& lengths, const DigitSizes& sizes, const Layout& layout, const Digits& digits,
                const std::function<void(const Layout&)>& found) {
  if (digits.empty()) return found(layout);
  for (size_t k = 0; k < digits.size(); ++k) {
    Digits others = digits;
    others.erase(others.begin() + static_cast<std::ptrdiff_t>(k));
    for (size_t d = 0; d < layout.dims.size(); ++d) {
      Layout next = layout;
      next.dims[d].push_back(digits[k]);
      if (lengths[d] % count_of(sizes, next.dims[d]) == 0) append_all(lengths, sizes, next, others, found);
    }
  }
}

// Calls `found` with the layout and the digits removed, for every way to remove innermost digits.
void remove_some(const Layout& layout, const Digits& kept, size_t dim, const Digits& removed,
                 const std::function<void(const Layout&, const Digits&)>& found) {
  if (dim == layout.dims.size()) {
    if (!removed.empty()) found(layout, removed);
    return;
  }
  remove_some(layout, kept, dim + 1, removed, found);
  if (layout.dims[dim].empty() || llvm::is_contained(kept, layout.dims[dim].back())) return;
  Layout less = layout;
  Digits more = removed;
  more.push_back(less.dims[dim].back());
  less.dims[dim].pop_back();
  remove_some(less, kept, dim, more, found);
}

size_t dim_of(const Layout& layout, int digit) {
  return static_cast<size_t>(llvm::find_if(layout.dims, [&](const Digits& dim) { return llvm::is_contained(dim, digit); }) - layout.dims.begin());
}

// Digits that are outermost in the same dimension of both.
Digits common_outermost(const Layout& a, const Layout& b) {
  Digits result;
  for (size_t d = 0; d < a.dims.size(); ++d)
    for (size_t k = 0; k < std::min(a.dims[d].size(), b.dims[d].size()) && a.dims[d][k] == b.dims[d][k]; ++k) result.push_back(a.dims[d][k]);
  return result;
}

std::vector<LayoutStep> steps_to(const std::map<Layout, Reached>& paths, const Layout& from, Layout to) {
  std::vector<LayoutStep> steps;
  while (to != from) {
    const Reached& reached = paths.at(to);
    steps.push_back(reached.step);
    to = reached.before;
  }
  std::reverse(steps.begin(), steps.end());
  return steps;
}

// Every layout without shares; those that divide earlier dimensions first.
std::vector<Layout> complete_layouts(const Shape& lengths, const DigitSizes& sizes) {
  std::set<Layout> found;
  Layout none;
  none.dims.resize(lengths.size());
  for (unsigned chosen = 0; chosen < 1u << sizes.size(); ++chosen) {
    Digits digits;
    for (int digit = 0; digit < static_cast<int>(sizes.size()); ++digit)
      if (chosen >> digit & 1) digits.push_back(digit);
    append_all(lengths, sizes, none, digits, [&](const Layout& layout) { found.insert(layout); });
  }
  return {found.rbegin(), found.rend()};
}

int64_t devices_of(const DigitSizes& sizes) { return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>()); }

// Every set of some of these digits, all of them last.
std::vector<Digits> some_of(const Digits& digits) {
  std::vector<Digits> result;
  for (unsigned chosen = 1; chosen < 1u << digits.size(); ++chosen) {
    Digits& some = result.emplace_back();
    for (size_t k = 0; k < digits.size(); ++k)
      if (chosen >> k & 1) some.push_back(digits[k]);
  }
  return result;
}

// Every receiver gets its block once. A dimension in a blocks there and b here has a + b - gcd(a, b) pairs of blocks that meet. It takes as long as
// whoever has most to do: all senders share what is sent, each receiver gets a block.
PathCost crossing_cost(const Shape& lengths, const DigitSizes& senders, const Layout& leaves, const DigitSizes& receivers, const Layout& arrives,
                       const CrossingLinks& links) {
  const int64_t devices = devices_of(receivers);
  int64_t blocks = 1, meetings = 1;
  for (size_t d = 0; d < lengths.size(); ++d) {
    const int64_t there = count_of(senders, leaves.dims[d]), here = count_of(receivers, arrives.dims[d]);
    blocks *= here;
    meetings *= there + here - std::gcd(there, here);
  }
  PathCost cost{devices * block_elements(lengths, receivers, arrives), devices / blocks * meetings, 1};
  if (!links.senders.known()) return cost;
  const auto busiest = static_cast<double>(std::min(devices, devices_of(senders)));
  const double bytes = static_cast<double>(cost.elements * links.senders.element_bytes);
  cost.picoseconds = picoseconds(links.between.seconds(static_cast<double>(cost.messages) / busiest, bytes / static_cast<double>(cost.messages)));
  return cost;
}

}  // namespace

int64_t count_of(const DigitSizes& sizes, const Digits& digits) {
  int64_t count = 1;
  for (const int digit : digits) count *= sizes[static_cast<size_t>(digit)];
  return count;
}

int64_t block_elements(const Shape& lengths, const DigitSizes& sizes, const Layout& layout) {
  int64_t count = elements(lengths);
  for (const Digits& dim : layout.dims) count /= count_of(sizes, dim);
  return count;
}

int64_t picoseconds(double seconds) { return std::llround(seconds * 1e12); }

std::vector<LayoutStep> steps_from(const Shape& lengths, const DigitSizes& sizes, const Layout& from, const Digits& kept, bool by_turns) {
  using Kind = LayoutStep::Kind;
  std::vector<LayoutStep> steps;
  for (const int digit : copies(sizes, from))
    append_all(lengths, sizes, from, {digit}, [&](const Layout& to) { steps.push_back({Kind::slice, {digit}, to}); });
  for (const Digits& some : by_turns ? some_of(from.sum) : std::vector<Digits>{from.sum}) {
    if (some.empty()) continue;
    Layout joined = from;
    llvm::erase_if(joined.sum, [&](int digit) { return llvm::is_contained(some, digit); });
    steps.push_back({Kind::all_reduce, some, joined});
    append_all(lengths, sizes, joined, some, [&](const Layout& to) { steps.push_back({Kind::reduce_scatter, some, to}); });
  }
  if (!from.sum.empty()) return steps;
  remove_some(from, kept, 0, {}, [&](const Layout& rest, const Digits& removed) {
    steps.push_back({Kind::all_gather, sorted(removed), rest});
    append_all(lengths, sizes, rest, removed, [&](const Layout& to) {
      // A dimension loses digits or gets some: what each member gives to each is then of one size.
      if (llvm::all_of(removed, [&](int digit) { return rest.dims[dim_of(to, digit)] == from.dims[dim_of(to, digit)]; }))
        steps.push_back({Kind::all_to_all, sorted(removed), to});
    });
  });
  return steps;
}

PathCost cost_of(const Shape& lengths, const DigitSizes& sizes, const Layout& from, const LayoutStep& step, const DigitLinks& links) {
  using Kind = LayoutStep::Kind;
  if (step.kind == Kind::slice) return {0, 0, 1};
  const int64_t devices = devices_of(sizes);
  const int64_t members = count_of(sizes, step.moved), calls = devices / members;
  // What one device holds: after a gather, before the others.
  const int64_t held = block_elements(lengths, sizes, step.kind == Kind::all_gather ? step.to : from);
  const int64_t turns = step.kind == Kind::all_reduce ? 2 : 1;
  PathCost cost{calls * (members - 1) * held * turns, calls, 1};
  // All calls at once; each takes as long as the slowest of its links.
  const auto bytes_each = static_cast<double>(held * links.element_bytes) / static_cast<double>(members);
  for (const int digit : step.moved)
    if (links.known())
      cost.picoseconds = std::max(
          cost.picoseconds, picoseconds(links.links[static_cast<size_t>(digit)].seconds(static_cast<double>((members - 1) * turns), bytes_each)));
  return cost;
}

// Dijkstra. Of equal costs the layout that divides earlier dimensions comes first: its blocks lie together in memory.
std::map<Layout, Reached> all_paths(const Shape& lengths, const DigitSizes& sizes, const Layout& from, const Digits& kept, const DigitLinks& links) {
  std::map<Layout, Reached> reached = {{from, {}}};
  const auto first = [](const std::pair<PathCost, Layout>& a, const std::pair<PathCost, Layout>& b) {
    return a.first != b.first ? a.first < b.first : a.second > b.second;
  };
  std::set<std::pair<PathCost, Layout>, decltype(first)> waiting({{PathCost(), from}}, first);
  while (!waiting.empty()) {
    const auto [cost, layout] = waiting.extract(waiting.begin()).value();
    for (LayoutStep& step : steps_from(lengths, sizes, layout, kept, links.known())) {
      const PathCost total = cost + cost_of(lengths, sizes, layout, step, links);
      const auto [it, fresh] = reached.try_emplace(step.to);
      if (!fresh && it->second.cost <= total) continue;
      if (!fresh) waiting.erase({it->second.cost, step.to});
      waiting.insert({total, step.to});
      it->second = {total, layout, std::move(step)};
    }
  }
  return reached;
}

std::optional<LayoutPath> cheapest_path(const Shape& lengths, const DigitSizes& sizes, const Layout& from, const Layout& to,
                                        const DigitLinks& links) {
  const auto paths = all_paths(lengths, sizes, from, common_outermost(from, to), links);
  const auto found = paths.find(to);
  if (found == paths.end()) return std::nullopt;
  return LayoutPath{found->second.cost, steps_to(paths, from, to)};
}

std::optional<Crossing> cheapest_crossing(const Shape& lengths, const DigitSizes& senders, const Layout& from, const DigitSizes& receivers,
                                          const Layout& to, CrossingKind kind, const CrossingLinks& links) {
  const auto there = all_paths(lengths, senders, from, {}, links.senders);
  std::optional<Crossing> best;
  for (const Layout& arrives : complete_layouts(lengths, receivers)) {
    const std::optional<LayoutPath> here = cheapest_path(lengths, receivers, arrives, to, links.receivers);
    if (!here || (best && here->cost >= best->cost)) continue;
    const bool is_gathered = here->steps.size() == 1 && here->steps[0].kind == LayoutStep::Kind::all_gather && copies(receivers, arrives).empty();
    if (kind == CrossingKind::in_parts && !is_gathered) continue;
    for (const auto& [leaves, reached] : llvm::reverse(there)) {
      if (!leaves.sum.empty()) continue;
      if (kind == CrossingKind::in_parts && from.sum.empty() && reached.cost.messages > 0) continue;
      if (kind == CrossingKind::with_calls && reached.cost.messages + here->cost.messages == 0) continue;
      const PathCost cost = reached.cost + crossing_cost(lengths, senders, leaves, receivers, arrives, links) + here->cost;
      if (best && best->cost <= cost) continue;
      best = Crossing{cost, {}, leaves, arrives, here->steps};
    }
  }
  if (best) best->before = steps_to(there, from, best->leaves);
  return best;
}

}  // namespace sscc
