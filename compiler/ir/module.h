// The module: the logical model and, pass by pass, what the plan makes of it. The middle of the compiler works on this and nothing else.
//
// A Module holds logical tensors and operators in a global order (forward in the model's node order, then backward, then updates); a
// later pass never changes the set of logical tensors after `transform`. What each pass adds:
//   read_onnx      tensors, ops (kinds, attributes, rules), layers, roles
//   recognize      some ops replaced by one richer op
//   differentiate  backward and update ops, gradient tensors with several producers (addends)
//   transform      op.splits, op.scope (and micro-batch shapes)
//   assign         op.stage, op.pieces
//   order          segments, timetable, precedences
//   materialize, form_collectives   deliveries
//   signal         signals
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "compiler/ir/dim_mask.h"
#include "compiler/ir/region.h"
#include "compiler/support/diagnostics.h"
#include "compiler/support/ids.h"
#include "sscc_rt/kernels.h"
#include "sscc_rt/types.h"

namespace sscc {

using rt::DType;
using rt::Join;
using rt::Scalar;

struct TensorTag;
struct OpTag;
using TensorId = Id<TensorTag>;
using OpId = Id<OpTag>;

// -- tensors --------------------------------------------------------------------------------------------------------------------------------------

enum class Role { input, label, parameter, constant, activation, gradient, state };

// How often a value exists: once a step, or once a micro-batch. Micro-batch tensors have the shape of one micro-batch.
enum class Scope { step, micro_batch };

// Where an initializer's bytes are. Read only when weights are written or constants are evaluated; `check` reads none of parameters.
struct Weight {
  std::string file;  // the .onnx file, or an external data file; empty: `bytes` holds them
  int64_t offset = 0, length = 0;
  std::shared_ptr<const std::string> bytes;  // little-endian, row-major
};

struct Tensor {
  std::string name;  // ONNX name; "grad(NAME)" for gradients; unique
  DType dtype = DType::f32;
  Shape shape;
  Role role = Role::activation;
  Scope scope = Scope::step;
  Join join = Join::sum;         // how partial values of it are joined
  std::optional<Weight> weight;  // parameters and constants
  bool trainable = false;
  llvm::SmallVector<OpId, 1> producers;  // more than one: addends of a sum. Empty: input, label, parameter, constant, state
  TensorId gradient_of;                  // for a gradient: of what
  TensorId micro_batch_of;               // for an input's or label's micro-batch slice: the step tensor it is cut from
  int variant = 0;                       // of the micro-batch, which it is for
  TensorId variant_of;                   // in a later variant of the micro-batch: what this is in the first
  bool gather_once = false;              // a parameter stored apart from its readers: brought there once a step, not in every segment that reads it
  TensorId rounded_from;                 // of a stored parameter: what is rounded where that is stored, and travels in its place
  TensorId next_version_of;              // for an update's result: the parameter or state that it replaces after the step
};

// -- operators ------------------------------------------------------------------------------------------------------------------------------------

enum class Kind {
  pointwise,
  contract,
  reduce,
  reshape,
  transpose,
  slice,
  split,
  concat,
  pad,
  expand,
  gather,
  scatter_add,
  softmax,
  softmax_grad,
  norm,
  norm_grad,
  norm_grad_scale,
  convolve,
  convolve_transposed,
  convolve_grad_weight,
  max_pool,
  max_pool_grad,
  sum_pool,
  sum_pool_grad,
  pick,
  cross_entropy_grad,
  update,
};
const char* name_of(Kind kind);

// Attributes by kind. Operands are in the order of the kernels in sscc_rt/kernels.h: all inputs, then all outputs.
struct PointwiseAttributes {
  Scalar function = Scalar::identity;
  double alpha = 0, beta = 0;
};  // inputs broadcast to output 0's shape
struct ContractAttributes {
  std::string lhs, rhs, out;
  double scale = 1;
};  // labels, one letter a dimension
struct ReduceAttributes {
  llvm::SmallVector<int, 4> dims;
  bool keep_dims = false;
  Join join = Join::sum;
  double scale = 1;
};  // mean: scale 1/n of the whole, whatever is split
struct TransposeAttributes {
  llvm::SmallVector<int, 5> permutation;
};  // output dim i is input dim permutation[i]
struct SliceAttributes {
  Shape starts, steps;
};  // every dimension; lengths are the output's. also pad
struct DimAttributes {
  int dim = 0;
};  // split, concat, gather, scatter_add, softmax(_grad): never negative
struct NormAttributes {
  DimMask over = 0, along = 0;  // dimensions that are normalised; dimensions of scale and bias
  bool centred = true;          // false: by the root mean square; there is no mean
  double epsilon = 1e-5;
  bool operator==(const NormAttributes&) const = default;
};  // norm: x, [scale, [bias]] -> y, rstd, [mean]; norm_grad: dy, x, rstd, [mean], [scale] -> dx; norm_grad_scale: dy, x, rstd, [mean] -> dscale, [dbias]
struct WindowAttributes {
  rt::Window window;
  double scale = 1;  // of sum_pool and its gradient
};                   // convolve*, *_pool*
struct ClassAttributes {
  int dim = 0;
  int64_t ignore_index = INT64_MIN;
};  // pick, cross_entropy_grad. INT64_MIN: none is ignored
struct UpdateAttributes {
  rt::UpdateRule rule;
};                       // inputs: parameter, gradient, [moment1, [moment2]], [clip, [loss scale, steps taken]]
struct NoAttributes {};  // reshape, expand (shape is the output's)
using Attributes = std::variant<NoAttributes, PointwiseAttributes, ContractAttributes, ReduceAttributes, TransposeAttributes, SliceAttributes,
                                DimAttributes, NormAttributes, WindowAttributes, ClassAttributes, UpdateAttributes>;

// The axis rule of one operator (docs: PLAN_LANGUAGE section 1). An axis is an iteration axis; an occurrence says that it indexes, with a
// stride in elements of that dimension, a dimension of an operand. (h d) is two occurrences on one dimension, strides d and 1.
enum class Mark { plain, sum, decomposed, window, segment, frozen };  // "", +, %, ~, |, ^
struct Axis {
  std::string name;
  int64_t length = 0;
  Mark mark = Mark::plain;
  int forward_axis = -1;  // backward operators: the forward operator's axis that this is; its division is inherited
};
struct Occurrence {
  int axis = 0;
  int operand = 0;  // inputs 0.., then outputs
  int dim = 0;
  int64_t stride = 1;
  // Windows: how many positions of the dimension a piece of the axis sees before and behind its own, as far as there are any.
  int64_t before = 0, after = 0;
};
struct Rule {
  std::vector<Axis> axes;
  std::vector<Occurrence> occurrences;  // dimensions of length 1 (broadcast) have none
};

enum class Phase { forward, backward, update };

// One division of an operator's axis, from one plan rule.
struct Split {
  int axis = 0;                     // of the operator's rule
  int64_t stride = 1, length = 0;   // the range of the axis that is cut: positions (p / stride) mod length
  int64_t count = 1;                // distinct pieces
  int mesh_axis = -1;               // of the operator's mesh; -1: in time, local
  llvm::SmallVector<int, 2> outer;  // earlier splits of the same range that this one nests in
  int rotate = -1;                  // in time: the device at coordinate c of this mesh axis begins with piece c; -1: all begin with the first
  std::vector<Intervals> pieces;    // of [0, length), row-major over (outer splits' pieces, own piece)
  int rule = -1;                    // index of the plan's transform rule; -1: inherited from storage
};

// A rule that would have divided an operator over a mesh axis, too late.
struct Overruled {
  int rule = 0, by = 0;  // of the plan's transform rules
  int mesh_axis = 0;     // of the operator's mesh
};

// A piece of an operator on a device: one coordinate (distinct piece) for each of op.splits.
struct Piece {
  int32_t device = 0;
  llvm::SmallVector<int32_t, 4> coordinates;
};

// What pieces of an operator have, by those of their coordinates that matter to it.
template <class Value>
struct ByPiece {
  llvm::SmallVector<int32_t, 4> strides;  // of each coordinate in `values`; 0: does not matter
  std::vector<Value> values;

  const Value& operator[](const Piece& piece) const {
    int32_t at = 0;
    for (size_t c = 0; c < strides.size(); ++c) at += strides[c] * piece.coordinates[c];
    return values[static_cast<size_t>(at)];
  }
};

struct Op {
  std::string name;                   // ONNX node name; a gradient has its forward operator's, an update its parameter's, the loss "loss"
  std::string type;                   // ONNX op type ("MatMul"), or "Update"
  std::vector<std::string> absorbed;  // names of all nodes that this operator was recognised from (name included)
  Kind kind = Kind::pointwise;
  Attributes attributes;
  llvm::SmallVector<TensorId, 4> inputs;
  llvm::SmallVector<TensorId, 2> outputs;
  Rule rule;
  Phase phase = Phase::forward;
  OpId forward;                             // backward operators: the forward operator that this is a gradient of
  bool is_layout = false;                   // moves data only (rule: follows its input)
  int layer = -1;                           // the repeat of the longest block, -1: outside
  llvm::SmallVector<std::string, 2> roles;  // selector roles
  Scope scope = Scope::step;
  int variant = 0;  // of the micro-batch, which it runs for
  std::vector<Split> splits;
  llvm::SmallVector<Overruled, 0> overruled;  // for `explain`
  int stage = 0;
  int placement = 0;     // of Module::placements
  bool on_host = false;  // run by the processors beside the devices of its pieces, in their memory
  std::vector<Piece> pieces;
  // Updates and gradient norms follow the storage of their parameter: its disjoint or equal regions, one for each distinct piece. When not
  // empty, a piece's only coordinate is an index into it, and `splits` play no part.
  std::vector<Region> storage;
  // What pieces have of each operand (inputs, then outputs), and of the join of each output. Empty before the end of `assign`: then it is computed.
  std::vector<ByPiece<Region>> regions;
  std::vector<ByPiece<Part>> parts;
};

// -- devices and time -----------------------------------------------------------------------------------------------------------------------------

struct MeshAxis {
  std::string name;
  int64_t length = 1;
  bool operator==(const MeshAxis&) const = default;
};
struct Mesh {
  std::vector<MeshAxis> axes;    // outermost first
  std::vector<int32_t> devices;  // by row-major index; empty: device numbers are the indices
  int64_t size() const;
  int find(const std::string& name) const;  // -1: none
  int32_t device(int64_t index) const;
  bool has(int32_t device) const;
  int64_t coordinate(int64_t device, int axis) const;  // the device is on this mesh
  bool operator==(const Mesh&) const = default;
};

// Mesh axis -> coordinates. Several: a stage is held at each of them, and micro-batch m is at the (m mod size)-th.
using Fixed = std::map<int, llvm::SmallVector<int64_t, 1>>;

// Where an operator may run, by the plan's assign rules: a mesh, and what is fixed of it.
struct Placement {
  int mesh = 0;  // of Module::meshes
  Fixed fixed;
  std::vector<std::vector<int32_t>> lists;  // the devices of each piece, instead of where the mesh would put it; one list: of all pieces
  bool with_readers = false;                // wherever it is read
  Location where;                           // of the rule; none: the whole mesh
};

// What runs as a unit for one micro-batch on the devices of a stage. prologue and epilogue run once a step, on all devices.
enum class SegmentKind { prologue, forward, backward, epilogue };
struct Segment {
  int stage = 0;  // -1: prologue and epilogue
  SegmentKind kind = SegmentKind::forward;
  std::vector<OpId> ops;     // in the module's order
  int variant = 0;           // of the micro-batch
  std::string name() const;  // "0F", "1B", "prologue", "epilogue"; variants have the same name: "0F3" is the one that micro-batch 3 runs
};
struct Slot {
  int segment = 0;
  int micro_batch = 0;
};
using Timetable = std::vector<std::vector<Slot>>;  // one list a device

// What a plan's `before` asks for: each of `first` has ended, on all its devices, when another of `second` begins on any of its own. Of operators of
// micro-batches, in each of them; where the two lists are of different variants, all micro-batches of the one's come before any of the other's.
struct Precedence {
  std::vector<OpId> first, second;  // in the module's order
  Location where;
};
// An empty message: rank `to` begins `before`, and what stands behind it, when rank `from` has ended `after`, and what stands before it.
struct Signal {
  int32_t from = 0, to = 0;
  OpId after, before;
};

// How the step was cut into `count` micro-batches: along one axis, or several, one after another (the first outermost: micro-batches run through the
// pieces of the second for each of the first).
struct StepCut {
  int64_t count = 1;

  // Of one axis: piece k has positions [begins[k], begins[k + 1]).
  struct Axis {
    Shape begins;
    int64_t every = 1;  // micro-batch m has piece (m / every) mod pieces()
    int64_t pieces() const { return static_cast<int64_t>(begins.size()) - 1; }
    int64_t length() const { return begins.back(); }
    int64_t largest() const;  // the size of the largest piece
    bool is_even() const { return largest() * pieces() == length(); }
    int64_t begin_of(int64_t micro_batch) const { return begins[static_cast<size_t>(micro_batch / every % pieces())]; }
    int64_t size_of(int64_t micro_batch) const;
  };
  std::vector<Axis> axes;

  // Where a cut axis is in a tensor: the factor (stride, length) of a dimension of the whole step's tensor. It may count coarser units than the axis
  // does: one for every axis.length() / length of its positions.
  struct Where {
    int dim = 0;
    int64_t stride = 1, length = 0;
    int axis = 0;
  };
  // Of tensors of micro-batches in their first variant (of slices of inputs and labels: under the input or label). Innermost first; of the same
  // factor, cut again, the last cut first.
  std::map<TensorId, llvm::SmallVector<Where, 1>> where;
  // Of the factor: where the piece of a micro-batch begins, and its size. The size of the largest piece.
  int64_t begin_of(const Where& where, int64_t micro_batch) const;
  int64_t size_of(const Where& where, int64_t micro_batch) const;
  int64_t largest_of(const Where& where) const;

  // Micro-batches that differ in size, or in where they run (stages held at several coordinates), run *variants* of the same operators. Each variant has
  // operators and micro-batch tensors of its own, and its addend of what is summed over the step (passes/make_variants.h). The first has the largest
  // micro-batches.
  int64_t variants = 1;
  std::vector<int32_t> variant_of;  // by micro-batch; empty: all run the first
  int variant_at(int64_t micro_batch) const { return variant_of.empty() ? 0 : variant_of[static_cast<size_t>(micro_batch)]; }
  std::vector<int64_t> micro_batches_of(int variant) const;
  int64_t first_of(int variant) const;  // of these
  bool is_first(int64_t micro_batch) const { return first_of(variant_at(micro_batch)) == micro_batch; }
};

// Where a tensor without producers, or the newest version of a parameter or state, lives on a device.
struct Home {
  int32_t device = 0;
  Region region;
  bool on_host = false;  // in the memory of the processor beside the device
};

// How values reach those who need them: the result of `materialize`, refined by `form_collectives`.
//
// A Contribution is what one piece of a producer, a home, or an earlier delivery on `device` gives: `region` of the tensor, `part` of its join.
struct Contribution {
  int32_t device = 0;
  OpId op;  // invalid: the tensor's home on the device, or what an earlier delivery left there
  int32_t piece = 0;
  Region region;  // what of it is used here
  Part part;
};
using Contributions = llvm::SmallVector<Contribution, 1>;
// One message: the sender joins its contributions (sums, or lays side by side) over `region` and sends them. from == to: a local join.
struct Message {
  int32_t from = 0, to = 0;
  Region region;
  Contributions contributions;  // all on `from`
};
using Messages = llvm::SmallVector<Message, 1>;
// One way in which `region` of `tensor` comes to be on `devices`, complete unless it is on its way to a later delivery.
//   local           joined from what the device itself has: one message from == to
//   point_to_point  one receiver; a message from each contributor, its own (from == to) among them
//   exchange        every device of the group gives its message (from == to) and all get the join of all; form_collectives decides how
//   all_reduce, all_gather   an exchange of partial sums, of equal blocks
//   reduce_scatter  devices[i] gets regions[i]; each gives its partial sum of all of them
//   all_to_all      devices[i] gets regions[i]; each gives what it has of all of them, blocks of equal size
//   broadcast       one message, from == to: the root, which is of the group, gives it to all others
struct Delivery {
  enum class How { local, point_to_point, exchange, all_reduce, all_gather, reduce_scatter, all_to_all, broadcast } how = How::local;
  TensorId tensor;
  Region region;                          // what each receiver has afterwards (where there are `regions`: what all have together)
  Part part;                              // of the join; where it is not whole, later deliveries of the tensor take it from there
  llvm::SmallVector<int32_t, 2> devices;  // receivers; of collectives the group, in group order
  Messages messages;
  std::vector<Region> regions;  // reduce_scatter, all_to_all: of each device
  bool on_the_way = false;      // nobody reads what this leaves but later deliveries of the tensor
  int bucket = -1;              // collectives of one number are one call (passes/form_buckets.h)
  // Where it stands: in this segment, before this operator (invalid: at the segment's end). A sender outside that segment sends as soon as it has
  // what it sends.
  int segment = 0;
  OpId before;

  // Said because LLVM's small vectors do not say that moving them never throws: lists of deliveries would be copied as they grow.
  Delivery() = default;
  Delivery(const Delivery&) = default;
  Delivery(Delivery&&) noexcept = default;
  Delivery& operator=(const Delivery&) = default;
  Delivery& operator=(Delivery&&) noexcept = default;

  // What it leaves on a device; nothing where that is no receiver, as the root of a broadcast.
  const Region* left_on(int32_t device) const;
};

struct Module {
  std::string name;
  Store<Tensor, TensorId> tensors;
  Store<Op, OpId> ops;
  std::vector<OpId> order;                        // global order; ops may be replaced, so not simply 0..n-1
  std::vector<TensorId> inputs, labels, outputs;  // graph inputs, labels of the recipe, graph outputs
  TensorId loss, grad_norm;                       // step scalars; invalid for inference

  std::vector<Mesh> meshes = {Mesh()};                // the plan's, then those that places bring along
  std::vector<Placement> placements = {Placement()};  // the first: the whole of the plan's mesh
  StepCut cut;
  std::map<TensorId, std::vector<Home>> homes;  // parameters, state
  std::vector<Segment> segments;
  Timetable timetable;
  std::vector<Precedence> precedences;
  std::vector<Delivery> deliveries;
  std::vector<Signal> signals;  // of precedences that neither a rank's order nor data keeps

  int64_t devices() const;  // ranks: all devices of all meshes are below it
  const Mesh& mesh_of(const Op& op) const { return meshes[static_cast<size_t>(placements[static_cast<size_t>(op.placement)].mesh)]; }
  TensorId add_tensor(Tensor tensor) { return tensors.add(std::move(tensor)); }
  // Adds to `ops`, appends to `order`, and enters the op as a producer of its outputs.
  OpId add_op(Op op);
  // For each tensor, the ops of `order` that read it (in order). Recomputed on each call.
  std::vector<llvm::SmallVector<OpId, 2>> consumers() const;
};

// The shape of operand `operand` (inputs, then outputs).
TensorId operand(const Op& op, int operand);

// What piece `piece` of `op` reads or writes of an operand: by the rule, the splits and the piece's coordinates. For outputs the part is the
// op's share of the join: its addend among the tensor's producers, divided over the pieces of summed axes. For inputs it is whole.
Region region_of(const Module& module, const Op& op, int operand, const Piece& piece);
Part part_of(const Module& module, OpId op, int output, const Piece& piece);
// From here on region_of and part_of look up what they are asked again and again. Splits and storage of operators are final, and so are producers.
void tabulate_pieces(Module& module);
// The positions of one axis that the piece works on.
Intervals axis_positions(const Op& op, int axis, const Piece& piece);

// Does it live apart from those who read it, so that it is brought to every segment that does, and dropped after?
inline bool is_stored(const Tensor& tensor) { return tensor.producers.empty() || tensor.rounded_from.valid(); }

// What a tensor is in the first variant of the micro-batch: a graph output, what rules name.
TensorId in_first_variant(const Module& module, TensorId id);
bool is_output(const Module& module, TensorId id);

// Where the step was cut in a micro-batch tensor; nothing where it does not hold a cut axis.
llvm::ArrayRef<StepCut::Where> cuts_of(const Module& module, TensorId id);

// The positions in the whole tensor of a region of micro-batch m.
Region to_whole(const Module& module, TensorId id, const Region& region, int64_t micro_batch);

}  // namespace sscc
