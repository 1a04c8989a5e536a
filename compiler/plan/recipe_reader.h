// The training recipe: the format of train.json, as a file of its own or as the plan's `train`.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "compiler/plan/plan.h"
#include "compiler/plan/reader.h"

namespace sscc {

class RecipeReader : private Reader {
 public:
  RecipeReader(const JsonDocument& document, const Module& module, Diagnostics& diagnostics);

  // `value`: the recipe's object in the document.
  Recipe read(const JsonValue& value);

 private:
  void read_loss(const JsonValue& value, Recipe& recipe);
  void read_cross_entropy(const JsonValue& value, Recipe::Loss& loss);
  void read_optimizer(const JsonValue& value, Recipe& recipe);
  void read_labels(const JsonValue& value, Recipe& recipe);
  void read_tensor_names(const JsonValue& recipe, Recipe& result);
  void read_states(const JsonValue& recipe, Recipe& result);
  std::optional<Recipe::State> read_state(const JsonValue& entry, const Recipe& recipe);
  void check_recycle(const JsonValue& value);
  void check_descriptive_keys(const JsonValue& value);
  std::optional<Recipe::Label> read_tensor(const JsonValue& value);
  std::optional<Shape> read_shape(const JsonValue& value);
  // A name of a tensor of the model, or of one of its initializers only.
  std::string read_tensor_name(const JsonValue& object, const char* key);
  std::vector<std::string> read_initializers(const JsonValue& value);
  double read_option(const JsonValue& object, const char* key, double standard, double highest);

  TensorId find_tensor(const std::string& name) const;

  const Module& module_;
  std::unordered_map<std::string, TensorId> by_name_;
};

}  // namespace sscc
