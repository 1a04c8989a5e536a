// op-assign: where every piece runs.
//
// A forward operator's placement (places.h) is a set of devices: a mesh, narrowed by what is fixed of it. Each device takes the piece that its mesh
// coordinates name; devices that no split tells apart are replicas. Operators that depend on
// parameters and constants alone go with their readers, on all of their devices. Backward operators follow their forward
// operator piece by piece.
// Where parameters, gradients and state live, and with them the updates, is in storage.cpp.
#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "compiler/ops/ops.h"
#include "compiler/passes/passes.h"
#include "compiler/passes/places.h"
#include "compiler/passes/storage.h"
#include "compiler/support/check.h"
#include "compiler/support/strings.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

using Devices = std::vector<int32_t>;

class Assignment {
 public:
  Assignment(Module& module, const Plan& plan, Diagnostics& diagnostics) : module_(module), plan_(plan), diagnostics_(diagnostics) {}

  void run() {
    place_forward();
    place_backward();
    if (diagnostics_.has_errors()) return;
    place_storage(module_, plan_);
    place_scalars_of_updates();
    check_every_rank_works();
    report_replication();
  }

 private:
  Op& op(OpId id) { return module_.ops[id]; }
  static bool has_turns(const Placement& p) {
    return llvm::any_of(p.fixed, [](const auto& each) { return each.second.size() > 1; });
  }
  const Placement& placement(const Op& o) const { return module_.placements[static_cast<size_t>(o.placement)]; }

  // -- pieces -------------------------------------------------------------------------------------------------------------------------------------

  // Of a stage that is held at several coordinates: what runs for a micro-batch is where it is its turn, what runs once a step at all of them.
  const Devices& devices_of(const Op& o) {
    const Placement& p = placement(o);
    const bool takes_turns = o.scope == Scope::micro_batch || module_.cut.count == 1;
    const std::optional<int> turn = takes_turns ? std::optional(static_cast<int>(module_.cut.first_of(o.variant))) : std::nullopt;
    auto [it, fresh] = devices_cache_.try_emplace({p.mesh, p.fixed, turn});
    if (fresh) it->second = devices_at(module_.meshes[static_cast<size_t>(p.mesh)], p.fixed, turn);
    return it->second;
  }

  // The distinct piece of one split that a device takes.
  int32_t mesh_coordinate(const Op& o, const Split& split, int32_t device) {
    const Mesh& mesh = module_.mesh_of(o);
    return static_cast<int32_t>(mesh.coordinate(device, split.mesh_axis) * split.count / mesh.axes[static_cast<size_t>(split.mesh_axis)].length);
  }

  // All pieces of an operator on the given devices: one a device, times its local pieces in time.
  void place_on(Op& o, const Devices& devices) {
    o.pieces.clear();
    for (int32_t device : devices) {
      std::vector<Piece> here(1);
      here[0].device = device;
      for (const Split& split : o.splits) {
        std::vector<Piece> next;
        const int64_t first = split.rotate < 0 ? 0 : module_.mesh_of(o).coordinate(device, split.rotate);
        for (const Piece& piece : here)
          for (int64_t k = 0; k < (split.mesh_axis < 0 ? split.count : 1); ++k) {
            next.push_back(piece);
            next.back().coordinates.push_back(split.mesh_axis < 0 ? static_cast<int32_t>((first + k) % split.count)
                                                                  : mesh_coordinate(o, split, device));
          }
        here = std::move(next);
      }
      o.pieces.reserve(devices.size() * here.size());
      for (Piece& piece : here) o.pieces.push_back(std::move(piece));
    }
  }

  // Its axes divide nothing any more, but in time.
  static void take_off_the_mesh(Op& o) {
    std::erase_if(o.splits, [](const Split& split) { return split.mesh_axis >= 0; });
  }

  // Is every piece of the operator's splits somewhere?
  static bool has_all_pieces(const Op& o) {
    size_t all = 1;
    for (const Split& split : o.splits) all *= static_cast<size_t>(split.count);
    std::set<std::vector<int32_t>> placed;
    for (const Piece& piece : o.pieces) placed.emplace(piece.coordinates.begin(), piece.coordinates.end());
    return placed.size() == all;
  }

  // "on": a list: piece i of the operator's splits, row-major, at place i, instead of where the mesh would put it. A list for the pieces in time alone
  // takes the operator off the mesh: its axes then divide nothing, unless the pieces in time are pieces of what they divide.
  void place_by_list(Op& o, const Placement& p) {
    const auto count_pieces = [&] {
      size_t count = 1;
      for (const Split& split : o.splits) count *= static_cast<size_t>(split.count);
      return count;
    };
    const size_t all = count_pieces();
    const auto is_pieces_of = [](const Split& inner, const Split& outer) {
      return inner.mesh_axis < 0 && outer.mesh_axis >= 0 && inner.axis == outer.axis;
    };
    bool nests = false;
    for (size_t s = 0; s < o.splits.size(); ++s)
      for (size_t outer = 0; outer < s; ++outer) nests |= is_pieces_of(o.splits[s], o.splits[outer]);
    if (p.lists.size() != all && !nests) take_off_the_mesh(o);
    const size_t count = count_pieces();
    if (p.lists.size() != count) {
      diagnostics_.error(Code::no_place, p.where,
                         "'on' lists " + std::to_string(p.lists.size()) + " places, the operator has " + std::to_string(all) + " pieces",
                         "give one place, or one for each piece", o.name);
      return;
    }
    o.pieces.clear();
    for (size_t i = 0; i < count; ++i)
      for (const int32_t device : p.lists[i]) {
        Piece piece;
        piece.device = device;
        size_t rest = i;
        for (size_t s = o.splits.size(); s-- > 0; rest /= static_cast<size_t>(o.splits[s].count))
          piece.coordinates.insert(piece.coordinates.begin(), static_cast<int32_t>(rest % static_cast<size_t>(o.splits[s].count)));
        o.pieces.push_back(std::move(piece));
      }
  }

  void place(OpId id) {
    Op& o = op(id);
    const Placement& p = placement(o);
    if (!p.lists.empty()) return place_by_list(o, p);
    for (const Split& split : o.splits)
      if (split.mesh_axis >= 0 && p.fixed.contains(split.mesh_axis)) {
        const std::string& name = module_.mesh_of(o).axes[static_cast<size_t>(split.mesh_axis)].name;
        diagnostics_.error(
            Code::split_and_fixed, p.where, "mesh axis " + quoted(name) + " both divides operator " + quoted(o.name) + " and fixes its place",
            split.rule >= 0 ? "restrict the transform rule at " + plan_.transform[static_cast<size_t>(split.rule)].where.pointer : "", o.name);
        return;
      }
    place_on(o, devices_of(o));
  }

  void place_forward() {
    for (int64_t i = 0; i < module_.ops.size(); ++i) {  // replaced operators too: backward operators follow them
      const OpId id(i);
      if (op(id).phase == Phase::forward && !placement(op(id)).with_readers) place(id);
    }
    // Readers first: what depends on parameters alone is wherever it is read.
    const auto readers = module_.consumers();
    for (auto it = module_.order.rbegin(); it != module_.order.rend(); ++it) {
      Op& o = op(*it);
      if (o.phase != Phase::forward || !placement(o).with_readers) continue;
      std::set<int32_t> devices;
      for (TensorId output : o.outputs)
        for (OpId reader : readers[static_cast<size_t>(output.index)])
          if (op(reader).phase == Phase::forward)
            for (const Piece& piece : op(reader).pieces) devices.insert(piece.device);
      const Devices places = devices.empty() ? devices_of(o) : Devices(devices.begin(), devices.end());
      place_on(o, places);
      if (!has_all_pieces(o)) {  // readers are on too few devices for each to have the piece of its coordinates
        o.splits.clear();
        made_whole_.insert(*it);
        place_on(o, places);
      }
    }
    for (int64_t i = 0; i < module_.ops.size(); ++i) {  // what was replaced is where the makers of its results are
      Op& o = op(OpId(i));
      if (o.phase != Phase::forward || !placement(o).with_readers || !o.pieces.empty()) continue;
      std::set<int32_t> devices;
      for (TensorId output : o.outputs)
        for (OpId maker : module_.tensors[output].producers)
          for (const Piece& piece : op(maker).pieces) devices.insert(piece.device);
      place_on(o, Devices(devices.begin(), devices.end()));
    }
  }

  // A backward operator has a piece wherever its forward operator has one, with the same coordinates of the splits that both have.
  void place_backward() {
    for (OpId id : module_.order) {
      Op& o = op(id);
      if (o.phase != Phase::backward) continue;
      SSCC_CHECK(o.forward.valid(), "a backward operator has a forward operator: " + o.name);
      const Op& f = op(o.forward);
      const bool by_a_rule = o.placement != f.placement;  // for its phase
      if (by_a_rule || (o.scope == Scope::step && f.scope == Scope::micro_batch && has_turns(placement(o)))) {
        place(id);
        continue;
      }
      const bool is_off_the_mesh =
          !placement(f).lists.empty() && std::none_of(f.splits.begin(), f.splits.end(), [](const Split& split) { return split.mesh_axis >= 0; });
      if (is_off_the_mesh) take_off_the_mesh(o);
      if (made_whole_.contains(o.forward)) o.splits.clear();
      std::vector<int> forward_split;
      for (const Split& split : o.splits) {
        int found = -1;
        for (size_t s = 0; s < f.splits.size(); ++s)
          if (f.splits[s].rule == split.rule && f.splits[s].mesh_axis == split.mesh_axis &&
              o.rule.axes[static_cast<size_t>(split.axis)].forward_axis == f.splits[s].axis)
            found = static_cast<int>(s);
        forward_split.push_back(found);
      }
      if (std::find(forward_split.begin(), forward_split.end(), -1) != forward_split.end()) {  // a rule for this phase alone
        std::set<int32_t> devices;
        for (const Piece& piece : f.pieces) devices.insert(piece.device);
        place_on(o, Devices(devices.begin(), devices.end()));
        continue;
      }
      std::set<std::pair<int32_t, std::vector<int32_t>>> seen;
      for (const Piece& piece : f.pieces) {
        std::vector<int32_t> coordinates;
        for (int s : forward_split) coordinates.push_back(piece.coordinates[static_cast<size_t>(s)]);
        if (!seen.emplace(piece.device, coordinates).second) continue;
        Piece mine;
        mine.device = piece.device;
        mine.coordinates.append(coordinates.begin(), coordinates.end());
        o.pieces.push_back(std::move(mine));
      }
    }
  }

  // The norm, its square root, the clipping factor: on every rank that updates something. They are cheap, and ranks stay alike.
  void place_scalars_of_updates() {
    std::set<int32_t> everywhere;
    for (OpId id : module_.order)
      if (op(id).kind == Kind::update)
        for (const Piece& piece : op(id).pieces) everywhere.insert(piece.device);
    for (OpId id : module_.order)
      if (op(id).phase == Phase::update && op(id).pieces.empty()) place_on(op(id), Devices(everywhere.begin(), everywhere.end()));
  }

  // -- what the plan's author should know ---------------------------------------------------------------------------------------------------------

  void check_every_rank_works() {
    std::vector<bool> works(static_cast<size_t>(module_.devices()), false);
    for (OpId id : module_.order)
      for (const Piece& piece : op(id).pieces) works[static_cast<size_t>(piece.device)] = true;
    for (size_t d = 0; d < works.size(); ++d)
      if (!works[d]) {
        diagnostics_.error(Code::idle_rank, plan_.assign.empty() ? Location{plan_.file, 1, 1, ""} : plan_.assign[0].where,
                           "rank " + std::to_string(d) + " has nothing to run", "make the mesh smaller, or assign it an operator");
        return;
      }
  }

  // FLOPs that a mesh axis repeats, a warning for each axis.
  void report_replication() {
    struct Repeated {
      double flops = 0;
      int64_t operators = 0;
      Location where;
    };
    std::map<std::pair<int, int>, Repeated> repeated;  // by mesh and axis
    double total = 0;
    for (OpId id : module_.order) {
      const Op& o = op(id);
      if (o.phase != Phase::forward || o.variant > 0 || !o.storage.empty()) continue;
      const double flops = static_cast<double>(definition(o.kind).flops(module_, o));
      total += flops;
      const Placement& p = placement(o);
      const Mesh& mesh = module_.mesh_of(o);
      for (size_t a = 0; a < mesh.axes.size(); ++a) {
        const int axis = static_cast<int>(a);
        const bool divided = std::any_of(o.splits.begin(), o.splits.end(), [&](const Split& s) { return s.mesh_axis == axis; });
        if (mesh.axes[a].length == 1 || divided || p.fixed.contains(axis) || !p.lists.empty() || flops == 0) continue;
        Repeated& here = repeated[{p.mesh, axis}];
        here.flops += flops;
        ++here.operators;
        if (here.where.file.empty()) here.where = p.where;
      }
    }
    for (const auto& [key, what] : repeated) {
      const auto [mesh, axis] = key;
      char percent[32];
      snprintf(percent, sizeof percent, "%.1f", 100.0 * what.flops / total);
      const bool is_named = mesh == 0 && static_cast<size_t>(axis) < plan_.mesh_axis_where.size();
      diagnostics_.warning("replicated", Code::replicated, is_named ? plan_.mesh_axis_where[static_cast<size_t>(axis)] : what.where,
                           std::to_string(what.operators) + " forward operators (" + percent +
                               " % of the FLOPs) are repeated on every coordinate of mesh axis " +
                               quoted(module_.meshes[static_cast<size_t>(mesh)].axes[static_cast<size_t>(axis)].name));
    }
  }

  Module& module_;
  const Plan& plan_;
  Diagnostics& diagnostics_;
  std::map<std::tuple<int, Fixed, std::optional<int>>, Devices> devices_cache_;
  std::set<OpId> made_whole_;  // divided by no rule any more
};

}  // namespace

void assign(Module& module, const Plan& plan, Diagnostics& diagnostics) {
  Assignment(module, plan, diagnostics).run();
  if (!diagnostics.has_errors()) tabulate_pieces(module);
}

}  // namespace sscc
