#include "compiler/program/views.h"

#include <algorithm>

#include "compiler/support/check.h"

namespace sscc {

bool View::is_contiguous() const {
  int64_t expected = 1;
  for (size_t d = dims.size(); d-- > 0;) {
    if (dims[d] != 1 && strides[d] != expected) return false;
    expected *= dims[d];
  }
  return true;
}

View whole_buffer(BufferId buffer, const Shape& dims) {
  View view;
  view.buffer = buffer;
  view.dims = dims;
  view.strides.resize(dims.size());
  int64_t stride = 1;
  for (size_t d = dims.size(); d-- > 0; stride *= dims[d]) view.strides[d] = stride;
  return view;
}

namespace {

// Positions of a region, and where they begin locally in a and in b.
struct Run {
  Intervals positions;
  int64_t a, b, length;
};

// Runs of `part` that are contiguous in both `a` and `b`.
std::vector<Run> runs(const Intervals& part, const Intervals& a, const Intervals& b) {
  std::vector<Run> result;
  auto cut = [](const Intervals& whole, int64_t from, int64_t to) {  // the end of the interval of `whole` that holds `from`, at most `to`
    for (const Interval& each : whole.list())
      if (each.begin <= from && from < each.end) return std::min(each.end, to);
    SSCC_CHECK(false, "a region lies in the view's region");
  };
  for (const Interval& each : part.list())
    for (int64_t at = each.begin; at < each.end;) {
      const int64_t end = std::min(cut(a, at, each.end), cut(b, at, each.end));
      Run run{Intervals(at, end), a.count_below(at), b.count_below(at), end - at};
      if (!result.empty() && result.back().a + result.back().length == run.a && result.back().b + result.back().length == run.b) {
        result.back().length += run.length;
        result.back().positions = unite(result.back().positions, run.positions);
      } else {
        result.push_back(std::move(run));
      }
      at = end;
    }
  return result;
}

}  // namespace

std::optional<View> subview(const View& view, const Region& whole, const Region& part) {
  View result = view;
  if (whole == part && !part.empty()) return result;
  if (whole.is_box() && part.is_box()) {
    for (size_t d = 0; d < whole.rank(); ++d) {
      SSCC_CHECK(whole.dim(d).contains(part.dim(d)), "a region lies in the view's region");
      result.offset += (part.dim(d).begin_position() - whole.dim(d).begin_position()) * view.strides[d];
      result.dims[d] = part.dim(d).length();
    }
    return result;
  }
  for (size_t d = 0; d < whole.rank(); ++d) {
    const std::vector<Run> each = runs(part.dim(d), whole.dim(d), part.dim(d));
    if (each.empty()) {
      result.dims[d] = 0;
      continue;
    }
    result.offset += each[0].a * view.strides[d];
    result.dims[d] = part.dim(d).length();
    if (each.size() == 1) continue;
    // Several runs are evenly spaced only if each is one element.
    const int64_t step = each[1].a - each[0].a;
    for (size_t i = 0; i < each.size(); ++i)
      if (each[i].length != 1 || each[i].a != each[0].a + static_cast<int64_t>(i) * step) return std::nullopt;
    result.strides[d] = view.strides[d] * step;
  }
  return result;
}

std::vector<BoxPair> matching_boxes(const View& a, const Region& region_a, const View& b, const Region& region_b, const Region& region) {
  std::vector<BoxPair> boxes = {{a, b, region}};
  for (size_t d = 0; d < region.rank(); ++d) {
    std::vector<BoxPair> next;
    for (const Run& run : runs(region.dim(d), region_a.dim(d), region_b.dim(d)))
      for (const BoxPair& box : boxes) {
        BoxPair cut = box;
        cut.a.offset += run.a * a.strides[d];
        cut.b.offset += run.b * b.strides[d];
        cut.a.dims[d] = cut.b.dims[d] = run.length;
        cut.region.set_dim(d, run.positions);
        next.push_back(std::move(cut));
      }
    boxes = std::move(next);
  }
  return boxes;
}

std::optional<View> reshaped(const View& view, const Shape& dims) {
  View result = view;
  result.dims = dims;
  result.strides.assign(dims.size(), 1);
  // Group dimensions of both sides with equal products, from the right; inside a group the old strides must be those of one dimension.
  size_t i = view.dims.size(), j = dims.size();
  while (i > 0 || j > 0) {
    while (i > 0 && view.dims[i - 1] == 1) --i;
    if (i == 0) {
      while (j > 0) {
        if (dims[j - 1] != 1) return std::nullopt;
        --j;
      }
      break;
    }
    int64_t stride = view.strides[i - 1];
    int64_t have = view.dims[--i], want = 1;
    while (true) {
      if (want < have) {
        if (j == 0) return std::nullopt;
        --j;
        result.strides[j] = stride * want;
        want *= dims[j];
      } else if (want > have) {
        if (i == 0) return std::nullopt;
        --i;
        if (view.dims[i] != 1) {
          if (view.strides[i] != stride * have) return std::nullopt;
          have *= view.dims[i];
        }
      } else {
        break;
      }
    }
  }
  return result;
}

View transposed(const View& view, llvm::ArrayRef<int> permutation) {
  View result = view;
  for (size_t d = 0; d < permutation.size(); ++d) {
    result.dims[d] = view.dims[static_cast<size_t>(permutation[d])];
    result.strides[d] = view.strides[static_cast<size_t>(permutation[d])];
  }
  return result;
}

View broadcast(const View& view, const Shape& dims) {
  View result = view;
  result.dims = dims;
  result.strides.assign(dims.size(), 0);
  const size_t lead = dims.size() - view.dims.size();
  for (size_t d = 0; d < view.dims.size(); ++d)
    if (view.dims[d] != 1) result.strides[lead + d] = view.strides[d];
  return result;
}

View sliced(const View& view, llvm::ArrayRef<int64_t> starts, const Shape& dims, llvm::ArrayRef<int64_t> steps) {
  View result = view;
  result.dims = dims;
  for (size_t d = 0; d < dims.size(); ++d) {
    result.offset += starts[d] * view.strides[d];
    result.strides[d] = view.strides[d] * steps[d];
  }
  return result;
}

bool is_layout(const Module& module, const Op& op) {
  switch (op.kind) {
    case Kind::reshape:
    case Kind::transpose:
    case Kind::slice:
    case Kind::split:
    case Kind::expand: return true;
    case Kind::pointwise:
      return std::get<PointwiseAttributes>(op.attributes).function == Scalar::identity &&
             module.tensors[op.inputs[0]].dtype == module.tensors[op.outputs[0]].dtype;
    default: return false;
  }
}

View without_dims(const View& view, uint32_t mask) {
  View result = view;
  result.dims.clear();
  result.strides.clear();
  for (size_t d = 0; d < view.dims.size(); ++d) {
    if ((mask >> d) & 1) {
      SSCC_CHECK(view.dims[d] == 1, "a dimension that is dropped has length 1");
      continue;
    }
    result.dims.push_back(view.dims[d]);
    result.strides.push_back(view.strides[d]);
  }
  return result;
}

View block_of(const View& all, int64_t index, const Region& region) {
  View view = whole_buffer(all.buffer, region.local_shape());
  view.offset = all.offset + index * region.elements();
  return view;
}

bool same_place(const View& a, const View& b) {
  if (a.buffer != b.buffer || a.offset != b.offset || a.dims != b.dims) return false;
  for (size_t d = 0; d < a.dims.size(); ++d)
    if (a.dims[d] > 1 && a.strides[d] != b.strides[d]) return false;
  return true;
}

namespace {

// First and last element that a view touches.
std::pair<int64_t, int64_t> extent(const View& view) {
  int64_t last = view.offset;
  for (size_t d = 0; d < view.dims.size(); ++d) last += (view.dims[d] - 1) * view.strides[d];
  return {view.offset, last};
}

}  // namespace

bool are_apart(const View& a, const View& b) {
  const auto mine = extent(a), other = extent(b);
  if (mine.second < other.first || other.second < mine.first) return true;
  if (a.dims.size() != b.dims.size()) return false;
  struct Dim {
    int64_t stride, first_a, first_b, length_a, length_b;
  };
  std::vector<Dim> dims;
  for (size_t d = 0; d < a.dims.size(); ++d) {
    if (a.dims[d] == 1 && b.dims[d] == 1) continue;
    if (a.dims[d] > 1 && b.dims[d] > 1 && a.strides[d] != b.strides[d]) return false;
    dims.push_back({a.dims[d] > 1 ? a.strides[d] : b.strides[d], 0, 0, a.dims[d], b.dims[d]});
  }
  std::sort(dims.begin(), dims.end(), [](const Dim& x, const Dim& y) { return x.stride > y.stride; });
  int64_t rest_a = a.offset - std::min(a.offset, b.offset), rest_b = b.offset - std::min(a.offset, b.offset);
  bool apart = false;
  for (Dim& dim : dims) {
    if (dim.stride <= 0) return false;
    dim.first_a = rest_a / dim.stride;
    dim.first_b = rest_b / dim.stride;
    rest_a %= dim.stride;
    rest_b %= dim.stride;
    apart |= dim.first_a + dim.length_a <= dim.first_b || dim.first_b + dim.length_b <= dim.first_a;
  }
  apart |= rest_a != rest_b;  // in a dimension that has length 1 in both
  // The layout holds if no box reaches over the stride of the next outer dimension.
  int64_t reach = std::max(rest_a, rest_b);
  for (size_t d = dims.size(); d-- > 0;) {
    if (reach >= dims[d].stride) return false;
    reach += (std::max(dims[d].first_a + dims[d].length_a, dims[d].first_b + dims[d].length_b) - 1) * dims[d].stride;
  }
  return apart;
}

View as_wide_as(const View& view, const Region& region) {
  size_t missing = region.rank() - std::min(region.rank(), view.dims.size());
  if (missing == 0) return view;
  View wide = view;
  wide.dims.clear();
  wide.strides.clear();
  size_t next = 0;
  for (size_t d = 0; d < region.rank(); ++d) {
    const bool inserted = missing > 0 && region.dim(d).length() == 1 && (next == view.dims.size() || view.dims[next] != 1);
    wide.dims.push_back(inserted ? 1 : view.dims[next]);
    wide.strides.push_back(inserted ? 0 : view.strides[next]);
    missing -= inserted;
    next += !inserted;
    if (next > view.dims.size()) return view;
  }
  return next == view.dims.size() ? wide : view;
}

}  // namespace sscc
