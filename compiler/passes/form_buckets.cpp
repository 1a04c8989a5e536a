#include "compiler/passes/form_buckets.h"

#include <algorithm>
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
    llvm::stable_sort(early, [&](size_t a, size_t b) { return position(module_.deliveries[a].before) < position(module_.deliveries[b].before); });
    fill(early);
    fill(late);
  }

 private:
  int64_t position(OpId id) const { return position_[static_cast<size_t>(id.index)]; }

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

  // In the order of `list`.
  void fill(const std::vector<size_t>& list) {
    struct Bucket {
      size_t first = 0;
      int number = -1;  // none before it has a second member
      int64_t bytes = 0;
    };
    std::map<std::tuple<int, How, std::vector<int32_t>, DType, Join>, Bucket> open;
    for (const size_t d : list) {
      Delivery& delivery = module_.deliveries[d];
      const Tensor& tensor = module_.tensors[delivery.tensor];
      const int64_t bytes = delivery.region.elements() * static_cast<int64_t>(rt::size_of(tensor.dtype));
      auto [it, fresh] = open.try_emplace({delivery.segment, delivery.how, llvm::ArrayRef(delivery.devices).vec(), tensor.dtype, tensor.join});
      Bucket& bucket = it->second;
      if (fresh || bucket.bytes + bytes > full_bytes) {
        bucket = {d, -1, bytes};
        continue;
      }
      if (bucket.number < 0) module_.deliveries[bucket.first].bucket = bucket.number = count_++;
      delivery.bucket = bucket.number;
      bucket.bytes += bytes;
    }
  }

  Module& module_;
  std::vector<int64_t> position_;  // by operator
  std::vector<int> segment_;       // by operator
  std::map<TensorId, int> deliveries_of_;
  int count_ = 0;
};

}  // namespace

void form_buckets(Module& module) { Buckets(module).run(); }

}  // namespace sscc
