#include "compiler/passes/form_buckets.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <tuple>

#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

using How = Delivery::How;

constexpr int64_t full_bytes = 25 << 20;

class Buckets {
 public:
  explicit Buckets(Module& module)
      : module_(module), position_(static_cast<size_t>(module.ops.size()), -1), segment_(static_cast<size_t>(module.ops.size()), -1) {
    for (size_t i = 0; i < module.order.size(); ++i) position_[static_cast<size_t>(module.order[i].index)] = static_cast<int64_t>(i);
    for (size_t s = 0; s < module.segments.size(); ++s)
      for (const OpId id : module.segments[s].ops) segment_[static_cast<size_t>(id.index)] = static_cast<int>(s);
    for (const Delivery& delivery : module.deliveries) ++deliveries_of_[delivery.tensor];
  }

  void run() {
    std::vector<size_t> early, late;
    for (size_t d = 0; d < module_.deliveries.size(); ++d) {
      if (!is_candidate(module_.deliveries[d])) continue;
      if (is_ready(module_.deliveries[d])) early.push_back(d);
      if (can_wait(module_.deliveries[d])) late.push_back(d);
    }
    llvm::stable_sort(early, [&](size_t a, size_t b) { return made_at(a) < made_at(b); });
    std::vector<std::vector<size_t>> in_order = filled(early), others = filled(late);
    llvm::stable_sort(in_order, [&](const auto& a, const auto& b) { return made_at(a.back()) < made_at(b.back()); });
    llvm::erase_if(others, [](const std::vector<size_t>& bucket) { return bucket.size() == 1; });
    llvm::move(others, std::back_inserter(in_order));
    for (size_t number = 0; number < in_order.size(); ++number)
      for (const size_t d : in_order[number]) module_.deliveries[d].bucket = static_cast<int>(number);
  }

 private:
  int64_t position(OpId id) const { return position_[static_cast<size_t>(id.index)]; }

  // The last operator that makes a share of it.
  int64_t made_at(size_t d) const {
    int64_t last = -1;
    for (const Message& message : module_.deliveries[d].messages)
      for (const Contribution& c : message.contributions) last = std::max(last, position(c.op));
    return last;
  }

  bool is_candidate(const Delivery& delivery) const {
    const SegmentKind kind = module_.segments[static_cast<size_t>(delivery.segment)].kind;
    const bool is_collective = delivery.how == How::all_reduce || delivery.how == How::all_gather || delivery.how == How::reduce_scatter;
    return is_collective && (kind == SegmentKind::prologue || kind == SegmentKind::epilogue);
  }

  // Is all of it there when the segment begins?
  bool is_ready(const Delivery& delivery) const {
    if (!delivery.before.valid()) return false;
    const auto is_made_before = [&](const Contribution& c) { return c.op.valid() && segment_[static_cast<size_t>(c.op.index)] != delivery.segment; };
    return llvm::all_of(delivery.messages, [&](const Message& message) { return llvm::all_of(message.contributions, is_made_before); });
  }

  // Does nobody need it before the segment's end, no other delivery of the tensor either?
  bool can_wait(const Delivery& delivery) const {
    const auto is_made = [](const Contribution& c) { return c.op.valid(); };
    return !delivery.before.valid() && deliveries_of_.at(delivery.tensor) == 1 &&
           llvm::all_of(delivery.messages, [&](const Message& message) { return llvm::all_of(message.contributions, is_made); });
  }

  // Of deliveries, in their order.
  std::vector<std::vector<size_t>> filled(const std::vector<size_t>& list) const {
    struct Open {
      size_t bucket = 0;
      int64_t bytes = 0;
    };
    std::vector<std::vector<size_t>> buckets;
    std::map<std::tuple<int, How, std::vector<int32_t>, DType, Join>, Open> open;
    for (const size_t d : list) {
      const Delivery& delivery = module_.deliveries[d];
      const Tensor& tensor = module_.tensors[delivery.tensor];
      const int64_t bytes = delivery.region.elements() * static_cast<int64_t>(rt::size_of(tensor.dtype));
      auto [it, fresh] = open.try_emplace({delivery.segment, delivery.how, llvm::ArrayRef(delivery.devices).vec(), tensor.dtype, tensor.join});
      if (fresh || it->second.bytes + bytes > full_bytes) {
        it->second = {buckets.size(), 0};
        buckets.emplace_back();
      }
      buckets[it->second.bucket].push_back(d);
      it->second.bytes += bytes;
    }
    return buckets;
  }

  Module& module_;
  std::vector<int64_t> position_;  // by operator
  std::vector<int> segment_;       // by operator
  std::map<TensorId, int> deliveries_of_;
};

}  // namespace

void form_buckets(Module& module) { Buckets(module).run(); }

}  // namespace sscc
