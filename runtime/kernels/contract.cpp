// Contractions become matrix products: the labels fall into four groups (batch: in all operands; m: lhs and out; n: rhs and out; k: lhs and rhs), and
// of m, n and k the longest stretch that is one stride makes a product, the others and the batch are loops around it.
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "contraction.h"
#include "dispatch.h"
#include "products.h"
#include "sscc_rt/kernels.h"
#include "sscc_rt/strided_loop.h"
#include "widened.h"

namespace sscc::rt {
namespace {

// The longest stretch leaves the group.
Stretch take_longest(Group& group) {
  if (group.empty()) return {};
  const auto longest = std::max_element(group.begin(), group.end(), [](const Stretch& a, const Stretch& b) { return a.length < b.length; });
  const Stretch taken = *longest;
  group.erase(longest);
  return taken;
}

// -- matrix products ------------------------------------------------------------------------------------------------------------------------------

struct Leading {
  bool transposed;
  int64_t stride;
};
Leading leading_of(const Stretch& row, const Stretch& column, int operand) {
  if (column.strides[operand] == 1) return {false, std::max<int64_t>(row.strides[operand], 1)};
  return {true, std::max<int64_t>(column.strides[operand], 1)};
}

template <class T>
void products(const Groups& groups, Tensor out, Tensor lhs, Tensor rhs, double scale, bool accumulate) {
  Groups rest = groups;
  Stretch m = take_longest(rest.m), n = take_longest(rest.n), k = take_longest(rest.k);
  settle(m, n, out_operand);
  settle(m, k, lhs_operand);
  settle(k, n, rhs_operand);
  // The result is row-major; if it is not, its transpose is.
  if (n.strides[out_operand] != 1) {
    std::swap(m, n);
    std::swap(lhs, rhs);
    for (Stretch* s : {&m, &n, &k}) std::swap(s->strides[0], s->strides[1]);
    for (Group* g : {&rest.batch, &rest.m, &rest.n, &rest.k})
      for (Stretch& s : *g) std::swap(s.strides[0], s.strides[1]);
  }
  // m and n that are left are loops like the batch: an operand without them steps by 0.
  std::vector<Stretch> loops = rest.batch;
  loops.insert(loops.end(), rest.m.begin(), rest.m.end());
  loops.insert(loops.end(), rest.n.begin(), rest.n.end());
  int64_t count = 1;
  for (const Stretch& s : loops) count *= s.length;
  const Leading a = leading_of(m, k, lhs_operand), b = leading_of(k, n, rhs_operand);
  const int64_t ldc = std::max(m.strides[out_operand], n.length);

  const auto run = [&](int64_t task, int64_t m_begin, int64_t m_end) {
    int64_t offsets[3] = {0, 0, 0};
    for (size_t i = loops.size(); i-- > 0;) {
      const int64_t at = task % loops[i].length;
      task /= loops[i].length;
      for (int o = 0; o < 3; ++o) offsets[o] += at * loops[i].strides[o];
    }
    offsets[lhs_operand] += m_begin * m.strides[lhs_operand];
    offsets[out_operand] += m_begin * m.strides[out_operand];
    multiply(a.transposed, b.transposed, m_end - m_begin, n.length, k.length, scale, static_cast<const T*>(lhs.data) + offsets[0], a.stride,
             static_cast<const T*>(rhs.data) + offsets[1], b.stride, accumulate ? 1.0 : 0.0, static_cast<T*>(out.data) + offsets[2], ldc);
  };
  constexpr int64_t grain = int64_t{1} << 17, block = 32;  // multiply-adds; rows
  const int64_t each = std::max<int64_t>(1, m.length * n.length * k.length);
  if (count >= kernel_threads()) {
    parallel_ranges(count, grain / each + 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) run(task, 0, m.length);
    });
    return;
  }
  for (int64_t task = 0; task < count; ++task) {
    parallel_ranges((m.length + block - 1) / block, grain / (each / std::max<int64_t>(1, m.length / block) + 1) + 1,
                    [&](int64_t begin, int64_t end) { run(task, begin * block, std::min(end * block, m.length)); });
  }
}

// -- operands as the library wants them -----------------------------------------------------------------------------------------------------------

// A contiguous tensor (batch, rows, columns) of the same elements.
struct Packed {
  std::unique_ptr<std::byte[]> memory;
  Tensor tensor;
};

Packed packed(Tensor from, Groups& groups, Operand operand, Group Groups::*rows, Group Groups::*columns, bool reads) {
  Tensor view{from.data, from.dtype, 0, {}, {}};
  Packed result;
  for (const Group* group : {&groups.batch, &(groups.*rows), &(groups.*columns)}) {
    for (const Stretch& s : *group) {
      if (view.rank == max_rank) throw std::logic_error("contract: too many dimensions");
      view.dims[view.rank] = s.length;
      view.strides[view.rank++] = s.strides[operand];
    }
  }
  result.memory = std::make_unique_for_overwrite<std::byte[]>(static_cast<size_t>(view.elements()) * size_of(view.dtype));
  result.tensor = view;
  result.tensor.data = result.memory.get();
  int64_t stride = 1;
  for (int d = view.rank; d-- > 0;) {
    result.tensor.strides[d] = stride;
    stride *= view.dims[d];
  }
  if (reads) copy(result.tensor, view, false);
  int d = 0;
  for (Group* group : {&groups.batch, &(groups.*rows), &(groups.*columns)})
    for (Stretch& s : *group) s.strides[operand] = result.tensor.strides[d++];
  return result;
}

// Back from where `packed` took it.
void unpack(const Tensor& out, const Groups& original, const Tensor& result, bool accumulate) {
  Tensor view = result;
  view.data = out.data;
  int d = 0;
  for (const Group* group : {&original.batch, &original.m, &original.n})
    for (const Stretch& s : *group) view.strides[d++] = s.strides[out_operand];
  copy(view, result, accumulate);
}

bool needs_packing(const Groups& groups, Group Groups::*rows, Group Groups::*columns, Operand operand) {
  if (groups.k.size() > 1 && operand != out_operand) return true;
  Groups rest = groups;
  Stretch row = take_longest(rest.*rows), column = take_longest(rest.*columns);
  settle(row, column, operand);
  return !is_matrix(row, column, operand);
}

template <class T>
void contract_floats(const Tensor& out, const Tensor& lhs, const Tensor& rhs, const Groups& groups, double scale, bool accumulate,
                     bool pack_all = false) {
  Groups g = groups;
  Packed left, right, result;
  if (pack_all || needs_packing(groups, &Groups::m, &Groups::k, lhs_operand)) left = packed(lhs, g, lhs_operand, &Groups::m, &Groups::k, true);
  if (pack_all || needs_packing(groups, &Groups::k, &Groups::n, rhs_operand)) right = packed(rhs, g, rhs_operand, &Groups::k, &Groups::n, true);
  if (pack_all || needs_packing(groups, &Groups::m, &Groups::n, out_operand)) result = packed(out, g, out_operand, &Groups::m, &Groups::n, false);
  join_all(g);
  // Joining may have made another stretch the longest, one that is no matrix; when all three are packed there is one stretch each.
  const bool fits = !needs_packing(g, &Groups::m, &Groups::k, lhs_operand) && !needs_packing(g, &Groups::k, &Groups::n, rhs_operand) &&
                    !needs_packing(g, &Groups::m, &Groups::n, out_operand);
  if (!fits && !pack_all) return contract_floats<T>(out, lhs, rhs, groups, scale, accumulate, true);
  products<T>(g, result.memory ? result.tensor : out, left.memory ? left.tensor : lhs, right.memory ? right.tensor : rhs, scale,
              accumulate && !result.memory);
  if (result.memory) unpack(out, groups, result.tensor, accumulate);
}

// -- the obvious way, for integers ----------------------------------------------------------------------------------------------------------------

template <class T>
void contract_directly(const Tensor& out, const Tensor& lhs, const Tensor& rhs, const Groups& groups, double scale, bool accumulate) {
  std::vector<Stretch> outer = groups.batch;
  outer.insert(outer.end(), groups.m.begin(), groups.m.end());
  outer.insert(outer.end(), groups.n.begin(), groups.n.end());
  const auto for_each = [](const std::vector<Stretch>& loops, const int64_t* base, const auto& body) {
    int64_t count = 1;
    for (const Stretch& s : loops) count *= s.length;
    for (int64_t i = 0; i < count; ++i) {
      int64_t offsets[3] = {base[0], base[1], base[2]};
      int64_t rest = i;
      for (size_t l = loops.size(); l-- > 0; rest /= loops[l].length)
        for (int o = 0; o < 3; ++o) offsets[o] += rest % loops[l].length * loops[l].strides[o];
      body(offsets);
    }
  };
  const int64_t origin[3] = {0, 0, 0};
  for_each(outer, origin, [&](const int64_t* at) {
    T sum = 0;
    for_each(groups.k, at, [&](const int64_t* in) { sum += static_cast<const T*>(lhs.data)[in[0]] * static_cast<const T*>(rhs.data)[in[1]]; });
    T& to = static_cast<T*>(out.data)[at[2]];
    const T value = static_cast<T>(sum * static_cast<T>(scale));
    to = accumulate ? static_cast<T>(to + value) : value;
  });
}

}  // namespace

void contract(const Tensor& out, const Tensor& lhs, const Tensor& rhs, const char* equation, double scale, bool accumulate) {
  if (is_small(lhs.dtype))
    return widened([&](Wide& wide) { contract(wide.out(out, accumulate), wide.in(lhs), wide.in(rhs), equation, scale, accumulate); });
  const Groups groups = groups_of(out, lhs, rhs, equation);
  if (out.elements() == 0) return;
  if (length_of(groups.k) == 0) {
    if (!accumulate) fill(out, 0);
    return;
  }
  switch (out.dtype) {
    case DType::f32: return contract_floats<float>(out, lhs, rhs, groups, scale, accumulate);
    case DType::f64: return contract_floats<double>(out, lhs, rhs, groups, scale, accumulate);
    default: for_number_type("contract", out.dtype, [&](auto t) { contract_directly<decltype(t)>(out, lhs, rhs, groups, scale, accumulate); });
  }
}

}  // namespace sscc::rt
