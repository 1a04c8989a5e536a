// Storage follows reading: a tensor without producers (parameter, constant, input) is at home on every device that reads it, with the regions read
// there. Its state is at home too, its gradient is joined where the state is, and there the update runs. `store` rules move one of the three: each home
// is divided further over devices that hold the same (dp = 2, w is 8 x 4):
//
//   nothing moved             w, gradient, state [0:8, 0:4] on both        all-reduce, both update all of it
//   state, or the update      w [0:8] on both, state [0:4] and [4:8]       reduce-scatter, update of a half, all-gather     (ZeRO-1)
//   and gradients             likewise, every micro-batch's part at once   reduce-scatter in every micro-batch              (ZeRO-2)
//   parameters                w [0:4] and [4:8] as well                    all-gather before use, nothing after the update  (ZeRO-3)
//
// A store at a place is on all devices of the place, divided over the mesh axes that divide it where it is read. "host" is a place beside: of what stays
// where other rules put it, in the memory of the processor there.
// The squared norms of gradients follow the updates, each element counted once.
//
// A parameter that is stored apart and read as a small float is rounded where it is stored, and the rounded one goes to those readers.
#include "compiler/passes/storage.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "compiler/ops/build.h"
#include "compiler/ops/ops.h"
#include "compiler/passes/places.h"
#include "compiler/support/check.h"
#include "compiler/support/strings.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

using Homes = std::vector<Home>;

// The k-th of n even shares of a list of positions, the first ones longer.
Intervals share(const Intervals& positions, int64_t k, int64_t n) {
  const int64_t length = positions.length();
  const int64_t base = length / n, longer = length % n;
  const int64_t begin = k * base + std::min(k, longer), end = begin + base + (k < longer ? 1 : 0);
  return positions.from_to(begin, end);
}

int32_t index_of(std::vector<Region>& regions, const Region& region) {
  auto it = std::find(regions.begin(), regions.end(), region);
  if (it == regions.end()) {
    regions.push_back(region);
    return static_cast<int32_t>(regions.size()) - 1;
  }
  return static_cast<int32_t>(it - regions.begin());
}

// Do all devices that differ from `device` in this mesh axis alone hold the same?
bool is_replicated_over(const Mesh& mesh, const Homes& homes, const Home& one, int mesh_axis) {
  if (!mesh.has(one.device)) return false;
  int64_t same = 0;
  for (const Home& home : homes) {
    bool in_line = mesh.has(home.device) && home.region == one.region;
    for (size_t a = 0; in_line && a < mesh.axes.size(); ++a)
      in_line =
          static_cast<int>(a) == mesh_axis || mesh.coordinate(home.device, static_cast<int>(a)) == mesh.coordinate(one.device, static_cast<int>(a));
    same += in_line;
  }
  return same == mesh.axes[static_cast<size_t>(mesh_axis)].length;
}

// Do devices that differ in this mesh axis alone hold something else?
bool is_divided_over(const Mesh& mesh, const Homes& homes, int mesh_axis) {
  std::map<std::vector<int64_t>, Region> by_others;  // the other coordinates -> what is held
  bool differs = false;
  for (const Home& home : homes) {
    if (!mesh.has(home.device)) return false;
    std::vector<int64_t> others;
    for (size_t a = 0; a < mesh.axes.size(); ++a)
      others.push_back(static_cast<int>(a) == mesh_axis ? 0 : mesh.coordinate(home.device, static_cast<int>(a)));
    differs |= !(by_others.try_emplace(others, home.region).first->second == home.region);
  }
  return differs;
}

// Homes divided further along a dimension over a mesh axis, where devices hold the same. Shares may be empty: such homes go.
Homes divided(const Mesh& mesh, Homes homes, int mesh_axis, size_t dim) {
  const Homes whole = homes;
  for (size_t h = 0; h < homes.size(); ++h) {
    if (!is_replicated_over(mesh, whole, whole[h], mesh_axis)) continue;
    Region& region = homes[h].region;
    region.set_dim(dim, share(region.dim(dim), mesh.coordinate(homes[h].device, mesh_axis), mesh.axes[static_cast<size_t>(mesh_axis)].length));
  }
  std::erase_if(homes, [](const Home& home) { return home.region.empty(); });
  return homes;
}

class Storage {
 public:
  Storage(Module& module, const Plan& plan) : module_(module), plan_(plan) {}

  void run() {
    find_readers();
    for (OpId id : module_.order)
      if (op(id).kind == Kind::update && is_loss_scale(op(id))) loss_scale_ = op(id).inputs[0];
    for (OpId id : std::vector<OpId>(module_.order))
      if (op(id).kind == Kind::update) place_update(id);  // the loss's scale comes last
    for (auto& [tensor, homes] : read_at_)
      if (module_.homes[tensor].empty()) module_.homes[tensor] = stored(tensor, StoreRule::What::parameters, homes);
    for (OpId id : module_.order) {
      Op& o = op(id);
      if (o.phase != Phase::update || o.kind == Kind::update) continue;
      if (const TensorId old = module_.tensors[o.outputs[0]].next_version_of; old.valid()) place_state(id, old);
      const TensorId parameter = module_.tensors[o.inputs[0]].gradient_of;
      if (!parameter.valid() || !updated_.contains(parameter)) continue;
      place_norm(o, updated_[parameter]);
      o.on_host |= is_moved_to_host(parameter, StoreRule::What::gradients);
    }
    for (const auto& [tensor, homes] : read_at_)
      if (rule_for(tensor, StoreRule::What::parameters)) round_at_home(tensor);
  }

 private:
  Op& op(OpId id) { return module_.ops[id]; }

  // Every device that reads a tensor, with the regions read there.
  void find_readers() {
    std::map<TensorId, std::map<int32_t, Home>> read;
    for (OpId id : module_.order) {
      const Op& o = op(id);
      if (o.phase == Phase::update) continue;
      for (size_t i = 0; i < o.inputs.size(); ++i) {
        if (!o.inputs[i].valid() || !module_.tensors[o.inputs[i]].producers.empty()) continue;
        mesh_.try_emplace(o.inputs[i], module_.placements[static_cast<size_t>(o.placement)].mesh);
        auto& by_device = read[o.inputs[i]];
        for (const Piece& piece : o.pieces) {
          const Region region = region_of(module_, o, static_cast<int>(i), piece);
          auto [it, fresh] = by_device.try_emplace(piece.device, Home{piece.device, region, o.on_host});
          if (fresh) continue;
          it->second.region = enclose(it->second.region, region);
          it->second.on_host &= o.on_host;
        }
      }
    }
    for (auto& [tensor, by_device] : read)
      for (auto& [device, home] : by_device) read_at_[tensor].push_back(std::move(home));
  }

  const Mesh& mesh_of(TensorId tensor) const {
    const auto it = mesh_.find(tensor);
    return module_.meshes[it == mesh_.end() ? 0 : static_cast<size_t>(it->second)];
  }

  static bool is_host(const StoreRule& rule) { return rule.place && rule.place->kind == Place::Kind::host; }
  // The last rule that moves this of a parameter to other devices, or, with `to_host`, to the processors beside them; none: it stays.
  const StoreRule* rule_for(TensorId parameter, StoreRule::What what, bool to_host = false) const {
    const StoreRule* last = nullptr;
    const Tensor& t = module_.tensors[parameter];
    if (t.role != Role::parameter || parameter == loss_scale_) return nullptr;
    for (const StoreRule& rule : plan_.stores)
      if (rule.what == what && is_host(rule) == to_host &&
          llvm::any_of(rule.names, [&](const std::string& glob) { return glob_match(glob, t.name); }))
        last = &rule;
    return last;
  }
  // A rule for parameters is one for gradients and state, unless those have their own.
  bool is_moved_to_host(TensorId parameter, StoreRule::What what) const {
    if (rule_for(parameter, what, true)) return true;
    return what != StoreRule::What::parameters && !rule_for(parameter, what) && rule_for(parameter, StoreRule::What::parameters, true);
  }

  Homes stored(TensorId parameter, StoreRule::What what, Homes homes) {
    homes = on_devices(parameter, what, std::move(homes));
    if (is_moved_to_host(parameter, what))
      for (Home& home : homes) home.on_host = true;
    return homes;
  }

  Homes on_devices(TensorId parameter, StoreRule::What what, Homes homes) {
    const StoreRule* rule = rule_for(parameter, what);
    if (!rule) return homes;
    if (rule->place) return moved_to(placement_at(module_, *rule->place, rule->place->where), parameter, homes);  // may bring a mesh along
    const Mesh& mesh = mesh_of(parameter);
    const size_t rank = module_.tensors[parameter].shape.size();
    if (rank == 0) return homes;
    for (const std::string& name : rule->mesh_axes) {
      const int axis = mesh.find(name);
      if (axis < 0 || homes.empty()) continue;
      homes = divided(mesh, homes, axis, dimension_for(*rule, homes[0].region, mesh.axes[static_cast<size_t>(axis)].length));
    }
    if (what == StoreRule::What::parameters) module_.tensors[parameter].gather_once = rule->gather_once;
    return homes;
  }

  // On every device of a place. What a mesh axis divides, it divides there, too, where the place has all of that axis; each device has all of the rest.
  Homes moved_to(const Placement& there, TensorId parameter, const Homes& homes) {
    const Mesh &from = mesh_of(parameter), &to = module_.meshes[static_cast<size_t>(there.mesh)];
    std::vector<std::pair<int, int>> dividing;  // axes of `from` and `to`
    for (size_t a = 0; a < from.axes.size(); ++a) {
      const int axis = static_cast<int>(a), other = to.find(from.axes[a].name);
      if (other < 0 || there.fixed.contains(other) || to.axes[static_cast<size_t>(other)] != from.axes[a]) continue;
      if (is_divided_over(from, homes, axis)) dividing.push_back({axis, other});
    }
    Homes result;
    for (const int32_t device : devices_at(to, there.fixed, 0)) {
      std::optional<Region> region;
      for (const Home& home : homes) {
        const bool is_part =
            llvm::all_of(dividing, [&](const auto& axes) { return from.coordinate(home.device, axes.first) == to.coordinate(device, axes.second); });
        if (is_part) region = region ? enclose(*region, home.region) : home.region;
      }
      if (region) result.push_back({device, *region});
    }
    return result;
  }

  // The rule's, else the first that is long enough for as many pieces.
  static size_t dimension_for(const StoreRule& rule, const Region& region, int64_t pieces) {
    if (rule.dim) return static_cast<size_t>(*rule.dim < 0 ? *rule.dim + static_cast<int64_t>(region.rank()) : *rule.dim);
    for (size_t d = 0; d < region.rank(); ++d)
      if (region.dim(d).length() >= pieces) return d;
    return 0;
  }

  // -- updates ------------------------------------------------------------------------------------------------------------------------------------

  void place_update(OpId id) {
    const TensorId parameter = op(id).inputs[0];
    Homes read = read_at_[parameter];
    if (is_loss_scale(op(id))) add_all_that_update(read);
    if (read.empty()) read.push_back({0, Region(module_.tensors[parameter].shape)});
    const Homes homes = stored(parameter, StoreRule::What::parameters, read);
    module_.homes[parameter] = homes;
    Homes updated = stored(parameter, StoreRule::What::state, rule_for(parameter, StoreRule::What::state) ? read : homes);
    const Placement there = module_.placements[static_cast<size_t>(op(id).placement)];
    if (there.where.line > 0) {  // a rule for the update's phase
      updated = moved_to(there, parameter, updated);
      for (Home& home : updated) home.on_host = is_moved_to_host(parameter, StoreRule::What::state);
    }
    const Mesh& mesh = module_.mesh_of(op(id));
    for (const Split& split : op(id).splits)
      if (split.mesh_axis >= 0) updated = divided(mesh, updated, split.mesh_axis, dimension_of(op(id), split.axis));
    op(id).splits.clear();
    place_at(id, updated);
    op(id).on_host |= llvm::all_of(updated, [](const Home& home) { return home.on_host; });
    for (const TensorId output : op(id).outputs)
      if (const TensorId old = module_.tensors[output].next_version_of; module_.tensors[old].role == Role::state) module_.homes[old] = updated;
    const bool to_host = is_moved_to_host(parameter, StoreRule::What::gradients);
    if (rule_for(parameter, StoreRule::What::gradients))
      join_in_each_micro_batch(id, stored(parameter, StoreRule::What::gradients, read), to_host);
    else if (to_host || rule_for(parameter, StoreRule::What::parameters))
      join_in_each_micro_batch(id, updated, to_host);
    updated_[parameter] = std::move(updated);
  }

  // State that the forward pass makes has its new value wherever it is at home.
  void place_state(OpId id, TensorId old) {
    Homes& homes = module_.homes[old];
    if (homes.empty()) homes.push_back({0, Region(module_.tensors[old].shape)});  // nobody reads it
    place_at(id, homes);
    op(id).on_host = llvm::all_of(homes, [](const Home& home) { return home.on_host; });
  }

  // The scale of the loss (f16) is read by everybody who updates something, and kept there.
  static bool is_loss_scale(const Op& o) { return std::get<UpdateAttributes>(o.attributes).rule.optimizer == rt::Optimizer::loss_scale; }
  void add_all_that_update(Homes& homes) const {
    for (const OpId id : module_.order) {
      if (module_.ops[id].kind != Kind::update) continue;
      for (const Piece& piece : module_.ops[id].pieces)
        if (llvm::none_of(homes, [&](const Home& home) { return home.device == piece.device; })) homes.push_back({piece.device, Region(Shape())});
    }
    llvm::sort(homes, [](const Home& a, const Home& b) { return a.device < b.device; });
  }

  void place_at(OpId id, const Homes& homes) {
    for (const Home& home : homes) {
      Piece piece;
      piece.device = home.device;
      piece.coordinates.push_back(index_of(op(id).storage, home.region));
      op(id).pieces.push_back(std::move(piece));
    }
  }

  static size_t dimension_of(const Op& o, int axis) {
    for (const Occurrence& occurrence : o.rule.occurrences)
      if (occurrence.axis == axis && occurrence.operand == 0) return static_cast<size_t>(occurrence.dim);
    SSCC_CHECK(false, "an update's axis is a dimension of its parameter");
  }

  // A gradient that is never kept whole: what a micro-batch makes is joined at once where the gradient lives, by an operator that adds it to what earlier
  // micro-batches left there. (A gradient that several stages, or the step's end, add to is joined when all have; with one micro-batch there is
  // nothing to add, and homes that do not make it do not run what does.) A stage that is held at several coordinates joins it at each of them.
  void join_in_each_micro_batch(OpId update, const Homes& homes, bool on_host) {
    const TensorId gradient = op(update).inputs[1];
    const auto producers = module_.tensors[gradient].producers;
    if (module_.cut.count == 1 || producers.empty()) return;
    std::vector<std::vector<OpId>> makers(static_cast<size_t>(module_.cut.variants));
    for (OpId maker : producers) {
      if (op(maker).scope != Scope::micro_batch || op(maker).stage != op(producers[0]).stage) return;
      makers[static_cast<size_t>(op(maker).variant)].push_back(maker);
    }
    std::vector<Homes> where;
    for (const std::vector<OpId>& variant : makers) {
      const Homes& here = where.emplace_back(homes_with(homes, variant));
      if (here.size() == homes.size()) continue;
      std::vector<Region> regions;
      for (const Home& home : here) regions.push_back(home.region);
      if (llvm::any_of(homes, [&](const Home& home) { return !cover(regions, home.region); })) return;
    }
    module_.tensors[gradient].producers.clear();
    for (size_t v = 0; v < makers.size(); ++v) join_at(gradient, makers[v], where[v], on_host);
  }

  // Homes on devices where one of these operators runs.
  Homes homes_with(const Homes& homes, const std::vector<OpId>& makers) const {
    std::set<int32_t> devices;
    for (const OpId maker : makers)
      for (const Piece& piece : module_.ops[maker].pieces) devices.insert(piece.device);
    Homes result;
    for (const Home& home : homes)
      if (devices.contains(home.device)) result.push_back(home);
    return result;
  }

  void join_at(TensorId gradient, const std::vector<OpId>& makers, const Homes& homes, bool on_host) {
    const int variant = op(makers[0]).variant;
    Tensor part = module_.tensors[gradient];
    part.name += " of a micro-batch" + (variant > 0 ? ":variant_" + std::to_string(variant) : std::string());
    part.scope = Scope::micro_batch;
    part.variant = variant;
    part.gradient_of = TensorId();
    part.producers.clear();
    part.producers.append(makers.begin(), makers.end());
    const TensorId made = module_.add_tensor(std::move(part));
    for (OpId maker : makers) std::replace(op(maker).outputs.begin(), op(maker).outputs.end(), gradient, made);

    size_t last = 0;
    for (size_t i = 0; i < module_.order.size(); ++i)
      if (llvm::is_contained(makers, module_.order[i])) last = i;
    Op& joined = insert_identity(op(makers[0]).name, Phase::backward, made, gradient, last + 1, homes);
    const Op& maker = op(makers[0]);
    joined.forward = maker.forward;
    joined.layer = maker.layer;
    joined.scope = Scope::micro_batch;
    joined.variant = variant;
    joined.stage = maker.stage;
    joined.placement = maker.placement;
    joined.on_host = on_host;
  }

  // One tensor becomes the other, element by element, at the homes. The operator has this position in the module's order.
  Op& insert_identity(const std::string& name, Phase phase, TensorId from, TensorId to, size_t position, const Homes& homes) {
    Builder(module_, {name, "Identity", phase, OpId()}).into(to).pointwise(Scalar::identity, {from});
    const OpId id = module_.order.back();
    module_.order.pop_back();
    module_.order.insert(module_.order.begin() + static_cast<std::ptrdiff_t>(position), id);
    place_at(id, homes);
    return op(id);
  }

  // -- small floats -------------------------------------------------------------------------------------------------------------------------------

  // The type in which a forward or backward operator may take a parameter: a table is looked up in either.
  DType type_for(const Op& reader, size_t input) const {
    if (reader.kind == Kind::gather) return module_.tensors[reader.outputs[0]].dtype;
    return operand_type(module_, reader, static_cast<int>(input));
  }

  void round_at_home(TensorId parameter) {
    const Tensor stored = module_.tensors[parameter];
    TensorId rounded;
    size_t first = 0;
    for (size_t at = 0; at < module_.order.size(); ++at) {
      Op& reader = op(module_.order[at]);
      for (size_t i = 0; i < reader.inputs.size() && reader.phase != Phase::update; ++i) {
        if (reader.inputs[i] != parameter || type_for(reader, i) == stored.dtype) continue;
        if (!rounded.valid()) {
          Tensor small;
          small.name = stored.name + ":rounded";
          small.dtype = type_for(reader, i);
          small.shape = stored.shape;
          small.rounded_from = parameter;
          rounded = module_.add_tensor(std::move(small));
          first = at;
        }
        reader.inputs[i] = rounded;
      }
    }
    if (!rounded.valid()) return;
    const Homes& homes = module_.homes[parameter];
    const std::string name = module_.tensors[parameter].name;
    const int stage = op(module_.order[first]).stage;
    Op& rounding = insert_identity(name, Phase::forward, parameter, rounded, first, homes);
    rounding.stage = stage;
    rounding.on_host = llvm::all_of(homes, [](const Home& home) { return home.on_host; });
  }

  // The sum of a gradient's squares counts every element once: disjoint regions, each on all devices that hold it.
  static void place_norm(Op& o, const Homes& homes) {
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

  Module& module_;
  const Plan& plan_;
  std::map<TensorId, Homes> read_at_;
  std::map<TensorId, int> mesh_;       // of the first reader
  TensorId loss_scale_;                // no rule of the plan means it
  std::map<TensorId, Homes> updated_;  // parameter -> where which region of it is updated
};

}  // namespace

void place_storage(Module& module, const Plan& plan) { Storage(module, plan).run(); }

}  // namespace sscc
