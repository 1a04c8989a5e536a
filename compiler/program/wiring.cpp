#include "compiler/program/wiring.h"

#include <algorithm>
#include <map>
#include <numeric>

namespace sscc {

Wiring wiring_of(const Programs& programs) {
  Wiring wiring;
  std::map<std::vector<int32_t>, int32_t> groups;
  std::map<std::pair<int32_t, int32_t>, int32_t> channels;
  for (const RankProgram& rank : programs.ranks) {
    wiring.representative.push_back(rank.rank);
    auto& group = wiring.group.emplace_back();
    for (const std::vector<int32_t>& ranks : rank.constants.groups) {
      const auto [it, fresh] = groups.try_emplace(ranks, static_cast<int32_t>(groups.size()));
      if (fresh) wiring.members.push_back(ranks);
      group.push_back(it->second);
    }
    auto& channel = wiring.channel.emplace_back();
    for (const int32_t peer : rank.constants.peers)
      channel.push_back(channels.try_emplace(std::minmax(rank.rank, peer), static_cast<int32_t>(channels.size())).first->second);
  }
  return wiring;
}

namespace {

// Sets of (class, index) that name the same group, or the same channel.
class Names {
 public:
  explicit Names(const std::vector<std::vector<int32_t>>& of_representatives) {
    for (const auto& list : of_representatives) {
      first_.push_back(static_cast<int32_t>(parent_.size()));
      for (size_t i = 0; i < list.size(); ++i) parent_.push_back(static_cast<int32_t>(parent_.size()));
    }
    first_.push_back(static_cast<int32_t>(parent_.size()));
  }
  int32_t find(int32_t rank_class, size_t index) { return root(first_[static_cast<size_t>(rank_class)] + static_cast<int32_t>(index)); }
  void unite(int32_t a_class, size_t a, int32_t b_class, size_t b) { parent_[static_cast<size_t>(find(a_class, a))] = find(b_class, b); }
  // Does a rank of this class call different things (by its list of numbers) by one name?
  bool confuses(int32_t rank_class, const std::vector<int32_t>& numbers) {
    std::map<int32_t, int32_t> number_of;
    for (size_t i = 0; i < numbers.size(); ++i)
      if (number_of.try_emplace(find(rank_class, i), numbers[i]).first->second != numbers[i]) return true;
    return false;
  }

 private:
  int32_t root(int32_t i) {
    while (parent_[static_cast<size_t>(i)] != i) i = parent_[static_cast<size_t>(i)] = parent_[static_cast<size_t>(parent_[static_cast<size_t>(i)])];
    return i;
  }
  std::vector<int32_t> first_, parent_;
};

// Ranks of one class run one body, and their groups and peers are of the same classes: the coarsest such partition, by refinement.
std::vector<int32_t> classes_of(const Programs& programs) {
  std::vector<int32_t> classes;
  for (const RankProgram& rank : programs.ranks) classes.push_back(rank.body);
  for (size_t count = 0;;) {
    std::map<std::vector<int32_t>, int32_t> signatures;
    std::vector<int32_t> next;
    for (size_t r = 0; r < programs.ranks.size(); ++r) {
      std::vector<int32_t> signature = {classes[r]};
      for (const std::vector<int32_t>& group : programs.ranks[r].constants.groups) {
        std::vector<int32_t> members;
        for (const int32_t member : group) members.push_back(classes[static_cast<size_t>(member)]);
        std::sort(members.begin(), members.end());
        signature.push_back(-static_cast<int32_t>(members.size()));
        signature.insert(signature.end(), members.begin(), members.end());
      }
      signature.push_back(INT32_MIN);
      for (const int32_t peer : programs.ranks[r].constants.peers) signature.push_back(classes[static_cast<size_t>(peer)]);
      next.push_back(signatures.try_emplace(std::move(signature), static_cast<int32_t>(signatures.size())).first->second);
    }
    classes = std::move(next);
    if (signatures.size() == count) return classes;
    count = signatures.size();
  }
}

// Where `value` stands in `list`; its size if it does not.
template <class List, class Value>
size_t index_of(const List& list, const Value& value) {
  return static_cast<size_t>(std::find(list.begin(), list.end(), value) - list.begin());
}

}  // namespace

std::optional<Wiring> folded(const Programs& programs) {
  const Wiring all = wiring_of(programs);
  const std::vector<int32_t> classes = classes_of(programs);
  std::vector<int32_t> representatives(static_cast<size_t>(*std::max_element(classes.begin(), classes.end())) + 1, -1);
  std::vector<std::vector<int32_t>> groups(representatives.size()), channels(representatives.size());
  for (size_t r = programs.ranks.size(); r-- > 0;) {
    const auto c = static_cast<size_t>(classes[r]);
    representatives[c] = static_cast<int32_t>(r);
    groups[c] = all.group[r];
    channels[c] = all.channel[r];
  }

  Names group_names(groups), channel_names(channels);
  for (size_t r = 0; r < programs.ranks.size(); ++r) {
    for (size_t g = 0; g < all.group[r].size(); ++g)
      for (const int32_t member : programs.ranks[r].constants.groups[g]) {
        const auto m = static_cast<size_t>(member);
        const size_t there = index_of(all.group[m], all.group[r][g]);
        if (there == all.group[m].size()) return std::nullopt;
        group_names.unite(classes[r], g, classes[m], there);
      }
    for (size_t p = 0; p < all.channel[r].size(); ++p) {
      const auto peer = static_cast<size_t>(programs.ranks[r].constants.peers[p]);
      const size_t there = index_of(all.channel[peer], all.channel[r][p]);
      if (there == all.channel[peer].size()) return std::nullopt;
      channel_names.unite(classes[r], p, classes[peer], there);
    }
  }
  for (size_t r = 0; r < programs.ranks.size(); ++r)
    if (group_names.confuses(classes[r], all.group[r]) || channel_names.confuses(classes[r], all.channel[r])) return std::nullopt;

  Wiring wiring;
  wiring.group.resize(programs.ranks.size());
  wiring.channel.resize(programs.ranks.size());
  for (const int32_t c : classes) wiring.representative.push_back(representatives[static_cast<size_t>(c)]);
  std::map<int32_t, int32_t> numbers;
  for (size_t c = 0; c < representatives.size(); ++c) {
    const auto r = static_cast<size_t>(representatives[c]);
    for (size_t g = 0; g < groups[c].size(); ++g) {
      const auto [it, fresh] = numbers.try_emplace(group_names.find(static_cast<int32_t>(c), g), static_cast<int32_t>(numbers.size()));
      if (fresh) wiring.members.emplace_back();
      wiring.group[r].push_back(it->second);
      wiring.members[static_cast<size_t>(it->second)].push_back(representatives[c]);
    }
    for (size_t p = 0; p < channels[c].size(); ++p) wiring.channel[r].push_back(channel_names.find(static_cast<int32_t>(c), p));
  }
  return wiring;
}

}  // namespace sscc
