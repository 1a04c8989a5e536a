#include "compiler/driver/explain.h"

#include <algorithm>
#include <map>

#include "compiler/ir/axes.h"
#include "compiler/support/strings.h"

namespace sscc {
namespace {

std::string shapes(const Module& module, llvm::ArrayRef<TensorId> tensors) {
  std::string text;
  for (TensorId id : tensors)
    if (id.valid()) text += (text.empty() ? "" : ", ") + module.tensors[id].name + " [" + to_string(module.tensors[id].shape) + "]";
  return text;
}

// "b0=8 m=32 n=192 k+=64"
std::string axes(const Op& op) {
  static const std::map<Mark, const char*> marks = {{Mark::plain, ""},   {Mark::sum, "+"},     {Mark::decomposed, "%"},
                                                    {Mark::window, "~"}, {Mark::segment, "|"}, {Mark::frozen, "^"}};
  std::string text;
  for (const Axis& axis : op.rule.axes) text += (text.empty() ? "" : " ") + axis.name + marks.at(axis.mark) + "=" + std::to_string(axis.length);
  return text;
}

// How plans call the axes: "b0 is x:0, n is fc1.weight:0". Each class by the first tensor that has it.
class AxisNames {
 public:
  explicit AxisNames(const Module& module) : module_(module), classes_(module) {
    for (int64_t t = 0; t < module.tensors.size(); ++t) {
      const Tensor& tensor = module.tensors[TensorId(t)];
      if (tensor.variant > 0) continue;
      for (size_t d = 0; d < tensor.shape.size(); ++d) {
        const int known = classes_.range_class(TensorId(t), static_cast<int>(d), 1, tensor.shape[d]);
        const TensorId named = tensor.micro_batch_of.valid() ? tensor.micro_batch_of : TensorId(t);
        if (known >= 0) names_.try_emplace(known, module.tensors[named].name + ":" + std::to_string(d));
      }
    }
  }

  std::string of(OpId id) const {
    std::string text;
    const Op& op = module_.ops[id];
    for (size_t a = 0; a < op.rule.axes.size(); ++a) {
      const auto it = names_.find(classes_.axis_range_class(id, static_cast<int>(a), 1, op.rule.axes[a].length));
      if (it != names_.end()) text += (text.empty() ? "" : ", ") + op.rule.axes[a].name + " is " + it->second;
    }
    return text;
  }

 private:
  const Module& module_;
  AxisClasses classes_;
  std::map<int, std::string> names_;  // by class
};

std::string overruled(const Module& module, const Op& op) {
  std::string text;
  for (const Overruled& each : op.overruled)
    text += "  lost   " + module.mesh_of(op).axes[static_cast<size_t>(each.mesh_axis)].name + ": /transform/" + std::to_string(each.rule) +
            " comes after /transform/" + std::to_string(each.by) + "\n";
  return text;
}

std::string division(const Module& module, const Op& op) {
  std::string text;
  if (op.storage.size() > 1) return std::to_string(op.storage.size()) + " regions, as they are stored";
  for (const Split& split : op.splits) {
    const std::string over = split.mesh_axis < 0 ? "time" : module.mesh_of(op).axes[static_cast<size_t>(split.mesh_axis)].name;
    text += (text.empty() ? "" : ", ") + op.rule.axes[static_cast<size_t>(split.axis)].name + " over " + over + " in " + std::to_string(split.count);
  }
  return text.empty() ? "whole" : text;
}

std::string devices(const Op& op) {
  std::vector<int32_t> list;
  for (const Piece& piece : op.pieces) list.push_back(piece.device);
  std::sort(list.begin(), list.end());
  list.erase(std::unique(list.begin(), list.end()), list.end());
  std::string text;
  for (size_t i = 0; i < list.size();) {
    size_t end = i;
    while (end + 1 < list.size() && list[end + 1] == list[end] + 1) ++end;
    text += (text.empty() ? "" : ",") + std::to_string(list[i]) + (end > i ? ".." + std::to_string(list[end]) : "");
    i = end + 1;
  }
  return text;
}

}  // namespace

std::string explain(const Module& module, const std::string& glob) {
  std::string text;
  const AxisNames names(module);
  for (OpId id : module.order) {
    const Op& op = module.ops[id];
    const bool named = glob.empty() || glob_match(glob, op.name) ||
                       std::any_of(op.absorbed.begin(), op.absorbed.end(), [&](const std::string& n) { return glob_match(glob, n); });
    if (!named) continue;
    static const char* const phases[] = {"", " (backward)", " (update)"};
    text += op.name + phases[static_cast<int>(op.phase)] + "  " + op.type;
    if (op.layer >= 0) text += "  layer " + std::to_string(op.layer);
    for (const std::string& role : op.roles) text += "  " + role;
    text += "\n  reads  " + shapes(module, op.inputs) + "\n  writes " + shapes(module, op.outputs) + "\n  axes   " + axes(op) + "\n";
    if (const std::string known = names.of(id); !known.empty()) text += "         " + known + "\n";
    if (!op.pieces.empty())
      text += "  pieces " + division(module, op) + "; on ranks " + devices(op) + "; stage " + std::to_string(op.stage) +
              (op.variant > 0 ? "; variant " + std::to_string(op.variant) : "") + "\n";
    text += overruled(module, op);
  }
  return text;
}

}  // namespace sscc
