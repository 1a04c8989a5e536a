// The reader of a plan's parts. One instance reads one plan; each part is one file: read_selector.cpp (selectors and axes), read_transform.cpp,
// read_assign.cpp, read_order.cpp, read_communication.cpp, read_plan.cpp (the rest).
#pragma once

#include <map>
#include <set>

#include "compiler/plan/plan.h"
#include "compiler/plan/read_text.h"
#include "compiler/plan/reader.h"

namespace sscc {

class PlanReader : private Reader {
 public:
  PlanReader(JsonDocument& document, const Module& module, Diagnostics& diagnostics)
      : Reader(document, diagnostics), plan_document_(document), module_(module) {}

  PlanAndRecipe read(const std::string& recipe_file, const Settings& settings, const FileReader& read);

 private:
  // -- read_plan.cpp
  bool read_version(const JsonValue& root);
  void read_mesh(const JsonValue& value);
  void read_recipe(const JsonValue* value, const std::string& recipe_file, const FileReader& read);
  void read_memory_limit(const JsonValue& value);
  void read_precision(const JsonValue& root);
  // Whether a rule's `when` holds. Where not, the rule's form is checked and nothing else.
  bool read_when(const JsonValue& rule);
  // A key that the language has and that this kind of rule has no use for.
  void refuse_other_keys(const JsonValue& rule, const language::Keys& keys, const char* kind, const std::vector<std::string>& allowed);

  // -- read_selector.cpp
  std::optional<Selector> read_selector(const JsonValue& value);
  std::optional<Selector> read_selector_object(const JsonValue& value);
  std::optional<std::pair<int64_t, int64_t>> read_range(const JsonValue& value);
  std::optional<AxisName> read_axis(const JsonValue& value);
  std::optional<AxisName> read_axis_text(const JsonValue& value);
  std::optional<AxisName> read_named_axis(const JsonValue& value);
  std::optional<AxisName> read_axis_of(const JsonValue& value);
  void check_selector(const Selector& selector);
  void check_rule_selector(const Selector& selector);  // of whole operators
  void check_axis(const AxisName& axis);

  // -- read_transform.cpp
  void read_transform(const JsonValue& value);
  void read_transform_rule(const JsonValue& value);
  void read_axis_rule(const JsonValue& value, TransformRule& rule);
  void read_operator_rule(const JsonValue& value, TransformRule& rule);
  void check_recompute_rule(const JsonValue& value);
  void read_store_rule(const JsonValue& value);
  void check_parameter_globs(const JsonValue& where, const std::vector<std::string>& globs);
  void check_dimension(const JsonValue& where, const StoreRule& rule);
  std::vector<SplitOver> read_splits(const JsonValue& value);
  std::optional<SplitOver> read_split(const JsonValue& value);
  std::optional<SplitOver> read_split_time(const JsonValue& value);
  std::optional<SplitOver> read_split_over(const JsonValue& value);
  std::optional<SplitOver> read_mesh_axes(const JsonValue& value);
  void drop_splits_into_one(std::vector<SplitOver>& splits);
  // The name of a mesh axis; `unknown_mesh_axis` if no mesh of the plan has it.
  std::optional<std::string> read_mesh_axis(const JsonValue& value);
  // On the plan's mesh; the largest on meshes that places bring along for an axis that it lacks.
  int64_t length_of(const std::string& mesh_axis) const;

  // -- read_assign.cpp
  void collect_other_meshes(const JsonValue& value);
  void read_assign(const JsonValue& value);
  void read_assign_rule(const JsonValue& value);
  void read_stages(const JsonValue& value, AssignRule& rule);
  void read_stage_places(const JsonValue& value, AssignRule& rule, int64_t stages);
  void read_placement(const JsonValue& value, AssignRule& rule);
  // Nothing for a place that is wrong or refused.
  std::optional<Place> read_place(const JsonValue& value);
  std::optional<Place> read_place_of_devices(const JsonValue& value);
  std::optional<Place> read_coordinates(const JsonValue& value);
  std::optional<Place> read_devices(const JsonValue& value);
  bool is_within_the_mesh(const Mesh& own, const JsonValue& value);
  void make_mesh_of_device_numbers();

  // -- read_order.cpp
  void read_order(const JsonValue& value);
  void read_schedule(const JsonValue& value);
  void read_before(const JsonValue& value);
  void read_timetable(const JsonValue& timetable);
  void read_blocks(const JsonValue& order);
  std::optional<Block> read_block(const JsonValue& value);

  // -- read_communication.cpp
  void read_communication(const JsonValue& value);
  std::optional<CommunicationRule> read_communication_rule(const JsonValue& value);
  void check_compression(const JsonValue& value);
  std::optional<CommunicationRule::End> read_end(const JsonValue& value);

  JsonDocument& plan_document_;
  const Module& module_;
  PlanAndRecipe result_;
  bool mesh_given_ = false, mesh_readable_ = true;
  std::map<std::string, int64_t> other_mesh_axes_;  // of meshes that places bring along: the largest length
  bool rule_holds_ = true;                          // `when` of the rule being read
};

}  // namespace sscc
