// Layers and roles, from structure alone.
//
// Layers: the operators in order as a text of signatures (type and rank); the longest stretch in which signature i equals signature i + p for a
// period p is the repeated block. The stretch often reaches a little over both ends (the last operator of a layer looks like the embedding's); the
// boundaries are put where each block begins with the fewest values crossing that several operators read: the residual stream.
#include <algorithm>
#include <map>
#include <set>

#include "compiler/passes/passes.h"

namespace sscc {
namespace {

class Blocks {
 public:
  explicit Blocks(Module& module) : module_(module), ops_(module.order) {
    for (OpId id : ops_) {
      const Op& op = module.ops[id];
      signatures_.push_back(op.type + "/" + std::to_string(static_cast<int>(op.kind)) + "/" +
                            std::to_string(op.outputs.empty() ? 0 : module.tensors[op.outputs[0]].shape.size()));
    }
  }

  void find_layers() {
    const size_t n = ops_.size();
    size_t best_cover = 0, best_begin = 0, best_period = 0;
    for (size_t p = 4; p <= n / 2 && p <= 4096; ++p) {
      size_t run = 0;
      for (size_t i = 0; i + p < n; ++i) {
        run = signatures_[i] == signatures_[i + p] ? run + 1 : 0;
        const size_t repeats = run / p + 1;
        if (repeats < 2) continue;
        const size_t cover = repeats * p;
        if (cover > best_cover) {
          best_cover = cover;
          best_period = p;
          best_begin = i + 1 - run;
        }
      }
    }
    if (best_period == 0) return;
    // The whole stretch, and the best phase in it.
    size_t end = best_begin + best_period;
    while (end < n && signatures_[end] == signatures_[end - best_period]) ++end;
    const size_t repeats = (end - best_begin) / best_period;
    const std::vector<int> crossing = stream_crossing();
    size_t phase = 0;
    int least = INT32_MAX;
    for (size_t shift = 0; best_begin + shift + repeats * best_period <= end; ++shift) {
      int sum = 0;
      for (size_t r = 0; r < repeats; ++r) sum += crossing[best_begin + shift + r * best_period];
      if (sum < least) {
        least = sum;
        phase = shift;
      }
    }
    for (size_t i = 0; i < repeats * best_period; ++i) module_.ops[ops_[best_begin + phase + i]].layer = static_cast<int>(i / best_period);
  }

  void find_roles() {
    const auto readers = module_.consumers();
    std::vector<size_t> residuals;
    std::map<TensorId, size_t> made;
    for (size_t i = 0; i < ops_.size(); ++i) {
      Op& op = module_.ops[ops_[i]];
      for (const TensorId output : op.outputs) made[output] = i;
      if (op.kind == Kind::gather && module_.tensors[op.inputs[0]].role == Role::parameter) op.roles.push_back("embedding");
      if (op.kind == Kind::norm) op.roles.push_back("norm");
      if (op.type == "SoftmaxCrossEntropyLoss") op.roles.push_back("loss");
      if (is_residual(op, readers)) {
        op.roles.push_back("residual");
        residuals.push_back(i);
      }
    }
    for (size_t r = 0, begin = 0; r < residuals.size(); begin = residuals[r++] + 1) {
      begin = std::max(begin, beginning_of_branch(residuals[r], made));
      int contractions = 0;
      bool normalises = false;
      for (size_t i = begin; i < residuals[r]; ++i) {
        contractions += module_.ops[ops_[i]].kind == Kind::contract;
        normalises |= module_.ops[ops_[i]].kind == Kind::softmax;
      }
      if (contractions < 2) continue;
      for (size_t i = begin; i < residuals[r]; ++i)
        if (module_.ops[ops_[i]].kind != Kind::norm) module_.ops[ops_[i]].roles.push_back(normalises ? "attention" : "mlp");
    }
    // The head: the last contraction, behind all blocks.
    for (size_t i = ops_.size(); i-- > 0;) {
      Op& op = module_.ops[ops_[i]];
      if (op.kind != Kind::contract) continue;
      if (residuals.empty() || i > residuals.back()) op.roles.push_back("head");
      break;
    }
  }

 private:
  // Behind the operator that makes what the residual addition adds to: the earlier of its operands.
  size_t beginning_of_branch(size_t residual, const std::map<TensorId, size_t>& made) const {
    size_t begin = residual;
    for (const TensorId input : module_.ops[ops_[residual]].inputs) {
      const auto at = made.find(input);
      begin = std::min(begin, at == made.end() ? 0 : at->second + 1);
    }
    return begin;
  }

  // Values alive between operator i-1 and i; a single one that only one operator reads is not yet a stream.
  std::vector<int> stream_crossing() const {
    std::map<TensorId, std::vector<size_t>> reads;
    std::map<TensorId, size_t> made;
    for (size_t i = 0; i < ops_.size(); ++i) {
      for (TensorId input : module_.ops[ops_[i]].inputs)
        if (made.contains(input)) reads[input].push_back(i);
      for (TensorId output : module_.ops[ops_[i]].outputs) made[output] = i;
    }
    std::vector<int> crossing(ops_.size() + 1, 0), shared(ops_.size() + 1, 0);
    for (const auto& [tensor, at] : reads)
      for (size_t i = made[tensor] + 1; i <= at.back() && i - made[tensor] < 8192; ++i) {
        ++crossing[i];
        size_t later = 0;
        for (size_t read : at) later += read >= i;
        shared[i] += later > 1;
      }
    for (size_t i = 0; i < crossing.size(); ++i) crossing[i] = 2 * crossing[i] + (shared[i] == 0);
    return crossing;
  }

  bool is_residual(const Op& op, const std::vector<llvm::SmallVector<OpId, 2>>& readers) const {
    const auto* a = std::get_if<PointwiseAttributes>(&op.attributes);
    if (!a || a->function != Scalar::add || op.inputs.size() != 2) return false;
    bool branches = false;
    for (TensorId input : op.inputs) {
      const Tensor& t = module_.tensors[input];
      if (t.role == Role::parameter || t.role == Role::constant || t.shape != module_.tensors[op.outputs[0]].shape) return false;
      branches |= readers[static_cast<size_t>(input.index)].size() > 1;
    }
    return branches;
  }

  Module& module_;
  const std::vector<OpId> ops_;
  std::vector<std::string> signatures_;
};

}  // namespace

void find_blocks(Module& module) {
  for (OpId id : module.order) {
    module.ops[id].layer = -1;
    module.ops[id].roles.clear();
  }
  Blocks blocks(module);
  blocks.find_layers();
  blocks.find_roles();
}

}  // namespace sscc
