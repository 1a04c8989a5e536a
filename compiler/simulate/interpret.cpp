// Everything that does not change from run to run of a segment is worked out when the calls are made: an operand is a view that lacks only its
// address, which depends on the rank's arena and the micro-batch.
#include "compiler/simulate/interpret.h"

#include <mutex>

#include "compiler/program/calls.h"
#include "compiler/program/index_bounds.h"
#include "compiler/program/traffic.h"
#include "compiler/support/check.h"
#include "sscc_rt/kernels.h"
#include "sscc_rt/tensor_files.h"

namespace sscc {
namespace {

// -- operands -------------------------------------------------------------------------------------------------------------------------------------

class Operand {
 public:
  Operand() = default;  // one that is left out
  Operand(const Body& body, const View& view) {
    const Buffer& buffer = body.buffers[view.buffer];
    SSCC_CHECK(view.dims.size() <= static_cast<size_t>(rt::max_rank), "a view has more dimensions than kernels take: " + buffer.name);
    tensor_.dtype = buffer.dtype;
    tensor_.rank = static_cast<int>(view.dims.size());
    std::copy(view.dims.begin(), view.dims.end(), tensor_.dims);
    std::copy(view.strides.begin(), view.strides.end(), tensor_.strides);
    offset_ = buffer.offset + view.offset * static_cast<int64_t>(rt::size_of(buffer.dtype));
    stride_ = buffer.stride;
    copies_ = buffer.copies;
  }

  rt::Tensor at(const rt::Rank& rank, int micro_batch) const {
    rt::Tensor tensor = tensor_;
    if (copies_ > 0) tensor.data = rank.memory_at(offset_) + micro_batch % copies_ * stride_;
    return tensor;
  }

 private:
  rt::Tensor tensor_;
  int64_t offset_ = 0, stride_ = 0, copies_ = 0;
};

// All operands of one run of an instruction.
struct Tensors {
  llvm::SmallVector<rt::Tensor, 3> outs;
  llvm::SmallVector<rt::Tensor, 5> ins;
};

// -- calls ----------------------------------------------------------------------------------------------------------------------------------------

using Call = std::function<void(rt::Rank&, const Tensors&, int micro_batch)>;

int64_t offset_of(const rt::Rank& rank, const IndexExpression& index) { return index.offset < 0 ? 0 : rank.offset_constant(index.offset); }

Call lookup_call(const Instruction& instruction) {
  const auto index = std::get<IndexExpression>(instruction.expression);
  const bool accumulate = instruction.accumulate;
  switch (instruction.opcode) {
    case Opcode::gather:
      return
          [=](rt::Rank& rank, const Tensors& t, int) { rt::gather(t.outs[0], t.ins[0], t.ins[1], index.dim, offset_of(rank, index), index.length); };
    case Opcode::scatter_add:
      return [=](rt::Rank& rank, const Tensors& t, int) {
        rt::scatter_add(t.outs[0], t.ins[0], t.ins[1], index.dim, offset_of(rank, index), index.length, accumulate);
      };
    case Opcode::pick:
      return [=](rt::Rank& rank, const Tensors& t, int) {
        rt::pick(t.outs[0], t.ins[0], t.ins[1], index.dim, offset_of(rank, index), index.length, index.ignore_index);
      };
    default:
      return [=](rt::Rank& rank, const Tensors& t, int) {
        rt::cross_entropy_grad(t.outs[0], t.ins[0], t.ins[1], t.ins[2], t.ins[3], index.dim, offset_of(rank, index), index.ignore_index);
      };
  }
}

Call norm_call(const Instruction& instruction) {
  const auto& norm = std::get<NormExpression>(instruction.expression);
  const auto [over, along, epsilon] = std::tuple(norm.over, norm.along, norm.epsilon);
  const bool accumulate = instruction.accumulate;
  switch (instruction.opcode) {
    case Opcode::norm:
      return [=](rt::Rank&, const Tensors& t, int) { rt::norm(t.outs[0], t.outs[1], t.outs[2], t.ins[0], t.ins[1], t.ins[2], over, along, epsilon); };
    case Opcode::norm_grad:
      return [=](rt::Rank&, const Tensors& t, int) {
        rt::norm_grad(t.outs[0], t.ins[0], t.ins[1], t.ins[2], t.ins[3], t.ins[4], over, along, accumulate);
      };
    default:
      return [=](rt::Rank&, const Tensors& t, int) {
        rt::norm_grad_scale(t.outs[0], t.outs[1], t.ins[0], t.ins[1], t.ins[2], t.ins[3], over, along, accumulate);
      };
  }
}

Call window_call(const Instruction& instruction) {
  const auto& [window, scale] = std::get<WindowExpression>(instruction.expression);
  const bool accumulate = instruction.accumulate;
  switch (instruction.opcode) {
    case Opcode::convolve: return [=](rt::Rank&, const Tensors& t, int) { rt::convolve(t.outs[0], t.ins[0], t.ins[1], window, accumulate); };
    case Opcode::convolve_transposed:
      return [=](rt::Rank&, const Tensors& t, int) { rt::convolve_transposed(t.outs[0], t.ins[0], t.ins[1], window, accumulate); };
    case Opcode::convolve_grad_weight:
      return [=](rt::Rank&, const Tensors& t, int) { rt::convolve_grad_weight(t.outs[0], t.ins[0], t.ins[1], window, accumulate); };
    case Opcode::max_pool: return [=](rt::Rank&, const Tensors& t, int) { rt::max_pool(t.outs[0], t.outs[1], t.ins[0], window); };
    case Opcode::max_pool_grad:
      return [=](rt::Rank&, const Tensors& t, int) { rt::max_pool_grad(t.outs[0], t.ins[0], t.ins[1], window, accumulate); };
    case Opcode::sum_pool: return [=](rt::Rank&, const Tensors& t, int) { rt::sum_pool(t.outs[0], t.ins[0], window, scale); };
    default: return [=](rt::Rank&, const Tensors& t, int) { rt::sum_pool_grad(t.outs[0], t.ins[0], window, scale, accumulate); };
  }
}

Call communication_call(const Instruction& instruction) {
  const auto c = std::get<Communication>(instruction.expression);
  switch (instruction.opcode) {
    case Opcode::send: return [=](rt::Rank& rank, const Tensors& t, int m) { rank.send(t.ins[0], c.peer, c.transfer, c.micro_batch_of(m)); };
    case Opcode::receive: return [=](rt::Rank& rank, const Tensors& t, int m) { rank.receive(t.outs[0], c.peer, c.transfer, c.micro_batch_of(m)); };
    case Opcode::all_reduce: return [=](rt::Rank& rank, const Tensors& t, int m) { rank.all_reduce(t.outs[0], c.group, c.join, c.transfer, m); };
    case Opcode::all_gather: return [=](rt::Rank& rank, const Tensors& t, int m) { rank.all_gather(t.outs[0], t.ins[0], c.group, c.transfer, m); };
    case Opcode::broadcast:
      return [=](rt::Rank& rank, const Tensors& t, int m) { rank.broadcast(t.outs.empty() ? t.ins[0] : t.outs[0], c.group, c.root, c.transfer, m); };
    case Opcode::all_to_all: return [=](rt::Rank& rank, const Tensors& t, int m) { rank.all_to_all(t.outs[0], t.ins[0], c.group, c.transfer, m); };
    default: return [=](rt::Rank& rank, const Tensors& t, int m) { rank.reduce_scatter(t.outs[0], t.ins[0], c.group, c.join, c.transfer, m); };
  }
}

Call capture_call(const Instruction& instruction) {
  const auto& capture = std::get<Capture>(instruction.expression);
  const char* tensor = capture.tensor.c_str();  // the Programs outlive their calls
  const int32_t regions = capture.regions;
  switch (capture.what) {
    case Capture::What::loss: return [](rt::Rank& rank, const Tensors& t, int) { rank.capture_loss(t.ins[0]); };
    case Capture::What::grad_norm: return [](rt::Rank& rank, const Tensors& t, int) { rank.capture_grad_norm(t.ins[0]); };
    case Capture::What::output: return [=](rt::Rank& rank, const Tensors& t, int m) { rank.capture_output(tensor, t.ins[0], regions, m); };
    case Capture::What::gradient:
      return [=, is_scaled = instruction.ins.size() > 1](rt::Rank& rank, const Tensors& t, int) {
        rank.capture_gradient(tensor, t.ins[0], regions, is_scaled ? t.ins[1] : rt::Tensor());
      };
  }
  SSCC_CHECK(false, "an unknown capture");
}

// `instruction`: the first of those that are one call.
Call call_of(const Body& body, const Instruction& instruction) {
  const bool accumulate = instruction.accumulate;
  switch (instruction.opcode) {
    case Opcode::contract: {
      if (is_sum_of_squares(body, instruction)) return [=](rt::Rank&, const Tensors& t, int) { rt::sum_of_squares(t.outs[0], t.ins, accumulate); };
      const auto& contraction = std::get<ContractExpression>(instruction.expression);
      return [=, equation = contraction.equation.c_str(), scale = contraction.scale](rt::Rank&, const Tensors& t, int) {
        rt::contract(t.outs[0], t.ins[0], t.ins[1], equation, scale, accumulate);
      };
    }
    case Opcode::contract_epilogue: {
      const auto* e = &std::get<EpilogueExpression>(instruction.expression);
      return [=](rt::Rank&, const Tensors& t, int) {
        rt::contract_epilogue(t.outs[0], t.outs[1], t.ins[0], t.ins[1], t.ins[2], t.ins[3], t.ins[4], e->equation.c_str(), e->scale, e->function);
      };
    }
    case Opcode::pointwise: {
      const auto* expression = &std::get<PointwiseExpression>(instruction.expression);
      return [=](rt::Rank&, const Tensors& t, int) { rt::pointwise(t.outs, t.ins, expression->steps, expression->results, accumulate); };
    }
    case Opcode::reduce: {
      const auto reduction = std::get<ReduceExpression>(instruction.expression);
      return
          [=](rt::Rank&, const Tensors& t, int) { rt::reduce(t.outs[0], t.ins[0], reduction.reduced, reduction.join, reduction.scale, accumulate); };
    }
    case Opcode::copy: return [=](rt::Rank&, const Tensors& t, int) { rt::copy(t.outs[0], t.ins[0], accumulate); };
    case Opcode::fill:
      return [value = std::get<FillValue>(instruction.expression).value](rt::Rank&, const Tensors& t, int) { rt::fill(t.outs[0], value); };
    case Opcode::softmax:
      return [dim = std::get<DimExpression>(instruction.expression).dim](rt::Rank&, const Tensors& t, int) { rt::softmax(t.outs[0], t.ins[0], dim); };
    case Opcode::softmax_grad:
      return [dim = std::get<DimExpression>(instruction.expression).dim](rt::Rank&, const Tensors& t, int) {
        rt::softmax_grad(t.outs[0], t.ins[0], t.ins[1], dim);
      };
    case Opcode::attention: {
      const auto* attention = &std::get<AttentionExpression>(instruction.expression);
      return [=](rt::Rank&, const Tensors& t, int) {
        rt::attention(t.outs[0], t.outs[1], t.ins[0], t.ins[1], t.ins[2], t.ins[3], t.ins[4], attention->equation.c_str(), attention->rule);
      };
    }
    case Opcode::attention_grad: {
      const auto* attention = &std::get<AttentionExpression>(instruction.expression);
      return [=](rt::Rank&, const Tensors& t, int) {
        rt::attention_grad(t.outs[0], t.outs[1], t.outs[2], t.ins[0], t.ins[1], t.ins[2], t.ins[3], t.ins[4], t.ins[5], t.ins[6], t.ins[7],
                           attention->equation.c_str(), attention->rule);
      };
    }
    case Opcode::pad: {
      const auto* padding = &std::get<PadExpression>(instruction.expression);
      return [=](rt::Rank&, const Tensors& t, int) { rt::pad(t.outs[0], t.ins[0], padding->starts.data(), padding->steps.data(), accumulate); };
    }
    case Opcode::update:  // outs: new versions of each parameter; ins: of each what it is, the scalars at the end
      return [rule = std::get<UpdateExpression>(instruction.expression).rule](rt::Rank& rank, const Tensors& t, int) {
        std::vector<rt::UpdateOperands> parameters;
        for (const rt::Tensor *out = t.outs.begin(), *in = t.ins.begin(); out != t.outs.end(); out += 3, in += 4)
          parameters.push_back({out[0], out[1], out[2], in[0], in[1], in[2], in[3]});
        const rt::Tensor* scalars = t.ins.end() - 3;
        rt::update(parameters, scalars[0], scalars[1], scalars[2], rule, rank.step());
      };
    case Opcode::gather:
    case Opcode::scatter_add:
    case Opcode::pick:
    case Opcode::cross_entropy_grad: return lookup_call(instruction);
    case Opcode::norm:
    case Opcode::norm_grad:
    case Opcode::norm_grad_scale: return norm_call(instruction);
    case Opcode::convolve:
    case Opcode::convolve_transposed:
    case Opcode::convolve_grad_weight:
    case Opcode::max_pool:
    case Opcode::max_pool_grad:
    case Opcode::sum_pool:
    case Opcode::sum_pool_grad: return window_call(instruction);
    case Opcode::send:
    case Opcode::receive:
    case Opcode::all_reduce:
    case Opcode::all_gather:
    case Opcode::reduce_scatter:
    case Opcode::broadcast:
    case Opcode::all_to_all: return communication_call(instruction);
    case Opcode::capture: return capture_call(instruction);
  }
  SSCC_CHECK(false, "an unknown instruction");
}

// -- programs -------------------------------------------------------------------------------------------------------------------------------------

struct Statement {
  std::string origin;
  bool waits_for_sends;         // the only instructions that may not have ended when the next one begins
  bool begins_call, ends_call;  // of several collectives
  std::vector<Operand> outs, ins;
  Call call;
};

// The operands in the kernel's order; those at the end that it can do without may be missing.
void find_operands(const Body& body, llvm::ArrayRef<Instruction> call, Statement& statement) {
  const auto add = [&](std::vector<Operand>& operands, llvm::ArrayRef<View> views, size_t count) {
    for (const View& view : views) operands.emplace_back(body, view);
    operands.resize(operands.size() + count - views.size());
  };
  const Instruction& first = call.front();
  if (first.opcode == Opcode::update) {
    for (const Instruction& each : call) {
      add(statement.outs, each.outs, 3);
      add(statement.ins, llvm::ArrayRef<View>(each.ins).take_front(1 + each.outs.size()), 4);
    }
    return add(statement.ins, scalars_of_update(first), 3);
  }
  if (is_sum_of_squares(body, first)) {
    add(statement.outs, first.outs, 1);
    for (const Instruction& each : call) add(statement.ins, each.ins[0], 1);
    return;
  }
  add(statement.outs, first.outs, first.outs.size());
  add(statement.ins, first.ins, first.ins.size());
  switch (first.opcode) {
    case Opcode::contract_epilogue: {
      const auto& e = std::get<EpilogueExpression>(first.expression);
      if (!e.has_base) statement.ins.insert(statement.ins.begin() + 2, Operand());
      if (!e.has_bias) statement.ins.insert(statement.ins.begin() + 3, Operand());
      statement.ins.resize(5);
      statement.outs.resize(2);
      break;
    }
    case Opcode::attention:
      statement.ins.resize(5);
      statement.outs.resize(2);
      break;
    case Opcode::attention_grad: statement.ins.resize(8); break;
    case Opcode::norm:
      statement.ins.resize(3);
      statement.outs.resize(3);
      break;
    case Opcode::norm_grad:
      if (!std::get<NormExpression>(first.expression).centred) statement.ins.insert(statement.ins.begin() + 3, Operand());
      statement.ins.resize(5);
      break;
    case Opcode::norm_grad_scale:
      statement.ins.resize(4);
      statement.outs.resize(2);
      break;
    default: break;
  }
}

rt::SegmentInfo segment_info(const Body& body, const ProgramSegment& segment) {
  std::vector<Statement> statements;
  for (size_t i = 0; i < segment.instructions.size();) {
    const Instruction& instruction = segment.instructions[i];
    Statement& statement = statements.emplace_back();
    const bool communicates = is_communication(instruction.opcode), goes_on = is_with_previous(segment.instructions, i);
    statement.begins_call = communicates && instruction.with_next && !goes_on;
    statement.ends_call = communicates && goes_on && !instruction.with_next;
    const llvm::ArrayRef<Instruction> call = communicates ? instruction : call_at(segment.instructions, i);
    statement.origin = origin_of(call);
    statement.waits_for_sends = waits_for_sends(body, segment, instruction);
    find_operands(body, call, statement);
    statement.call = call_of(body, instruction);
    i += call.size();
  }
  return {segment.name, [statements = std::move(statements)](rt::Rank& rank, int micro_batch) {
            Tensors tensors;
            for (const Statement& statement : statements) {
              rank.at(statement.origin.c_str(), micro_batch);
              if (statement.waits_for_sends) rank.wait_sends();
              tensors.outs.clear();
              tensors.ins.clear();
              for (const Operand& operand : statement.outs) tensors.outs.push_back(operand.at(rank, micro_batch));
              for (const Operand& operand : statement.ins) tensors.ins.push_back(operand.at(rank, micro_batch));
              if (statement.begins_call) rank.begin_call();
              statement.call(rank, tensors, micro_batch);
              if (statement.ends_call) rank.end_call();
            }
          }};
}

rt::Source source_of(Buffer::Source source) {
  switch (source) {
    case Buffer::Source::none: return rt::Source::none;
    case Buffer::Source::parameter: return rt::Source::parameter;
    case Buffer::Source::constant: return rt::Source::constant;
    case Buffer::Source::state: return rt::Source::state;
    case Buffer::Source::input: return rt::Source::input;
  }
  return rt::Source::none;
}

rt::ProgramInfo program_info(const Body& body) {
  rt::ProgramInfo program;
  program.arena_bytes = body.arena_bytes;
  program.host_bytes = body.host_bytes;
  program.micro_batches = body.micro_batches;
  for (const Buffer& buffer : body.buffers) {
    program.buffers.push_back({buffer.name.c_str(), buffer.dtype, buffer.elements, buffer.copies, buffer.offset, buffer.stride,
                               source_of(buffer.source), buffer.tensor.c_str(), buffer.regions});
  }
  for (const ProgramSegment& segment : body.segments) program.segments.push_back(segment_info(body, segment));
  for (const ProgramSlot& slot : body.schedule) program.schedule.push_back({slot.segment, slot.micro_batch});
  return program;
}

rt::Constants constants_of(const Constants& from) {
  rt::Constants constants{from.peers, from.groups, {}, from.offsets};
  for (const Region& region : from.regions) {
    rt::Region& to = constants.regions.emplace_back(region.rank());
    for (size_t d = 0; d < region.rank(); ++d) {
      for (const Interval& interval : region.dim(d).list()) to[d].push_back({interval.begin, interval.end});
    }
  }
  return constants;
}

// -- the model's tensors --------------------------------------------------------------------------------------------------------------------------

rt::ModelInfo model_info(const Programs& programs) {
  const std::map<std::string, int64_t> bounds = index_bounds(programs);
  const auto convert = [&](const std::vector<FileTensor>& tensors) {
    std::vector<rt::FileTensor> result;
    for (const FileTensor& tensor : tensors) {
      result.push_back({tensor.name, tensor.dtype, {tensor.shape.begin(), tensor.shape.end()}, tensor.trainable});
      if (const auto bound = bounds.find(tensor.name); bound != bounds.end()) result.back().upper_bound = bound->second;
    }
    return result;
  };
  return {programs.model,
          programs.training,
          programs.tokens_per_step,
          programs.model_flops_per_step,
          programs.precision,
          convert(programs.parameters),
          convert(programs.constants),
          convert(programs.inputs),
          convert(programs.labels),
          convert(programs.outputs)};
}

// Reads weights where the model has them: in the .onnx file, beside it, or in memory.
class Weights {
 public:
  explicit Weights(const Programs& programs) {
    for (const auto* list : {&programs.parameters, &programs.constants}) {
      for (const FileTensor& tensor : *list) tensors_[tensor.name] = &tensor;
    }
  }

  void read(const std::string& name, const rt::Region& region, void* destination) {
    const auto found = tensors_.find(name);
    SSCC_CHECK(found != tensors_.end() && found->second->weight, "a parameter or constant without a value: " + name);
    const FileTensor& tensor = *found->second;
    const Weight& weight = *tensor.weight;
    rt::StoredTensor stored{name, tensor.dtype, {tensor.shape.begin(), tensor.shape.end()}, rt::dense_strides(tensor.shape), nullptr, nullptr};
    const auto bytes = static_cast<size_t>(elements(tensor.shape)) * rt::size_of(tensor.dtype);
    if (weight.file.empty()) {
      SSCC_CHECK(weight.bytes && weight.bytes->size() == bytes, "the value of '" + name + "' has a wrong size");
      stored.data = reinterpret_cast<const std::byte*>(weight.bytes->data());
    } else {
      const auto file = open(weight.file)->bytes();
      const auto offset = static_cast<size_t>(weight.offset);
      if (offset > file.size() || file.size() - offset < bytes) throw rt::DataError(weight.file + ": ends within the weight '" + name + "'");
      stored.data = file.data() + offset;
    }
    rt::copy_region(stored, region, destination);
  }

 private:
  std::shared_ptr<const rt::MappedFile> open(const std::string& path) {
    const std::lock_guard lock(mutex_);
    auto& file = files_[path];
    if (!file) file = std::make_shared<const rt::MappedFile>(path);
    return file;
  }

  std::map<std::string, const FileTensor*> tensors_;
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const rt::MappedFile>> files_;
};

}  // namespace

int interpret(const Programs& programs, const rt::Options& options) {
  std::vector<rt::ProgramInfo> bodies;
  for (const Body& body : programs.bodies) bodies.push_back(program_info(body));
  std::vector<rt::Constants> constants;
  for (const RankProgram& rank : programs.ranks) constants.push_back(constants_of(rank.constants));
  std::vector<rt::LocalRank> ranks;
  for (size_t r = 0; r < programs.ranks.size(); ++r) ranks.push_back({&bodies[static_cast<size_t>(programs.ranks[r].body)], &constants[r]});
  Weights weights(programs);
  const auto read = [&](const std::string& name, const rt::Region& region, void* destination) { weights.read(name, region, destination); };
  return rt::run_local(model_info(programs), ranks, read, options);
}

}  // namespace sscc
