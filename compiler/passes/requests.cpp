#include "compiler/passes/requests.h"

#include <algorithm>
#include <set>

#include "compiler/support/strings.h"

namespace sscc {
namespace {

std::string describe(const AxisClasses& classes, TensorId tensor, int dim) {
  std::string text;
  for (const Factor& factor : classes.factors(tensor, dim)) text += (text.empty() ? "" : " x ") + std::to_string(factor.length);
  return text;
}

// The operator for which the outermost factor of a dimension is a stack that is taken apart; none if it is not.
const Op* stacked_by(const Module& module, const AxisClasses& classes, TensorId tensor, int dim, const Factor& outermost) {
  const int wanted = classes.range_class(tensor, dim, outermost.stride, outermost.stride * outermost.length);
  for (OpId id : module.order) {
    const Op& op = module.ops[id];
    if (op.phase != Phase::forward || op.kind != Kind::split) continue;
    for (size_t a = 0; a < op.rule.axes.size(); ++a)
      if (op.rule.axes[a].mark == Mark::segment && classes.axis_range_class(id, static_cast<int>(a), 1, op.rule.axes[a].length) == wanted) return &op;
  }
  return nullptr;
}

// What operators know by the name of a tensor: of an input or label that is cut into micro-batches, the micro-batch; of either, each variant's own.
std::vector<std::pair<TensorId, int>> known_as(const Module& module, const std::vector<std::pair<TensorId, int>>& named) {
  std::map<TensorId, std::vector<TensorId>> parts, variants;
  for (int64_t i = 0; i < module.tensors.size(); ++i) {
    const Tensor& each = module.tensors[TensorId(i)];
    if (each.micro_batch_of.valid())
      parts[each.micro_batch_of].push_back(TensorId(i));
    else if (each.variant_of.valid())
      variants[each.variant_of].push_back(TensorId(i));
  }
  std::vector<std::pair<TensorId, int>> result;
  for (const auto& [tensor, dim] : named) {
    if (!parts.contains(tensor)) result.emplace_back(tensor, dim);
    for (const auto* more : {&parts, &variants})
      if (const auto it = more->find(tensor); it != more->end())
        for (const TensorId each : it->second) result.emplace_back(each, dim);
  }
  return result;
}

// As the user knows it: "x:0", "x:0 of micro-batch 2".
std::string name_of(const Module& module, TensorId id, int dim) {
  const Tensor& tensor = module.tensors[id];
  const TensorId named = tensor.micro_batch_of.valid() ? tensor.micro_batch_of : in_first_variant(module, id);
  const std::string name = module.tensors[named].name + ":" + std::to_string(dim);
  return tensor.variant > 0 ? name + " of micro-batch " + std::to_string(module.cut.first_of(tensor.variant)) : name;
}

}  // namespace

std::string even_divisors(int64_t length) {
  std::string text;
  int listed = 0;
  for (int64_t n = 1; n <= length && listed < 16; ++n)
    if (length % n == 0) {
      text += (text.empty() ? "" : ", ") + std::to_string(n);
      ++listed;
    }
  return "evenly " + text;
}

std::vector<Request> requests_of(const Module& module, const AxisClasses& classes, const TransformRule& rule, Diagnostics& diagnostics) {
  std::vector<Request> requests;
  std::set<int> seen;
  const AxisName& axis = *rule.axis;
  const std::vector<std::pair<TensorId, int>> matches = known_as(module, resolve_axis(module, axis));
  bool known = false;
  for (const auto& [tensor, dim] : matches) {
    const int64_t whole = module.tensors[tensor].shape[static_cast<size_t>(dim)];
    if (classes.cuts(tensor, dim).empty()) continue;
    known = true;
    Factor factor{1, whole};
    const std::vector<Factor> factors = classes.factors(tensor, dim);
    const std::string name = name_of(module, tensor, dim);
    if (axis.factor) {
      if (*axis.factor < 0 || static_cast<size_t>(*axis.factor) >= factors.size()) {
        diagnostics.error(
            Code::no_match, axis.where,
            "dimension " + std::to_string(dim) + " of " + quoted(module.tensors[tensor].name) + " has no factor " + std::to_string(*axis.factor),
            "it is " + describe(classes, tensor, dim) + ", outermost first, counted from 0");
        return {};
      }
      factor = factors[static_cast<size_t>(*axis.factor)];
    } else if (factors.size() > 1) {
      if (const Op* op = stacked_by(module, classes, tensor, dim, factors[0])) {
        diagnostics.error(Code::ambiguous_axis, axis.where,
                          "dimension " + std::to_string(dim) + " of " + quoted(module.tensors[tensor].name) + " is a stack of " +
                              describe(classes, tensor, dim) + " (split by " + quoted(op->name) + ")",
                          "write '" + axis.text + ".1' for the " + std::to_string(factors[1].length) + ", '" + axis.text + ".0' for the stack",
                          op->name);
        return {};
      }
    }
    const int id = classes.range_class(tensor, dim, factor.stride, factor.stride * factor.length);
    if (id < 0 || !seen.insert(id).second) continue;
    requests.push_back({name, factor.length, classes.outer_parts(id)});
  }
  // All micro-batches have one position of it, or one that is smaller than others.
  const auto is_used_up = [&](const auto& match) {
    const Tensor& tensor = module.tensors[match.first];
    return tensor.scope == Scope::micro_batch && tensor.shape[static_cast<size_t>(match.second)] == 1 && (!known || tensor.variant > 0);
  };
  const auto used_up = llvm::find_if(matches, is_used_up);
  if (used_up != matches.end() && !rule.optional)
    diagnostics.error(Code::too_many_pieces, axis.where,
                      "cannot split " + quoted(name_of(module, used_up->first, used_up->second)) + ": one position of it is in a micro-batch",
                      "use fewer micro-batches");
  else if (!known && !rule.optional)
    diagnostics.error(Code::no_match, axis.where, "axis " + quoted(axis.text) + " matches no dimension that an operator knows",
                      "dimensions of length 1 have no axis");
  // A range that is an outer part of another one asks for nothing of its own.
  std::vector<Request> result;
  for (const Request& request : requests) {
    bool part = false;
    for (const Request& other : requests)
      for (const auto& [id, units] : other.units)
        part |= &other != &request && units < other.length && request.units.contains(id) && request.units.at(id) == request.length &&
                units == request.length;
    if (!part) result.push_back(request);
  }
  return result;
}

std::vector<Hit> hits(const Op& op, OpId id, const AxisClasses& classes, const Request& request) {
  std::vector<Hit> best;
  int64_t most = 1;
  for (size_t a = 0; a < op.rule.axes.size(); ++a) {
    const std::vector<int64_t> cuts = classes.axis_cuts(id, static_cast<int>(a));
    for (int64_t low : cuts)
      for (int64_t high : cuts) {
        if (high <= low || high % low != 0) continue;
        auto it = request.units.find(classes.axis_range_class(id, static_cast<int>(a), low, high));
        if (it == request.units.end() || it->second < most || it->second != high / low) continue;
        if (it->second > most) best.clear();
        most = it->second;
        best.push_back({static_cast<int>(a), {low, high / low}});
      }
  }
  return best;
}

}  // namespace sscc
