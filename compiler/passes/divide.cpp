// For each forward operator, each rule in the plan's order: find the axis that holds the largest outer part of what the rule names, cut it, and note
// the split. One mesh axis divides an operator once: the earlier rule holds. Backward operators inherit their forward operator's splits by axis;
// updates follow storage (assign), unless a rule names their phase.
#include "compiler/passes/divide.h"

#include <algorithm>
#include <set>

#include "compiler/ops/ops.h"
#include "compiler/ops/windows.h"
#include "compiler/passes/cut_step.h"
#include "compiler/passes/pieces.h"
#include "compiler/passes/requests.h"
#include "compiler/support/check.h"
#include "compiler/support/strings.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

// One division to make: n pieces over a mesh axis, or in time.
struct Division {
  int rule = 0;
  std::string mesh_axis;       // its name: each operator's mesh has its own axes, and may lack it; empty: in time
  int64_t n = 1;               // of a mesh axis: its length on the largest mesh
  std::vector<int64_t> sizes;  // uneven; empty: even
  std::vector<int64_t> deal;   // the piece of each chunk; empty: a piece is one chunk
  std::string rotate;          // in time: the device at coordinate c of this mesh axis begins with piece c
};

class Divider {
 public:
  Divider(Module& module, const Plan& plan, Diagnostics& diagnostics) : module_(module), plan_(plan), diagnostics_(diagnostics), classes_(module) {}

  void run() {
    prepare();
    if (diagnostics_.has_errors()) return;
    for (OpId id : std::vector<OpId>(module_.order)) {
      if (module_.ops[id].phase == Phase::forward) divide_op(id);
      if (module_.ops[id].phase == Phase::backward) inherit(id);
      if (module_.ops[id].phase != Phase::forward) divide_by_phase(id);
    }
    if (!diagnostics_.has_errors()) decompose_all();
    report_rounding();
  }

 private:
  struct Prepared {
    const TransformRule* rule = nullptr;
    std::vector<Division> divisions;
    std::vector<Request> requests;  // axis rules
    std::set<OpId> only;            // ops rules, and `within`
    bool restricted = false;
  };

  // The plan's own mesh is one even where nothing is on it.
  std::vector<Mesh> meshes_in_use() const {
    std::set<int> used;
    for (OpId id : module_.order)
      if (module_.ops[id].phase == Phase::forward) used.insert(module_.placements[static_cast<size_t>(module_.ops[id].placement)].mesh);
    std::vector<Mesh> meshes;
    for (const int mesh : used) meshes.push_back(module_.meshes[static_cast<size_t>(mesh)]);
    return meshes;
  }

  void prepare() {
    const std::vector<Mesh> meshes = meshes_in_use();
    for (size_t r = 0; r < plan_.transform.size(); ++r) {
      const TransformRule& rule = plan_.transform[r];
      Prepared p;
      p.rule = &rule;
      const bool cut = cuts_the_step(module_, rule);
      for (const SplitOver& split : rule.splits) {
        if (split.is_time) {
          if (!cut && split.pieces > 1) p.divisions.push_back({static_cast<int>(r), "", split.pieces, split.sizes, {}, split.rotate});
          continue;
        }
        for (const std::string& name : split.mesh_axes) {
          int64_t length = 1;
          for (const Mesh& mesh : meshes)
            if (const int axis = mesh.find(name); axis >= 0) length = std::max(length, mesh.axes[static_cast<size_t>(axis)].length);
          if (length > 1) p.divisions.push_back({static_cast<int>(r), name, length, split.sizes, split.deal, ""});
        }
      }
      if (p.divisions.empty()) continue;
      if (rule.axis) {
        p.requests = requests_of(module_, classes_, rule, diagnostics_);
        check_length(p);
      }
      const Selector* selector = rule.ops ? &*rule.ops : rule.within ? &*rule.within : nullptr;
      if (selector) {
        p.restricted = true;
        for (OpId id : selector->select(module_)) p.only.insert(id);
        if (p.only.empty()) diagnostics_.error(Code::no_match, selector->where, quoted(selector->text) + " matches no operator");
      }
      prepared_.push_back(std::move(p));
    }
  }

  // The pieces of a rule must be at most the positions that it names.
  void check_length(const Prepared& p) {
    int64_t pieces = 1;
    for (const Division& division : p.divisions) pieces *= division.deal.empty() ? division.n : static_cast<int64_t>(division.deal.size());
    for (const Request& request : p.requests)
      if (pieces > request.length)
        diagnostics_.error(
            Code::too_many_pieces, p.rule->where,
            "cannot split " + quoted(request.name) + " (" + std::to_string(request.length) + " positions) into " + std::to_string(pieces) + " pieces",
            "use at most " + std::to_string(request.length) + ", " + even_divisors(request.length));
  }

  // How an operator makes a division: over which axis of its own mesh, in how many pieces. Nothing if that mesh lacks the axis, or an earlier rule
  // divides the operator over it.
  struct Cut {
    int mesh_axis = -1;
    int64_t n = 1;
  };
  std::optional<Cut> cut_of(OpId id, const Division& division) {
    if (division.mesh_axis.empty()) return Cut{-1, division.n};
    Op& op = module_.ops[id];
    const Mesh& mesh = module_.mesh_of(op);
    const int axis = mesh.find(division.mesh_axis);
    if (axis < 0) return {};
    if (const Split* earlier = divided_over(op, axis)) {
      if (earlier->rule != division.rule) op.overruled.push_back({division.rule, earlier->rule, axis});
      return {};
    }
    const int64_t length = mesh.axes[static_cast<size_t>(axis)].length;
    if (length == 1) return {};
    const int64_t told = division.deal.empty() ? static_cast<int64_t>(division.sizes.size()) : division.n;
    if (told > 0 && told != length) {
      diagnostics_.error(Code::cannot_split, plan_.transform[static_cast<size_t>(division.rule)].where,
                         std::to_string(told) + (division.deal.empty() ? " sizes" : " dealt pieces") + " for mesh axis " +
                             quoted(division.mesh_axis) + ", which has length " + std::to_string(length) + " where " + quoted(op.name) + " is",
                         "restrict the rule with 'within'", op.name);
      return {};
    }
    return Cut{axis, length};
  }

  bool applies(const Prepared& p, OpId id) const { return !p.restricted || p.only.contains(id); }
  static bool names_phase(const Prepared& p) {
    const Selector* s = p.rule->ops ? &*p.rule->ops : p.rule->within ? &*p.rule->within : nullptr;
    return s && s->phase.has_value();
  }

  static const Split* divided_over(const Op& op, int mesh_axis) {
    const auto it = llvm::find_if(op.splits, [&](const Split& s) { return s.mesh_axis == mesh_axis; });
    return it == op.splits.end() ? nullptr : &*it;
  }

  // -- forward ------------------------------------------------------------------------------------------------------------------------------------

  void divide_op(OpId id) {
    for (const Prepared& p : prepared_) {
      if (!applies(p, id) || (names_phase(p) && *(p.rule->ops ? p.rule->ops : p.rule->within)->phase != "forward")) continue;
      if (p.rule->ops)
        divide_by_dim(id, p);
      else
        for (const Request& request : p.requests) divide_by_request(id, p, request);
    }
  }

  void divide_by_request(OpId id, const Prepared& p, const Request& request) {
    Op& op = module_.ops[id];
    std::vector<Hit> found = hits(op, id, classes_, request);
    std::erase_if(found, [&](const Hit& hit) {
      const Mark mark = op.rule.axes[static_cast<size_t>(hit.axis)].mark;
      return mark == Mark::frozen || mark == Mark::segment || (mark == Mark::decomposed && !definition(op.kind).decompose);
    });
    if (found.empty()) return;
    const Hit hit = found.size() == 1 ? found[0] : choose(id, found, p.divisions[0].rule);
    std::vector<int64_t> units;
    for (const auto& [range, count] : request.units) units.push_back(count);
    std::sort(units.begin(), units.end());
    units.erase(std::unique(units.begin(), units.end()), units.end());
    for (const Division& division : p.divisions)
      if (const auto cut = cut_of(id, division)) add_split(id, hit.axis, hit.factor, division, *cut, request.length, units);
  }

  // An operator that holds the axis twice: a layout operator follows its input; else the occurrence that stands first in the output, else in the
  // inputs.
  Hit choose(OpId id, const std::vector<Hit>& found, int rule) const {
    const Op& op = module_.ops[id];
    auto occurs = [&](const Hit& hit, int index, int dim) {
      for (const Occurrence& o : op.rule.occurrences)
        if (o.axis == hit.axis && o.operand == index && (dim < 0 || o.dim == dim)) return true;
      return false;
    };
    if (op.is_layout && !op.inputs.empty())
      for (OpId producer : module_.tensors[op.inputs[0]].producers) {
        const Op& made = module_.ops[producer];
        for (const Split& split : made.splits) {
          if (split.rule != rule) continue;
          for (const Occurrence& o : made.rule.occurrences)
            if (o.axis == split.axis && operand(made, o.operand) == op.inputs[0] && o.operand >= static_cast<int>(made.inputs.size()))
              for (const Hit& hit : found)
                if (occurs(hit, 0, o.dim)) return hit;
        }
      }
    for (int index : first_to_last(op))
      for (size_t d = 0; d < module_.tensors[operand(op, index)].shape.size(); ++d)
        for (const Hit& hit : found)
          if (occurs(hit, index, static_cast<int>(d))) return hit;
    return found[0];
  }
  static std::vector<int> first_to_last(const Op& op) {
    std::vector<int> result = {static_cast<int>(op.inputs.size())};
    for (size_t i = 0; i < op.inputs.size(); ++i) result.push_back(static_cast<int>(i));
    return result;
  }

  // -- one split ----------------------------------------------------------------------------------------------------------------------------------

  // Cuts a factor of an axis, inside what earlier splits of the same factor left. `length`, `units`: of the requested range, of which the factor
  // counts `factor.length` units. False where the operator cannot follow (it stays undivided, or is divided less and replicated).
  bool add_split(OpId id, int axis, const Factor& factor, const Division& division, const Cut& cut, int64_t length,
                 const std::vector<int64_t>& units) {
    Op& op = module_.ops[id];
    Split split;
    split.axis = axis;
    split.stride = factor.stride;
    split.length = factor.length;
    split.mesh_axis = cut.mesh_axis;
    split.rule = division.rule;
    if (!division.rotate.empty()) split.rotate = module_.mesh_of(op).find(division.rotate);
    std::vector<Intervals> outer = {Intervals(0, factor.length)};
    for (size_t s = 0; s < op.splits.size(); ++s) {
      const Split& earlier = op.splits[s];
      if (earlier.axis != axis) continue;
      const bool same = earlier.stride == factor.stride && earlier.length == factor.length;
      const bool apart = earlier.stride >= factor.stride * factor.length || factor.stride >= earlier.stride * earlier.length;
      if (!same && !apart) {
        diagnostics_.error(Code::overlapping_splits, plan_.transform[static_cast<size_t>(division.rule)].where,
                           "axis " + quoted(op.rule.axes[static_cast<size_t>(axis)].name) + " of " + quoted(op.name) +
                               " is divided by two rules whose ranges overlap and do not nest",
                           "restrict one of them with 'within'", op.name);
        return false;
      }
      if (same) {
        split.outer.push_back(static_cast<int>(s));
        outer = earlier.pieces;
      }
    }
    const int64_t block = length / factor.length;  // positions of the range in one of the operator's units
    const int64_t chunks = division.deal.empty() ? cut.n : static_cast<int64_t>(division.deal.size());
    std::vector<std::vector<int64_t>> all;
    int64_t count = chunks;
    for (const Intervals& piece : outer) {
      // Cuts are positions of the factor; inside a dealt piece, which has several runs, positions of the piece.
      const int64_t begin = piece.is_single() ? piece.begin_position() : 0, have = piece.length(), end = begin + have;
      const bool even = division.sizes.empty();
      std::vector<int64_t> cuts =
          even ? even_cuts(begin * block, end * block, chunks, length, units) : proportional_cuts(begin * block, end * block, division.sizes);
      bool moved = false, empty = false;
      for (int64_t& position : cuts) {
        moved |= position % block != 0;
        position = (position + block - 1) / block;
      }
      for (size_t k = 0; k + 1 < cuts.size(); ++k) empty |= cuts[k] == cuts[k + 1];
      if (empty || have < chunks) {
        if (!even || !division.deal.empty() || have <= 1 || chunks % have != 0 || have >= chunks) return false;
        count = have;  // as far as the number divides; replicated over the rest
        cuts.clear();
        for (int64_t k = 0; k <= have; ++k) cuts.push_back(begin + k);
        moved = true;
      }
      if (moved) rounded_[division.rule].insert(id);
      all.push_back(std::move(cuts));
    }
    for (const auto& cuts : all)
      if (static_cast<int64_t>(cuts.size()) != count + 1) return false;
    split.count = division.deal.empty() ? count : cut.n;
    for (size_t p = 0; p < outer.size(); ++p) {
      std::vector<Intervals> pieces(static_cast<size_t>(split.count));
      for (size_t k = 0; k < static_cast<size_t>(count); ++k) {
        Intervals& piece = pieces[division.deal.empty() ? k : static_cast<size_t>(division.deal[k])];
        piece = unite(piece, outer[p].is_single() ? Intervals(all[p][k], all[p][k + 1]) : outer[p].from_to(all[p][k], all[p][k + 1]));
      }
      split.pieces.insert(split.pieces.end(), pieces.begin(), pieces.end());
    }
    if (needs_ranges(op, axis) && llvm::any_of(split.pieces, [&](const Intervals& piece) {
          return !spread(piece, split.stride, split.length, op.rule.axes[static_cast<size_t>(axis)].length).is_single();
        }))
      return false;
    op.splits.push_back(std::move(split));
    return true;
  }

  // Must pieces of this axis be ranges? Where indices select along it they are compared with the bounds of pieces; windows slide over one range.
  static bool needs_ranges(const Op& op, int axis) {
    const auto indexes = [&](int index, int first, int last) {
      return llvm::any_of(op.rule.occurrences,
                          [&](const Occurrence& o) { return o.axis == axis && o.operand == index && first <= o.dim && o.dim <= last; });
    };
    if (const auto windows = window_operands(op.kind)) return indexes(windows->small, 2, rt::max_rank);
    const int n = static_cast<int>(op.inputs.size());
    int table = -1, dim = -1;
    if (op.kind == Kind::gather) table = 0, dim = std::get<DimAttributes>(op.attributes).dim;
    if (op.kind == Kind::scatter_add) table = n, dim = std::get<DimAttributes>(op.attributes).dim;
    if (op.kind == Kind::pick || op.kind == Kind::cross_entropy_grad) table = 0, dim = std::get<ClassAttributes>(op.attributes).dim;
    return indexes(table, dim, dim);
  }

  // -- rules by operator and dimension ------------------------------------------------------------------------------------------------------------

  // The axis that a rule's `dim` names: by the axis' name, or the outermost one that indexes this dimension of output 0. -1: none.
  int axis_of(const Op& op, const TransformRule& rule) const {
    if (const auto* name = std::get_if<std::string>(&rule.dim)) {
      for (size_t a = 0; a < op.rule.axes.size(); ++a)
        if (op.rule.axes[a].name == *name) return static_cast<int>(a);
      return -1;
    }
    const auto* number = std::get_if<int64_t>(&rule.dim);
    if (!number || op.outputs.empty()) return -1;
    const int64_t rank = static_cast<int64_t>(module_.tensors[op.outputs[0]].shape.size());
    const int64_t dim = *number < 0 ? *number + rank : *number;
    int axis = -1;
    int64_t stride = 0;
    for (const Occurrence& o : op.rule.occurrences)
      if (o.operand == static_cast<int>(op.inputs.size()) && o.dim == dim && o.stride > stride) {
        axis = o.axis;
        stride = o.stride;
      }
    return axis;
  }

  // A node may have become several operators, as a Gemm a product and the addition of its bias. Those that have no axis of the rule's name are divided
  // along the same axis where they have it. False: none of the node's operators has one.
  bool follows_its_node(OpId id, const Prepared& p) {
    if (!std::holds_alternative<std::string>(p.rule->dim)) return false;
    for (const OpId other : p.only) {
      const Op& sibling = module_.ops[other];
      const int axis = axis_of(sibling, *p.rule);
      if (sibling.name != module_.ops[id].name || sibling.variant != module_.ops[id].variant || axis < 0) continue;
      const int64_t length = sibling.rule.axes[static_cast<size_t>(axis)].length;
      divide_by_request(id, p, {sibling.name, length, {{classes_.axis_range_class(other, axis, 1, length), length}}});
      return true;
    }
    return false;
  }

  void divide_by_dim(OpId id, const Prepared& p) {
    Op& op = module_.ops[id];
    const int axis = axis_of(op, *p.rule);
    std::string names;
    for (const Axis& each : op.rule.axes) names += (names.empty() ? "" : ", ") + each.name + " (" + std::to_string(each.length) + ")";
    if (axis < 0 && follows_its_node(id, p)) return;
    if (axis < 0) {
      diagnostics_.error(Code::cannot_split, p.rule->where, "operator " + quoted(op.name) + " has no axis of that name or dimension longer than 1",
                         "its axes are " + names, op.name);
      return;
    }
    const Axis& a = op.rule.axes[static_cast<size_t>(axis)];
    if (a.mark == Mark::frozen || a.mark == Mark::segment || (a.mark == Mark::decomposed && !definition(op.kind).decompose)) {
      diagnostics_.error(Code::cannot_split, p.rule->where, "operator " + quoted(op.name) + " cannot be divided along axis " + quoted(a.name),
                         "its axes are " + names, op.name);
      return;
    }
    std::vector<int64_t> units = classes_.axis_cuts(id, axis);
    for (int64_t& unit : units) unit = a.length / unit;
    std::sort(units.begin(), units.end());
    if (units.empty() || units.back() != a.length) units.push_back(a.length);
    if (units.front() == 1 && units.size() > 1) units.erase(units.begin());
    int64_t pieces = 1;
    for (const Division& division : p.divisions) pieces *= division.n;
    if (pieces > a.length) {
      diagnostics_.error(
          Code::too_many_pieces, p.rule->where,
          "cannot split axis " + quoted(a.name) + " (" + std::to_string(a.length) + " positions) into " + std::to_string(pieces) + " pieces",
          "use at most " + std::to_string(a.length) + ", " + even_divisors(a.length), op.name);
      return;
    }
    for (const Division& division : p.divisions)
      if (const auto cut = cut_of(id, division)) add_split(id, axis, {1, a.length}, division, *cut, a.length, units);
  }

  // Rules that name the backward pass or the update hold for those alone.
  void divide_by_phase(OpId id) {
    for (const Prepared& p : prepared_) {
      if (!p.rule->ops || !names_phase(p) || !p.only.contains(id)) continue;
      const Op& op = module_.ops[id];
      if (op.phase == Phase::update && op.kind != Kind::update) continue;   // norms follow
      if (op.phase == Phase::update && axis_of(op, *p.rule) < 0) continue;  // a parameter without this dimension
      if (op.phase == Phase::update && op.rule.axes[static_cast<size_t>(axis_of(op, *p.rule))].length < p.divisions[0].n) continue;
      divide_by_dim(id, p);
    }
  }

  // -- backward -----------------------------------------------------------------------------------------------------------------------------------

  void inherit(OpId id) { inherit_from(id, module_.ops[id].forward); }

  void inherit_from(OpId id, OpId from) {
    Op& op = module_.ops[id];
    if (!from.valid()) return;
    const Op& source = module_.ops[from];
    std::vector<int> renamed(source.splits.size(), -1);
    for (size_t s = 0; s < source.splits.size(); ++s) {
      for (size_t a = 0; a < op.rule.axes.size(); ++a) {
        const Axis& axis = op.rule.axes[a];
        if (axis.forward_axis != source.splits[s].axis || axis.length != source.rule.axes[static_cast<size_t>(axis.forward_axis)].length) continue;
        if (axis.mark == Mark::frozen || axis.mark == Mark::segment) continue;
        Split split = source.splits[s];
        split.axis = static_cast<int>(a);
        for (int& outer : split.outer) outer = renamed[static_cast<size_t>(outer)];
        renamed[s] = static_cast<int>(op.splits.size());
        op.splits.push_back(std::move(split));
        break;
      }
    }
  }

  // -- decomposition ------------------------------------------------------------------------------------------------------------------------------

  void decompose_all() {
    for (OpId id : std::vector<OpId>(module_.order)) {
      const Op op = module_.ops[id];
      bool needed = false;
      for (const Split& split : op.splits) needed |= op.rule.axes[static_cast<size_t>(split.axis)].mark == Mark::decomposed;
      if (needed) decompose(id, op);
    }
  }

  // The operator's place in the order is taken by the operators that it is made of; each inherits its splits through the axes it shares with it.
  void decompose(OpId id, const Op& op) {
    const auto definition_of = definition(op.kind).decompose;
    SSCC_CHECK(definition_of, "an operator with a % axis has a decomposed form");
    for (TensorId output : op.outputs)
      if (output.valid()) llvm::erase(module_.tensors[output].producers, id);
    const size_t before = module_.order.size();
    const int64_t first_tensor = module_.tensors.size();
    Builder builder(module_, {op.name, op.type, op.phase, id});
    definition_of(module_, op, builder);
    for (int64_t t = first_tensor; t < module_.tensors.size(); ++t) {
      module_.tensors[TensorId(t)].scope = op.scope;
      module_.tensors[TensorId(t)].variant = op.variant;
    }
    std::vector<OpId> added(module_.order.begin() + static_cast<std::ptrdiff_t>(before), module_.order.end());
    module_.order.resize(before);
    for (OpId each : added) {
      inherit_from(each, id);
      Op& made = module_.ops[each];
      made.scope = op.scope;
      made.variant = op.variant;
      made.stage = op.stage;
      made.placement = op.placement;
      made.on_host = op.on_host;
      made.layer = op.layer;
      made.roles = op.roles;
      made.overruled = op.overruled;
      made.absorbed = op.absorbed;
      made.forward = op.forward;
      for (Axis& axis : made.rule.axes)
        axis.forward_axis = axis.forward_axis < 0         ? -1
                            : op.phase == Phase::backward ? op.rule.axes[static_cast<size_t>(axis.forward_axis)].forward_axis
                                                          : -1;
    }
    auto at = module_.order.erase(std::find(module_.order.begin(), module_.order.end(), id));
    module_.order.insert(at, added.begin(), added.end());
  }

  void report_rounding() {
    for (const auto& [rule, ops] : rounded_) {
      const Op& first = module_.ops[*ops.begin()];
      diagnostics_.warning("rounded", Code::rounded, plan_.transform[static_cast<size_t>(rule)].where,
                           "pieces were rounded to the units that " + std::to_string(ops.size()) + " operators see, the first " + quoted(first.name),
                           "a number of pieces that divides their units avoids it", first.name);
    }
  }

  Module& module_;
  const Plan& plan_;
  Diagnostics& diagnostics_;
  AxisClasses classes_;
  std::vector<Prepared> prepared_;
  std::map<int, std::set<OpId>> rounded_;
};

}  // namespace

void divide(Module& module, const Plan& plan, Diagnostics& diagnostics) { Divider(module, plan, diagnostics).run(); }

}  // namespace sscc
