// Contractions become matrix products, as on the processor (../kernels/contraction.h): of m, n and k one stretch each makes a product, the longest of
// what remains its batch, and the rest loops around it. What is no matrix in place, or would take too many launches, is left to the strided kernel.
#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include "../kernels/contraction.h"
#include "../kernels/dispatch.h"
#include "device.h"
#include "epilogue.h"
#include "matrix_product.h"
#include "sscc_rt/kernels.h"
#include "strided_contraction.h"

namespace sscc::rt {
namespace {

constexpr int64_t most_launches = 256;

// Three stretches that are matrices in all operands, and what remains of the groups. Operands may have been exchanged: out is row-major.
struct Matrices {
  Stretch m, n, k;
  std::vector<Stretch> outer;  // of batch, m and n
  std::vector<Stretch> outer_k;
  bool exchanged = false;
};

// One of a group, or the stretch of length 1 if it is empty.
std::vector<Stretch> candidates(const Group& group) { return group.empty() ? std::vector<Stretch>(1) : group; }

void append_without(std::vector<Stretch>& list, const Group& group, size_t left_out) {
  for (size_t i = 0; i < group.size(); ++i)
    if (i != left_out) list.push_back(group[i]);
}

void exchange_operands(Stretch& stretch) { std::swap(stretch.strides[lhs_operand], stretch.strides[rhs_operand]); }

// The largest product there is. With `one_k` every sum is made by one product.
std::optional<Matrices> find_matrices(const Groups& groups, bool one_k) {
  if (one_k && groups.k.size() > 1) return std::nullopt;
  std::optional<Matrices> best;
  int64_t best_size = 0;
  const std::vector<Stretch> ms = candidates(groups.m), ns = candidates(groups.n), ks = candidates(groups.k);
  for (size_t i = 0; i < ms.size(); ++i) {
    for (size_t j = 0; j < ns.size(); ++j) {
      for (size_t l = 0; l < ks.size(); ++l) {
        Stretch m = ms[i], n = ns[j], k = ks[l];
        const int64_t size = m.length * n.length * k.length;
        settle(m, n, out_operand);
        settle(m, k, lhs_operand);
        settle(k, n, rhs_operand);
        if (size <= best_size || !is_matrix(m, n, out_operand) || !is_matrix(m, k, lhs_operand) || !is_matrix(k, n, rhs_operand)) continue;
        best_size = size;
        best = Matrices{m, n, k, groups.batch, {}, false};
        append_without(best->outer, groups.m, i);
        append_without(best->outer, groups.n, j);
        append_without(best->outer_k, groups.k, l);
      }
    }
  }
  if (best && best->n.strides[out_operand] != 1) {
    best->exchanged = true;
    std::swap(best->m, best->n);
    for (Stretch* stretch : {&best->m, &best->n, &best->k}) exchange_operands(*stretch);
    for (std::vector<Stretch>* list : {&best->outer, &best->outer_k}) std::for_each(list->begin(), list->end(), exchange_operands);
  }
  return best;
}

// Of the matrix (row, column): whether rows are its columns in memory, and how far they are apart.
std::pair<bool, int64_t> stored(const Stretch& row, const Stretch& column, int operand) {
  if (column.strides[operand] == 1) return {false, std::max<int64_t>(row.strides[operand], 1)};
  return {true, std::max<int64_t>(column.strides[operand], 1)};
}

// The longest stretch that can be a batch leaves the list.
Stretch take_batch(std::vector<Stretch>& outer) {
  auto longest = outer.end();
  for (auto s = outer.begin(); s != outer.end(); ++s) {
    const bool steps_back = std::any_of(s->strides, s->strides + 3, [](int64_t stride) { return stride < 0; });
    if (!steps_back && s->length <= std::numeric_limits<int32_t>::max() && (longest == outer.end() || s->length > longest->length)) longest = s;
  }
  if (longest == outer.end()) return {};
  const Stretch taken = *longest;
  outer.erase(longest);
  return taken;
}

// visit(offsets) for every position of the loops.
template <class Visit>
void for_each_position(const std::vector<Stretch>& loops, const Visit& visit) {
  for (int64_t i = 0; i < length_of(loops); ++i) {
    std::array<int64_t, 3> offsets{};
    int64_t rest = i;
    for (size_t l = loops.size(); l-- > 0; rest /= loops[l].length)
      for (size_t o = 0; o < 3; ++o) offsets[o] += rest % loops[l].length * loops[l].strides[o];
    visit(offsets);
  }
}

// What the loops' offsets are multiples of.
int64_t unit_of(const Matrices& matrices, Operand operand) {
  int64_t unit = 0;
  for (const std::vector<Stretch>* list : {&matrices.outer, &matrices.outer_k})
    for (const Stretch& stretch : *list) unit = std::gcd(unit, stretch.strides[operand]);
  return unit;
}

std::byte* at(const Tensor& tensor, int64_t offset) {
  return static_cast<std::byte*>(tensor.data) + offset * static_cast<int64_t>(size_of(tensor.dtype));
}

MatrixProduct product_of(const Matrices& found, const Stretch& batch, const Tensor& out, const Tensor& lhs) {
  const auto [a_transposed, a_stride] = stored(found.m, found.k, lhs_operand);
  const auto [b_transposed, b_stride] = stored(found.k, found.n, rhs_operand);
  return {.in = lhs.dtype,
          .out = out.dtype,
          .m = found.m.length,
          .n = found.n.length,
          .k = found.k.length,
          .a_transposed = a_transposed,
          .b_transposed = b_transposed,
          .a_stride = a_stride,
          .b_stride = b_stride,
          .c_stride = std::max(found.m.strides[out_operand], found.n.length),
          .batch = batch.length,
          .a_step = batch.strides[lhs_operand],
          .b_step = batch.strides[rhs_operand],
          .c_step = batch.strides[out_operand],
          .a_unit = unit_of(found, lhs_operand),
          .b_unit = unit_of(found, rhs_operand),
          .c_unit = unit_of(found, out_operand)};
}

// False, and nothing done, if this is no contraction for products.
bool by_products(const Tensor& out, const Tensor& lhs, const Tensor& rhs, const Groups& groups, double scale, bool accumulate) {
  // Between products a sum is kept in `out`.
  const bool one_k = is_small(out.dtype);
  std::optional<Matrices> found = find_matrices(groups, one_k);
  if (!found) return false;
  const Stretch batch = take_batch(found->outer);
  if (length_of(found->outer) * length_of(found->outer_k) > most_launches) return false;

  const MatrixProduct product = product_of(*found, batch, out, lhs);
  const Tensor &left = found->exchanged ? rhs : lhs, &right = found->exchanged ? lhs : rhs;
  bool adds = accumulate, exists = true;
  for_each_position(found->outer_k, [&](const auto& k) {
    for_each_position(found->outer, [&](const auto& outer) {
      const auto offset = [&](Operand operand) { return k[operand] + outer[operand]; };
      exists = exists && enqueue(product, at(left, offset(lhs_operand)), at(right, offset(rhs_operand)), at(out, offset(out_operand)), scale, adds);
    });
    adds = true;
  });
  return exists;  // of all products or of none
}

bool lies_as(const Tensor& a, const Tensor& b) {
  if (a.rank != b.rank || a.dtype != b.dtype) return false;
  for (int d = 0; d < a.rank; ++d)
    if (a.dims[d] != b.dims[d] || (a.dims[d] > 1 && a.strides[d] != b.strides[d])) return false;
  return true;
}

// One row of out's length, dense, that is the same for all rows.
bool is_one_row(const Tensor& bias, const Tensor& out) {
  for (int d = 0; d + 1 < bias.rank; ++d)
    if (bias.dims[d] > 1 && bias.strides[d] != 0) return false;
  const int last = bias.rank - 1;
  return last >= 0 && out.rank > 0 && bias.dims[last] == out.dims[out.rank - 1] && (bias.dims[last] == 1 || bias.strides[last] == 1);
}

// The row, in out's type: where it is, or in scratch memory.
const void* row_in_type(const Tensor& bias, DType type) {
  if (bias.dtype == type) return bias.data;
  const int last = bias.rank - 1;
  Tensor row, from;
  row.rank = from.rank = 1;
  row.dims[0] = from.dims[0] = bias.dims[last];
  row.strides[0] = from.strides[0] = 1;
  row.dtype = type;
  row.data = device().scratch;
  from.dtype = bias.dtype;
  from.data = bias.data;
  copy(row, from, false);
  return row.data;
}

// False, and nothing that is seen done, if the contraction is not one product, or what follows it no epilogue of it.
bool by_one_product(const Tensor& out, const Tensor& pre, const Tensor& lhs, const Tensor& rhs, const Tensor& base, const Tensor& bias,
                    const Tensor& before, const Groups& groups, double scale, Scalar function) {
  const std::optional<Matrices> found = find_matrices(groups, true);
  if (!found || found->exchanged || length_of(found->outer) * length_of(found->outer_k) != 1) return false;
  const Tensor& aux = function == Scalar::gelu_tanh_grad ? before : pre;
  if ((base.data && !lies_as(base, out)) || (aux.data && !lies_as(aux, out)) || (bias.data && !is_one_row(bias, out))) return false;
  const int last = out.rank - 1;
  if (bias.data && (found->n.length != out.dims[last] || (out.dims[last] > 1 && out.strides[last] != 1))) return false;
  if (bias.data && out.dims[last] * static_cast<int64_t>(size_of(out.dtype)) > static_cast<int64_t>(scratch_bytes)) return false;
  const ProductEpilogue epilogue{function, base.data, bias.data ? row_in_type(bias, out.dtype) : nullptr, aux.data};
  return enqueue(product_of(*found, {}, out, lhs), lhs.data, rhs.data, out.data, scale, false, epilogue);
}

}  // namespace

void contract(const Tensor& out, const Tensor& lhs, const Tensor& rhs, const char* equation, double scale, bool accumulate) {
  const Groups groups = groups_of(out, lhs, rhs, equation);
  expect_type("contract", lhs.dtype, {rhs});
  const bool widens = out.dtype == DType::f32 && is_small(lhs.dtype);
  if (!widens) expect_type("contract", lhs.dtype, {out});
  if (out.elements() == 0) return;
  if (length_of(groups.k) == 0) {
    if (!accumulate) fill(out, 0);
    return;
  }
  if (is_float(lhs.dtype) && by_products(out, lhs, rhs, groups, scale, accumulate)) return;
  contract_strided(out, lhs, rhs, groups, scale, accumulate);
}

void contract_epilogue(const Tensor& out, const Tensor& pre, const Tensor& lhs, const Tensor& rhs, const Tensor& base, const Tensor& bias,
                       const Tensor& before, const char* equation, double scale, Scalar function) {
  if (out.elements() == 0) return;
  const Groups groups = groups_of(out, lhs, rhs, equation);
  const bool is_product = is_float(lhs.dtype) && lhs.dtype == rhs.dtype && length_of(groups.k) > 0;
  if (is_product && by_one_product(out, pre, lhs, rhs, base, bias, before, groups, scale, function)) return;
  contract(pre.data ? pre : out, lhs, rhs, equation, scale, false);
  enqueue_epilogue(out, pre, base, bias, before, function);
}

}  // namespace sscc::rt
