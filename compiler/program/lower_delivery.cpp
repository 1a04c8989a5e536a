// One rank: what deliveries become, messages and collectives with the copies around them.
#include <algorithm>

#include "compiler/program/lower_rank.h"
#include "compiler/support/check.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {

const Message& RankLowering::own_message(int32_t delivery) const {
  const auto& gifts = plan_.gifts[static_cast<size_t>(device_)];
  const auto gift = std::lower_bound(gifts.begin(), gifts.end(), LoweringPlan::Gift{delivery, 0});
  SSCC_CHECK(gift != gifts.end() && gift->delivery == delivery, "a member of a group contributes");
  return module_.deliveries[static_cast<size_t>(delivery)].messages[static_cast<size_t>(gift->message)];
}

void RankLowering::lower_delivery(const LoweringPlan::Event& event) {
  const Delivery& delivery = module_.deliveries[static_cast<size_t>(event.delivery)];
  const TensorId id = delivery.tensor;
  if (delivery.how == Delivery::How::all_gather) return lower_all_gather(delivery, event.delivery);
  if (delivery.how == Delivery::How::reduce_scatter) return lower_reduce_scatter(delivery, event.delivery);
  if (delivery.how == Delivery::How::all_to_all) return lower_all_to_all(delivery, event.delivery);
  if (delivery.how == Delivery::How::broadcast) return lower_broadcast(delivery, event.delivery);
  if (delivery.how == Delivery::How::local || delivery.how == Delivery::How::all_reduce) {
    const Message& own = own_message(event.delivery);
    const bool is_one_value = own.contributions.size() == 1 && !own.contributions[0].op.valid();
    if (delivery.how == Delivery::How::local && is_one_value && tensor(id).producers.empty()) {
      complete(id, delivery.region);
      return;
    }
    View view = assemble(id, delivery.region, own.contributions, delivery.how == Delivery::How::all_reduce);
    if (delivery.how == Delivery::How::all_reduce) {
      Instruction& i = emit(Opcode::all_reduce, OpId(), id);
      i.outs.push_back(view);
      i.ins.push_back(view);
      i.reads.push_back(claim(id, delivery.region));
      i.writes.push_back(claim(id, delivery.region));
      i.expression = Communication{-1, add_group(delivery.devices), plan_.transfer[static_cast<size_t>(event.delivery)], tensor(id).join};
    }
    return finish_delivery(delivery, {delivery.region, view, false, 0});
  }
  SSCC_CHECK(delivery.how == Delivery::How::point_to_point, "exchanges are lowered by form_collectives");
  // Receive every message, then join them with what is here.
  Contributions parts;
  for (size_t m = 0; m < delivery.messages.size(); ++m) {
    const Message& message = delivery.messages[m];
    if (message.from == device_) {
      parts.insert(parts.end(), message.contributions.begin(), message.contributions.end());
      continue;
    }
    Value value = new_value(id, message.region, "r:");
    Instruction& i = emit(Opcode::receive, OpId(), id);
    i.outs.push_back(value.view);
    i.writes.push_back(claim(id, message.region));
    i.expression = Communication{add_peer(message.from), -1, plan_.message_transfer[static_cast<size_t>(event.delivery)][m], tensor(id).join};
    Sum sum;  // a received message is one more contribution, under a piece number of its own
    sum.region = message.region;
    sum.exists = true;
    sum.uses = 1;
    sum.value = value;
    sums_[id].push_back(sum);
    const int32_t name = -1 - event.delivery * 64 - static_cast<int32_t>(m);
    sum_of_[key_of(id, OpId(0), name)] = static_cast<int>(sums_[id].size()) - 1;
    parts.push_back({device_, OpId(0), name, message.region, Part::none()});
  }
  finish_delivery(delivery, {delivery.region, assemble(id, delivery.region, parts, false), false, 0});
}

// The collectives of a bucket, from instruction `begin` on, become one call: what they need stands before it, what needs them behind it.
void RankLowering::join_calls(size_t begin) {
  auto& list = body.segments[static_cast<size_t>(segment_)].instructions;
  std::set<BufferId> made;  // by the call, or from what it made
  std::vector<Instruction> before, call, behind;
  for (Instruction& i : llvm::make_range(list.begin() + static_cast<std::ptrdiff_t>(begin), list.end())) {
    const auto is_made = [&](const View& view) { return made.contains(view.buffer); };
    const bool is_call = i.opcode >= Opcode::all_reduce && i.opcode <= Opcode::all_to_all;
    const bool is_behind = llvm::any_of(i.ins, is_made) || llvm::any_of(i.outs, is_made);
    SSCC_CHECK(!(is_call && is_behind), "calls of a bucket do not depend on each other");
    if (is_call || is_behind)
      for (const View& view : i.outs) made.insert(view.buffer);
    (is_call ? call : is_behind ? behind : before).push_back(std::move(i));
  }
  for (Instruction& i : llvm::MutableArrayRef(call).drop_back()) i.with_next = true;
  list.resize(begin);
  for (std::vector<Instruction>* part : {&before, &call, &behind}) llvm::move(*part, std::back_inserter(list));
}

// New versions of parameters go home; everything else is there for its readers.
void RankLowering::finish_delivery(const Delivery& delivery, Value value) {
  if (!delivery.part.whole()) return shares_[delivery.tensor].push_back({delivery.part, std::move(value)});
  const TensorId old = tensor(delivery.tensor).next_version_of;
  if (old.valid() && !delivery.on_the_way) {
    const Value& there = home(old);
    if (value.view.buffer != there.view.buffer) copy(delivery.tensor, there.view, there.region, value.view, value.region, value.region, false);
  }
  // A stored parameter is gathered for one segment, or in the prologue for all.
  if (is_stored(tensor(delivery.tensor)) && delivery.segment != 0) value.segment = delivery.segment;
  values_of(delivery.tensor).push_back(std::move(value));
  if (!delivery.on_the_way) capture_after(delivery.tensor);
}

void RankLowering::lower_all_gather(const Delivery& delivery, int32_t index) {
  const TensorId id = delivery.tensor;
  const Message* own = &own_message(index);
  const View mine = contiguous(id, own->region, assemble(id, own->region, own->contributions, false));
  const View all = new_blocks(id, delivery.devices.size(), own->region);
  // Blocks that follow one another in the outermost dimension are the value already.
  std::vector<const Message*> blocks;
  for (int32_t device : delivery.devices)
    blocks.push_back(&*llvm::find_if(delivery.messages, [&](const Message& message) { return message.from == device; }));
  bool in_order = delivery.region.rank() > 0;
  for (size_t d = 1; d < delivery.region.rank(); ++d)
    in_order &= own->region.dim(d) == delivery.region.dim(d) || own->region.dim(d).length() == delivery.region.dim(d).length();
  for (size_t b = 0; in_order && b < blocks.size(); ++b)
    in_order &= blocks[b]->region.dim(0).is_single() && delivery.region.dim(0).count_below(blocks[b]->region.dim(0).begin_position()) ==
                                                            static_cast<int64_t>(b) * own->region.dim(0).length();
  Instruction& i = emit(Opcode::all_gather, OpId(), id);
  i.outs.push_back(all);
  i.ins.push_back(mine);
  i.expression = Communication{-1, add_group(delivery.devices), plan_.transfer[static_cast<size_t>(index)], tensor(id).join};
  i.reads.push_back(claim(id, own->region));
  if (in_order) i.writes.push_back(claim(id, delivery.region));
  for (size_t b = 0; !in_order && b < blocks.size(); ++b) i.writes.push_back(claim(id, blocks[b]->region));
  if (in_order) {
    View view = whole_buffer(all.buffer, delivery.region.local_shape());
    return finish_delivery(delivery, {delivery.region, view, false, 0});
  }
  std::vector<Region> regions;
  for (const Message* block : blocks) regions.push_back(block->region);
  finish_delivery(delivery, joined_blocks(id, delivery.region, all, regions));
}

View RankLowering::new_blocks(TensorId id, size_t count, const Region& block) {
  Shape stacked = block.local_shape();
  stacked.insert(stacked.begin(), static_cast<int64_t>(count));
  return whole_buffer(new_buffer("t:blocks of " + tensor(id).name, tensor(id).dtype, elements(stacked)), stacked);
}

View RankLowering::block_of(const View& blocks, size_t index, const Region& region) {
  View view = whole_buffer(blocks.buffer, region.local_shape());
  view.offset = static_cast<int64_t>(index) * region.elements();
  return view;
}

RankLowering::Value RankLowering::joined_blocks(TensorId id, const Region& region, const View& blocks, llvm::ArrayRef<Region> regions) {
  Value result = new_value(id, region, "t:");
  for (size_t b = 0; b < regions.size(); ++b) copy(id, result.view, region, block_of(blocks, b, regions[b]), regions[b], regions[b], false);
  return result;
}

View RankLowering::blocks_for_members(const Delivery& delivery) {
  const TensorId id = delivery.tensor;
  View all;
  for (const Message& message : delivery.messages) {
    if (message.from != device_) continue;
    if (all.dims.empty()) all = new_blocks(id, delivery.devices.size(), message.region);
    const auto member = static_cast<size_t>(llvm::find(delivery.devices, message.to) - delivery.devices.begin());
    const View value = assemble(id, message.region, message.contributions, false);
    copy(id, block_of(all, member, message.region), message.region, value, message.region, message.region, false);
  }
  return all;
}

void RankLowering::lower_reduce_scatter(const Delivery& delivery, int32_t index) {
  const TensorId id = delivery.tensor;
  const Region& own = *delivery.left_on(device_);
  const View all = blocks_for_members(delivery);
  Value mine = new_value(id, own, "t:");
  Instruction& i = emit(Opcode::reduce_scatter, OpId(), id);
  i.outs.push_back(mine.view);
  i.ins.push_back(all);
  for (const Region& region : delivery.regions) i.reads.push_back(claim(id, region));
  i.writes.push_back(claim(id, own));
  i.expression = Communication{-1, add_group(delivery.devices), plan_.transfer[static_cast<size_t>(index)], tensor(id).join};
  finish_delivery(delivery, std::move(mine));
}

void RankLowering::lower_all_to_all(const Delivery& delivery, int32_t index) {
  const TensorId id = delivery.tensor;
  const View given = blocks_for_members(delivery);
  std::vector<Region> sent, received;  // by member
  for (const int32_t member : delivery.devices)
    for (const Message& message : delivery.messages) {
      if (message.from == device_ && message.to == member) sent.push_back(message.region);
      if (message.from == member && message.to == device_) received.push_back(message.region);
    }
  const View blocks = new_blocks(id, delivery.devices.size(), received[0]);
  Instruction& i = emit(Opcode::all_to_all, OpId(), id);
  i.outs.push_back(blocks);
  i.ins.push_back(given);
  for (const Region& region : sent) i.reads.push_back(claim(id, region));
  for (const Region& region : received) i.writes.push_back(claim(id, region));
  i.expression = Communication{-1, add_group(delivery.devices), plan_.transfer[static_cast<size_t>(index)], tensor(id).join};
  finish_delivery(delivery, joined_blocks(id, *delivery.left_on(device_), blocks, received));
}

void RankLowering::lower_broadcast(const Delivery& delivery, int32_t index) {
  const TensorId id = delivery.tensor;
  const Message& message = delivery.messages[0];
  const auto root = static_cast<int32_t>(llvm::find(delivery.devices, message.from) - delivery.devices.begin());
  const Communication call{-1, add_group(delivery.devices), plan_.transfer[static_cast<size_t>(index)], tensor(id).join, root};
  if (message.from == device_) {
    const View view = contiguous(id, delivery.region, assemble(id, delivery.region, message.contributions, false));
    Instruction& i = emit(Opcode::broadcast, OpId(), id);
    i.ins.push_back(view);
    i.reads.push_back(claim(id, delivery.region));
    i.expression = call;
    return;
  }
  Value value = new_value(id, delivery.region, "r:");
  Instruction& i = emit(Opcode::broadcast, OpId(), id);
  i.outs.push_back(value.view);
  i.writes.push_back(claim(id, delivery.region));
  i.expression = call;
  finish_delivery(delivery, std::move(value));
}

void RankLowering::lower_send(const LoweringPlan::Event& event) {
  const Delivery& delivery = module_.deliveries[static_cast<size_t>(event.delivery)];
  const Message& message = delivery.messages[static_cast<size_t>(event.message)];
  const Part share = message.contributions.size() == 1 ? share_of(delivery.tensor, message.contributions[0]) : Part();
  const View view = contiguous(delivery.tensor, message.region, assemble(delivery.tensor, message.region, message.contributions, false), share);
  Instruction& i = emit(Opcode::send, OpId(), delivery.tensor);
  i.ins.push_back(view);
  i.reads.push_back(claim(delivery.tensor, message.region, share));
  i.expression =
      Communication{add_peer(message.to), -1, plan_.message_transfer[static_cast<size_t>(event.delivery)][static_cast<size_t>(event.message)],
                    tensor(delivery.tensor).join};
}

void RankLowering::lower_signal(const LoweringPlan::Event& event) {
  const Signal& signal = module_.signals[static_cast<size_t>(event.signal)];
  const bool sends = signal.from == device_;
  const View nothing = whole_buffer(new_buffer("signal", DType::u8, 0), {0});
  Instruction& i = emit(sends ? Opcode::send : Opcode::receive, OpId(), TensorId());
  if (sends)
    i.ins.push_back(nothing);
  else
    i.outs.push_back(nothing);
  i.origin = op(signal.after).name + " before " + op(signal.before).name;
  const bool crosses = op(signal.after).variant != op(signal.before).variant;
  i.expression =
      Communication{add_peer(sends ? signal.to : signal.from), -1, plan_.signal_transfer[static_cast<size_t>(event.signal)], Join::sum, -1, crosses};
}

// Values that the host may ask for, as soon as they are complete.
void RankLowering::capture_after(TensorId id) {
  auto capture = [&](Capture::What what, const Value& value) {
    Instruction& i = emit(Opcode::capture, OpId(), id);
    i.ins.push_back(value.view);
    i.reads.push_back(claim(id, value.region));
    i.expression = Capture{what, tensor(in_first_variant(module_, id)).name, what == Capture::What::output ? add_region(id, value.region) : -1};
  };
  const bool is_given = is_output(module_, id);
  if (id != module_.loss && id != module_.grad_norm && !is_given) return;
  const Value& value = complete_[id].back();
  const std::pair<TensorId, Region> captured{id, value.region};
  if (llvm::is_contained(captured_, captured)) return;
  captured_.push_back(captured);
  if (id == module_.loss) capture(Capture::What::loss, value);
  if (id == module_.grad_norm) capture(Capture::What::grad_norm, value);
  if (is_given) capture(Capture::What::output, value);
}

}  // namespace sscc
