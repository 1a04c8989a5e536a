// Where operators may run, before they are divided: stages are cut, and every forward operator gets its placement. The last rule that names an operator
// holds.
#include "compiler/passes/places.h"

#include <algorithm>
#include <map>
#include <set>

#include "compiler/ops/ops.h"
#include "compiler/support/check.h"
#include "compiler/support/strings.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

int mesh_index(Module& module, const Mesh& mesh) {
  std::vector<Mesh>& meshes = module.meshes;
  const auto known = std::find(meshes.begin() + 1, meshes.end(), mesh);
  if (known != meshes.end()) return static_cast<int>(known - meshes.begin());
  meshes.push_back(mesh);
  return static_cast<int>(meshes.size()) - 1;
}

class Placer {
 public:
  Placer(Module& module, const Plan& plan, Diagnostics& diagnostics) : module_(module), plan_(plan), diagnostics_(diagnostics) {}

  void run() {
    for (const AssignRule& rule : plan_.assign) {
      if (rule.is_stages) assign_stages(rule);
      if (rule.ops) assign_operators(rule);
    }
    if (!diagnostics_.has_errors()) place_followers();
  }

 private:
  Op& op(OpId id) { return module_.ops[id]; }

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
    const int axis = module_.meshes[0].find(rule.stages);
    SSCC_CHECK(axis >= 0 || !rule.stage_places.empty(), "the plan reader knows the mesh");
    const std::vector<OpId> ops = staged_operators();
    const std::vector<size_t> cuts = rule.balance.empty() ? cuts_by_selectors(rule, ops) : cuts_by_balance(rule, ops);
    if (diagnostics_.has_errors()) return;
    const size_t stages = std::max(rule.stage_coordinates.size(), rule.stage_places.size());
    if (stages != cuts.size() + 1) {
      const std::string over =
          axis < 0 ? ""
                   : " over mesh axis '" + rule.stages + "' of length " + std::to_string(module_.meshes[0].axes[static_cast<size_t>(axis)].length);
      diagnostics_.error(Code::stages_do_not_cover, rule.where,
                         std::to_string(cuts.size() + 1) + " stages do not fit " + std::to_string(stages) + " places" + over,
                         "name one selector in 'cut_before' for each stage but the first");
      return;
    }
    std::vector<int> placements;
    for (size_t k = 0; k < stages; ++k) {
      Placement placement;
      if (axis < 0)
        placement = placement_at(module_, rule.stage_places[k], rule.stage_places[k].where);
      else
        placement.fixed = {{axis, rule.stage_coordinates[k]}};
      if (placement.where.file.empty()) placement.where = rule.where;
      placements.push_back(add(std::move(placement)));
    }
    for (size_t i = 0, stage = 0; i < ops.size(); ++i) {
      while (stage < cuts.size() && i >= cuts[stage]) ++stage;
      op(ops[i]).stage = static_cast<int>(stage);
      op(ops[i]).placement = placements[stage];
      placed_.insert(ops[i]);
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
    const size_t stages = std::max(rule.stage_coordinates.size(), rule.stage_places.size());
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
    std::vector<OpId> selected = rule.ops->select(module_);
    if (selected.empty()) diagnostics_.error(Code::no_match, rule.ops->where, "'ops' " + rule.ops->text + " matches no operator");
    if (!rule.ops->phase) llvm::erase_if(selected, [&](OpId id) { return op(id).phase != Phase::forward; });  // the others follow
    const bool on_host = rule.on[0].kind == Place::Kind::host;
    for (OpId id : selected) {
      op(id).on_host = on_host;
      if (on_host && op(id).phase == Phase::backward) on_host_by_a_rule_.insert(id);
    }
    if (on_host) return;  // the device is the one that other rules give
    const bool is_list = rule.on.size() > 1;
    if (is_list && llvm::any_of(selected, [&](OpId id) { return op(id).phase == Phase::update; })) {
      diagnostics_.error(Code::unsupported, rule.where, "a list of places for the pieces of updates is not supported by this version of sscc",
                         "divide their state: {\"state\": .., \"store\": {\"split\": ..}}");
      return;
    }
    Placement placement;
    if (!is_list) placement = placement_at(module_, rule.on[0], rule.where);
    placement.where = rule.where;
    if (is_list)
      for (const Place& place : rule.on) placement.lists.push_back(devices_of(place));
    const int index = add(std::move(placement));
    for (OpId id : selected) {
      op(id).placement = index;
      placed_.insert(id);
    }
  }

  // -- placements ---------------------------------------------------------------------------------------------------------------------------------

  int add(Placement placement) {
    module_.placements.push_back(std::move(placement));
    return static_cast<int>(module_.placements.size()) - 1;
  }

  std::vector<int32_t> devices_of(const Place& place) {
    const Placement placement = placement_at(module_, place, {});
    return devices_at(module_.meshes[static_cast<size_t>(placement.mesh)], placement.fixed, 0);
  }

  // Operators that depend on parameters and constants alone, and have no place of their own, are with their readers: divided with them if those are on
  // one mesh.
  void place_followers() {
    const auto readers = module_.consumers();
    std::map<int, int> with_readers;  // by mesh; -1: of several
    for (auto it = module_.order.rbegin(); it != module_.order.rend(); ++it) {
      Op& o = op(*it);
      if (o.phase != Phase::forward || !depends_on_parameters_alone(*it) || placed_.contains(*it)) continue;
      std::set<int> meshes, stages;
      for (TensorId output : o.outputs)
        for (OpId reader : readers[static_cast<size_t>(output.index)])
          if (op(reader).phase == Phase::forward) {
            stages.insert(op(reader).stage);
            meshes.insert(module_.placements[static_cast<size_t>(op(reader).placement)].mesh);
          }
      if (!stages.empty()) o.stage = *stages.begin();  // no stage waits for a later one
      const int mesh = meshes.empty() ? 0 : meshes.size() == 1 ? *meshes.begin() : -1;
      auto [known, fresh] = with_readers.try_emplace(mesh, 0);
      if (fresh) {
        Placement placement;
        placement.with_readers = true;
        placement.mesh = mesh >= 0 ? mesh : mesh_index(module_, Mesh());  // a mesh without axes: nothing is divided
        known->second = add(std::move(placement));
      }
      o.placement = known->second;
    }
    // Gradients go with their forward operator, updates with the first reader of their parameter; a rule for their phase comes last.
    for (OpId id : module_.order) {
      Op& o = op(id);
      const bool is_placed = placed_.contains(id);
      if (o.phase == Phase::backward && o.forward.valid()) {
        o.stage = op(o.forward).stage;
        if (!is_placed) {
          o.on_host = op(o.forward).on_host || on_host_by_a_rule_.contains(id);
          o.placement = op(o.forward).placement;
        }
      }
      if (o.kind != Kind::update) continue;
      for (OpId reader : readers[static_cast<size_t>(o.inputs[0].index)])
        if (op(reader).phase == Phase::forward) {
          if (!is_placed) o.placement = mesh_placement(module_.placements[static_cast<size_t>(op(reader).placement)].mesh);
          o.stage = op(reader).stage;
          break;
        }
    }
  }

  // The whole of a mesh.
  int mesh_placement(int mesh) {
    if (mesh == 0) return 0;
    auto [it, fresh] = whole_.try_emplace(mesh, 0);
    if (fresh) {
      Placement placement;
      placement.mesh = mesh;
      it->second = add(std::move(placement));
    }
    return it->second;
  }

  Module& module_;
  const Plan& plan_;
  Diagnostics& diagnostics_;
  std::vector<char> alone_;
  std::set<OpId> placed_;             // by a rule
  std::set<OpId> on_host_by_a_rule_;  // backward operators
  std::map<int, int> whole_;          // mesh -> its placement
};

}  // namespace

void find_places(Module& module, const Plan& plan, Diagnostics& diagnostics) { Placer(module, plan, diagnostics).run(); }

Placement placement_at(Module& module, const Place& place, const Location& where) {
  Placement placement;
  placement.where = where;
  if (place.kind == Place::Kind::devices) placement.mesh = mesh_index(module, place.mesh);
  for (const auto& [name, coordinate] : place.coordinates) placement.fixed[module.meshes[0].find(name)] = {coordinate};
  return placement;
}

std::vector<int32_t> devices_at(const Mesh& mesh, const Fixed& fixed, std::optional<int> turn) {
  std::vector<int32_t> devices;
  for (int64_t i = 0; i < mesh.size(); ++i) {
    const int32_t device = mesh.device(i);
    bool here = true;
    for (const auto& [axis, coordinates] : fixed) {
      const int64_t mine = mesh.coordinate(device, axis);
      here &= turn ? coordinates[static_cast<size_t>(*turn) % coordinates.size()] == mine : llvm::is_contained(coordinates, mine);
    }
    if (here) devices.push_back(device);
  }
  return devices;
}

}  // namespace sscc
