#include "contraction.h"

#include <algorithm>
#include <stdexcept>

namespace sscc::rt {
namespace {

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

}  // namespace

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

void join_all(Groups& groups) {
  for (Group* group : {&groups.batch, &groups.m, &groups.n, &groups.k}) *group = joined(*group, group == &groups.k ? lhs_operand : out_operand);
}

bool is_matrix(const Stretch& row, const Stretch& column, int operand) {
  const int64_t r = row.strides[operand], c = column.strides[operand];
  return (c == 1 && r >= column.length) || (r == 1 && c >= row.length);
}

void settle(Stretch& row, Stretch& column, int operand) {
  if (column.length == 1) column.strides[operand] = row.strides[operand] == 1 ? row.length : 1;
  if (row.length == 1) row.strides[operand] = column.strides[operand] == 1 ? column.length : 1;
}

}  // namespace sscc::rt
