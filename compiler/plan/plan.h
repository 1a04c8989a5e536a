// The plan and the recipe as read from JSON: everything located, names of the model resolved by the selectors when a pass asks.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "compiler/ir/module.h"
#include "compiler/support/diagnostics.h"

namespace sscc {

// A set of operators: every given key must hold; `any_of` is a union (all other keys then empty).
struct Selector {
  Location where;
  std::optional<std::string> name, type, role, reads, writes;                         // globs (type and role: equality)
  std::optional<std::pair<int64_t, int64_t>> layer, stage, micro_batch, pass, piece;  // ranges, both ends included
  std::optional<std::string> phase;                                                   // forward, backward, dgrad, wgrad, update
  std::vector<Selector> any_of;
  std::vector<Selector> none_of;  // "not"
  std::string text;               // as written, for messages

  bool matches(const Module& module, const Op& op) const;
  std::vector<OpId> select(const Module& module) const;  // in the module's order
};

// Is an operator of this phase, by the words that selectors have for it?
bool in_phase(const Module& module, const Op& op, const std::string& phase);
// Has a tensor, or what it is a micro-batch or a variant of, a name that the glob matches?
bool has_name(const Module& module, TensorId tensor, const std::string& glob);

// What a rule divides: `TENSOR:DIM[.FACTOR]` (a range and its class), or operators by a dimension of output 0 or an axis name.
struct AxisName {
  Location where;
  std::string text;         // as written
  std::string tensor_glob;  // empty if `of` is set
  std::optional<Selector> of;
  int output = 0;
  int dim = 0;                // negative from the end
  std::optional<int> factor;  // K-th factor, outermost first
  std::string well_known;     // "@batch"; empty otherwise
};

// The dimensions that an axis name stands for, as (tensor, dimension counted from 0), in the module's order of tensors. A glob finds tensors by
// their names and operators by theirs (also by those of the nodes that they were recognised from), which means their output 0. Passed
// over: tensors without this dimension, dimensions of length 1, gradients, results of updates, and tensors that no operator of the module
// reads or writes and that are neither input nor label nor output (recognition leaves such behind).
std::vector<std::pair<TensorId, int>> resolve_axis(const Module& module, const AxisName& axis);

struct SplitOver {
  Location where;
  std::vector<std::string> mesh_axes;  // empty: time
  bool is_time = false;
  int64_t pieces = 1;          // time: number of pieces
  std::vector<int64_t> sizes;  // uneven, as proportions; empty: even
  std::vector<int64_t> deal;   // zig-zag; empty: contiguous
  std::string rotate;          // ring; empty: none
};

struct TransformRule {
  Location where;
  std::optional<AxisName> axis;
  std::optional<Selector> ops;
  std::variant<std::monostate, int64_t, std::string> dim;  // with `ops`
  std::vector<SplitOver> splits;
  std::optional<Selector> within;
  bool optional = false;
};

struct Place {
  Location where;
  enum class Kind { coordinates, all, devices, host } kind = Kind::all;  // host: the processor beside the device where it would be
  std::map<std::string, int64_t> coordinates;                            // {"pp": 0}
  Mesh mesh;                                                             // devices: with their own axes, `d` by default
};

// `store`: where parameters, gradients or state live between uses.
struct StoreRule {
  Location where;
  enum class What { parameters, gradients, state } what = What::parameters;
  std::vector<std::string> names;      // globs on parameter names
  std::optional<Place> place;          // there, or
  std::vector<std::string> mesh_axes;  // divided over these, one after another
  std::optional<int64_t> dim;          // along this dimension, negative from the end; none: the first that is long enough
  bool gather_once = false;            // "gather": "step"
};

struct AssignRule {
  Location where;
  // {"stages": ..}
  bool is_stages = false;
  std::string stages;               // mesh axis, or
  std::vector<Place> stage_places;  // a place each
  std::vector<Selector> cut_before;
  std::string balance;                                           // "flops", "bytes" or empty
  std::vector<llvm::SmallVector<int64_t, 1>> stage_coordinates;  // with a mesh axis: those of each stage; filled for "loop", "v" or a list
  // {"ops": .., "on": ..}
  std::optional<Selector> ops;
  std::vector<Place> on;  // one, or one for each piece
};

// "0F3": the forward segment of stage 0 for micro-batch 3; 'B' backward; "0U", 'U': the update.
struct Block {
  Location where;
  char kind = 'F';
  int64_t stage = 0, micro_batch = 0;
};
struct BlockAtStep {
  Block block;
  int64_t step = 0, span = 1;
};

struct Order {
  Location where;
  std::string schedule;                                 // gpipe, 1f1b, ...; empty: micro-batches one after another, or
  std::vector<std::vector<Block>> timetable;            // one list a device, or
  std::vector<BlockAtStep> blocks;                      // when each begins, on all its devices
  std::optional<std::pair<int64_t, int64_t>> repetend;  // of blocks: steps that repeat
  std::vector<std::pair<Selector, Selector>> before;
};

// `communication`: how values travel that every given key matches.
struct CommunicationRule {
  Location where;
  std::optional<std::string> tensor;  // glob
  std::optional<std::string> phase;
  std::string over;  // mesh axis, or "stages"; empty: any
  struct End {
    std::optional<int64_t> stage;  // or
    Place place;
  };
  std::optional<End> from, to;
  enum class Lowering { automatic, collective, point_to_point, ring, local_all_gather, broadcast } lowering = Lowering::automatic;
  std::string word;  // the lowering, as written
};

struct Plan {
  std::string file, text;  // for locations and hashes
  std::string name;
  std::map<std::string, std::string> params;  // final values as JSON text
  Mesh mesh;                                  // one device if absent
  std::vector<Location> mesh_axis_where;      // of each axis
  std::vector<TransformRule> transform;
  std::vector<StoreRule> stores;
  std::vector<AssignRule> assign;
  Order order;
  std::vector<CommunicationRule> communication;
  std::vector<int64_t> memory_limit;  // bytes by device; one entry: all; empty: none
  Location memory_limit_where;
  DType precision = DType::f32;  // of activations
  Location precision_where;
};

struct Recipe {
  std::string file, text;
  bool present = false;  // absent: inference
  struct Loss {
    Location where;
    enum class Kind { graph_output, softmax_cross_entropy, mse } kind = Kind::graph_output;
    std::string output, logits, labels, prediction, target;
    int class_axis = 1;
    int64_t ignore_index = INT64_MIN;  // INT64_MIN: none
  } loss;
  rt::UpdateRule optimizer;
  std::vector<std::string> no_weight_decay;
  std::optional<double> clip_grad_norm;
  struct Label {
    std::string name;
    DType dtype;
    Shape shape;
  };
  std::vector<Label> labels;                           // empty: derived from the loss
  std::optional<std::vector<std::string>> parameters;  // trainable; none: every floating initializer of rank >= 1 but constants
  std::vector<std::string> constants;
  // An initializer that the forward pass updates: after the step it has the value of another tensor.
  struct State {
    std::string initializer, updated_by;
  };
  std::vector<State> states;
};

// Command-line settings that a plan's reading depends on: --set k=v in order.
using Settings = std::vector<std::pair<std::string, std::string>>;

// Read and validate. Both report every error they find, located, and return what could be read. The recipe inside the plan (`train`: an
// object or a path relative to the plan) is used where `recipe_file` is empty. "-" reads standard input. A file that cannot be opened
// throws EnvironmentError.
struct PlanAndRecipe {
  Plan plan;
  Recipe recipe;
};
PlanAndRecipe read_plan(const std::string& plan_file, const std::string& recipe_file, const Settings& settings, const Module& module,
                        Diagnostics& diagnostics);

}  // namespace sscc
