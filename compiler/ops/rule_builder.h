// Making rules: axes by name, occurrences by operand and dimension. Dimensions of length 1 hold no axis.
#pragma once

#include <string>

#include "compiler/ir/module.h"

namespace sscc {

class RuleBuilder {
 public:
  RuleBuilder(const Module& module, const Op& op) : module_(module), op_(op) {}

  int inputs() const { return static_cast<int>(op_.inputs.size()); }
  bool has(int index) const { return operand(op_, index).valid(); }
  const Shape& shape(int index) const { return module_.tensors[operand(op_, index)].shape; }

  // An axis of this length; -1 for length 1.
  int axis(std::string name, int64_t length, Mark mark = Mark::plain) {
    if (length == 1) return -1;
    rule_.axes.push_back({std::move(name), length, mark, -1});
    return static_cast<int>(rule_.axes.size()) - 1;
  }
  // The axis indexes this dimension with a stride; a piece of it sees so many positions before and after its own, too.
  void at(int axis, int index, size_t dim, int64_t stride = 1, int64_t before = 0, int64_t after = 0) {
    if (axis >= 0 && has(index) && shape(index)[dim] != 1) rule_.occurrences.push_back({axis, index, static_cast<int>(dim), stride, before, after});
  }
  Rule take() { return std::move(rule_); }

 private:
  const Module& module_;
  const Op& op_;
  Rule rule_;
};

inline int64_t no_flops(const Module&, const Op&) { return 0; }
inline bool no_gradient(Module&, OpId, llvm::ArrayRef<TensorId>, llvm::ArrayRef<TensorId>, class Builder&) { return false; }

}  // namespace sscc
