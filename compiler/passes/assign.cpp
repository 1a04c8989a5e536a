// op-assign: where every piece runs.
//
// A forward operator's place is a set of devices: the whole mesh, narrowed by the stage it is in and by the rules that select it. Each device
// takes the piece that its mesh coordinates name; devices that no split tells apart are replicas. Operators that depend on
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
#include "compiler/support/check.h"
#include "compiler/support/strings.h"
#include "llvm/ADT/DenseMap.h"

namespace sscc {
namespace {

using Devices = std::vector<int32_t>;

// Where one operator goes: fixed mesh coordinates, or devices by number (then the mesh's splits do not apply to it).
struct Placement {
  std::map<int, int64_t> fixed;  // mesh axis -> coordinate
  std::vector<Place> list;       // one place for each piece; empty: by coordinates
  const AssignRule* rule = nullptr;
};

class Assignment {
 public:
  Assignment(Module& module, const Plan& plan, Diagnostics& diagnostics) : module_(module), plan_(plan), diagnostics_(diagnostics) {}

  void run() {
    placements_.resize(static_cast<size_t>(module_.ops.size()));
    for (const AssignRule& rule : plan_.assign) {
      if (!rule.stages.empty()) assign_stages(rule);
      if (rule.ops) assign_operators(rule);
    }
    if (diagnostics_.has_errors()) return;
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
  Placement& placement(OpId id) { return placements_[static_cast<size_t>(id.index)]; }

  bool is_storage(TensorId id) const { return module_.tensors[id].producers.empty(); }

  // Forward operators in the model's order, without those that depend on parameters and constants alone.
  std::vector<OpId> staged_operators() {
    std::vector<OpId> result;
    for (OpId id : module_.order)
      if (op(id).phase == Phase::forward && !depends_on_parameters_alone(id)) result.push_back(id);
    return result;
  }

  bool depends_on_parameters_alone(OpId id) {
    if (alone_.empty()) {
      alone_.assign(static_cast<size_t>(module_.ops.size()), 0);
      for (OpId each : module_.order) {
        const Op& o = op(each);
        if (o.phase != Phase::forward) continue;
        bool alone = true;
        for (TensorId input : o.inputs) {
          const Tensor& t = module_.tensors[input];
          if (t.producers.empty()) alone &= t.role == Role::parameter || t.role == Role::constant;
          for (OpId producer : t.producers) alone &= alone_[static_cast<size_t>(producer.index)] != 0;
        }
        alone_[static_cast<size_t>(each.index)] = alone;
      }
    }
    return alone_[static_cast<size_t>(id.index)] != 0;
  }

  // -- stages -------------------------------------------------------------------------------------------------------------------------------------

  void assign_stages(const AssignRule& rule) {
    const int axis = module_.mesh.find(rule.stages);
    SSCC_CHECK(axis >= 0, "the plan reader knows the mesh");
    const std::vector<OpId> ops = staged_operators();
    const std::vector<size_t> cuts = rule.balance.empty() ? cuts_by_selectors(rule, ops) : cuts_by_balance(rule, ops);
    if (diagnostics_.has_errors()) return;
    const int64_t length = module_.mesh.axes[static_cast<size_t>(axis)].length;
    if (rule.stage_coordinates.size() != cuts.size() + 1) {
      diagnostics_.error(Code::stages_do_not_cover, rule.where,
                         std::to_string(cuts.size() + 1) + " stages do not fit " + std::to_string(rule.stage_coordinates.size()) +
                             " places over mesh axis '" + rule.stages + "' of length " + std::to_string(length),
                         "name one selector in 'cut_before' for each stage but the first");
      return;
    }
    for (size_t i = 0, stage = 0; i < ops.size(); ++i) {
      while (stage < cuts.size() && i >= cuts[stage]) ++stage;
      op(ops[i]).stage = static_cast<int>(stage);
      placement(ops[i]) = Placement{{{axis, rule.stage_coordinates[stage]}}, {}, &rule};
    }
  }

  // Stage k begins at the first operator, in the model's order, that the k-th selector matches.
  std::vector<size_t> cuts_by_selectors(const AssignRule& rule, const std::vector<OpId>& ops) {
    std::vector<size_t> cuts;
    for (const Selector& selector : rule.cut_before) {
      size_t at = 0;
      while (at < ops.size() && !selector.matches(module_, op(ops[at]))) ++at;
      if (at == ops.size()) {
        diagnostics_.error(Code::no_match, selector.where, "'cut_before' " + selector.text + " matches no operator of the forward pass");
      } else if (at == 0 || (!cuts.empty() && at <= cuts.back())) {
        diagnostics_.error(Code::stages_do_not_cover, selector.where,
                           "the stage that begins before " + quoted(op(ops[at]).name) + " leaves the stage before it without operators",
                           "name the cuts in the model's order", op(ops[at]).name);
      }
      cuts.push_back(at);
    }
    return cuts;
  }

  // Contiguous stages whose largest cost is least, cut where the fewest bytes cross if that leaves enough places to cut.
  std::vector<size_t> cuts_by_balance(const AssignRule& rule, const std::vector<OpId>& ops) {
    const size_t stages = rule.stage_coordinates.size();
    if (stages > ops.size()) {
      diagnostics_.error(Code::stages_do_not_cover, rule.where, std::to_string(stages) + " stages for " + std::to_string(ops.size()) + " operators");
      return {};
    }
    std::vector<int64_t> before(ops.size() + 1, 0);  // cost of the operators before a position
    for (size_t i = 0; i < ops.size(); ++i) before[i + 1] = before[i] + cost(op(ops[i]), rule.balance);
    const std::vector<int64_t> crossing = bytes_crossing(ops);
    int64_t narrowest = INT64_MAX;
    for (size_t i = 1; i < ops.size(); ++i) narrowest = std::min(narrowest, crossing[i]);
    std::vector<size_t> places;
    for (size_t i = 1; i < ops.size(); ++i)
      if (crossing[i] <= narrowest) places.push_back(i);
    if (places.size() + 1 < 2 * stages) {
      places.clear();
      for (size_t i = 1; i < ops.size(); ++i) places.push_back(i);
    }
    // Greedy under a bound, the bound by bisection.
    auto cuts_under = [&](int64_t bound) {
      std::vector<size_t> cuts;
      size_t start = 0;
      for (size_t p = 0; p < places.size(); ++p) {
        const size_t next = p + 1 < places.size() ? places[p + 1] : ops.size();
        if (before[next] - before[start] > bound && places[p] > start) {
          cuts.push_back(places[p]);
          start = places[p];
        }
      }
      return cuts;
    };
    int64_t low = 0, high = before.back();
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (cuts_under(middle).size() + 1 <= stages)
        high = middle;
      else
        low = middle + 1;
    }
    std::vector<size_t> cuts = cuts_under(low);
    for (size_t p = 0; cuts.size() + 1 < stages && p < places.size(); ++p)  // cheaper in fewer stages: fill up anywhere
      if (!std::binary_search(cuts.begin(), cuts.end(), places[p])) cuts.insert(std::upper_bound(cuts.begin(), cuts.end(), places[p]), places[p]);
    return cuts;
  }

  int64_t cost(const Op& o, const std::string& balance) {
    if (balance == "flops") return definition(o.kind).flops(module_, o);
    int64_t bytes = 0;
    for (TensorId input : o.inputs) {
      const Tensor& t = module_.tensors[input];
      if (t.role == Role::parameter) bytes += elements(t.shape) * static_cast<int64_t>(rt::size_of(t.dtype));
    }
    for (TensorId output : o.outputs)
      bytes += elements(module_.tensors[output].shape) * static_cast<int64_t>(rt::size_of(module_.tensors[output].dtype));
    return bytes;
  }

  // Bytes of activations made before position i and read at or after it.
  std::vector<int64_t> bytes_crossing(const std::vector<OpId>& ops) {
    std::map<TensorId, std::pair<size_t, size_t>> span;  // made at, last read at
    for (size_t i = 0; i < ops.size(); ++i) {
      for (TensorId input : op(ops[i]).inputs)
        if (auto it = span.find(input); it != span.end()) it->second.second = i;
      for (TensorId output : op(ops[i]).outputs) span.try_emplace(output, i, i);
    }
    std::vector<int64_t> change(ops.size() + 1, 0), result(ops.size() + 1, 0);
    for (const auto& [tensor, at] : span) {
      const int64_t bytes = elements(module_.tensors[tensor].shape) * static_cast<int64_t>(rt::size_of(module_.tensors[tensor].dtype));
      change[at.first + 1] += bytes;
      change[at.second + 1 <= ops.size() ? at.second + 1 : ops.size()] -= bytes;
    }
    for (size_t i = 1; i <= ops.size(); ++i) result[i] = result[i - 1] + change[i];
    return result;
  }

  // -- rules that name operators ------------------------------------------------------------------------------------------------------------------

  void assign_operators(const AssignRule& rule) {
    const std::vector<OpId> selected = rule.ops->select(module_);
    if (selected.empty()) diagnostics_.error(Code::no_match, rule.ops->where, "'ops' " + rule.ops->text + " matches no operator");
    for (OpId id : selected) {
      if (!rule.ops->phase && op(id).phase != Phase::forward) continue;  // the others follow
      Placement p;
      p.rule = &rule;
      if (rule.on.size() == 1 && rule.on[0].kind != Place::Kind::device) {
        for (const auto& [name, coordinate] : rule.on[0].coordinates) p.fixed[module_.mesh.find(name)] = coordinate;
      } else {
        p.list = rule.on;
      }
      placement(id) = std::move(p);
    }
  }

  // -- pieces -------------------------------------------------------------------------------------------------------------------------------------

  Devices devices_at(const std::map<int, int64_t>& fixed) {
    auto [it, fresh] = devices_cache_.try_emplace(fixed);
    if (fresh) {
      for (int64_t d = 0; d < module_.mesh.size(); ++d) {
        bool here = true;
        for (const auto& [axis, coordinate] : fixed) here &= module_.mesh.coordinate(d, axis) == coordinate;
        if (here) it->second.push_back(static_cast<int32_t>(d));
      }
    }
    return it->second;
  }

  // The distinct piece of one split that a device takes.
  int32_t mesh_coordinate(const Split& split, int32_t device) {
    const int64_t length = module_.mesh.axes[static_cast<size_t>(split.mesh_axis)].length;
    return static_cast<int32_t>(module_.mesh.coordinate(device, split.mesh_axis) * split.count / length);
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
            next.back().coordinates.push_back(split.mesh_axis < 0 ? static_cast<int32_t>(k) : mesh_coordinate(split, device));
          }
        here = std::move(next);
      }
      for (Piece& piece : here) o.pieces.push_back(std::move(piece));
    }
  }

  // "on": a list: piece i of the operator's splits in time, row-major, at place i. A place by number is a mesh of its own, so splits over the plan's
  // mesh leave the operator alone.
  void place_by_list(Op& o, const Placement& p) {
    std::erase_if(o.splits, [](const Split& split) { return split.mesh_axis >= 0; });
    int64_t count = 1;
    for (const Split& split : o.splits) count *= split.count;
    if (p.list.size() != 1 && static_cast<int64_t>(p.list.size()) != count) {
      diagnostics_.error(Code::no_place, p.rule->where,
                         "'on' lists " + std::to_string(p.list.size()) + " places, the operator has " + std::to_string(count) + " pieces",
                         "give one place, or one for each piece", o.name);
      return;
    }
    o.pieces.clear();
    for (int64_t i = 0; i < count; ++i) {
      const Place& place = p.list.size() == 1 ? p.list[0] : p.list[static_cast<size_t>(i)];
      Devices devices;
      if (place.kind == Place::Kind::device) {
        if (place.device < 0 || place.device >= module_.mesh.size()) {
          diagnostics_.error(Code::no_place, place.where, "device " + std::to_string(place.device) + " does not exist",
                             "the mesh has devices 0 to " + std::to_string(module_.mesh.size() - 1), o.name);
          return;
        }
        devices = {static_cast<int32_t>(place.device)};
      } else {
        std::map<int, int64_t> fixed;
        for (const auto& [name, coordinate] : place.coordinates) fixed[module_.mesh.find(name)] = coordinate;
        devices = devices_at(fixed);
      }
      for (int32_t device : devices) {
        Piece piece;
        piece.device = device;
        int64_t rest = i;
        for (size_t s = o.splits.size(); s-- > 0; rest /= o.splits[s].count)
          piece.coordinates.insert(piece.coordinates.begin(), static_cast<int32_t>(rest % o.splits[s].count));
        o.pieces.push_back(std::move(piece));
      }
    }
  }

  void place(OpId id) {
    Op& o = op(id);
    const Placement& p = placement(id);
    if (!p.list.empty()) return place_by_list(o, p);
    for (const Split& split : o.splits)
      if (split.mesh_axis >= 0 && p.fixed.contains(split.mesh_axis)) {
        const std::string& name = module_.mesh.axes[static_cast<size_t>(split.mesh_axis)].name;
        diagnostics_.error(Code::split_and_fixed, p.rule ? p.rule->where : Location{},
                           "mesh axis " + quoted(name) + " both divides operator " + quoted(o.name) + " and fixes its place",
                           split.rule >= 0 ? "restrict the transform rule at " + plan_.transform[static_cast<size_t>(split.rule)].where.pointer : "",
                           o.name);
        return;
      }
    place_on(o, devices_at(p.fixed));
  }

  void place_forward() {
    for (int64_t i = 0; i < module_.ops.size(); ++i) {  // replaced operators too: backward operators follow them
      const OpId id(i);
      if (op(id).phase == Phase::forward && !(depends_on_parameters_alone(id) && placement(id).rule == nullptr)) place(id);
    }
    // Readers first: what depends on parameters alone is wherever it is read.
    const auto readers = module_.consumers();
    for (auto it = module_.order.rbegin(); it != module_.order.rend(); ++it) {
      Op& o = op(*it);
      if (o.phase != Phase::forward || !depends_on_parameters_alone(*it) || placement(*it).rule != nullptr) continue;
      std::set<int32_t> devices;
      for (TensorId output : o.outputs)
        for (OpId reader : readers[static_cast<size_t>(output.index)])
          if (op(reader).phase == Phase::forward) {
            o.stage = op(reader).stage;
            for (const Piece& piece : op(reader).pieces) devices.insert(piece.device);
          }
      place_on(o, devices.empty() ? devices_at({}) : Devices(devices.begin(), devices.end()));
    }
  }

  // A backward operator has a piece wherever its forward operator has one, with the same coordinates of the splits that both have.
  void place_backward() {
    for (OpId id : module_.order) {
      Op& o = op(id);
      if (o.phase != Phase::backward) continue;
      if (placement(id).rule != nullptr) {
        place(id);
        continue;
      }
      SSCC_CHECK(o.forward.valid(), "a backward operator has a forward operator: " + o.name);
      const Op& f = op(o.forward);
      o.stage = f.stage;
      const bool by_number = !placement(o.forward).list.empty();
      if (by_number) std::erase_if(o.splits, [](const Split& split) { return split.mesh_axis >= 0; });
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
    for (const Split& split : update.splits) {
      if (split.mesh_axis < 0) continue;
      const MeshAxis& axis = module_.mesh.axes[static_cast<size_t>(split.mesh_axis)];
      const int dim = dimension_of(update, split.axis);
      for (Home& home : homes) {
        if (!is_replicated_over(module_.homes[parameter], home.device, split.mesh_axis)) continue;
        home.region.dim(static_cast<size_t>(dim)) =
            share(home.region.dim(static_cast<size_t>(dim)), module_.mesh.coordinate(home.device, split.mesh_axis), axis.length);
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
  bool is_replicated_over(const std::vector<Home>& homes, int32_t device, int mesh_axis) {
    const Region* mine = nullptr;
    int64_t same = 0;
    for (const Home& home : homes)
      if (home.device == device) mine = &home.region;
    for (const Home& home : homes) {
      bool in_line = true;
      for (size_t a = 0; a < module_.mesh.axes.size(); ++a)
        in_line &= static_cast<int>(a) == mesh_axis ||
                   module_.mesh.coordinate(home.device, static_cast<int>(a)) == module_.mesh.coordinate(device, static_cast<int>(a));
      if (in_line && mine && home.region == *mine) ++same;
    }
    return same == module_.mesh.axes[static_cast<size_t>(mesh_axis)].length;
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
    std::vector<bool> works(static_cast<size_t>(module_.mesh.size()), false);
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
    std::vector<double> repeated(module_.mesh.axes.size(), 0);
    std::vector<int64_t> operators(module_.mesh.axes.size(), 0);
    double total = 0;
    for (OpId id : module_.order) {
      const Op& o = op(id);
      if (o.phase != Phase::forward) continue;
      const double flops = static_cast<double>(definition(o.kind).flops(module_, o));
      total += flops;
      const Placement& p = placement(id);
      for (size_t a = 0; a < module_.mesh.axes.size(); ++a) {
        const bool divided = std::any_of(o.splits.begin(), o.splits.end(), [&](const Split& s) { return s.mesh_axis == static_cast<int>(a); });
        if (module_.mesh.axes[a].length > 1 && !divided && !p.fixed.contains(static_cast<int>(a)) && p.list.empty() && flops > 0) {
          repeated[a] += flops;
          ++operators[a];
        }
      }
    }
    for (size_t a = 0; a < repeated.size(); ++a)
      if (repeated[a] > 0) {
        char percent[32];
        snprintf(percent, sizeof percent, "%.1f", 100.0 * repeated[a] / total);
        diagnostics_.warning("replicated", Code::replicated, plan_.mesh_axis_where.at(a),
                             std::to_string(operators[a]) + " forward operators (" + percent +
                                 " % of the FLOPs) are repeated on every coordinate of mesh axis " + quoted(module_.mesh.axes[a].name));
      }
  }

  Module& module_;
  const Plan& plan_;
  Diagnostics& diagnostics_;
  std::vector<Placement> placements_;
  std::vector<char> alone_;
  std::map<std::map<int, int64_t>, Devices> devices_cache_;
};

}  // namespace

void assign(Module& module, const Plan& plan, Diagnostics& diagnostics) { Assignment(module, plan, diagnostics).run(); }

}  // namespace sscc
