#include "compiler/ir/axes.h"

#include <algorithm>
#include <numeric>

#include "compiler/support/check.h"
#include "llvm/ADT/DenseMap.h"

namespace sscc {

AxisClasses::AxisClasses(const Module& module) {
  for (OpId id : module.order) {
    const Op& op = module.ops[id];
    if (op.phase != Phase::forward) continue;
    for (size_t a = 0; a < op.rule.axes.size(); ++a) {
      axis_dims_[{id, static_cast<int>(a)}] = static_cast<int>(dims_.size());
      Dim dim;
      dim.length = op.rule.axes[a].length;
      dims_.push_back(std::move(dim));
    }
    for (const Occurrence& o : op.rule.occurrences) {
      const int axis = axis_dims_.at({id, o.axis});
      const int dim = dim_of(module, id, operand(op, o.operand), o.dim);
      const int index = static_cast<int>(identities_.size());
      identities_.push_back({axis, dim, 1, o.stride, op.rule.axes[static_cast<size_t>(o.axis)].length});
      dims_[static_cast<size_t>(axis)].identities.push_back({index, true});
      dims_[static_cast<size_t>(dim)].identities.push_back({index, false});
    }
  }
  close_cuts();
  unite_ranges();
}

int AxisClasses::dim_of(const Module& module, OpId op, TensorId tensor, int dim) {
  const Tensor& t = module.tensors[tensor];
  const bool constant = t.role == Role::constant && t.producers.empty();
  auto make = [&](auto& map, auto key) {
    auto [it, fresh] = map.try_emplace(key, static_cast<int>(dims_.size()));
    if (fresh) {
      Dim d;
      d.length = t.shape[static_cast<size_t>(dim)];
      dims_.push_back(std::move(d));
      if (constant) tensor_dims_.try_emplace({tensor, dim}, it->second);  // named by its first use
    }
    return it->second;
  };
  return constant ? make(constant_dims_, std::tuple(tensor, op, dim)) : make(tensor_dims_, std::pair(tensor, dim));
}

// -- cuts -----------------------------------------------------------------------------------------------------------------------------------------

void AxisClasses::add_cut(int dim, int64_t cut) {
  std::vector<int64_t>& cuts = dims_[static_cast<size_t>(dim)].cuts;
  if (std::binary_search(cuts.begin(), cuts.end(), cut)) return;
  std::vector<int64_t> fresh = {cut};
  while (!fresh.empty()) {
    const int64_t next = fresh.back();
    fresh.pop_back();
    auto at = std::lower_bound(cuts.begin(), cuts.end(), next);
    if (at != cuts.end() && *at == next) continue;
    cuts.insert(at, next);
    for (int64_t other : std::vector<int64_t>(cuts)) {
      fresh.push_back(std::gcd(next, other));
      fresh.push_back(std::lcm(next, other));
    }
  }
  worklist_.push_back(dim);
}

void AxisClasses::close_cuts() {
  for (size_t d = 0; d < dims_.size(); ++d) {
    add_cut(static_cast<int>(d), 1);
    add_cut(static_cast<int>(d), dims_[d].length);
  }
  for (const Identity& i : identities_) {
    add_cut(i.a, i.low_a);
    add_cut(i.a, i.low_a * i.length);
    add_cut(i.b, i.low_b);
    add_cut(i.b, i.low_b * i.length);
  }
  while (!worklist_.empty()) {
    const int d = worklist_.back();
    worklist_.pop_back();
    for (const auto& [index, first] : dims_[static_cast<size_t>(d)].identities) {
      const Identity& i = identities_[static_cast<size_t>(index)];
      const int64_t low = first ? i.low_a : i.low_b, other_low = first ? i.low_b : i.low_a;
      for (int64_t cut : std::vector<int64_t>(dims_[static_cast<size_t>(d)].cuts))
        if (cut % low == 0 && (low * i.length) % cut == 0) add_cut(first ? i.b : i.a, cut / low * other_low);
    }
  }
}

// -- classes --------------------------------------------------------------------------------------------------------------------------------------

int AxisClasses::find(int range) const {
  while (parent_[static_cast<size_t>(range)] != range) {
    parent_[static_cast<size_t>(range)] = parent_[static_cast<size_t>(parent_[static_cast<size_t>(range)])];
    range = parent_[static_cast<size_t>(range)];
  }
  return range;
}

bool AxisClasses::unite(int a, int b) {
  a = find(a);
  b = find(b);
  if (a == b) return false;
  parent_[static_cast<size_t>(std::max(a, b))] = std::min(a, b);
  return true;
}

void AxisClasses::unite_ranges() {
  for (Dim& dim : dims_)
    for (size_t i = 0; i < dim.cuts.size(); ++i)
      for (size_t j = i + 1; j < dim.cuts.size(); ++j)
        if (dim.cuts[j] % dim.cuts[i] == 0) {
          dim.ranges[{dim.cuts[i], dim.cuts[j]}] = static_cast<int>(parent_.size());
          parent_.push_back(static_cast<int>(parent_.size()));
        }
  for (const Identity& i : identities_) {
    const Dim &a = dims_[static_cast<size_t>(i.a)], &b = dims_[static_cast<size_t>(i.b)];
    for (const auto& [range, id] : a.ranges) {
      if (range.first % i.low_a != 0 || (i.low_a * i.length) % range.second != 0) continue;
      auto it = b.ranges.find({range.first / i.low_a * i.low_b, range.second / i.low_a * i.low_b});
      if (it != b.ranges.end()) unite(id, it->second);
    }
  }
  for (bool changed = true; changed;) {  // congruence
    changed = false;
    llvm::DenseMap<std::pair<int, int>, int> made;
    for (const Dim& dim : dims_)
      for (const auto& [outer, outer_id] : dim.ranges)
        for (int64_t middle : dim.cuts) {
          if (middle <= outer.first || middle >= outer.second) continue;
          auto low = dim.ranges.find({outer.first, middle}), high = dim.ranges.find({middle, outer.second});
          if (low == dim.ranges.end() || high == dim.ranges.end()) continue;
          auto [it, fresh] = made.try_emplace({find(high->second), find(low->second)}, outer_id);
          if (!fresh) changed |= unite(it->second, outer_id);
        }
  }
}

int AxisClasses::class_in(const Dim& dim, int64_t low, int64_t high) const {
  auto it = dim.ranges.find({low, high});
  return it == dim.ranges.end() ? -1 : find(it->second);
}

std::vector<int64_t> AxisClasses::cuts(TensorId tensor, int dim) const {
  auto it = tensor_dims_.find({tensor, dim});
  return it == tensor_dims_.end() ? std::vector<int64_t>() : dims_[static_cast<size_t>(it->second)].cuts;
}
std::vector<int64_t> AxisClasses::axis_cuts(OpId op, int axis) const {
  auto it = axis_dims_.find({op, axis});
  return it == axis_dims_.end() ? std::vector<int64_t>() : dims_[static_cast<size_t>(it->second)].cuts;
}
int AxisClasses::range_class(TensorId tensor, int dim, int64_t low, int64_t high) const {
  auto it = tensor_dims_.find({tensor, dim});
  return it == tensor_dims_.end() ? -1 : class_in(dims_[static_cast<size_t>(it->second)], low, high);
}
int AxisClasses::axis_range_class(OpId op, int axis, int64_t low, int64_t high) const {
  auto it = axis_dims_.find({op, axis});
  return it == axis_dims_.end() ? -1 : class_in(dims_[static_cast<size_t>(it->second)], low, high);
}

std::vector<Factor> AxisClasses::factors(TensorId tensor, int dim) const {
  const std::vector<int64_t> all = cuts(tensor, dim);
  std::vector<Factor> result;
  for (size_t i = all.size(); i-- > 1;) {
    if (all[i] % all[i - 1] != 0) return {};
    result.push_back({all[i - 1], all[i] / all[i - 1]});
  }
  return result;
}

std::map<int, int64_t> AxisClasses::outer_parts(int range_class) const {
  std::map<int, int64_t> parts;
  for (const Dim& dim : dims_)
    for (const auto& [range, id] : dim.ranges) {
      if (find(id) != range_class) continue;
      parts[range_class] = range.second / range.first;
      for (int64_t cut : dim.cuts)
        if (cut > range.first && cut < range.second)
          if (const int outer = class_in(dim, cut, range.second); outer >= 0) parts[outer] = range.second / cut;
    }
  return parts;
}

}  // namespace sscc
