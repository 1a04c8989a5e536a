#include "compiler/program/fragments.h"

#include "llvm/ADT/STLExtras.h"

namespace sscc {

Fragments restricted(const Fragments& fragments, const Region& region) {
  Fragments result;
  for (const Fragment& f : fragments) {
    Region common = intersect(f.region, region);
    if (!common.empty()) result.push_back({std::move(common), f.part, f.micro_batches});
  }
  return result;
}

const Fragment* merge(Fragments& into, const Fragments& fragments) {
  for (const Fragment& fragment : fragments) {
    bool joined = false;
    for (Fragment& there : into) {
      if (!overlaps(there.part, fragment.part) || !overlaps(there.region, fragment.region)) continue;
      const bool again = overlaps(there.micro_batches, fragment.micro_batches);
      if (again || !(there.region == fragment.region) || !(there.part == fragment.part)) return &fragment;
      there.micro_batches = unite(there.micro_batches, fragment.micro_batches);
      joined = true;
    }
    if (!joined) into.push_back(fragment);
  }
  return nullptr;
}

namespace {

// Shares of one region, each of another part of the join, are one share: by their sizes. None if some overlap, or differ in more.
std::optional<Fragment> joined_shares(llvm::ArrayRef<const Fragments*> all) {
  std::optional<Fragment> result;
  std::vector<Part> parts;
  Rational measure = 0;
  for (const Fragments* fragments : all)
    for (const Fragment& f : *fragments) {
      if (!result) result = f;
      if (!(f.region == result->region) || !(f.micro_batches == result->micro_batches)) return std::nullopt;
      parts.push_back(f.part);
      measure = measure + f.part.measure();
    }
  if (!result) return std::nullopt;
  result->part = unite(parts);
  return result->part.measure() == measure ? result : std::nullopt;
}

// Blocks of one part of the join that lie side by side are one block: by their sizes.
std::optional<Fragment> joined_blocks(const Fragments& fragments) {
  if (fragments.empty()) return std::nullopt;
  Fragment result = fragments[0];
  int64_t elements = 0;
  for (const Fragment& f : fragments) {
    if (!(f.part == result.part) || !(f.micro_batches == result.micro_batches)) return std::nullopt;
    elements += f.region.elements();
    result.region = enclose(result.region, f.region);
  }
  return elements == result.region.elements() ? std::optional<Fragment>(result) : std::nullopt;
}

}  // namespace

Fragments put_together(llvm::ArrayRef<const Fragments*> all, std::optional<Fragment>& doubled) {
  if (const std::optional<Fragment> share = joined_shares(all)) return {*share};
  Fragments result;
  for (const Fragments* fragments : all)
    if (const Fragment* again = merge(result, *fragments)) {
      doubled = *again;
      return result;
    }
  if (const std::optional<Fragment> block = joined_blocks(result)) return {*block};
  return result;
}

std::vector<std::pair<Region, Part>> missing_of(const Fragments& fragments, const Region& wanted) {
  std::vector<std::pair<Region, Part>> missing = {{wanted, Part()}};
  for (const Fragment& fragment : fragments) {
    std::vector<std::pair<Region, Part>> rest;
    for (auto& [region, part] : missing) {
      const Region common = intersect(region, fragment.region);
      const Part shared = intersect(part, fragment.part);
      if (common.empty() || shared.empty()) {
        rest.push_back({region, part});
        continue;
      }
      const Part left = subtract(part, shared);
      if (!left.empty()) rest.push_back({common, left});
      for (const Region& outside : subtract(region, common)) rest.push_back({outside, part});
    }
    missing = std::move(rest);
  }
  return missing;
}

}  // namespace sscc
