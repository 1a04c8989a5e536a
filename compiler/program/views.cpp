#include "compiler/program/views.h"

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

}  // namespace sscc
