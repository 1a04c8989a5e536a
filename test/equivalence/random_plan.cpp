#include "test/equivalence/random_plan.h"

#include <algorithm>

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
    plan_.mesh = "{";
    for (const auto& [name, length] : axes_) plan_.mesh += (plan_.mesh.size() > 1 ? ", " : "") + quote(name) + ": " + std::to_string(length);
    plan_.mesh += "}";
    const int64_t rules = 1 + coin(4);
    for (int64_t r = 0; r < rules; ++r) add_rule();
    switch (coin(4)) {
      case 0: stages(); break;
      case 1: places(); break;
      default: break;
    }
    return std::move(plan_);
  }

 private:
  int64_t coin(int64_t n) { return below(random_, n); }

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
    switch (coin(6)) {
      case 0: return "{\"time\": " + std::to_string(2 + coin(2)) + "}";
      case 1: {
        std::string sizes;
        for (int64_t i = 0; i < length; ++i) sizes += (i ? ", " : "") + std::to_string(1 + coin(3));
        return "{\"over\": " + quote(axis) + ", \"sizes\": [" + sizes + "]}";
      }
      case 2:
        if (axes_.size() > 1) return "[\"a\", \"b\"]";
        [[fallthrough]];
      default: return quote(axis);
    }
  }

  void add_rule() {
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

  void stages() {
    const auto& [axis, length] = axes_[0];
    std::vector<size_t> cuts;
    for (int64_t s = 1; s < length; ++s) cuts.push_back(static_cast<size_t>(coin(static_cast<int64_t>(module_.order.size()))));
    std::sort(cuts.begin(), cuts.end());
    std::string before;
    for (const size_t cut : cuts) before += (before.empty() ? "" : ", ") + quote(module_.ops[module_.order[cut]].name);
    plan_.assign.push_back("{\"stages\": " + quote(axis) + ", \"cut_before\": [" + before + "]}");
    if (coin(3) == 0) return;
    plan_.transform.push_back("{\"axis\": \"x0:0\", \"split\": {\"time\": " + std::to_string(2 + coin(2)) + "}}");
    plan_.order = coin(2) == 0 ? "{\"schedule\": \"gpipe\"}" : "{\"schedule\": \"1f1b\"}";
  }

  void places() {
    const int64_t rules = 1 + coin(3);
    for (int64_t r = 0; r < rules; ++r)
      plan_.assign.push_back("{\"ops\": " + quote(any_op().name) + ", \"on\": " + std::to_string(coin(devices_)) + "}");
  }

  const Module& module_;
  Random& random_;
  RandomPlan plan_;
  std::vector<std::pair<std::string, int64_t>> axes_;
  int64_t devices_ = 1;
};

}  // namespace

std::string RandomPlan::text() const {
  std::string text = "{\"version\": 1,\n  \"mesh\": " + mesh + ",\n  \"transform\": " + joined(transform);
  if (!assign.empty()) text += ",\n  \"assign\": " + joined(assign);
  if (!order.empty()) text += ",\n  \"order\": " + order;
  return text + "}\n";
}

RandomPlan random_plan(const Module& module, Random& random) { return Planner(module, random).run(); }

}  // namespace sscc::equivalence
