// op-assign: where every piece runs.
//
// A forward operator's placement (places.h) is a set of devices: a mesh, narrowed by what is fixed of it. Each device takes the piece that its mesh
// coordinates name; devices that no split tells apart are replicas. Operators that depend on
// parameters and constants alone go with their readers, on all of their devices. Backward operators follow their forward
// operator piece by piece.
//
// Storage follows reading: a tensor without producers (parameter, constant, input) is at home on every device that reads it, with the
// regions read there. Updates, and the squared norms of gradients, follow the home of their parameter; a split of an update divides
// each home further over devices that hold the same (ZeRO-1).
#include <algorithm>
#include <map>
#include <set>

#include "compiler/ops/ops.h"
#include "compiler/passes/passes.h"
#include "compiler/passes/places.h"
#include "compiler/support/check.h"
#include "compiler/support/strings.h"
#include "llvm/ADT/DenseMap.h"

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
    find_homes();
    place_updates();
    check_every_rank_works();
    report_replication();
  }

 private:
  Op& op(OpId id) { return module_.ops[id]; }
  const Placement& placement(const Op& o) const { return module_.placements[static_cast<size_t>(o.placement)]; }

  bool is_storage(TensorId id) const { return module_.tensors[id].producers.empty(); }

  // -- pieces -------------------------------------------------------------------------------------------------------------------------------------

  const Devices& devices_of(const Placement& p) {
    auto [it, fresh] = devices_cache_.try_emplace({p.mesh, p.fixed});
    if (fresh) it->second = devices_at(module_.meshes[static_cast<size_t>(p.mesh)], p.fixed);
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
        for (const Piece& piece : here)
          for (int64_t k = 0; k < (split.mesh_axis < 0 ? split.count : 1); ++k) {
            next.push_back(piece);
            next.back().coordinates.push_back(split.mesh_axis < 0 ? static_cast<int32_t>(k) : mesh_coordinate(o, split, device));
          }
        here = std::move(next);
      }
      for (Piece& piece : here) o.pieces.push_back(std::move(piece));
    }
  }

  // "on": a list: piece i of the operator's splits, row-major, at place i, instead of where the mesh would put it. A list for the pieces in time alone
  // takes the operator off the mesh: its axes then divide nothing.
  void place_by_list(Op& o, const Placement& p) {
    const auto count_pieces = [&] {
      size_t count = 1;
      for (const Split& split : o.splits) count *= static_cast<size_t>(split.count);
      return count;
    };
    const size_t all = count_pieces();
    if (p.lists.size() != all) std::erase_if(o.splits, [](const Split& split) { return split.mesh_axis >= 0; });
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
    place_on(o, devices_of(p));
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
      place_on(o, devices.empty() ? devices_of(placement(o)) : Devices(devices.begin(), devices.end()));
    }
  }

  // A backward operator has a piece wherever its forward operator has one, with the same coordinates of the splits that both have.
  void place_backward() {
    for (OpId id : module_.order) {
      Op& o = op(id);
      if (o.phase != Phase::backward) continue;
      SSCC_CHECK(o.forward.valid(), "a backward operator has a forward operator: " + o.name);
      const Op& f = op(o.forward);
      if (o.placement != f.placement) {  // by a rule for its phase
        place(id);
        continue;
      }
      const bool is_off_the_mesh =
          !placement(f).lists.empty() && std::none_of(f.splits.begin(), f.splits.end(), [](const Split& split) { return split.mesh_axis >= 0; });
      if (is_off_the_mesh) std::erase_if(o.splits, [](const Split& split) { return split.mesh_axis >= 0; });
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

  // -- storage and updates ------------------------------------------------------------------------------------------------------------------------

  static void enclose(Region& region, const Region& other) {
    for (size_t d = 0; d < region.rank(); ++d) region.dim(d) = unite(region.dim(d), other.dim(d));
  }

  void find_homes() {
    std::map<TensorId, std::map<int32_t, Region>> read;
    for (OpId id : module_.order) {
      const Op& o = op(id);
      if (o.phase == Phase::update) continue;
      for (size_t i = 0; i < o.inputs.size(); ++i) {
        if (!o.inputs[i].valid() || !is_storage(o.inputs[i])) continue;
        auto& by_device = read[o.inputs[i]];
        for (const Piece& piece : o.pieces) {
          const Region region = region_of(module_, o, static_cast<int>(i), piece);
          auto [it, fresh] = by_device.try_emplace(piece.device, region);
          if (!fresh) enclose(it->second, region);
        }
      }
    }
    for (auto& [tensor, by_device] : read)
      for (auto& [device, region] : by_device) module_.homes[tensor].push_back({device, region});
  }

  // The regions of a parameter's home, divided further by the splits of its update.
  std::vector<Home> update_homes(const Op& update) {
    const TensorId parameter = update.inputs[0];
    std::vector<Home> homes = module_.homes[parameter];
    if (homes.empty()) homes.push_back({0, Region(module_.tensors[parameter].shape)});
    const Mesh& mesh = module_.mesh_of(update);
    for (const Split& split : update.splits) {
      if (split.mesh_axis < 0) continue;
      const MeshAxis& axis = mesh.axes[static_cast<size_t>(split.mesh_axis)];
      const int dim = dimension_of(update, split.axis);
      for (Home& home : homes) {
        if (!is_replicated_over(mesh, module_.homes[parameter], home.device, split.mesh_axis)) continue;
        home.region.dim(static_cast<size_t>(dim)) =
            share(home.region.dim(static_cast<size_t>(dim)), mesh.coordinate(home.device, split.mesh_axis), axis.length);
      }
    }
    std::erase_if(homes, [](const Home& home) { return home.region.empty(); });
    return homes;
  }

  static int dimension_of(const Op& o, int axis) {
    for (const Occurrence& occurrence : o.rule.occurrences)
      if (occurrence.axis == axis && occurrence.operand == 0) return occurrence.dim;
    SSCC_CHECK(false, "an update's axis is a dimension of its parameter");
  }

  // Do all devices that differ from `device` in this mesh axis alone hold the same?
  static bool is_replicated_over(const Mesh& mesh, const std::vector<Home>& homes, int32_t device, int mesh_axis) {
    if (!mesh.has(device)) return false;
    const Region* mine = nullptr;
    int64_t same = 0;
    for (const Home& home : homes)
      if (home.device == device) mine = &home.region;
    for (const Home& home : homes) {
      bool in_line = mesh.has(home.device);
      for (size_t a = 0; in_line && a < mesh.axes.size(); ++a)
        in_line =
            static_cast<int>(a) == mesh_axis || mesh.coordinate(home.device, static_cast<int>(a)) == mesh.coordinate(device, static_cast<int>(a));
      if (in_line && mine && home.region == *mine) ++same;
    }
    return same == mesh.axes[static_cast<size_t>(mesh_axis)].length;
  }

  // The k-th of n even shares of a list of positions, the first ones longer.
  static Intervals share(const Intervals& positions, int64_t k, int64_t n) {
    const int64_t length = positions.length();
    const int64_t base = length / n, longer = length % n;
    const int64_t begin = k * base + std::min(k, longer), end = begin + base + (k < longer ? 1 : 0);
    llvm::SmallVector<Interval, 2> result;
    int64_t seen = 0;
    for (const Interval& each : positions.list()) {
      const int64_t from = std::max(begin, seen), to = std::min(end, seen + each.length());
      if (from < to) result.push_back({each.begin + from - seen, each.begin + to - seen});
      seen += each.length();
    }
    return Intervals(result);
  }

  static int32_t index_of(std::vector<Region>& regions, const Region& region) {
    auto it = std::find(regions.begin(), regions.end(), region);
    if (it == regions.end()) {
      regions.push_back(region);
      return static_cast<int32_t>(regions.size()) - 1;
    }
    return static_cast<int32_t>(it - regions.begin());
  }

  void place_updates() {
    std::map<TensorId, std::vector<Home>> updated;  // parameter -> where which region of it is updated
    for (OpId id : module_.order) {
      Op& o = op(id);
      if (o.kind != Kind::update) continue;
      const std::vector<Home> homes = update_homes(o);
      updated[o.inputs[0]] = homes;
      if (module_.homes[o.inputs[0]].empty()) module_.homes[o.inputs[0]] = homes;
      for (TensorId input : o.inputs)
        if (module_.tensors[input].role == Role::state) module_.homes[input] = homes;
      o.splits.clear();
      for (const Home& home : homes) {
        Piece piece;
        piece.device = home.device;
        piece.coordinates.push_back(index_of(o.storage, home.region));
        o.pieces.push_back(std::move(piece));
      }
    }
    std::vector<OpId> scalars;  // the norm, its square root, the clipping factor
    for (OpId id : module_.order) {
      Op& o = op(id);
      if (o.phase != Phase::update || o.kind == Kind::update) continue;
      const TensorId parameter = module_.tensors[o.inputs[0]].gradient_of;
      if (parameter.valid() && updated.contains(parameter))
        place_norm(o, updated[parameter]);
      else
        scalars.push_back(id);
    }
    std::set<int32_t> everywhere;  // every rank that updates something has them: cheap, and ranks stay alike
    for (const auto& [parameter, homes] : updated)
      for (const Home& home : homes) everywhere.insert(home.device);
    for (OpId id : scalars) place_on(op(id), Devices(everywhere.begin(), everywhere.end()));
  }

  // The sum of a gradient's squares counts every element once: disjoint regions, each on all devices that hold it.
  void place_norm(Op& o, const std::vector<Home>& homes) {
    std::vector<Region> distinct;
    for (const Home& home : homes) index_of(distinct, home.region);
    for (const Region& region : distinct) {
      llvm::SmallVector<Region, 4> rest = {region};
      for (const Region& taken : std::vector<Region>(o.storage)) {
        llvm::SmallVector<Region, 4> next;
        for (const Region& r : rest)
          for (Region& left : subtract(r, taken)) next.push_back(std::move(left));
        rest = std::move(next);
      }
      for (Region& r : rest) o.storage.push_back(std::move(r));
    }
    for (size_t r = 0; r < o.storage.size(); ++r)
      for (const Home& home : homes)
        if (home.region.contains(o.storage[r])) {
          Piece piece;
          piece.device = home.device;
          piece.coordinates.push_back(static_cast<int32_t>(r));
          o.pieces.push_back(std::move(piece));
        }
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
      if (o.phase != Phase::forward) continue;
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
  std::map<std::pair<int, std::map<int, int64_t>>, Devices> devices_cache_;
};

}  // namespace

void assign(Module& module, const Plan& plan, Diagnostics& diagnostics) { Assignment(module, plan, diagnostics).run(); }

}  // namespace sscc
