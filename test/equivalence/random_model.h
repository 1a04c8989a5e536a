// Small random models whose values are small integers in float64, so that every sum is exact whatever its order.
#pragma once

#include <optional>
#include <random>
#include <string>

#include "compiler/ir/module.h"

namespace sscc::equivalence {

using Random = std::mt19937_64;

inline int64_t below(Random& random, int64_t n) { return n < 2 ? 0 : static_cast<int64_t>(random() % static_cast<uint64_t>(n)); }
template <class List>
auto& one_of(Random& random, List& list) {
  return list[static_cast<size_t>(below(random, static_cast<int64_t>(std::size(list))))];
}

// What is compiled, and how it is trained.
struct Model {
  Module module;
  std::string recipe;  // empty: not at all
  int64_t steps = 2;
  std::optional<Shape> labels;  // of classes, where it is trained by cross entropy
  int64_t classes = 0;
  bool rounds = false;                                  // ends with attention or a norm
  bool is_exact() const { return !labels && !rounds; }  // otherwise what is summed, in any order, are no integers
};

// Trains output "loss" with momentum, all constants powers of two: exact in every step.
extern const char* const exact_recipe;

// A forward graph of `operators` operators or so, with shared inputs, residuals, shared weights, reshapes and several outputs; output "loss" is a scalar. Its
// weights are in memory. Some are trained by cross entropy with ignored labels instead, some end with attention, or with a norm and its running state. Where gradients are clipped, or the optimizer divides, only the first step begins with integers: it is then the only one.
Model random_model(Random& random, int operators);

// A trainable parameter of -1, 0 and 1.
TensorId add_parameter(Module& module, const std::string& name, const Shape& shape, Random& random);

// Values for its inputs: FOLDER/step_K/input_I.pb.
void write_data(const Model& model, const std::string& folder, Random& random);

}  // namespace sscc::equivalence
