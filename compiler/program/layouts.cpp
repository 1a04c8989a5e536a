#include "compiler/program/layouts.h"

#include <algorithm>

namespace sscc {
namespace {

constexpr int deepest = 16;  // layouts of layouts

// The view of `region` in a view of `whole`, if it is all there.
std::optional<View> part_of_view(const View& view, const Region& whole, const Region& region) {
  return whole.contains(region) ? subview(view, whole, region) : std::nullopt;
}

}  // namespace

Layouts::Layouts(const Module& module) : module_(module), pieces_(static_cast<size_t>(module.ops.size())) {
  for (const OpId id : module.order) {
    auto& list = pieces_[static_cast<size_t>(id.index)];
    for (size_t p = 0; p < module.ops[id].pieces.size(); ++p) list.emplace_back(module.ops[id].pieces[p].device, static_cast<int32_t>(p));
    std::sort(list.begin(), list.end());
  }
}

llvm::ArrayRef<std::pair<int32_t, int32_t>> Layouts::pieces_on(int32_t rank, OpId op) const {
  const auto& list = pieces_[static_cast<size_t>(op.index)];
  const auto begin = std::lower_bound(list.begin(), list.end(), std::pair<int32_t, int32_t>(rank, 0));
  auto end = begin;
  while (end != list.end() && end->first == rank) ++end;
  return {list.data() + (begin - list.begin()), static_cast<size_t>(end - begin)};
}

std::optional<Part> Layouts::share_of(int32_t rank, const Placed& held, const View& view, TensorId wants, const Region& region,
                                      const Part& share) const {
  if (held.tensor == wants) {
    const std::optional<View> part = part_of_view(held.view, held.region, region);
    return part && same_place(*part, view) ? std::optional<Part>(Part()) : std::nullopt;
  }
  for (const OpId producer : module_.tensors[wants].producers) {
    const Op& o = module_.ops[producer];
    if (o.inputs.empty() || !is_layout(module_, o)) continue;
    for (const auto& [device, p] : pieces_on(rank, producer)) {
      const Piece& piece = o.pieces[static_cast<size_t>(p)];
      for (const View& from : places(rank, held, o.inputs[0], region_of(module_, o, 0, piece), 0))
        for (size_t out = 0; out < o.outputs.size(); ++out) {
          if (o.outputs[out] != wants) continue;
          const std::optional<View> laid = layout_view(o, static_cast<int>(out), piece, from);
          if (!laid) continue;
          const Region made = region_of(module_, o, static_cast<int>(o.inputs.size() + out), piece);
          const std::optional<View> part = part_of_view(*laid, made, region);
          if (!part || !same_place(*part, view)) continue;
          const Part made_share = part_of(module_, producer, static_cast<int>(out), piece);
          if (share.whole() || made_share == share) return made_share;
        }
    }
  }
  return std::nullopt;
}

std::vector<View> Layouts::places(int32_t rank, const Placed& held, TensorId wants, const Region& region, int depth) const {
  std::vector<View> result;
  if (held.tensor == wants) {
    if (const std::optional<View> part = part_of_view(held.view, held.region, region)) result.push_back(*part);
    return result;
  }
  if (depth > deepest) return result;
  for (const OpId producer : module_.tensors[wants].producers) {
    const Op& o = module_.ops[producer];
    if (o.inputs.empty() || !is_layout(module_, o)) continue;
    for (const auto& [device, p] : pieces_on(rank, producer)) {
      const Piece& piece = o.pieces[static_cast<size_t>(p)];
      for (const View& from : places(rank, held, o.inputs[0], region_of(module_, o, 0, piece), depth + 1))
        for (size_t out = 0; out < o.outputs.size(); ++out) {
          if (o.outputs[out] != wants) continue;
          const std::optional<View> laid = layout_view(o, static_cast<int>(out), piece, from);
          if (!laid) continue;
          const Region made = region_of(module_, o, static_cast<int>(o.inputs.size() + out), piece);
          if (const std::optional<View> part = part_of_view(*laid, made, region)) result.push_back(*part);
        }
    }
  }
  return result;
}

std::optional<View> Layouts::layout_view(const Op& o, int output, const Piece& piece, const View& from) const {
  const int n = static_cast<int>(o.inputs.size());
  const Region in = region_of(module_, o, 0, piece);
  const Shape dims = region_of(module_, o, n + output, piece).local_shape();
  switch (o.kind) {
    case Kind::transpose: return transposed(from, std::get<TransposeAttributes>(o.attributes).permutation);
    case Kind::reshape: return reshaped(from, dims);
    case Kind::slice: {
      const auto& a = std::get<SliceAttributes>(o.attributes);
      llvm::SmallVector<int64_t, 5> starts;
      for (size_t d = 0; d < dims.size(); ++d) starts.push_back(in.dim(d).count_below(a.starts[d]));
      return sliced(from, starts, dims, a.steps);
    }
    case Kind::split: {
      const size_t dim = static_cast<size_t>(std::get<DimAttributes>(o.attributes).dim);
      int64_t start = 0;
      for (int i = 0; i < output; ++i) start += module_.tensors[o.outputs[static_cast<size_t>(i)]].shape[dim];
      llvm::SmallVector<int64_t, 5> starts(dims.size(), 0), steps(dims.size(), 1);
      starts[dim] = in.dim(dim).count_below(start);
      return sliced(from, starts, dims, steps);
    }
    default: return broadcast(from, dims);
  }
}

}  // namespace sscc
