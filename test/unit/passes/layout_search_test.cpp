// Every step of every path is done here on what devices have (a box, and which shares of the sum), by the definition of its collective. It must make
// of one layout the other, and never have one participant.
#include <catch2/catch.hpp>
#include <set>

#include "compiler/passes/device_layout.h"
#include "compiler/passes/layout_search.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

using Kind = LayoutStep::Kind;

// What a device has: a box, and the shares that are joined in it.
struct Has {
  Region region;
  std::set<int64_t> shares;
  bool operator==(const Has& other) const { return region == other.region && shares == other.shares; }
};

// Devices numbered in mixed radix by these digits.
DeviceGroup group_of(const DigitSizes& sizes) {
  DeviceGroup group;
  group.sizes = sizes;
  group.digits.resize(sizes.size());
  int64_t devices = 1;
  for (const int64_t size : sizes) devices *= size;
  for (int64_t device = 0; device < devices; ++device) {
    group.devices.push_back(static_cast<int32_t>(device));
    int64_t rest = device;
    for (size_t digit = sizes.size(); digit-- > 0; rest /= sizes[digit]) group.digits[digit].push_back(static_cast<int32_t>(rest % sizes[digit]));
  }
  return group;
}

// The shares that a device has joined: of all that these digits tell apart, those that the digits left in the layout do not tell from its own.
std::set<int64_t> shares_of(const DeviceGroup& group, size_t device, const Digits& all, const Digits& left) {
  std::set<int64_t> shares;
  for (size_t other = 0; other < group.devices.size(); ++other) {
    int64_t number = 0;
    for (const int digit : all) number = number * group.sizes[static_cast<size_t>(digit)] + group.digits[static_cast<size_t>(digit)][other];
    if (llvm::all_of(left,
                     [&](int digit) { return group.digits[static_cast<size_t>(digit)][other] == group.digits[static_cast<size_t>(digit)][device]; }))
      shares.insert(number);
  }
  return shares;
}

// A layout by its definition. `shares`: the digits that told shares apart at first.
std::vector<Has> holdings(const DeviceGroup& group, const Shape& lengths, const Layout& layout, const Digits& shares) {
  std::vector<Has> result;
  for (size_t device = 0; device < group.devices.size(); ++device) {
    const auto number = [&](const Digits& digits) {
      int64_t value = 0;
      for (const int digit : digits) value = value * group.sizes[static_cast<size_t>(digit)] + group.digits[static_cast<size_t>(digit)][device];
      return value;
    };
    llvm::SmallVector<Intervals, 4> dims;
    for (size_t d = 0; d < lengths.size(); ++d) {
      const int64_t each = lengths[d] / count_of(group.sizes, layout.dims[d]), block = number(layout.dims[d]);
      dims.push_back(Intervals(block * each, (block + 1) * each));
    }
    result.push_back({Region(dims), shares_of(group, device, shares, layout.sum)});
  }
  return result;
}

Region enclosing(const std::vector<Has>& devices, const std::vector<size_t>& call) {
  Region box = devices[call[0]].region;
  for (const size_t member : call) box = enclose(box, devices[member].region);
  return box;
}

// Do the boxes of the members make up `whole`, each element once?
bool are_blocks_of(const Region& whole, const std::vector<Has>& devices, const std::vector<size_t>& call) {
  int64_t elements = 0;
  for (const size_t a : call) {
    elements += devices[a].region.elements();
    for (const size_t b : call)
      if (a < b && overlaps(devices[a].region, devices[b].region)) return false;
    if (devices[a].region.elements() != devices[call[0]].region.elements()) return false;
  }
  return elements == whole.elements();
}

bool have_the_same_shares(const std::vector<Has>& devices, const std::vector<size_t>& call) {
  return llvm::all_of(call, [&](size_t member) { return devices[member].shares == devices[call[0]].shares; });
}
// Shares of one box, each once.
bool have_different_shares(const std::vector<Has>& devices, const std::vector<size_t>& call) {
  std::set<int64_t> seen;
  for (const size_t member : call) {
    if (!(devices[member].region == devices[call[0]].region)) return false;
    for (const int64_t share : devices[member].shares)
      if (!seen.insert(share).second) return false;
  }
  return true;
}

// One call of a collective: what its members have afterwards, given which box each is to have. False: the collective cannot do that.
bool call(Kind kind, std::vector<Has>& devices, const std::vector<size_t>& members, const std::vector<Has>& wanted) {
  if (members.size() < 2) return false;
  const Region whole = enclosing(devices, members);
  std::vector<Has> after;
  for (const size_t member : members) after.push_back(wanted[member]);
  std::vector<size_t> all(members.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = i;
  std::set<int64_t> joined;
  for (const size_t member : members) joined.insert(devices[member].shares.begin(), devices[member].shares.end());
  switch (kind) {
    case Kind::all_gather:
      if (!are_blocks_of(whole, devices, members) || !have_the_same_shares(devices, members)) return false;
      for (const Has& has : after)
        if (!(has.region == whole)) return false;
      break;
    case Kind::all_reduce:
      if (!have_different_shares(devices, members)) return false;
      for (const Has& has : after)
        if (!(has.region == whole)) return false;
      break;
    case Kind::reduce_scatter:
      if (!have_different_shares(devices, members) || !are_blocks_of(whole, after, all)) return false;
      break;
    case Kind::all_to_all:
      if (!are_blocks_of(whole, devices, members) || !are_blocks_of(whole, after, all) || !have_the_same_shares(devices, members)) return false;
      for (const size_t from : members)  // what each sends to each has one size
        for (const size_t to : members)
          if (intersect(devices[from].region, wanted[to].region).elements() * static_cast<int64_t>(members.size()) != devices[from].region.elements())
            return false;
      break;
    case Kind::slice: return false;
  }
  for (size_t i = 0; i < members.size(); ++i) devices[members[i]] = {after[i].region, joined};
  return true;
}

bool step(const DeviceGroup& group, const Shape& lengths, const LayoutStep& step, std::vector<Has>& devices, const Digits& shares) {
  const std::vector<Has> wanted = holdings(group, lengths, step.to, shares);
  if (step.kind == Kind::slice) {
    for (size_t i = 0; i < devices.size(); ++i) {
      if (!devices[i].region.contains(wanted[i].region)) return false;
      devices[i].region = wanted[i].region;
    }
    return devices == wanted;
  }
  for (const std::vector<size_t>& members : group.calls(step.moved))
    if (!call(step.kind, devices, members, wanted)) return false;
  return devices == wanted;
}

// Every layout of the digits, with shares and without.
void all_layouts(const Shape& lengths, const DigitSizes& sizes, size_t digit, const Layout& layout, std::set<Layout>& found) {
  if (digit == sizes.size()) {
    found.insert(layout);
    return;
  }
  all_layouts(lengths, sizes, digit + 1, layout, found);
  Layout next = layout;
  next.sum.push_back(static_cast<int>(digit));
  all_layouts(lengths, sizes, digit + 1, next, found);
  for (size_t d = 0; d < lengths.size(); ++d)
    for (size_t at = 0; at <= layout.dims[d].size(); ++at) {
      next = layout;
      next.dims[d].insert(next.dims[d].begin() + static_cast<std::ptrdiff_t>(at), static_cast<int>(digit));
      if (lengths[d] % count_of(sizes, next.dims[d]) == 0) all_layouts(lengths, sizes, digit + 1, next, found);
    }
}

TEST_CASE("every step from every layout does what its collective does") {
  for (const DigitSizes& sizes : std::vector<DigitSizes>{{2}, {3}, {2, 2}, {2, 3}, {2, 2, 2}, {2, 2, 3}, {2, 3, 2}})
    for (const Shape& lengths : std::vector<Shape>{{}, {24}, {24, 12}, {12, 6, 24}}) {
      const DeviceGroup group = group_of(sizes);
      std::set<Layout> layouts;
      Layout copies;
      copies.dims.resize(lengths.size());
      all_layouts(lengths, sizes, 0, copies, layouts);
      int64_t steps = 0, wrong = 0;
      for (const Layout& from : layouts) {
        const std::vector<Has> before = holdings(group, lengths, from, from.sum);
        std::set<Layout> reached = {from};
        for (const auto& [to, how] : all_paths(lengths, sizes, from)) reached.insert(to);
        for (const bool by_turns : {false, true})
          for (const LayoutStep& each : steps_from(lengths, sizes, from, {}, by_turns)) {
            std::vector<Has> devices = before;
            wrong += !step(group, lengths, each, devices, from.sum);
            ++steps;
          }
        // Whatever has no shares is reached: over copies of everything, if need be.
        for (const Layout& to : layouts)
          if (to.sum.empty()) wrong += !reached.contains(to);
      }
      CHECK(wrong == 0);
      CHECK((steps > 0 || lengths.empty()));
    }
}

TEST_CASE("what a path costs is what its calls send") {
  const DigitSizes sizes = {2, 2, 3};
  const Shape lengths = {12, 6};
  std::set<Layout> layouts;
  all_layouts(lengths, sizes, 0, {{}, {{}, {}}}, layouts);
  int64_t wrong = 0;
  for (const Layout& from : layouts)
    for (const auto& [to, how] : all_paths(lengths, sizes, from)) {
      if (to == from) continue;
      const std::optional<LayoutPath> path = cheapest_path(lengths, sizes, from, to);
      if (!path) {  // outermost digits that both have stay
        ++wrong;
        continue;
      }
      PathCost sum;
      Layout at = from;
      for (const LayoutStep& each : path->steps) {
        sum = sum + cost_of(lengths, sizes, at, each);
        at = each.to;
      }
      wrong += sum != path->cost || at != to || how.cost > path->cost;
    }
  CHECK(wrong == 0);
}

std::vector<std::pair<Kind, int64_t>> calls_of(const DigitSizes& sizes, const std::vector<LayoutStep>& steps) {
  std::vector<std::pair<Kind, int64_t>> calls;
  for (const LayoutStep& each : steps)
    if (each.kind != Kind::slice) calls.emplace_back(each.kind, count_of(sizes, each.moved));
  return calls;
}
using Calls = std::vector<std::pair<Kind, int64_t>>;

Calls path(const Shape& lengths, const DigitSizes& sizes, const Layout& from, const Layout& to) {
  const auto found = cheapest_path(lengths, sizes, from, to);
  REQUIRE(found);
  return calls_of(sizes, found->steps);
}

TEST_CASE("paths within a group") {
  const Shape cube = {128, 256, 512};
  // <V8> -> <R8>; <R8> -> <D0 8>; <V4 D2 2> -> <R4 D2 2>
  CHECK(path(cube, {8}, {{0}, {{}, {}, {}}}, {{}, {{}, {}, {}}}) == Calls{{Kind::all_reduce, 8}});
  CHECK(path(cube, {8}, {{}, {{}, {}, {}}}, {{}, {{0}, {}, {}}}).empty());
  CHECK(path(cube, {4, 2}, {{0}, {{}, {}, {1}}}, {{}, {{}, {}, {1}}}) == Calls{{Kind::all_reduce, 4}});
  // <V4 D2 2> -> <R2 D0 2 D2 2>
  CHECK(path(cube, {2, 2, 2}, {{0, 1}, {{}, {}, {2}}}, {{}, {{1}, {}, {2}}}) == Calls{{Kind::reduce_scatter, 4}, {Kind::all_gather, 2}});
  // <V2 D1 2> -> <D0 4>
  CHECK(path({8, 8}, {2, 2}, {{0}, {{}, {1}}}, {{}, {{0, 1}, {}}}) == Calls{{Kind::reduce_scatter, 2}, {Kind::all_to_all, 2}});
  // <V2 D1 4> -> <D1 8>, the shares inside
  CHECK(path({8, 8}, {2, 4}, {{0}, {{}, {1}}}, {{}, {{}, {1, 0}}}) == Calls{{Kind::reduce_scatter, 2}});
  // <D0 4> -> <D1 4>, <D0 2 D1 2> -> <R4>
  CHECK(path({8, 8}, {4}, {{}, {{0}, {}}}, {{}, {{}, {0}}}) == Calls{{Kind::all_to_all, 4}});
  CHECK(path({8, 8}, {2, 2}, {{}, {{0}, {1}}}, {{}, {{}, {}}}) == Calls{{Kind::all_gather, 4}});
  // <R2 V4> -> <R8>: every copy joins its half, then all gather
  CHECK(path({64}, {2, 4}, {{1}, {{}}}, {{}, {{}}}) == Calls{{Kind::reduce_scatter, 4}, {Kind::all_gather, 8}});
  // <V2 D0 2> -> <R4>
  CHECK(path({8, 8}, {2, 2}, {{0}, {{1}, {}}}, {{}, {{}, {}}}) == Calls{{Kind::reduce_scatter, 2}, {Kind::all_gather, 4}});
  // 12 devices: <R2 D0 6> -> <R3 D0 4> has factors that are no integers; it goes over copies
  CHECK(path({12}, {2, 2, 3}, {{}, {{1, 2}}}, {{}, {{0, 1}}}) == Calls{{Kind::all_gather, 6}});
}

TEST_CASE("sums are joined by turns where links differ, fast ones first") {
  const Link fast{4.5e11, 3e-6}, slow{5e10, 8e-6};
  const DigitSizes sizes = {16, 8};  // nodes, devices of a node
  const Layout shares = {{0, 1}, {{}}}, copies = {{}, {{}}};
  const auto calls = [&](const Shape& lengths, const Layout& to, const DigitLinks& links) {
    const auto found = cheapest_path(lengths, sizes, shares, to, links);
    REQUIRE(found);
    return calls_of(sizes, found->steps);
  };
  const DigitLinks nodes{{slow, fast}, 4};
  CHECK(calls({1 << 24}, copies, nodes) == Calls{{Kind::reduce_scatter, 8}, {Kind::all_reduce, 16}, {Kind::all_gather, 8}});
  CHECK(calls({1 << 24}, copies, {}) == Calls{{Kind::all_reduce, 128}});
  // What it costs is what its calls take, in whole picoseconds.
  const auto found = cheapest_path({1 << 24}, sizes, shares, copies, nodes);
  const double bytes = 4 << 24;
  CHECK(found->cost.picoseconds == 2 * picoseconds(fast.seconds(7, bytes / 8)) + picoseconds(slow.seconds(30, bytes / 8 / 16)));
  // Two positions cannot be cut in eight: all at once, or between copies of the node's sum.
  for (const auto& [kind, members] : calls({2}, copies, nodes)) CHECK((kind == Kind::all_reduce && members > 1));
}

TEST_CASE("a crossing takes the time of its links") {
  // Two copies to two others, over a slow link: half each, and a gather over the fast one.
  const Link fast{1e11, 1e-9}, slow{1e9, 1e-9};
  const Layout copies = {{}, {{}}};
  const auto crossing = [&](const CrossingLinks& links) {
    const auto found = cheapest_crossing({1 << 20}, {2}, copies, {2}, copies, CrossingKind::any, links);
    REQUIRE(found);
    return calls_of({2}, found->after);
  };
  CHECK(crossing({{{fast}, 4}, {{fast}, 4}, slow}) == Calls{{Kind::all_gather, 2}});
  CHECK(crossing({{{slow}, 4}, {{slow}, 4}, slow}).empty());
  CHECK(crossing({}).empty());
}

TEST_CASE("paths between groups") {
  // <V4 D2 2> on 8 -> <R2 D0 2 D2 2> on 8 others: 2 reduce-scatters, 8 messages, 4 all-gathers
  const Shape cube = {128, 256, 512};
  const DigitSizes senders = {4, 2}, receivers = {2, 2, 2};
  const auto found = cheapest_crossing(cube, senders, {{0}, {{}, {}, {1}}}, receivers, {{}, {{1}, {}, {2}}});
  REQUIRE(found);
  CHECK(found->cost.messages == 14);
  CHECK(calls_of(senders, found->before) == Calls{{Kind::reduce_scatter, 4}});
  CHECK(calls_of(receivers, found->after) == Calls{{Kind::all_gather, 2}});
  // Sums of 2 devices, needed on 3: joined where they are made, cut into 2 and 3
  const auto uneven = cheapest_crossing({12}, {2}, {{0}, {{}}}, {3}, {{}, {{}}});
  REQUIRE(uneven);
  CHECK(uneven->cost == PathCost{12 + 12 + 2 * 12, 1 + 4 + 1, 3});
  // 2 copies to 3: a message each
  const auto copies = cheapest_crossing({12}, {2}, {{}, {{}}}, {3}, {{}, {{}}});
  REQUIRE(copies);
  CHECK(copies->cost == PathCost{3 * 12, 3, 1});
}

std::vector<Holding> holdings_on(const std::vector<int32_t>& devices, const std::vector<std::pair<Region, Part>>& what) {
  std::vector<Holding> result;
  for (size_t i = 0; i < devices.size(); ++i) result.push_back({devices[i], what[i].first, what[i].second});
  return result;
}
Region rows(int64_t begin, int64_t end) { return Region(llvm::ArrayRef<Intervals>{Intervals(begin, end), Intervals(0, 4)}); }

TEST_CASE("layouts are found in what devices have") {
  const Part first = Part().piece(0, 2), second = Part().piece(1, 2), whole;
  const Region all = rows(0, 8), top = rows(0, 4), bottom = rows(4, 8);
  const Space space({all, top, bottom});
  {  // <V2 D0 2> -> <R4>
    const auto found = layouts_of(space, holdings_on({4, 5, 6, 7}, {{top, first}, {bottom, first}, {top, second}, {bottom, second}}),
                                  holdings_on({4, 5, 6, 7}, {{all, whole}, {all, whole}, {all, whole}, {all, whole}}));
    REQUIRE(found);
    CHECK(found->group.sizes == DigitSizes{2, 2});
    CHECK(found->from == Layout{{0}, {{1}, {}}});
    CHECK(found->to == Layout{{}, {{}, {}}});
    CHECK(found->group.calls({0}) == std::vector<std::vector<size_t>>{{0, 2}, {1, 3}});
  }
  {  // digits that are treated alike are one
    const Part quarters[] = {Part().piece(0, 4), Part().piece(1, 4), Part().piece(2, 4), Part().piece(3, 4)};
    const auto found = layouts_of(space, holdings_on({0, 1, 2, 3}, {{all, quarters[2]}, {all, quarters[0]}, {all, quarters[3]}, {all, quarters[1]}}),
                                  holdings_on({0, 1, 2, 3}, {{all, whole}, {all, whole}, {all, whole}, {all, whole}}));
    REQUIRE(found);
    CHECK(found->group.sizes == DigitSizes{4});
  }
  {  // devices in the order of what they need
    const auto found = layouts_of(space, holdings_on({0, 1}, {{all, first}, {all, second}}), holdings_on({0, 1}, {{bottom, whole}, {top, whole}}));
    REQUIRE(found);
    CHECK(found->group.region(space, found->to, 0) == bottom);
  }
  // three devices, two blocks; a share that nobody has; blocks of different size
  CHECK(!layouts_of(space, holdings_on({0, 1, 2}, {{top, whole}, {bottom, whole}, {top, whole}}), {}));
  CHECK(!layouts_of(space, holdings_on({0, 1}, {{all, first}, {all, first}}), {}));
  const Space uneven({rows(0, 6), rows(6, 8)});
  CHECK(!layouts_of(uneven, holdings_on({0, 1}, {{rows(0, 6), whole}, {rows(6, 8), whole}}), {}));
}

}  // namespace
}  // namespace sscc
