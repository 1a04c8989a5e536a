// The lowering of one rank (used by lower.cpp alone).
#pragma once

#include <set>
#include <unordered_map>

#include "compiler/program/lower.h"
#include "compiler/program/views.h"
#include "llvm/ADT/DenseMap.h"

namespace sscc {

// What all ranks share: positions, and each device's events in global order.
struct LoweringPlan {
  // position: of the operator in the module's order. class: 0 deliveries before it, 1 itself, 2 what can go as soon as it is done.
  struct Key {
    int64_t position = 0;
    int order_class = 0;
    int64_t index = 0;
    int32_t member = 0;  // of a bucket
    auto operator<=>(const Key&) const = default;
  };
  struct Event {
    Key key;
    enum class What { op, delivery, send, signal } what = What::op;
    int segment = 0;
    OpId op;
    int32_t piece = 0;
    int32_t delivery = 0, message = 0;
    int32_t signal = 0;
  };
  std::vector<std::vector<Event>> events;  // by device, sorted
  struct Gift {
    int32_t delivery = 0, message = 0;
    auto operator<=>(const Gift&) const = default;
  };
  std::vector<std::vector<Gift>> gifts;                                           // by device: the messages that it gives, sorted
  std::vector<int32_t> transfer;                                                  // by delivery: number of a collective
  std::vector<std::vector<int32_t>> message_transfer;                             // by delivery and message
  std::vector<int32_t> signal_transfer;                                           // by signal
  std::vector<int> segment_of;                                                    // by op
  std::vector<std::unordered_map<TensorId, llvm::SmallVector<Region, 1>>> homes;  // by device: what is at home there
  std::vector<std::set<TensorId>> on_host;                                        // by device: of these, what the processor beside it has
  llvm::ArrayRef<Region> homes_of(int32_t device, TensorId tensor) const;
};

class RankLowering {
  friend class HostCrossing;  // lower_host.cpp

 public:
  RankLowering(const Module& module, const LoweringPlan& plan, int32_t device);
  void run();

  Body body;
  Constants constants;
  std::vector<Claim> claims;

 private:
  // A value on this device. Complete ones have the whole part.
  struct Value {
    Region region;
    View view;
    bool owned = false;  // the buffer is this value's alone: it may be changed in place
    int uses = 0;        // deliveries that read it
    int segment = -1;    // where it can be read; -1: from here on everywhere
    int variant = -1;    // of the micro-batch, in which it can be read; -1: in all
  };
  // Contributions of one tensor that are always used together share a value: the later ones add to it.
  struct Sum {
    Region region;
    int members = 0, written = 0;
    int uses = 0;
    bool over_micro_batches = false;
    Value value;
    bool exists = false;
  };

  const Op& op(OpId id) const { return module_.ops[id]; }
  const Tensor& tensor(TensorId id) const { return module_.tensors[id]; }
  // Of the segment where instructions go now; -1: it runs once a step, or micro-batches are all alike.
  int variant() const;
  int epilogue() const { return static_cast<int>(module_.segments.size()) - 1; }

  // set-up
  void group_contributions();
  void make_segments();
  void drop_unread();
  void capture_before_updates();
  void cross_to_host();
  void number_claims();

  // events
  void lower_op(const LoweringPlan::Event& event);
  void lower_delivery(const LoweringPlan::Event& event);
  void join_calls(size_t begin);
  void lower_send(const LoweringPlan::Event& event);
  void lower_signal(const LoweringPlan::Event& event);
  void lower_all_gather(const Delivery& delivery, int32_t index);
  void lower_reduce_scatter(const Delivery& delivery, int32_t index);
  void lower_all_to_all(const Delivery& delivery, int32_t index);
  void lower_broadcast(const Delivery& delivery, int32_t index);
  // Blocks of equal size, one after the other: an empty place for them; one of them; what this device gives to each member of a group; and put
  // together to what they are blocks of.
  View new_blocks(TensorId id, size_t count, const Region& block);
  static View block_of(const View& blocks, size_t index, const Region& region);
  View blocks_for_members(const Delivery& delivery);
  Value joined_blocks(TensorId id, const Region& region, const View& blocks, llvm::ArrayRef<Region> regions);
  void finish_delivery(const Delivery& delivery, Value value);

  // operators
  void lower_layout(OpId self, int32_t piece);
  void lower_kernel(OpId self, int32_t piece);
  void lower_update(OpId self, int32_t piece);
  std::optional<View> home_of_new_version(TensorId id, const Region& region);
  void lower_concat(OpId self, int32_t piece);
  void capture_after(TensorId id);

  int32_t ordinal(OpId self, int32_t piece) const;

  // values
  View input(OpId self, int index, int32_t piece);
  View complete(TensorId id, const Region& region);
  const Value& home(TensorId id);
  bool is_at_home(TensorId id, const Region& region) const;
  std::vector<Value>& values_of(TensorId id);
  BufferId new_buffer(const std::string& name, DType dtype, int64_t elements);
  Value new_value(TensorId id, const Region& region, const char* prefix);
  // Where a kernel writes output `index`: a view, and whether it must add. `can_add`: the kernel can; else it writes aside and a copy adds
  // (finish_output).
  struct Output {
    View view;
    bool accumulate = false;
    bool aside = false;
    int index = 0;
  };
  Output output(OpId self, int index, int32_t piece, bool can_add);
  void finish_output(OpId self, const Output& out, int32_t piece);
  // Where an output goes; null if nobody takes it from here. What is whole is there for readers on this rank, without a delivery.
  Sum* sum_of(OpId self, int index, int32_t piece);
  // Is the tensor a step's, to which each micro-batch that runs the operator adds?
  bool adds_up_micro_batches(TensorId id, OpId self) const;
  void leave_whole_outputs(OpId self, int32_t piece);
  void alias_output(OpId self, int index, int32_t piece, View view);
  // The join of contributions over `region`, in a view; `fresh`: in a contiguous buffer that may be changed.
  View assemble(TensorId id, const Region& region, llvm::ArrayRef<Contribution> contributions, bool fresh);
  View contiguous(TensorId id, const Region& region, const View& view, Part share = Part());
  View as_contribution(TensorId id, const Contribution& contribution, Region& region, bool& owned);
  // `share`: of the join, where `from` is one addend alone.
  void copy(TensorId id, const View& to, const Region& to_region, const View& from, const Region& from_region, const Region& region, bool accumulate,
            Part share = Part());
  // The share of a contribution that is a value of its own; whole for one that others were added to.
  Part share_of(TensorId id, const Contribution& contribution) const;

  // What an earlier delivery has left here of a share of a join.
  struct Share {
    Part part;
    Value value;
  };

  // The message that this device gives to a delivery of which it is a member.
  const Message& own_message(int32_t delivery) const;

  // The same values in the type that a kernel takes. Of what is at home, once a step for all.
  View converted(TensorId id, const Region& region, const View& view, DType type);
  struct Converted {
    DType type;
    Value value;
  };

  // instructions and constants
  Instruction& emit(Opcode opcode, OpId op, TensorId tensor);
  void fill(TensorId id, const Region& region, const View& view, int segment);
  int32_t claim(TensorId id, const Region& region, Part part = Part());
  int32_t add_region(TensorId id, const Region& region);
  int32_t add_peer(int32_t rank);
  int32_t add_group(llvm::ArrayRef<int32_t> ranks);
  int32_t add_offset(int64_t offset);

  const Module& module_;
  const LoweringPlan& plan_;
  int32_t device_;
  int segment_ = 0;  // where instructions go now
  std::unordered_map<TensorId, std::vector<Value>> complete_;
  std::unordered_map<TensorId, Value> homes_;
  std::unordered_map<TensorId, std::vector<Sum>> sums_;
  // Where a contribution is in the tensor's sums_; none if nobody takes it.
  using ContributionKey = std::pair<std::pair<int32_t, int32_t>, int32_t>;
  static ContributionKey key_of(TensorId id, OpId op, int32_t piece) { return {{id.index, op.index}, piece}; }
  llvm::DenseMap<ContributionKey, int> sum_of_;
  std::unordered_map<TensorId, std::vector<Share>> shares_;
  std::unordered_map<TensorId, std::vector<Converted>> converted_;
  std::vector<std::pair<TensorId, Region>> captured_;
};

}  // namespace sscc
