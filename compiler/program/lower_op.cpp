// One piece of one operator, lowered: layout operators become views where strides allow it, the others one kernel each.
#include <algorithm>

#include "compiler/ops/ops.h"
#include "compiler/ops/windows.h"
#include "compiler/program/lower_rank.h"
#include "compiler/support/check.h"

namespace sscc {
namespace {

// The kernel of a kind with windows.
Opcode opcode_of(Kind kind) {
  switch (kind) {
    case Kind::convolve: return Opcode::convolve;
    case Kind::convolve_transposed: return Opcode::convolve_transposed;
    case Kind::convolve_grad_weight: return Opcode::convolve_grad_weight;
    case Kind::max_pool: return Opcode::max_pool;
    case Kind::max_pool_grad: return Opcode::max_pool_grad;
    case Kind::sum_pool: return Opcode::sum_pool;
    case Kind::sum_pool_grad: return Opcode::sum_pool_grad;
    default: SSCC_CHECK(false, std::string("no windows in ") + name_of(kind));
  }
}

}  // namespace

// Which of this rank's pieces of the operator piece `p` is: the same on all ranks that share a program.
int32_t RankLowering::ordinal(OpId self, int32_t p) const {
  const std::vector<Piece>& pieces = op(self).pieces;
  return static_cast<int32_t>(std::count_if(pieces.begin(), pieces.begin() + p, [&](const Piece& piece) { return piece.device == device_; }));
}

View RankLowering::input(OpId self, int index, int32_t p) {
  const Op& o = op(self);
  const TensorId id = o.inputs[static_cast<size_t>(index)];
  const Region region = region_of(module_, o, index, o.pieces[static_cast<size_t>(p)]);
  const View view = complete(id, region);
  const DType type = operand_type(module_, o, index);
  return type == tensor(id).dtype ? view : converted(id, region, view, type);
}

View RankLowering::converted(TensorId id, const Region& region, const View& view, DType type) {
  for (const Converted& each : converted_[id]) {
    const Value& there = each.value;
    if (each.type != type || !there.region.contains(region) || (there.segment >= 0 && there.segment != segment_)) continue;
    if (there.variant >= 0 && there.variant != variant()) continue;
    if (const auto part = subview(there.view, there.region, region)) return *part;
  }
  const bool is_once =
      tensor(id).producers.empty() && tensor(id).scope == Scope::step && is_at_home(id, region) && subview(home(id).view, home(id).region, region);
  const Value from = is_once ? home(id) : Value{region, view};
  Value to{from.region,
           whole_buffer(new_buffer("n:" + tensor(id).name, type, from.region.elements()), from.region.local_shape()),
           false,
           0,
           is_once ? -1 : segment_,
           is_once ? -1 : variant()};
  const int here = std::exchange(segment_, is_once ? 0 : segment_);
  Instruction& i = emit(Opcode::copy, OpId(), id);
  i.ins.push_back(from.view);
  i.outs.push_back(to.view);
  i.reads.push_back(claim(id, from.region));
  i.writes.push_back(claim(id, from.region));
  segment_ = here;
  converted_[id].push_back({type, to});
  return converted(id, region, view, type);
}

void RankLowering::lower_op(const LoweringPlan::Event& event) {
  const Op& o = op(event.op);
  if (o.kind == Kind::update) return lower_update(event.op, event.piece);
  if (o.kind == Kind::concat)
    lower_concat(event.op, event.piece);
  else if (is_layout(module_, o))
    lower_layout(event.op, event.piece);
  else
    lower_kernel(event.op, event.piece);
  leave_whole_outputs(event.op, event.piece);
}

// -- outputs --------------------------------------------------------------------------------------------------------------------------------------

RankLowering::Sum* RankLowering::sum_of(OpId self, int index, int32_t p) {
  const Op& o = op(self);
  const Piece& piece = o.pieces[static_cast<size_t>(p)];
  const TensorId id = o.outputs[static_cast<size_t>(index)];
  const auto known = sum_of_.find(key_of(id, self, p));
  if (known != sum_of_.end()) return &sums_[id][static_cast<size_t>(known->second)];
  if (!id.valid() || !part_of(module_, self, index, piece).whole()) return nullptr;
  std::vector<Sum>& sums = sums_[id];
  sum_of_[key_of(id, self, p)] = static_cast<int>(sums.size());
  Sum& sum = sums.emplace_back();
  sum.region = region_of(module_, o, static_cast<int>(o.inputs.size()) + index, piece);
  sum.members = 1;
  sum.over_micro_batches = adds_up_micro_batches(id, self);
  return &sum;
}

void RankLowering::leave_whole_outputs(OpId self, int32_t p) {
  const Op& o = op(self);
  for (size_t k = 0; k < o.outputs.size(); ++k) {
    const TensorId id = o.outputs[k];
    if (!id.valid() || !part_of(module_, self, static_cast<int>(k), o.pieces[static_cast<size_t>(p)]).whole()) continue;
    const Sum& sum = *sum_of(self, static_cast<int>(k), p);
    values_of(id).push_back({sum.region, sum.value.view, false, 0});
  }
}

RankLowering::Output RankLowering::output(OpId self, int index, int32_t p, bool can_add) {
  const Op& o = op(self);
  const Piece& piece = o.pieces[static_cast<size_t>(p)];
  const TensorId id = o.outputs[static_cast<size_t>(index)];
  const Region region = region_of(module_, o, static_cast<int>(o.inputs.size()) + index, piece);
  Sum* const taken = sum_of(self, index, p);
  if (!taken) return {new_value(id, region, "t:").view, false, false, index};
  Sum& sum = *taken;
  if (!sum.exists) {
    const std::optional<View> at_home = home_of_new_version(id, region);
    sum.value = at_home ? Value{region, *at_home, false, 0} : new_value(id, region, tensor(id).gradient_of.valid() ? "g:" : "t:");
    sum.exists = true;
    if (sum.over_micro_batches) fill(id, region, sum.value.view, 0);
  }
  const bool accumulate = sum.over_micro_batches || sum.written > 0;
  ++sum.written;
  if (accumulate && !can_add) return {new_value(id, region, "t:addend of ").view, false, true, index};
  return {sum.value.view, accumulate, false, index};
}

void RankLowering::finish_output(OpId self, const Output& out, int32_t p) {
  if (!out.aside) return;
  const TensorId id = op(self).outputs[static_cast<size_t>(out.index)];
  const Sum& sum = sums_.at(id)[static_cast<size_t>(sum_of_.at(key_of(id, self, p)))];
  Instruction& i = emit(Opcode::copy, self, id);
  i.outs.push_back(sum.value.view);
  i.ins.push_back(out.view);
  i.reads.push_back(claim(id, sum.region));
  i.writes.push_back(claim(id, sum.region));
  i.accumulate = true;
}

// A view serves as the output unless others add to it, or it has a place of its own.
void RankLowering::alias_output(OpId self, int index, int32_t p, View view) {
  const TensorId id = op(self).outputs[static_cast<size_t>(index)];
  Sum* const taken = sum_of(self, index, p);
  if (!taken) return;
  Sum& sum = *taken;
  if (sum.members == 1 && !sum.over_micro_batches && !home_of_new_version(id, sum.region)) {
    sum.exists = true;
    sum.value = {sum.region, std::move(view), false, 0};
    return;
  }
  const Output out = output(self, index, p, true);
  Instruction& i = emit(Opcode::copy, self, id);
  i.outs.push_back(out.view);
  i.ins.push_back(std::move(view));
  i.reads.push_back(claim(id, sum.region, part_of(module_, self, index, op(self).pieces[static_cast<size_t>(p)])));
  i.writes.push_back(i.reads[0]);
  i.accumulate = out.accumulate;
}

// -- layout ---------------------------------------------------------------------------------------------------------------------------------------

void RankLowering::lower_layout(OpId self, int32_t p) {
  const Op& o = op(self);
  const Piece& piece = o.pieces[static_cast<size_t>(p)];
  const int n = static_cast<int>(o.inputs.size());
  const View from = input(self, 0, p);
  const Region in = region_of(module_, o, 0, piece);
  const Region out = region_of(module_, o, n, piece);
  const Shape dims = out.local_shape();
  switch (o.kind) {
    case Kind::transpose: return alias_output(self, 0, p, transposed(from, std::get<TransposeAttributes>(o.attributes).permutation));
    case Kind::reshape: {
      if (auto view = reshaped(from, dims)) return alias_output(self, 0, p, *view);
      auto view = reshaped(contiguous(o.inputs[0], in, from), dims);
      SSCC_CHECK(view, "a contiguous value has any shape");
      return alias_output(self, 0, p, *view);
    }
    case Kind::slice: {
      const auto& attributes = std::get<SliceAttributes>(o.attributes);
      llvm::SmallVector<int64_t, 5> starts;
      for (size_t d = 0; d < dims.size(); ++d) starts.push_back(in.dim(d).count_below(attributes.starts[d]));
      return alias_output(self, 0, p, sliced(from, starts, dims, attributes.steps));
    }
    case Kind::split: {
      const size_t dim = static_cast<size_t>(std::get<DimAttributes>(o.attributes).dim);
      int64_t start = 0;
      for (size_t i = 0; i < o.outputs.size(); ++i) {
        const Shape piece_dims = region_of(module_, o, n + static_cast<int>(i), piece).local_shape();
        llvm::SmallVector<int64_t, 5> starts(piece_dims.size(), 0), steps(piece_dims.size(), 1);
        starts[dim] = in.dim(dim).count_below(start);
        alias_output(self, static_cast<int>(i), p, sliced(from, starts, piece_dims, steps));
        start += tensor(o.outputs[i]).shape[dim];
      }
      return;
    }
    default: return alias_output(self, 0, p, broadcast(from, dims));  // expand, identity
  }
}

void RankLowering::lower_concat(OpId self, int32_t p) {
  const Op& o = op(self);
  const Piece& piece = o.pieces[static_cast<size_t>(p)];
  const int n = static_cast<int>(o.inputs.size());
  const size_t dim = static_cast<size_t>(std::get<DimAttributes>(o.attributes).dim);
  const Region out = region_of(module_, o, n, piece);
  const Output to = output(self, 0, p, true);
  int64_t start = 0;
  for (int i = 0; i < n; ++i) {
    const View from = input(self, i, p);
    llvm::SmallVector<int64_t, 5> starts(from.dims.size(), 0), steps(from.dims.size(), 1);
    starts[dim] = out.dim(dim).count_below(start);
    Instruction& copy = emit(Opcode::copy, self, o.outputs[0]);
    copy.piece = ordinal(self, p);
    copy.outs.push_back(sliced(to.view, starts, from.dims, steps));
    copy.ins.push_back(from);
    copy.reads.push_back(claim(o.inputs[static_cast<size_t>(i)], region_of(module_, o, i, piece)));
    Region written = out;  // the positions of this input
    written.set_dim(dim, intersect(out.dim(dim), Intervals(start, start + tensor(o.inputs[static_cast<size_t>(i)]).shape[dim])));
    copy.writes.push_back(claim(o.outputs[0], written, part_of(module_, self, 0, piece)));
    copy.writes.push_back(claim(o.outputs[0], out));
    copy.accumulate = to.accumulate;
    start += tensor(o.inputs[static_cast<size_t>(i)]).shape[dim];
  }
}

// -- updates --------------------------------------------------------------------------------------------------------------------------------------

// What is at home here is changed in place: the step's reads are over.
std::optional<View> RankLowering::home_of_new_version(TensorId id, const Region& region) {
  const TensorId old = tensor(id).next_version_of;
  return old.valid() && is_at_home(old, region) ? subview(home(old).view, home(old).region, region) : std::nullopt;
}

void RankLowering::lower_update(OpId self, int32_t p) {
  const Op& o = op(self);
  const Piece& piece = o.pieces[static_cast<size_t>(p)];
  const TensorId new_parameter = o.outputs[0];
  const Region region = region_of(module_, o, 0, piece);
  const View gradient = input(self, 1, p);
  if (tensor(o.inputs[0]).trainable) {
    const size_t scale = 2 + o.outputs.size();  // behind the parameter, the gradient, moments and what clips
    std::optional<View> scaled_by;
    if (o.inputs.size() > scale) scaled_by = input(self, static_cast<int>(scale), p);
    Instruction& capture = emit(Opcode::capture, OpId(), o.inputs[1]);
    capture.ins.push_back(gradient);
    capture.reads.push_back(claim(o.inputs[1], region_of(module_, o, 1, piece)));
    if (scaled_by) {
      capture.ins.push_back(*scaled_by);
      capture.reads.push_back(claim(o.inputs[scale], region_of(module_, o, static_cast<int>(scale), piece)));
    }
    capture.expression = Capture{Capture::What::gradient, tensor(o.inputs[0]).name, add_region(o.inputs[0], region)};
  }

  std::vector<View> ins, outs;
  for (size_t i = 0; i < o.inputs.size(); ++i) ins.push_back(i == 1 ? gradient : input(self, static_cast<int>(i), p));
  for (size_t i = 0; i < o.outputs.size(); ++i) {
    std::optional<View> view = home_of_new_version(o.outputs[i], region);
    if (!view) view = new_value(o.outputs[i], region, "t:").view;
    outs.push_back(*view);
  }
  Instruction& i = emit(Opcode::update, self, new_parameter);
  i.piece = ordinal(self, p);
  i.ins.append(ins.begin(), ins.end());
  i.outs.append(outs.begin(), outs.end());
  for (size_t k = 0; k < o.inputs.size(); ++k) i.reads.push_back(claim(o.inputs[k], region_of(module_, o, static_cast<int>(k), piece)));
  for (TensorId output : o.outputs) i.writes.push_back(claim(output, region));
  i.expression = UpdateExpression{std::get<UpdateAttributes>(o.attributes).rule};
  for (size_t k = 0; k < o.outputs.size(); ++k) {
    auto which = sum_of_.find(key_of(o.outputs[k], self, p));
    if (which == sum_of_.end()) continue;
    Sum& sum = sums_[o.outputs[k]][static_cast<size_t>(which->second)];
    sum.exists = true;
    sum.value = {region, outs[k], false, 0};
  }
}

// -- kernels --------------------------------------------------------------------------------------------------------------------------------------

void RankLowering::lower_kernel(OpId self, int32_t p) {
  const Op& o = op(self);
  const Piece& piece = o.pieces[static_cast<size_t>(p)];
  const int n = static_cast<int>(o.inputs.size());
  std::vector<View> ins;
  for (int i = 0; i < n; ++i)
    if (o.inputs[static_cast<size_t>(i)].valid()) ins.push_back(input(self, i, p));

  Opcode opcode = Opcode::pointwise;
  bool can_add = false;
  decltype(Instruction::expression) expression;
  auto dim = [&] { return std::get<DimAttributes>(o.attributes).dim; };
  // The first position, of the dimension that indices look up in, that this piece has.
  auto first_position = [&](int operand_index, int d) {
    const Region region = region_of(module_, o, operand_index, piece);
    SSCC_CHECK(region.dim(static_cast<size_t>(d)).is_single(), "a looked-up dimension is divided into ranges: " + o.name);
    return region.dim(static_cast<size_t>(d)).begin_position();
  };
  switch (o.kind) {
    case Kind::pointwise: {
      const auto& a = std::get<PointwiseAttributes>(o.attributes);
      rt::ScalarStep step;
      step.function = a.function;
      for (int i = 0; i < n && i < 3; ++i) step.args[i] = i;
      step.alpha = a.alpha;
      step.beta = a.beta;
      step.dtype = rt::arithmetic_type(tensor(o.outputs[0]).dtype);
      expression = PointwiseExpression{{step}, {0}, {{self, ordinal(self, p)}}};
      can_add = true;
      break;
    }
    case Kind::contract: {
      const auto& a = std::get<ContractAttributes>(o.attributes);
      opcode = Opcode::contract;
      expression = ContractExpression{a.lhs + "," + a.rhs + "->" + a.out, a.scale};
      can_add = true;
      break;
    }
    case Kind::reduce: {
      const auto& a = std::get<ReduceAttributes>(o.attributes);
      uint32_t mask = 0;
      for (int d : a.dims) mask |= 1u << d;
      opcode = Opcode::reduce;
      expression = ReduceExpression{mask, a.join, a.scale};
      can_add = a.join == Join::sum;
      break;
    }
    case Kind::gather:
      opcode = Opcode::gather;
      expression = IndexExpression{dim(), add_offset(first_position(0, dim())), tensor(o.inputs[0]).shape[static_cast<size_t>(dim())], INT64_MIN};
      break;
    case Kind::scatter_add:
      opcode = Opcode::scatter_add;
      expression = IndexExpression{dim(), add_offset(first_position(n, dim())), tensor(o.outputs[0]).shape[static_cast<size_t>(dim())], INT64_MIN};
      can_add = true;
      break;
    case Kind::softmax:
      opcode = Opcode::softmax;
      expression = DimExpression{dim()};
      break;
    case Kind::softmax_grad:
      opcode = Opcode::softmax_grad;
      expression = DimExpression{dim()};
      break;
    case Kind::norm:
    case Kind::norm_grad:
    case Kind::norm_grad_scale:
      opcode = o.kind == Kind::norm ? Opcode::norm : o.kind == Kind::norm_grad ? Opcode::norm_grad : Opcode::norm_grad_scale;
      expression = std::get<NormAttributes>(o.attributes);
      can_add = o.kind != Kind::norm;
      break;
    case Kind::convolve:
    case Kind::convolve_transposed:
    case Kind::convolve_grad_weight:
    case Kind::max_pool:
    case Kind::max_pool_grad:
    case Kind::sum_pool:
    case Kind::sum_pool_grad: {
      const auto& a = std::get<WindowAttributes>(o.attributes);
      const WindowOperands at = *window_operands(o.kind);
      const Region large = region_of(module_, o, at.large, piece), small = region_of(module_, o, at.small, piece);
      WindowExpression windows{a.window, a.scale};
      for (size_t d = 2; d < large.rank(); ++d)
        windows.window.pad[d - 2] += large.dim(d).begin_position() - small.dim(d).begin_position() * a.window.stride[d - 2];
      opcode = opcode_of(o.kind);
      expression = windows;
      can_add = o.kind != Kind::max_pool && o.kind != Kind::sum_pool;
      break;
    }
    case Kind::pick:
    case Kind::cross_entropy_grad: {
      const auto& a = std::get<ClassAttributes>(o.attributes);
      opcode = o.kind == Kind::pick ? Opcode::pick : Opcode::cross_entropy_grad;
      expression =
          IndexExpression{a.dim, add_offset(first_position(0, a.dim)), tensor(o.inputs[0]).shape[static_cast<size_t>(a.dim)], a.ignore_index};
      break;
    }
    case Kind::pad: {
      const auto& a = std::get<SliceAttributes>(o.attributes);
      const Region out = region_of(module_, o, n, piece);
      PadExpression pad;
      for (size_t d = 0; d < out.rank(); ++d) {
        pad.starts.push_back(out.dim(d).count_below(a.starts[d]));
        pad.steps.push_back(a.steps[d]);
      }
      opcode = Opcode::pad;
      expression = std::move(pad);
      can_add = true;
      break;
    }
    default: SSCC_CHECK(false, std::string("no kernel for ") + name_of(o.kind));
  }

  // A kernel has one accumulate flag for all outputs: if some must be added to and others not, it writes those aside.
  std::vector<Output> outs;
  for (size_t k = 0; k < o.outputs.size(); ++k)
    if (o.outputs[k].valid()) outs.push_back(output(self, static_cast<int>(k), p, can_add));
  const bool mixed = std::any_of(outs.begin(), outs.end(), [&](const Output& out) { return out.accumulate != outs[0].accumulate; });
  for (Output& out : outs)
    if (mixed && out.accumulate)
      out = {new_value(o.outputs[static_cast<size_t>(out.index)], region_of(module_, o, n + out.index, piece), "t:addend of ").view, false, true,
             out.index};
  Instruction& i = emit(opcode, self, o.outputs[0]);
  i.piece = ordinal(self, p);
  i.ins.append(ins.begin(), ins.end());
  for (int k = 0; k < n; ++k)
    if (o.inputs[static_cast<size_t>(k)].valid()) i.reads.push_back(claim(o.inputs[static_cast<size_t>(k)], region_of(module_, o, k, piece)));
  for (const Output& out : outs) {
    i.outs.push_back(out.view);
    i.writes.push_back(
        claim(o.outputs[static_cast<size_t>(out.index)], region_of(module_, o, n + out.index, piece), part_of(module_, self, out.index, piece)));
  }
  i.accumulate = outs[0].accumulate;
  if (o.kind == Kind::reduce) {
    const auto& a = std::get<ReduceAttributes>(o.attributes);
    if (a.keep_dims) i.outs[0] = without_dims(i.outs[0], std::get<ReduceExpression>(expression).reduced);
  }
  i.expression = std::move(expression);
  for (const Output& out : outs) finish_output(self, out, p);
}

}  // namespace sscc
