// Programs: what each rank runs, as data. Five readers consume the same one: emitter, interpreter, simulator, checkers, painters.
//
// A Body is a list of segments, each a list of instructions over strided views of buffers, and a schedule of (segment, micro-batch) slots.
// Ranks that differ by constants only (peers, groups, file regions, index offsets) share a Body; the constants are a table per rank,
// and instructions name them by index. All memory is one arena for each rank with offsets fixed here.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <variant>
#include <vector>

#include "compiler/ir/module.h"

namespace sscc {

struct BufferTag;
using BufferId = Id<BufferTag>;

struct Buffer {
  std::string name;  // "w:wte.weight", "t:/layers.0/Add_output_0", "g:..." for people
  DType dtype = DType::f32;
  int64_t elements = 0;  // of one copy
  // Copies: a value of micro-batch m lies in copy m mod copies.
  int64_t copies = 1;
  int64_t offset = -1;   // bytes from the arena's start, 64-byte aligned; copy k at offset + k * stride
  bool on_host = false;  // in the memory of the processor beside the device, which lies behind the arena
  int64_t stride = 0;    // bytes between copies
  enum class Life {
    persistent,   // from start to end of the run: parameters, state, constants, inputs
    step,         // from its first write to its last read in a step: gradients
    micro_batch,  // likewise in a micro-batch, over several segments: activations that backward reads
    segment,      // within one run of one segment
  } life = Life::segment;

  // What fills it before the step (loads) or keeps it over steps; none for others.
  enum class Source { none, parameter, constant, state, input } source = Source::none;
  std::string tensor;    // ONNX name of the parameter, constant, input or label; state: "NAME.moment1"
  int32_t regions = -1;  // loaded or saved buffers: index of Constants::regions for copy 0; copy m uses regions + m
};

// A strided view of a buffer, in elements. Strides may be 0.
struct View {
  BufferId buffer;
  int64_t offset = 0;
  Shape dims;
  llvm::SmallVector<int64_t, 5> strides;
  bool is_contiguous() const;
};

enum class Opcode {
  // kernels, named and ordered as in sscc_rt/kernels.h
  contract,
  contract_epilogue,
  pointwise,
  reduce,
  copy,
  fill,
  gather,
  scatter_add,
  softmax,
  softmax_grad,
  attention,
  attention_grad,
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
  pad,
  update,
  // communication: contiguous views. all_reduce: in place (outs[0]). all_gather: ins[0] is this rank's block, outs[0] the blocks in group order.
  // reduce_scatter: ins[0] the blocks in group order, outs[0] this rank's. broadcast: ins[0] at the root, outs[0] at the others. all_to_all: ins[0] a
  // block for each member, outs[0] one from each, in group order. send: ins[0]. receive: outs[0]. Of no elements: a signal. What stands before it on
  // the sender has ended when what stands behind it on the receiver begins, whatever memory they touch.
  send,
  receive,
  all_reduce,
  all_gather,
  reduce_scatter,
  broadcast,
  all_to_all,
  // hand a value to the host: `capture` names what. A gradient may have a second operand, the scale of the loss by which it is to be divided
  capture,
};
const char* name_of(Opcode opcode);
// A product of two of large, small and weight (sscc_rt/kernels.h).
constexpr bool is_convolution(Opcode opcode) {
  return opcode == Opcode::convolve || opcode == Opcode::convolve_transposed || opcode == Opcode::convolve_grad_weight;
}

struct PointwiseExpression {
  std::vector<rt::ScalarStep> steps;
  std::vector<int32_t> results;               // step of each output
  std::vector<std::pair<OpId, int32_t>> ops;  // of each step: the operator, and which of the rank's pieces of it
};
struct ContractExpression {
  std::string equation;
  double scale = 1;
};  // "bmk,bkn->bmn"
struct ReduceExpression {
  uint32_t reduced = 0;
  Join join = Join::sum;
  double scale = 1;
};
struct FillValue {
  double value = 0;
};
// What adds nothing to a join.
constexpr double neutral_value(Join join) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  return join == Join::sum ? 0 : join == Join::min ? infinity : -infinity;
}
struct IndexExpression {
  int dim = 0;
  int32_t offset = -1;
  int64_t length = 0;
  int64_t ignore_index = INT64_MIN;
};  // offset: index of Constants::offsets
struct DimExpression {
  int dim = 0;
};
// An operator within an instruction of several. `args`: of each of its inputs, the instruction's operand, or ~k: the result of the k-th of them.
struct FusedOp {
  OpId op;
  int32_t piece = -1;  // which of the rank's pieces of `op`
  llvm::SmallVector<int32_t, 3> args;
};
// A product and what happens to it before it is written (fuse_epilogues). ins: lhs, rhs, [base], [bias], [before]; outs: the result, [the value that the
// function is of].
struct EpilogueExpression {
  std::string equation;
  double scale = 1;
  rt::Scalar function = rt::Scalar::identity;
  bool has_base = false, has_bias = false;
  std::vector<FusedOp> ops;
};
// The product of queries and keys, scaled and masked, its softmax and the product with values; or the same again with all gradients (fuse_attention).
// ins: q, k, v, (of a gradient: out, log_sums, gradient of out,) [mask, [value]]; outs: out, [log_sums], or the gradients of q, k and v.
// log_sums stands for what the softmax makes, which is nowhere in memory: a view of its dims, with stride 0 along the keys.
struct AttentionExpression {
  std::string equation;  // of q, k, v, scores and out: sscc_rt/kernels.h
  rt::AttentionRule rule;
  std::vector<FusedOp> ops;
};
using NormExpression = NormAttributes;
struct WindowExpression {
  rt::Window window;  // of the piece: its pad is from where its operands begin
  double scale = 1;
};
struct PadExpression {
  Shape starts, steps;
};
struct UpdateExpression {
  rt::UpdateRule rule;
};  // outs: parameter, [moment1, [moment2]]; ins: parameter, gradient, [moments..], [clip, [loss scale, steps taken]]
struct Communication {
  int32_t peer = -1;     // send, receive: index of Constants::peers
  int32_t group = -1;    // collectives: index of Constants::groups
  int32_t transfer = 0;  // unique among the transfers of these ranks; the same number at every participant
  Join join = Join::sum;
  int32_t root = -1;  // broadcast: which member of the group gives
  // A signal between two micro-batches, once a step.
  bool crosses_micro_batches = false;
  // Of the tag, beside `transfer`: both ends of a message are in one micro-batch, unless it crosses.
  int32_t micro_batch_of(int32_t of_slot) const { return crosses_micro_batches ? 0 : of_slot; }
};
struct Capture {
  enum class What { loss, grad_norm, output, gradient } what = What::loss;
  std::string tensor;    // output: graph output; gradient: the parameter
  int32_t regions = -1;  // output, gradient: index of Constants::regions; an output of micro-batch m uses regions + m
};

// A run of an instruction in an earlier slot of the step, named from the slot that waits for it.
struct EarlierRun {
  int32_t segment = 0, instruction = 0;
  int32_t age = 0;  // 0: the segment's last run before this slot; 1: the run before that one, and so on
  bool operator==(const EarlierRun&) const = default;
};

struct Instruction {
  Opcode opcode = Opcode::copy;
  llvm::SmallVector<View, 1> outs;
  llvm::SmallVector<View, 2> ins;
  std::variant<std::monostate, PointwiseExpression, ContractExpression, ReduceExpression, FillValue, IndexExpression, DimExpression, NormExpression,
               WindowExpression, EpilogueExpression, AttentionExpression, PadExpression, UpdateExpression, Communication, Capture>
      expression;
  bool accumulate = false;
  std::string origin;  // the ONNX node (or parameter) this comes from; gradients: "grad of NODE"
  // What it is in the model: the logical operator, or, for communication, copies and captures, the tensor.
  OpId op;
  TensorId tensor;
  int32_t piece = -1;  // which of the rank's pieces of `op`; -1: none, or several operators in one
  // What its views are said to hold, for the lineage check: indices of RankProgram::claims, one for each of ins and outs, but one for each block
  // of an all_gather's output, a reduce_scatter's input and both sides of an all_to_all where blocks lie apart. A copy may write a part of a value that several copies put
  // together: then its second claim is the whole of it.
  llvm::SmallVector<int32_t, 4> reads;
  llvm::SmallVector<int32_t, 2> writes;
  // 0: kernels; others: one for each communicator (assign_streams). A stream goes on from slot to slot; at the end of a step all have ended.
  int stream = 0;
  // What must have ended on other streams: earlier instructions of this run of the segment, and runs in earlier slots. Runs that the step does not have
  // are not waited for.
  llvm::SmallVector<int32_t, 2> waits;
  llvm::SmallVector<EarlierRun, 1> waits_before;
  std::string type;      // ONNX op type of the origin, for people; may be empty
  bool on_host = false;  // run by the processor beside the device. All views are then in its memory, but for copies: they cross
  // One call with the next instruction (calls.h): collectives of a bucket, or kernels that run at the same time.
  bool with_next = false;
};

// Operand k of `ins`, or of `outs`, stands for a softmax's result without having its elements.
constexpr int out_of_gradient = 3, log_sums_of_gradient = 4, log_sums_of_attention = 1;
inline bool reads_log_sums(const Instruction& i, size_t k) { return i.opcode == Opcode::attention_grad && k == log_sums_of_gradient; }
inline bool writes_log_sums(const Instruction& i, size_t k) { return i.opcode == Opcode::attention && k == log_sums_of_attention; }

struct ProgramSegment {
  std::string name;  // "0F"
  int module_segment = 0;
  std::vector<Instruction> instructions;
  int variant = 0;               // of the micro-batch
  bool continues_group = false;  // receives that belong to the group call of sends and receives that ends the slot before (order_transfers)
};

struct ProgramSlot {
  int32_t segment = 0;
  int32_t micro_batch = 0;
};

struct Body {
  Store<Buffer, BufferId> buffers;
  std::vector<ProgramSegment> segments;
  std::vector<ProgramSlot> schedule;
  int64_t arena_bytes = 0;
  int64_t host_bytes = 0;  // behind it: offsets of buffers on the host begin at host_begin()
  int64_t micro_batches = 1;

  int64_t host_begin() const { return (arena_bytes + 63) / 64 * 64; }
};

inline bool has_convolutions(const Body& body) {
  for (const ProgramSegment& segment : body.segments)
    for (const Instruction& i : segment.instructions)
      if (is_convolution(i.opcode)) return true;
  return false;
}

struct Constants {
  std::vector<int32_t> peers;
  std::vector<std::vector<int32_t>> groups;  // ranks, in group order
  std::vector<Region> regions;               // of whole (step) tensors, as in files
  std::vector<int64_t> offsets;
};

// What a view holds: a region of a tensor; of an operator's output also its share of the join.
struct Claim {
  TensorId tensor;
  Region region;
  Part part;
};

struct RankProgram {
  int32_t rank = 0;
  int32_t body = 0;  // index of Programs::bodies
  int32_t stage = 0;
  Constants constants;
  int64_t flops_per_step = 0;
  std::vector<Claim> claims;
};

// A tensor of the model that files hold: weights, inputs, labels, outputs, in whole.
struct FileTensor {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  bool trainable = false;  // parameters
  std::optional<Weight> weight;
};

struct Programs {
  std::string model;
  bool training = false;
  std::vector<Body> bodies;
  std::vector<RankProgram> ranks;
  std::vector<FileTensor> parameters, constants, inputs, labels, outputs;  // in the model's order
  int64_t model_flops_per_step = 0;                                        // of the undivided step
  DType precision = DType::f32;                                            // of activations
  int64_t tokens_per_step = 0;                                             // elements of the first integer input, 0 if there is none
};

}  // namespace sscc
