// The words of the plan language, of the recipe's format and of the cluster file's: which keys each object has, and the names that stand for something.
// The one table that the reader checks against; plans/plan.schema.json and plans/cluster.schema.json hold the same words, and test/unit/plan compares.
// PLAN_LANGUAGE (docs) section 2 says what they mean; the recipe's format is that of train.json.
#pragma once

#include <string>
#include <vector>

namespace sscc::language {

// The keys of one kind of object. `name` is that of its definition in the schema ("plan": the top level).
struct Keys {
  const char* name;
  std::vector<std::string> keys;
};

// The plan.
extern const Keys plan, transform_rule, split_time, split_over, store, axis_of, selector;
extern const Keys assign_rule, device_place, order, block, communication_rule, compression;
// The recipe.
extern const Keys recipe, tensor_description, loss_graph_output, loss_softmax_cross_entropy, loss_mse, optimizer_sgd, optimizer_adam;
extern const Keys state_entry, recycle, feedback;

// All of the above.
const std::vector<const Keys*>& all_keys();

// The cluster file.
extern const Keys cluster, cluster_device, cluster_flops, cluster_level;
const std::vector<const Keys*>& cluster_keys();

// A list of words that a string may be. `name` is that of the schema's definition. Kinds of loss and of optimizer have none: there each kind
// is an object of its own, above.
struct Words {
  const char* name;
  std::vector<std::string> words;
};
extern const Words schedules, phases, roles, axis_names, precisions, lowerings, data_types, loss_kinds, optimizer_kinds;
// Those that have a definition in the schema.
const std::vector<const Words*>& all_words();

}  // namespace sscc::language
