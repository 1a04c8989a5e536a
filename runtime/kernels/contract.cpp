// Contractions become matrix products: the labels fall into four groups (batch: in all operands; m: lhs and out; n: rhs and out; k: lhs and rhs), and
// of m, n and k the longest stretch that is one stride makes a product, the others and the batch are loops around it.
#include <cblas.h>
#include <dnnl.h>
#include <omp.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "dispatch.h"
#include "sscc_rt/kernels.h"
#include "sscc_rt/strided_loop.h"

namespace sscc::rt {
namespace {

enum Operand { lhs_operand, rhs_operand, out_operand };

// One or several labels that are walked with one stride in each operand.
struct Stretch {
  int64_t length = 1;
  int64_t strides[3] = {0, 0, 0};
};
using Group = std::vector<Stretch>;

struct Groups {
  Group batch, m, n, k;
};

// The labels of one operand begin in `equation` at `at`.
struct Label {
  char letter;
  int64_t length;
  int64_t strides[3];
};

void enter_labels(std::vector<Label>& labels, const char*& at, char end, const Tensor& tensor, Operand operand) {
  int d = 0;
  for (; *at != end; ++at, ++d) {
    if (d >= tensor.rank) throw std::logic_error("contract: more labels than dimensions");
    auto label = std::find_if(labels.begin(), labels.end(), [&](const Label& l) { return l.letter == *at; });
    if (label == labels.end()) label = labels.insert(label, Label{*at, tensor.dims[d], {0, 0, 0}});
    if (label->length != tensor.dims[d]) throw std::logic_error("contract: lengths of a label differ");
    label->strides[operand] += tensor.strides[d];
  }
  if (d != tensor.rank) throw std::logic_error("contract: fewer labels than dimensions");
}

// Joins neighbours, after ordering by how far they step in `leading`.
Group joined(std::vector<Stretch> stretches, Operand leading) {
  std::erase_if(stretches, [](const Stretch& s) { return s.length == 1; });
  std::stable_sort(stretches.begin(), stretches.end(), [&](const Stretch& a, const Stretch& b) { return a.strides[leading] > b.strides[leading]; });
  Group group;
  for (const Stretch& next : stretches) {
    bool joins = !group.empty();
    for (int i = 0; i < 3 && joins; ++i) joins = group.back().strides[i] == next.strides[i] * next.length;
    if (joins) {
      group.back().length *= next.length;
      std::copy_n(next.strides, 3, group.back().strides);
    } else {
      group.push_back(next);
    }
  }
  return group;
}

Groups groups_of(const Tensor& out, const Tensor& lhs, const Tensor& rhs, const char* equation) {
  std::vector<Label> labels;
  const char* at = equation;
  enter_labels(labels, at, ',', lhs, lhs_operand);
  const size_t in_lhs = labels.size();
  const char* rhs_begin = ++at;
  enter_labels(labels, at, '-', rhs, rhs_operand);
  const char* rhs_end = at;
  const size_t in_operands = labels.size();
  const char* out_begin = at += 2;
  enter_labels(labels, at, '\0', out, out_operand);
  if (labels.size() != in_operands) throw std::logic_error("contract: a label of the result is in no operand");
  const auto within = [](const char* begin, const char* end, char letter) { return std::find(begin, end, letter) != end; };
  std::vector<Stretch> batch, m, n, k;
  for (size_t i = 0; i < labels.size(); ++i) {
    const Label& label = labels[i];
    const bool in_left = i < in_lhs, in_right = within(rhs_begin, rhs_end, label.letter), in_out = within(out_begin, at, label.letter);
    // What is summed in one operand only steps by 0 in the other.
    std::vector<Stretch>& group = !in_out ? k : in_left && in_right ? batch : in_left ? m : n;
    group.push_back({label.length, {label.strides[0], label.strides[1], label.strides[2]}});
  }
  return {joined(batch, out_operand), joined(m, out_operand), joined(n, out_operand), joined(k, lhs_operand)};
}

int64_t length_of(const Group& group) {
  int64_t n = 1;
  for (const Stretch& s : group) n *= s.length;
  return n;
}

// The longest stretch leaves the group.
Stretch take_longest(Group& group) {
  if (group.empty()) return {};
  const auto longest = std::max_element(group.begin(), group.end(), [](const Stretch& a, const Stretch& b) { return a.length < b.length; });
  const Stretch taken = *longest;
  group.erase(longest);
  return taken;
}

// -- matrix products ------------------------------------------------------------------------------------------------------------------------------

// oneDNN for float (about a tenth faster than OpenBLAS here), OpenBLAS for double, which oneDNN does not have. Each call uses one thread.
void product(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int64_t m, int64_t n, int64_t k, double scale, const float* a, int64_t lda, const float* b,
             int64_t ldb, double beta, float* c, int64_t ldc) {
  thread_local const bool has_one_thread = (omp_set_num_threads(1), true);
  static_cast<void>(has_one_thread);
  const dnnl_status_t status = dnnl_sgemm(ta == CblasTrans ? 'T' : 'N', tb == CblasTrans ? 'T' : 'N', m, n, k, static_cast<float>(scale), a, lda, b,
                                          ldb, static_cast<float>(beta), c, ldc);
  if (status != dnnl_success) throw std::logic_error("contract: oneDNN refuses a matrix product");
}
void product(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, int64_t m, int64_t n, int64_t k, double scale, const double* a, int64_t lda, const double* b,
             int64_t ldb, double beta, double* c, int64_t ldc) {
  cblas_dgemm(CblasRowMajor, ta, tb, static_cast<int>(m), static_cast<int>(n), static_cast<int>(k), scale, a, static_cast<int>(lda), b,
              static_cast<int>(ldb), beta, c, static_cast<int>(ldc));
}

// Whether the library can read (row, column) as a matrix: one of them steps by 1, the other over at least the whole of it.
bool is_matrix(const Stretch& row, const Stretch& column, int operand) {
  const int64_t r = row.strides[operand], c = column.strides[operand];
  return (c == 1 && r >= column.length) || (r == 1 && c >= row.length);
}

// A dimension of length 1 may be given any stride: the one that makes a matrix.
void settle(Stretch& row, Stretch& column, int operand) {
  if (column.length == 1) column.strides[operand] = row.strides[operand] == 1 ? row.length : 1;
  if (row.length == 1) row.strides[operand] = column.strides[operand] == 1 ? column.length : 1;
}

struct Leading {
  CBLAS_TRANSPOSE transpose;
  int64_t stride;
};
Leading leading_of(const Stretch& row, const Stretch& column, int operand) {
  if (column.strides[operand] == 1) return {CblasNoTrans, std::max<int64_t>(row.strides[operand], 1)};
  return {CblasTrans, std::max<int64_t>(column.strides[operand], 1)};
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
    product(a.transpose, b.transpose, m_end - m_begin, n.length, k.length, scale, static_cast<const T*>(lhs.data) + offsets[0], a.stride,
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

void join_all(Groups& groups) {
  for (Group* group : {&groups.batch, &groups.m, &groups.n, &groups.k}) *group = joined(*group, group == &groups.k ? lhs_operand : out_operand);
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
