#include "compiler/ir/module.h"

#include <algorithm>

#include "compiler/support/check.h"
#include "compiler/support/parallel.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::pointwise: return "pointwise";
    case Kind::contract: return "contract";
    case Kind::reduce: return "reduce";
    case Kind::reshape: return "reshape";
    case Kind::transpose: return "transpose";
    case Kind::slice: return "slice";
    case Kind::split: return "split";
    case Kind::concat: return "concat";
    case Kind::pad: return "pad";
    case Kind::expand: return "expand";
    case Kind::gather: return "gather";
    case Kind::scatter_add: return "scatter_add";
    case Kind::softmax: return "softmax";
    case Kind::softmax_grad: return "softmax_grad";
    case Kind::norm: return "norm";
    case Kind::norm_grad: return "norm_grad";
    case Kind::norm_grad_scale: return "norm_grad_scale";
    case Kind::convolve: return "convolve";
    case Kind::convolve_transposed: return "convolve_transposed";
    case Kind::convolve_grad_weight: return "convolve_grad_weight";
    case Kind::max_pool: return "max_pool";
    case Kind::max_pool_grad: return "max_pool_grad";
    case Kind::sum_pool: return "sum_pool";
    case Kind::sum_pool_grad: return "sum_pool_grad";
    case Kind::pick: return "pick";
    case Kind::cross_entropy_grad: return "cross_entropy_grad";
    case Kind::update: return "update";
  }
  return "";
}

int64_t Mesh::size() const {
  int64_t size = 1;
  for (const MeshAxis& axis : axes) size *= axis.length;
  return size;
}

int Mesh::find(const std::string& name) const {
  for (size_t a = 0; a < axes.size(); ++a)
    if (axes[a].name == name) return static_cast<int>(a);
  return -1;
}

int32_t Mesh::device(int64_t index) const { return devices.empty() ? static_cast<int32_t>(index) : devices[static_cast<size_t>(index)]; }

bool Mesh::has(int32_t device) const {
  return devices.empty() ? device < size() : std::find(devices.begin(), devices.end(), device) != devices.end();
}

int64_t Mesh::coordinate(int64_t device, int axis) const {
  const int64_t index = devices.empty() ? device : std::find(devices.begin(), devices.end(), static_cast<int32_t>(device)) - devices.begin();
  int64_t inner = 1;
  for (size_t a = static_cast<size_t>(axis) + 1; a < axes.size(); ++a) inner *= axes[a].length;
  return index / inner % axes[static_cast<size_t>(axis)].length;
}

std::string Segment::name() const {
  switch (kind) {
    case SegmentKind::prologue: return "prologue";
    case SegmentKind::forward: return std::to_string(stage) + "F";
    case SegmentKind::backward: return std::to_string(stage) + "B";
    case SegmentKind::epilogue: return "epilogue";
  }
  return "";
}

const Region* Delivery::left_on(int32_t device) const {
  const auto at = std::find(devices.begin(), devices.end(), device);
  if (at == devices.end() || (how == How::broadcast && device == messages[0].from)) return nullptr;
  return regions.empty() ? &region : &regions[static_cast<size_t>(at - devices.begin())];
}

int64_t Module::devices() const {
  int64_t count = 1;
  for (const Mesh& mesh : meshes)
    for (int64_t i = 0; i < mesh.size(); ++i) count = std::max<int64_t>(count, mesh.device(i) + 1);
  return count;
}

OpId Module::add_op(Op op) {
  const OpId id(ops.size());
  for (TensorId output : op.outputs)
    if (output.valid()) tensors[output].producers.push_back(id);
  ops.add(std::move(op));
  order.push_back(id);
  return id;
}

std::vector<llvm::SmallVector<OpId, 2>> Module::consumers() const {
  std::vector<llvm::SmallVector<OpId, 2>> readers(static_cast<size_t>(tensors.size()));
  for (OpId id : order)
    for (TensorId input : ops[id].inputs) {
      if (!input.valid()) continue;
      auto& list = readers[static_cast<size_t>(input.index)];
      if (list.empty() || list.back() != id) list.push_back(id);
    }
  return readers;
}

TensorId operand(const Op& op, int operand) {
  const int inputs = static_cast<int>(op.inputs.size());
  return operand < inputs ? op.inputs[static_cast<size_t>(operand)] : op.outputs[static_cast<size_t>(operand - inputs)];
}

namespace {

// The piece of split `s` that `piece` works on, in positions of the split's range.
const Intervals& positions_of(const Op& op, size_t s, const Piece& piece) {
  const Split& split = op.splits[s];
  size_t index = 0;
  for (int outer : split.outer)
    index =
        index * static_cast<size_t>(op.splits[static_cast<size_t>(outer)].count) + static_cast<size_t>(piece.coordinates[static_cast<size_t>(outer)]);
  return split.pieces[index * static_cast<size_t>(split.count) + static_cast<size_t>(piece.coordinates[s])];
}

// Does a later split nest in this one (and so say more)?
bool is_refined(const Op& op, size_t s) {
  for (size_t later = s + 1; later < op.splits.size(); ++later)
    for (int outer : op.splits[later].outer)
      if (outer == static_cast<int>(s)) return true;
  return false;
}

}  // namespace

Intervals axis_positions(const Op& op, int axis, const Piece& piece) {
  const int64_t length = op.rule.axes[static_cast<size_t>(axis)].length;
  Intervals result(0, length);
  for (size_t s = 0; s < op.splits.size(); ++s) {
    if (op.splits[s].axis != axis || is_refined(op, s)) continue;
    result = intersect(result, spread(positions_of(op, s, piece), op.splits[s].stride, op.splits[s].length, length));
  }
  return result;
}

namespace {

Region compute_region(const Module& module, const Op& op, int index, const Piece& piece) {
  const Tensor& tensor = module.tensors[operand(op, index)];
  if (!op.storage.empty()) {
    const Region& storage = op.storage[static_cast<size_t>(piece.coordinates[0])];
    return tensor.shape == module.tensors[op.inputs[0]].shape ? storage : Region(tensor.shape);
  }
  if (op.splits.empty()) return Region(tensor.shape);
  llvm::SmallVector<Intervals, 4> dims;
  for (int64_t length : tensor.shape) dims.push_back(Intervals(0, length));
  for (const Occurrence& occurrence : op.rule.occurrences) {
    if (occurrence.operand != index) continue;
    for (const Split& split : op.splits) {
      if (split.axis != occurrence.axis) continue;
      const Intervals positions = axis_positions(op, occurrence.axis, piece);
      const int64_t axis_length = op.rule.axes[static_cast<size_t>(occurrence.axis)].length;
      Intervals& dim = dims[static_cast<size_t>(occurrence.dim)];
      const int64_t length = tensor.shape[static_cast<size_t>(occurrence.dim)];
      const Intervals own = spread(positions, occurrence.stride, axis_length, length);
      dim = intersect(dim, widened(own, occurrence.before, occurrence.after, length));
      break;
    }
  }
  return Region(dims);
}

// An output's axis that no dimension of it has: pieces have addends.
bool is_summed_over(const Op& op, int output, int axis) {
  if (op.rule.axes[static_cast<size_t>(axis)].mark != Mark::sum) return false;
  const int index = static_cast<int>(op.inputs.size()) + output;
  return llvm::none_of(op.rule.occurrences, [&](const Occurrence& occurrence) { return occurrence.axis == axis && occurrence.operand == index; });
}

Part compute_part(const Module& module, OpId id, int output, const Piece& piece) {
  const Op& op = module.ops[id];
  const TensorId tensor = op.outputs[static_cast<size_t>(output)];
  const auto& producers = module.tensors[tensor].producers;
  Part part;
  if (producers.size() > 1)
    part = part.piece(std::find(producers.begin(), producers.end(), id) - producers.begin(), static_cast<int64_t>(producers.size()));
  if (!op.storage.empty()) {
    // An update, or a gradient's join, works on its storage; a norm adds up its pieces' shares.
    const bool follows =
        module.tensors[tensor].shape == module.tensors[op.inputs[0]].shape && (op.kind == Kind::update || op.kind == Kind::pointwise);
    return follows ? part : part.piece(piece.coordinates[0], static_cast<int64_t>(op.storage.size()));
  }
  for (size_t s = 0; s < op.splits.size(); ++s)
    if (is_summed_over(op, output, op.splits[s].axis)) part = part.piece(piece.coordinates[s], op.splits[s].count);
  return part;
}

// The values of every combination of the coordinates of splits that `matters` holds for.
template <class Matters, class Compute>
auto tabulated(const Op& op, const Matters& matters, const Compute& compute) {
  llvm::SmallVector<int32_t, 4> counts;  // by coordinate
  if (op.storage.empty())
    for (const Split& split : op.splits) counts.push_back(matters(split) ? static_cast<int32_t>(split.count) : 1);
  else
    counts = {static_cast<int32_t>(op.storage.size())};
  ByPiece<decltype(compute(Piece()))> result;
  result.strides.resize(counts.size(), 0);
  int32_t all = 1;
  for (size_t c = counts.size(); c-- > 0;) {
    if (counts[c] > 1) result.strides[c] = all;
    all *= counts[c];
  }
  Piece piece;
  piece.coordinates.resize(counts.size());
  for (int32_t i = 0; i < all; ++i) {
    for (size_t c = 0; c < counts.size(); ++c) piece.coordinates[c] = result.strides[c] ? i / result.strides[c] % counts[c] : 0;
    result.values.push_back(compute(piece));
  }
  return result;
}

ByPiece<Region> regions_of(const Module& module, const Op& op, int index) {
  if (!operand(op, index).valid()) return {};
  const auto has_axis = [&](const Split& split) {
    return llvm::any_of(op.rule.occurrences,
                        [&](const Occurrence& occurrence) { return occurrence.operand == index && occurrence.axis == split.axis; });
  };
  return tabulated(op, has_axis, [&](const Piece& piece) { return compute_region(module, op, index, piece); });
}

ByPiece<Part> parts_of(const Module& module, OpId id, int output) {
  const Op& op = module.ops[id];
  if (!op.outputs[static_cast<size_t>(output)].valid()) return {};
  return tabulated(
      op, [&](const Split& split) { return is_summed_over(op, output, split.axis); },
      [&](const Piece& piece) { return compute_part(module, id, output, piece); });
}

}  // namespace

Region region_of(const Module& module, const Op& op, int index, const Piece& piece) {
  return op.regions.empty() ? compute_region(module, op, index, piece) : op.regions[static_cast<size_t>(index)][piece];
}

Part part_of(const Module& module, OpId id, int output, const Piece& piece) {
  const Op& op = module.ops[id];
  return op.parts.empty() ? compute_part(module, id, output, piece) : op.parts[static_cast<size_t>(output)][piece];
}

void tabulate_pieces(Module& module) {
  in_parallel(module.order.size(), [&](size_t i) {
    Op& op = module.ops[module.order[i]];
    std::vector<ByPiece<Region>> regions;
    std::vector<ByPiece<Part>> parts;
    for (int index = 0; index < static_cast<int>(op.inputs.size() + op.outputs.size()); ++index) regions.push_back(regions_of(module, op, index));
    for (int output = 0; output < static_cast<int>(op.outputs.size()); ++output) parts.push_back(parts_of(module, module.order[i], output));
    op.regions = std::move(regions);
    op.parts = std::move(parts);
  });
}

TensorId in_first_variant(const Module& module, TensorId id) {
  const TensorId first = module.tensors[id].variant_of;
  return first.valid() ? first : id;
}

bool is_output(const Module& module, TensorId id) { return llvm::is_contained(module.outputs, in_first_variant(module, id)); }

int64_t StepCut::Axis::largest() const {
  int64_t largest = 0;
  for (size_t k = 0; k + 1 < begins.size(); ++k) largest = std::max(largest, begins[k + 1] - begins[k]);
  return largest;
}

int64_t StepCut::Axis::size_of(int64_t micro_batch) const {
  const auto piece = static_cast<size_t>(micro_batch / every % pieces());
  return begins[piece + 1] - begins[piece];
}

int64_t StepCut::begin_of(const Where& where, int64_t micro_batch) const {
  const Axis& axis = axes[static_cast<size_t>(where.axis)];
  return axis.begin_of(micro_batch) * where.length / axis.length();
}

int64_t StepCut::size_of(const Where& where, int64_t micro_batch) const {
  const Axis& axis = axes[static_cast<size_t>(where.axis)];
  return axis.size_of(micro_batch) * where.length / axis.length();
}

int64_t StepCut::largest_of(const Where& where) const {
  const Axis& axis = axes[static_cast<size_t>(where.axis)];
  return axis.largest() * where.length / axis.length();
}

int64_t StepCut::first_of(int variant) const {
  return variant_of.empty() ? 0 : std::find(variant_of.begin(), variant_of.end(), variant) - variant_of.begin();
}

std::vector<int64_t> StepCut::micro_batches_of(int variant) const {
  std::vector<int64_t> result;
  for (int64_t m = 0; m < count; ++m)
    if (variant_at(m) == variant) result.push_back(m);
  return result;
}

llvm::ArrayRef<StepCut::Where> cuts_of(const Module& module, TensorId id) {
  const Tensor& t = module.tensors[id];
  if (t.scope == Scope::step) return {};
  const auto it = module.cut.where.find(t.micro_batch_of.valid() ? t.micro_batch_of : in_first_variant(module, id));
  if (it == module.cut.where.end()) return {};
  return it->second;
}

Region to_whole(const Module& module, TensorId id, const Region& region, int64_t micro_batch) {
  Region whole = region;
  for (const StepCut::Where& where : cuts_of(module, id)) {
    const int64_t size = module.cut.size_of(where, micro_batch), begin = module.cut.begin_of(where, micro_batch);
    llvm::SmallVector<Interval, 8> moved;
    const Intervals positions = whole.dim(static_cast<size_t>(where.dim));
    for (const Interval& each : positions.list())
      for (int64_t at = each.begin; at < each.end;) {  // runs inside one copy of the factor's piece
        const int64_t block = where.stride * size;
        const int64_t end = std::min(each.end, (at / block + 1) * block);
        const int64_t shift = (at / block) * (where.stride * where.length - block) + begin * where.stride;
        moved.push_back({at + shift, end + shift});
        at = end;
      }
    whole.set_dim(static_cast<size_t>(where.dim), Intervals(moved));
  }
  return whole;
}

}  // namespace sscc
