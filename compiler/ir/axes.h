// Axis classes: which axes of all operators are the same axis (PLAN_LANGUAGE section 1). By identities only, never by sizes or names.
//
// Every dimension of length > 1 of a tensor, and every axis of an operator, is a Dim. A Dim has cuts: divisors of its length, closed under gcd and
// lcm; a cut t says that the boundary at stride t matters to somebody. A range (D, a, b), a | b, is the factor of D with stride a and length
// b/a. An operator's rule says that its axis and a range of an operand's dimension are the same index, position by position: cuts travel along
// such identities until nothing changes (a least fixpoint, so order does not matter), then corresponding ranges are united. Ranges made
// of the same two ranges are the same range (congruence).
//
//   [8,24] -> reshape -> [192]: cuts of 192 become {1, 24, 192}; (192: 24..192) ~ the 8, (192: 1..24) ~ the 24
#pragma once

#include <map>
#include <unordered_map>
#include <vector>

#include "compiler/ir/module.h"

namespace sscc {

// A factor of a dimension: positions (p / stride) mod length.
struct Factor {
  int64_t stride = 1, length = 1;
};

class AxisClasses {
 public:
  // Over the forward operators of the module (the loss included). A constant is a tensor of its own for each operator that reads it.
  explicit AxisClasses(const Module& module);

  // Strides at which a tensor's dimension is cut, from 1 to its length; empty for length 1 or a tensor that no operator knows.
  std::vector<int64_t> cuts(TensorId tensor, int dim) const;
  std::vector<int64_t> axis_cuts(OpId op, int axis) const;

  // The class of a range; -1 where there is no such range. Equal numbers: the same axis.
  int range_class(TensorId tensor, int dim, int64_t low, int64_t high) const;
  int axis_range_class(OpId op, int axis, int64_t low, int64_t high) const;

  // The factors of a dimension, outermost first: between neighbouring cuts. Empty if the cuts do not nest.
  std::vector<Factor> factors(TensorId tensor, int dim) const;

  // The outer parts of all ranges of a class: class -> number of units (its own length for the class itself).
  std::map<int, int64_t> outer_parts(int range_class) const;

 private:
  struct Dim {
    int64_t length = 1;
    std::vector<int64_t> cuts;                     // sorted
    std::vector<std::pair<int, bool>> identities;  // index, is the first side
    std::map<std::pair<int64_t, int64_t>, int> ranges;
  };
  struct Identity {
    int a, b;              // Dims
    int64_t low_a, low_b;  // strides
    int64_t length;
  };

  int dim_of(const Module& module, OpId op, TensorId tensor, int dim);
  void add_cut(int dim, int64_t cut);
  void close_cuts();
  void unite_ranges();
  int find(int range) const;
  bool unite(int a, int b);
  int class_in(const Dim& dim, int64_t low, int64_t high) const;

  std::vector<Dim> dims_;
  std::vector<Identity> identities_;
  std::map<std::pair<TensorId, int>, int> tensor_dims_;
  std::map<std::tuple<TensorId, OpId, int>, int> constant_dims_;
  std::map<std::pair<OpId, int>, int> axis_dims_;
  std::vector<int> worklist_;
  mutable std::vector<int> parent_;
};

}  // namespace sscc
