#include "compiler/passes/layout_search.h"

#include <algorithm>
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

// Every receiver gets its block once. A dimension in a blocks there and b here has a + b - gcd(a, b) pairs of blocks that meet.
PathCost crossing_cost(const Shape& lengths, const DigitSizes& senders, const Layout& leaves, const DigitSizes& receivers, const Layout& arrives) {
  const int64_t devices = std::accumulate(receivers.begin(), receivers.end(), int64_t{1}, std::multiplies<>());
  int64_t blocks = 1, meetings = 1;
  for (size_t d = 0; d < lengths.size(); ++d) {
    const int64_t there = count_of(senders, leaves.dims[d]), here = count_of(receivers, arrives.dims[d]);
    blocks *= here;
    meetings *= there + here - std::gcd(there, here);
  }
  return {devices * block_elements(lengths, receivers, arrives), devices / blocks * meetings, 1};
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

std::vector<LayoutStep> steps_from(const Shape& lengths, const DigitSizes& sizes, const Layout& from, const Digits& kept) {
  using Kind = LayoutStep::Kind;
  std::vector<LayoutStep> steps;
  for (const int digit : copies(sizes, from))
    append_all(lengths, sizes, from, {digit}, [&](const Layout& to) { steps.push_back({Kind::slice, {digit}, to}); });
  if (!from.sum.empty()) {
    Layout joined = from;
    joined.sum.clear();
    steps.push_back({Kind::all_reduce, from.sum, joined});
    append_all(lengths, sizes, joined, from.sum, [&](const Layout& to) { steps.push_back({Kind::reduce_scatter, from.sum, to}); });
    return steps;
  }
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

PathCost cost_of(const Shape& lengths, const DigitSizes& sizes, const Layout& from, const LayoutStep& step) {
  using Kind = LayoutStep::Kind;
  if (step.kind == Kind::slice) return {0, 0, 1};
  const int64_t devices = std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
  const int64_t members = count_of(sizes, step.moved), calls = devices / members;
  // What one device holds: after a gather, before the others.
  const int64_t held = block_elements(lengths, sizes, step.kind == Kind::all_gather ? step.to : from);
  return {calls * (members - 1) * held * (step.kind == Kind::all_reduce ? 2 : 1), calls, 1};
}

// Dijkstra. Of equal costs the layout that divides earlier dimensions comes first: its blocks lie together in memory.
std::map<Layout, Reached> all_paths(const Shape& lengths, const DigitSizes& sizes, const Layout& from, const Digits& kept) {
  std::map<Layout, Reached> reached = {{from, {}}};
  const auto first = [](const std::pair<PathCost, Layout>& a, const std::pair<PathCost, Layout>& b) {
    return a.first != b.first ? a.first < b.first : a.second > b.second;
  };
  std::set<std::pair<PathCost, Layout>, decltype(first)> waiting({{PathCost(), from}}, first);
  while (!waiting.empty()) {
    const auto [cost, layout] = waiting.extract(waiting.begin()).value();
    for (LayoutStep& step : steps_from(lengths, sizes, layout, kept)) {
      const PathCost total = cost + cost_of(lengths, sizes, layout, step);
      const auto [it, fresh] = reached.try_emplace(step.to);
      if (!fresh && it->second.cost <= total) continue;
      if (!fresh) waiting.erase({it->second.cost, step.to});
      waiting.insert({total, step.to});
      it->second = {total, layout, std::move(step)};
    }
  }
  return reached;
}

std::optional<LayoutPath> cheapest_path(const Shape& lengths, const DigitSizes& sizes, const Layout& from, const Layout& to) {
  const auto paths = all_paths(lengths, sizes, from, common_outermost(from, to));
  const auto found = paths.find(to);
  if (found == paths.end()) return std::nullopt;
  return LayoutPath{found->second.cost, steps_to(paths, from, to)};
}

std::optional<Crossing> cheapest_crossing(const Shape& lengths, const DigitSizes& senders, const Layout& from, const DigitSizes& receivers,
                                          const Layout& to, CrossingKind kind) {
  const auto there = all_paths(lengths, senders, from);
  std::optional<Crossing> best;
  for (const Layout& arrives : complete_layouts(lengths, receivers)) {
    const std::optional<LayoutPath> here = cheapest_path(lengths, receivers, arrives, to);
    if (!here || (best && here->cost >= best->cost)) continue;
    const bool is_gathered = here->steps.size() == 1 && here->steps[0].kind == LayoutStep::Kind::all_gather && copies(receivers, arrives).empty();
    if (kind == CrossingKind::in_parts && !is_gathered) continue;
    for (const auto& [leaves, reached] : llvm::reverse(there)) {
      if (!leaves.sum.empty()) continue;
      if (kind == CrossingKind::in_parts && from.sum.empty() && reached.cost.messages > 0) continue;
      if (kind == CrossingKind::with_calls && reached.cost.messages + here->cost.messages == 0) continue;
      const PathCost cost = reached.cost + crossing_cost(lengths, senders, leaves, receivers, arrives) + here->cost;
      if (best && best->cost <= cost) continue;
      best = Crossing{cost, {}, leaves, arrives, here->steps};
    }
  }
  if (best) best->before = steps_to(there, from, best->leaves);
  return best;
}

}  // namespace sscc
