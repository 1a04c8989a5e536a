#include "compiler/ir/print.h"

#include <cstdio>

namespace sscc {

const char* word_of(DType type) {
  switch (type) {
    case DType::f32: return "f32";
    case DType::f64: return "f64";
    case DType::f16: return "f16";
    case DType::bf16: return "bf16";
    case DType::i64: return "i64";
    case DType::i32: return "i32";
    case DType::i8: return "i8";
    case DType::u8: return "u8";
    case DType::b1: return "b1";
  }
  return "";
}

const char* word_of(Join join) {
  switch (join) {
    case Join::sum: return "sum";
    case Join::max: return "max";
    case Join::min: return "min";
    case Join::logsumexp: return "logsumexp";
  }
  return "";
}

namespace {

const char* name_of(Role role) {
  switch (role) {
    case Role::input: return "input";
    case Role::label: return "label";
    case Role::parameter: return "parameter";
    case Role::constant: return "constant";
    case Role::activation: return "activation";
    case Role::gradient: return "gradient";
    case Role::state: return "state";
  }
  return "";
}

const char* mark_of(Mark mark) {
  switch (mark) {
    case Mark::plain: return "";
    case Mark::sum: return "+";
    case Mark::decomposed: return "%";
    case Mark::window: return "~";
    case Mark::segment: return "|";
    case Mark::frozen: return "^";
  }
  return "";
}

std::string number(double value) {
  char text[40];
  snprintf(text, sizeof text, "%.17g", value);
  return text;
}

template <class List>
std::string numbers(const List& list) {
  std::string text = "[";
  for (size_t i = 0; i < std::size(list); ++i) text += (i ? " " : "") + std::to_string(list[i]);
  return text + "]";
}

std::string quoted_text(const std::string& text) {
  std::string result = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c;
  }
  return result + "\"";
}

struct AttributePrinter {
  std::string operator()(const NoAttributes&) const { return ""; }
  std::string operator()(const PointwiseAttributes& a) const {
    return std::string(" function=") + rt::name_of(a.function) + (a.alpha != 0 ? " alpha=" + number(a.alpha) : "") +
           (a.beta != 0 ? " beta=" + number(a.beta) : "");
  }
  std::string operator()(const ContractAttributes& a) const {
    return " equation=" + a.lhs + "," + a.rhs + "->" + a.out + (a.scale != 1 ? " scale=" + number(a.scale) : "");
  }
  std::string operator()(const ReduceAttributes& a) const {
    return " dims=" + numbers(a.dims) + " join=" + word_of(a.join) + (a.keep_dims ? " keep_dims=1" : "") +
           (a.scale != 1 ? " scale=" + number(a.scale) : "");
  }
  std::string operator()(const TransposeAttributes& a) const { return " permutation=" + numbers(a.permutation); }
  std::string operator()(const SliceAttributes& a) const { return " starts=" + numbers(a.starts) + " steps=" + numbers(a.steps); }
  std::string operator()(const DimAttributes& a) const { return " dim=" + std::to_string(a.dim); }
  std::string operator()(const NormAttributes& a) const {
    return " over=" + numbers(dims_in(a.over)) + " along=" + numbers(dims_in(a.along)) + (a.centred ? "" : " centred=0") +
           " epsilon=" + number(a.epsilon);
  }
  std::string operator()(const WindowAttributes& a) const {
    const rt::Window& w = a.window;
    return " kernel=" + numbers(w.kernel) + " stride=" + numbers(w.stride) + " dilation=" + numbers(w.dilation) + " pad=" + numbers(w.pad) +
           (a.scale != 1 ? " scale=" + number(a.scale) : "");
  }
  std::string operator()(const ClassAttributes& a) const {
    return " dim=" + std::to_string(a.dim) + (a.ignore_index != INT64_MIN ? " ignore_index=" + std::to_string(a.ignore_index) : "");
  }
  std::string operator()(const UpdateAttributes& a) const {
    static const char* const names[] = {"sgd", "adam", "adamw", "loss_scale"};
    return std::string(" optimizer=") + names[static_cast<int>(a.rule.optimizer)] + " lr=" + number(a.rule.lr) +
           " momentum=" + number(a.rule.momentum) + " beta1=" + number(a.rule.beta1) + " beta2=" + number(a.rule.beta2) +
           " eps=" + number(a.rule.eps) + " weight_decay=" + number(a.rule.weight_decay);
  }
};

std::string ids(llvm::ArrayRef<TensorId> list) {
  std::string text = "(";
  for (size_t i = 0; i < list.size(); ++i) text += (i ? ", " : "") + (list[i].valid() ? "%" + std::to_string(list[i].index) : std::string("_"));
  return text + ")";
}

std::string print_tensor(TensorId id, const Tensor& t) {
  std::string text = "%" + std::to_string(id.index) + " = tensor " + quoted_text(t.name) + " " + word_of(t.dtype) + "[" + to_string(t.shape) + "] " +
                     name_of(t.role);
  if (t.scope == Scope::micro_batch) text += " micro_batch";
  if (t.join != Join::sum) text += std::string(" join=") + word_of(t.join);
  if (t.trainable) text += " trainable";
  if (t.gradient_of.valid()) text += " gradient_of=%" + std::to_string(t.gradient_of.index);
  if (t.micro_batch_of.valid()) text += " micro_batch_of=%" + std::to_string(t.micro_batch_of.index);
  if (t.variant_of.valid()) text += " variant_of=%" + std::to_string(t.variant_of.index);
  if (t.rounded_from.valid()) text += " rounded_from=%" + std::to_string(t.rounded_from.index);
  if (t.next_version_of.valid()) text += " next_version_of=%" + std::to_string(t.next_version_of.index);
  return text + "\n";
}

std::string print_op(const Module& module, OpId id, const Op& o) {
  static const char* const phases[] = {"forward", "backward", "update"};
  std::string text = "@" + std::to_string(id.index) + " = " + name_of(o.kind) + " " + quoted_text(o.name) + " type=" + quoted_text(o.type) + " " +
                     phases[static_cast<int>(o.phase)] + std::visit(AttributePrinter{}, o.attributes) + " " + ids(o.inputs) + " -> " + ids(o.outputs);
  if (o.scope == Scope::micro_batch) text += " micro_batch";
  if (o.variant > 0) text += " variant=" + std::to_string(o.variant);
  if (o.forward.valid()) text += " of=@" + std::to_string(o.forward.index);
  if (o.layer >= 0) text += " layer=" + std::to_string(o.layer);
  if (o.stage > 0) text += " stage=" + std::to_string(o.stage);
  if (o.on_host) text += " on_host";
  for (const std::string& role : o.roles) text += " role=" + role;
  text += "\n    axes";
  for (const Axis& axis : o.rule.axes)
    text += " " + axis.name + mark_of(axis.mark) + "=" + std::to_string(axis.length) +
            (axis.forward_axis >= 0 ? "<" + std::to_string(axis.forward_axis) : "");
  text += "\n";
  for (const Split& split : o.splits) {
    text += "    split " + o.rule.axes[static_cast<size_t>(split.axis)].name + " over " +
            (split.mesh_axis < 0 ? std::string("time") : module.mesh_of(o).axes[static_cast<size_t>(split.mesh_axis)].name) + " range " +
            std::to_string(split.stride) + ":" + std::to_string(split.stride * split.length) + " pieces";
    for (const Intervals& piece : split.pieces) {
      text += " ";
      for (size_t i = 0; i < piece.list().size(); ++i)
        text += (i ? "|" : "") + std::to_string(piece.list()[i].begin) + ":" + std::to_string(piece.list()[i].end);
    }
    text += "\n";
  }
  if (!o.pieces.empty()) {
    text += "    on";
    for (const Piece& piece : o.pieces) {
      text += " " + std::to_string(piece.device);
      for (size_t c = 0; c < piece.coordinates.size(); ++c) text += (c ? "," : "/") + std::to_string(piece.coordinates[c]);
    }
    text += "\n";
  }
  return text;
}

std::string print_delivery(const Module& module, const Delivery& d) {
  static const char* const names[] = {"local", "point_to_point", "exchange", "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"};
  std::string text = std::string(names[static_cast<int>(d.how)]) + " %" + std::to_string(d.tensor.index) + d.region.to_string() + d.part.to_string() +
                     " on " + numbers(d.devices) + " in " + module.segments[static_cast<size_t>(d.segment)].name() +
                     (d.before.valid() ? " before @" + std::to_string(d.before.index) : "") +
                     (d.bucket >= 0 ? " bucket " + std::to_string(d.bucket) : "") + "\n";
  const bool is_made = !module.tensors[d.tensor].producers.empty();
  for (const Message& m : d.messages) {
    text += "    " + std::to_string(m.from) + " -> " + std::to_string(m.to) + " " + m.region.to_string() + " from";
    for (const Contribution& c : m.contributions)
      text += " " + (c.op.valid() ? "@" + std::to_string(c.op.index) : std::string(is_made ? "received" : "home")) + c.region.to_string() +
              c.part.to_string();
    text += "\n";
  }
  return text;
}

}  // namespace

std::string print(const Module& module) {
  std::string text = "module " + quoted_text(module.name) + "\n";
  text += "mesh";
  for (const MeshAxis& axis : module.meshes[0].axes) text += " " + axis.name + "=" + std::to_string(axis.length);
  for (size_t m = 1; m < module.meshes.size(); ++m) {
    text += "\nmesh of its own";
    for (const MeshAxis& axis : module.meshes[m].axes) text += " " + axis.name + "=" + std::to_string(axis.length);
    text += " on " + numbers(module.meshes[m].devices);
  }
  text += "\ninputs " + ids(module.inputs) + "\nlabels " + ids(module.labels) + "\noutputs " + ids(module.outputs) + "\n";
  if (module.loss.valid()) text += "loss %" + std::to_string(module.loss.index) + "\n";
  if (module.grad_norm.valid()) text += "grad_norm %" + std::to_string(module.grad_norm.index) + "\n";
  if (module.cut.count > 1)
    text +=
        "micro_batches " + std::to_string(module.cut.count) + (module.cut.variants > 1 ? " variants " + numbers(module.cut.variant_of) : "") + "\n";
  for (int64_t t = 0; t < module.tensors.size(); ++t) text += print_tensor(TensorId(t), module.tensors[TensorId(t)]);
  for (OpId id : module.order) text += print_op(module, id, module.ops[id]);
  for (const Segment& segment : module.segments) {
    text += "segment " + segment.name() + (segment.variant > 0 ? " variant=" + std::to_string(segment.variant) : "");
    for (OpId id : segment.ops) text += " @" + std::to_string(id.index);
    text += "\n";
  }
  for (size_t d = 0; d < module.timetable.size(); ++d) {
    text += "timetable " + std::to_string(d);
    for (const Slot& slot : module.timetable[d])
      text += " " + module.segments[static_cast<size_t>(slot.segment)].name() + std::to_string(slot.micro_batch);
    text += "\n";
  }
  for (const Delivery& delivery : module.deliveries) text += print_delivery(module, delivery);
  for (const Signal& signal : module.signals)
    text += "signal " + std::to_string(signal.from) + " -> " + std::to_string(signal.to) + " after @" + std::to_string(signal.after.index) +
            " before @" + std::to_string(signal.before.index) + "\n";
  return text;
}

}  // namespace sscc
