#include "test/equivalence/random_plan.h"

#include <algorithm>
#include <set>

namespace sscc::equivalence {
namespace {

std::string quote(const std::string& text) { return "\"" + text + "\""; }
std::string joined(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : ",\n    ") + item;
  return "[" + text + "]";
}

class Planner {
 public:
  Planner(const Module& module, Random& random) : module_(module), random_(random) {}

  RandomPlan run() {
    const int64_t axes = 1 + coin(2);
    int64_t devices = 1;
    for (int64_t a = 0; a < axes; ++a) {
      const int64_t length = devices < 4 ? 2 + coin(2) : 2;
      axes_.push_back({std::string(1, static_cast<char>('a' + a)), length});
      devices *= length;
    }
    devices_ = devices;
    plan_.mesh = mesh_of(axes_);
    const int64_t rules = 1 + coin(4);
    for (int64_t r = 0; r < rules; ++r) add_rule();
    switch (coin(7)) {
      case 0: stages(); break;
      case 1: places(); break;
      case 2: stages_of_their_own(); break;
      case 3:
      case 4: folded_stages(); break;
      default: break;
    }
    if (plan_.order.empty() && coin(4) == 0) add_before();
    if (coin(2) == 0) add_communication();
    if (plan_.assign.empty() && devices_ > 2 && coin(2) == 0) add_broadcast();
    if (coin(3) == 0) add_cluster();
    return std::move(plan_);
  }

 private:
  using Devices = std::vector<int64_t>;

  int64_t coin(int64_t n) { return below(random_, n); }

  using Axes = std::vector<std::pair<std::string, int64_t>>;
  static std::string mesh_of(const Axes& axes) {
    std::string text;
    for (const auto& [name, length] : axes) text += (text.empty() ? "" : ", ") + quote(name) + ": " + std::to_string(length);
    return "{" + text + "}";
  }

  std::string any_tensor() {
    std::vector<std::string> names;
    for (int64_t t = 0; t < module_.tensors.size(); ++t) {
      const Tensor& tensor = module_.tensors[TensorId(t)];
      for (size_t d = 0; d < tensor.shape.size(); ++d)
        if (tensor.shape[d] > 1) names.push_back(tensor.name + ":" + std::to_string(d));
    }
    return names.empty() ? "x0:0" : one_of(random_, names);
  }
  const Op& any_op() { return module_.ops[one_of(random_, module_.order)]; }

  std::string split() {
    const auto& [axis, length] = one_of(random_, axes_);
    switch (coin(10)) {
      case 0: {
        const std::string rotate = coin(3) == 0 ? ", \"rotate\": " + quote(axis) : "";
        if (coin(3) == 0) return "{\"time\": [" + std::to_string(1 + coin(3)) + ", " + std::to_string(1 + coin(3)) + "]" + rotate + "}";
        return "{\"time\": " + std::to_string(2 + coin(2)) + rotate + "}";
      }
      case 1: {
        std::string sizes;
        for (int64_t i = 0; i < length; ++i) sizes += (i ? ", " : "") + std::to_string(1 + coin(3));
        return "{\"over\": " + quote(axis) + ", \"sizes\": [" + sizes + "]}";
      }
      case 2:
        if (axes_.size() > 1) return coin(2) == 0 ? R"(["a", "b"])" : R"(["b", "a"])";
        [[fallthrough]];
      case 4: {  // every piece a chunk there and a chunk back, or a chunk and another at random
        std::string deal;
        const bool back = coin(2) == 0;
        for (int64_t i = 0; i < 2 * length; ++i)
          deal += (i ? ", " : "") + std::to_string(i < length ? i : back ? 2 * length - 1 - i : coin(static_cast<int>(length)));
        return "{\"over\": " + quote(axis) + ", \"deal\": [" + deal + "]}";
      }
      case 3: return coin(2) == 0 ? "[" + quote(axis) + R"(, {"time": 2}])" : R"([{"time": 2}, )" + quote(axis) + "]";
      default: return quote(axis);
    }
  }

  void add_store() {
    static const std::vector<std::string> what = {"parameters", "gradients", "state"};
    std::vector<std::string> names = {"*"};
    for (const Tensor& tensor : module_.tensors)
      if (tensor.role == Role::parameter) names.push_back(tensor.name);
    if (const int64_t where = coin(4); where < 2)
      return plan_.transform.push_back("{" + quote(one_of(random_, what)) + ": " + quote(one_of(random_, names)) +
                                       ", \"store\": " + (where == 0 ? one_place() : "\"host\"") + "}");
    const std::string axis = coin(4) == 0 && axes_.size() > 1 ? "[\"b\", \"a\"]" : quote(one_of(random_, axes_).first);
    const std::string more = coin(4) == 0 ? ", \"dim\": -1" : coin(3) == 0 ? ", \"gather\": \"step\"" : "";
    plan_.transform.push_back("{" + quote(one_of(random_, what)) + ": " + quote(one_of(random_, names)) + ", \"store\": {\"split\": " + axis + more +
                              "}}");
  }

  void add_rule() {
    if (coin(5) == 0) return add_store();
    if (coin(16) == 0)  // a second cut of the step, if the order makes one
      return plan_.transform.push_back(R"({"axis": "x0:1", "split": {"time": 2}})");
    if (coin(8) == 0) {
      plan_.transform.push_back("{\"ops\": {\"phase\": \"update\"}, \"dim\": \"d0\", \"split\": " + quote(one_of(random_, axes_).first) + "}");
    } else if (coin(4) == 0) {
      const Op& op = any_op();
      if (op.rule.axes.empty()) return;
      plan_.transform.push_back("{\"ops\": " + quote(op.name) + ", \"dim\": " + quote(one_of(random_, op.rule.axes).name) +
                                ", \"split\": " + split() + "}");
    } else {
      std::string within;
      if (coin(5) == 0) within = ", \"within\": " + quote(any_op().name);
      plan_.transform.push_back("{\"axis\": " + quote(any_tensor()) + ", \"split\": " + split() + within + "}");
    }
  }

  std::string cuts(int64_t stages) {
    const auto operators = static_cast<int64_t>(module_.order.size());
    std::set<size_t> at;  // apart, mostly
    for (int64_t tries = 0; tries < 8 && static_cast<int64_t>(at.size()) + 1 < stages; ++tries) at.insert(static_cast<size_t>(coin(operators)));
    std::string before;
    for (const size_t cut : at) before += (before.empty() ? "" : ", ") + quote(module_.ops[module_.order[cut]].name);
    return "\"cut_before\": [" + before + "]";
  }

  void stages() {
    const auto& [axis, length] = axes_[0];
    const std::string balance = coin(2) == 0 ? R"("balance": "flops")" : R"("balance": "bytes")";
    plan_.assign.push_back("{\"stages\": " + quote(axis) + ", " + (coin(4) == 0 ? balance : cuts(length)) + "}");
    order_stages(std::vector<int64_t>(static_cast<size_t>(length), devices_ / length));
  }

  // Into micro-batches, mostly of equal size; how many.
  int64_t cut_step() {
    const int64_t batch = module_.tensors[module_.inputs[0]].shape[0];
    const int64_t n = batch % 2 == 0 && coin(4) > 0 ? 2 : batch % 3 == 0 && coin(4) > 0 ? 3 : 2 + coin(3);
    std::string time = std::to_string(n);
    if (coin(4) == 0) {
      time = "[" + std::to_string(1 + coin(3));
      for (int64_t i = 1; i < n; ++i) time += ", " + std::to_string(1 + coin(3));
      time += "]";
    }
    plan_.transform.push_back("{\"axis\": \"x0:0\", \"split\": {\"time\": " + time + "}}");
    if (coin(8) > 0) return n;
    plan_.transform.push_back(R"({"axis": "x0:1", "split": {"time": 2}})");  // along two axes, where the model lets it
    return 2 * n;
  }

  // Several stages at a coordinate of the first axis: round and round, there and back, or anyhow; or stages at several coordinates, by turns.
  void folded_stages() {
    const auto& [axis, length] = axes_[0];
    const int64_t how = coin(6);
    if (how >= 3)  // an axis that fixes places divides nothing
      std::erase_if(plan_.transform, [&](const std::string& rule) { return rule.find(quote(axis)) != std::string::npos; });
    const int64_t count = how >= 4 ? 1 + coin(length) : length + 1 + coin(length);
    std::vector<std::vector<int64_t>> turns;  // the coordinates of each stage
    for (int64_t stage = 0; stage < count; ++stage) {
      const int64_t step = stage % (2 * length);
      turns.push_back({how == 0 ? stage % length : how == 1 ? std::min(step, 2 * length - 1 - step) : coin(length)});
      while (how >= 3 && coin(2) == 0) turns.back().push_back(coin(length));
    }
    std::string list;
    for (const std::vector<int64_t>& each : turns) {
      std::string inner;
      for (const int64_t c : each) inner += (inner.empty() ? "" : ", ") + std::to_string(c);
      list += (list.empty() ? "" : ", ") + (each.size() > 1 ? "[" + inner + "]" : inner);
    }
    const std::string place = how == 0 ? "" : how == 1 ? R"(, "place": "v")" : R"(, "place": [)" + list + "]";
    plan_.assign.push_back("{\"stages\": " + quote(axis) + ", " + cuts(count) + place + "}");
    if (how < 3 && coin(3) == 0) return;
    const int64_t n = cut_step();
    if (how >= 3 && coin(2) == 0) return order_by_name();
    std::vector<std::vector<Devices>> devices(static_cast<size_t>(count));
    for (size_t stage = 0; stage < turns.size(); ++stage)
      for (const int64_t c : turns[stage]) {
        Devices& here = devices[stage].emplace_back();
        for (int64_t d = 0; d < devices_; ++d)
          if (c == d / (devices_ / length)) here.push_back(d);
      }
    plan_.order = "{\"timetable\": " + timetable(devices, devices_, n) + "}";
  }

  void order_by_name() {
    static const std::vector<std::string> schedules = {"gpipe", "1f1b"};
    plan_.order = R"({"schedule": ")" + one_of(random_, schedules) + "\"}";
  }

  // Operators end before others begin: mostly in the order in which they stand, of both passes or within one, sometimes of named micro-batches.
  void add_before() {
    const auto operators = static_cast<int64_t>(module_.order.size());
    std::string edges;
    for (int64_t i = 0; i <= coin(3); ++i) {
      int64_t first = coin(operators), second = coin(operators);
      if (first > second && coin(4) > 0) std::swap(first, second);
      const int64_t phases = coin(4);
      edges += (edges.empty() ? "[" : ", [") + runs_of(first, phases == 1) + ", " + runs_of(second, phases < 2) + "]";
    }
    plan_.order = R"({"before": [)" + edges + "]}";
  }
  std::string runs_of(int64_t position, bool backward) {
    const std::string name = quote(module_.ops[module_.order[static_cast<size_t>(position)]].name);
    const std::string micro_batch = coin(3) == 0 ? ", \"micro_batch\": " + std::to_string(coin(3)) : "";
    if (!backward && micro_batch.empty()) return name;
    return "{\"name\": " + name + (backward ? ", \"phase\": \"backward\"" : "") + micro_batch + "}";
  }

  // Instead of the plan's mesh: each stage on its own, with the same names of axes and other lengths.
  void stages_of_their_own() {
    plan_.mesh = "";
    std::vector<int64_t> sizes;
    std::string places;
    int64_t first = 0;
    for (int64_t stage = 0; stage < 2 + coin(2); ++stage) {
      Axes mesh = axes_;
      int64_t size = 1;
      for (auto& [name, length] : mesh) size *= length = 1 + coin(3);
      if (size > 4) continue;
      places += (places.empty() ? "" : ", ") + ("{\"devices\": \"" + std::to_string(first) + ".." + std::to_string(first + size - 1)) +
                "\", \"mesh\": " + mesh_of(mesh) + "}";
      first += size;
      sizes.push_back(size);
    }
    if (sizes.empty()) return stages_of_their_own();
    plan_.assign.push_back("{\"stages\": [" + places + "], " + cuts(static_cast<int64_t>(sizes.size())) + "}");
    order_stages(sizes);
  }

  // `sizes`: how many devices each stage has.
  void order_stages(const std::vector<int64_t>& sizes) {
    if (coin(3) == 0) return;
    const int64_t n = cut_step();
    if (coin(3) > 0) return order_by_name();
    std::vector<std::vector<Devices>> devices;
    int64_t all = 0;
    for (const int64_t size : sizes) {
      Devices& here = devices.emplace_back(1).back();
      while (static_cast<int64_t>(here.size()) < size) here.push_back(all++);
    }
    plan_.order = "{\"timetable\": " + timetable(devices, all, n) + "}";
  }

  // Slots in any order in which each has what it needs: forwards from stage to stage, backwards the other way. `devices`: of each stage, by turns.
  std::string timetable(const std::vector<std::vector<Devices>>& devices, int64_t all, int64_t n) {
    const auto stages = static_cast<int64_t>(devices.size());
    std::vector<std::string> lists(static_cast<size_t>(all));
    std::vector<int64_t> done(static_cast<size_t>(n), 0);  // of 2 S slots of each micro-batch
    for (int64_t left = 2 * stages * n; left > 0; --left) {
      int64_t m = coin(n);
      while (done[static_cast<size_t>(m)] == 2 * stages) m = (m + 1) % n;
      const int64_t slot = done[static_cast<size_t>(m)]++;
      const bool is_forward = slot < stages;
      const int64_t stage = is_forward ? slot : 2 * stages - 1 - slot;
      const std::vector<Devices>& turns = devices[static_cast<size_t>(stage)];
      for (const int64_t d : turns[static_cast<size_t>(m) % turns.size()]) {
        std::string& list = lists[static_cast<size_t>(d)];
        list += (list.empty() ? "" : ", ") + quote(std::to_string(stage) + (is_forward ? "F" : "B") + std::to_string(m));
      }
    }
    std::string text;
    for (const std::string& list : lists) text += (text.empty() ? "[" : ", [") + list + "]";
    return "[" + text + "]";
  }

  // Any lowering that always fits, for all; then another for some: a phase, an axis, stages, a tensor.
  void add_communication() {
    static const std::vector<std::string> fit = {"p2p", "collective"}, may_fit = {"ring", "ring", "broadcast", "local_all_gather", "auto"};
    if (coin(2) == 0) plan_.communication.push_back("{\"lowering\": " + quote(one_of(random_, fit)) + "}");
    if (coin(2) == 0) return;
    static const std::vector<std::string> phases = {"forward", "backward", "wgrad", "update"};
    std::string which;
    switch (coin(5)) {
      case 0: which = "\"phase\": " + quote(one_of(random_, phases)) + ", "; break;
      case 1: which = "\"over\": " + quote(one_of(random_, axes_).first) + ", "; break;
      case 2: which = "\"over\": \"stages\", "; break;
      case 3: {
        const std::string tensor = any_tensor();
        which = "\"tensor\": " + quote(tensor.substr(0, tensor.rfind(':'))) + ", ";
        break;
      }
      default: break;
    }
    plan_.communication.push_back("{" + which + "\"lowering\": " + quote(one_of(random_, may_fit)) + "}");
  }

  // An operator on one device, whose result all others get from it.
  void add_broadcast() {
    const Op& op = any_op();
    plan_.assign.push_back("{\"ops\": " + quote(op.name) + ", \"on\": " + std::to_string(coin(devices_)) + "}");
    plan_.communication.push_back("{\"tensor\": " + quote(module_.tensors[op.outputs[0]].name) + R"(, "phase": "forward", "lowering": "broadcast"})");
  }

  // Nodes of two or three devices, often with links so slow between them that sums are joined within first.
  void add_cluster() {
    const int64_t node = 2 + coin(2), slower = coin(2) == 0 ? 1000 : 2;
    const auto level = [](int64_t devices, double rate) {
      return "{\"devices\": " + std::to_string(devices) + ", \"bytes_per_second\": " + std::to_string(rate) + ", \"latency_seconds\": 1e-9}";
    };
    plan_.cluster = R"({"version": 1, "device": {"flops_per_second": {"f32": 1e12}, "memory_bytes_per_second": 1e11}, "levels": [)" +
                    level(node, 1e10) + ", " + level(24 * node, 1e10 / static_cast<double>(slower)) + "]}";
  }

  void places() {
    const int64_t rules = 1 + coin(3);
    for (int64_t r = 0; r < rules; ++r) plan_.assign.push_back("{\"ops\": " + quote(any_op().name) + ", \"on\": " + place() + "}");
  }
  std::string place() {
    if (coin(8) > 0) return one_place();
    std::string list;  // one for each piece, if there are as many
    const int64_t pieces = one_of(random_, axes_).second;
    for (int64_t i = 0; i < pieces; ++i) list += (i > 0 ? ", " : "") + std::to_string(coin(devices_));
    return "[" + list + "]";
  }
  std::string one_place() {
    const auto& [axis, length] = one_of(random_, axes_);
    switch (coin(8)) {
      case 7: return "\"host\"";
      case 0: return "{" + quote(axis) + ": " + std::to_string(coin(length)) + "}";
      case 1: return "\"all\"";
      case 2: {
        const int64_t first = coin(devices_);
        return R"({"devices": ")" + std::to_string(first) + ".." + std::to_string(first + coin(devices_ - first)) + "\"}";
      }
      default: return std::to_string(coin(devices_));
    }
  }

  const Module& module_;
  Random& random_;
  RandomPlan plan_;
  Axes axes_;
  int64_t devices_ = 1;
};

}  // namespace

std::string RandomPlan::text() const {
  std::string text = "{\"version\": 1";
  if (!mesh.empty()) text += ",\n  \"mesh\": " + mesh;
  text += ",\n  \"transform\": " + joined(transform);
  if (!assign.empty()) text += ",\n  \"assign\": " + joined(assign);
  if (!order.empty()) text += ",\n  \"order\": " + order;
  if (!communication.empty()) text += ",\n  \"communication\": " + joined(communication);
  return text + "}\n";
}

RandomPlan random_plan(const Module& module, Random& random) { return Planner(module, random).run(); }

}  // namespace sscc::equivalence
