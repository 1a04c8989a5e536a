// One rank: values and the bookkeeping of buffers. Operators are in lower_op.cpp, deliveries in lower_delivery.cpp.
#include "compiler/program/lower_rank.h"

#include <algorithm>

#include "compiler/support/check.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {

RankLowering::RankLowering(const Module& module, const LoweringPlan& plan, int32_t device) : module_(module), plan_(plan), device_(device) {}

void RankLowering::run() {
  body.micro_batches = module_.cut.count;
  make_segments();
  group_contributions();
  const auto bucket_of = [&](const LoweringPlan::Event& event) {
    return event.what == LoweringPlan::Event::What::delivery ? module_.deliveries[static_cast<size_t>(event.delivery)].bucket : -1;
  };
  int bucket = -1;   // that is being filled
  size_t begin = 0;  // where its instructions begin
  for (const LoweringPlan::Event& event : plan_.events[static_cast<size_t>(device_)]) {
    if (bucket >= 0 && bucket_of(event) != bucket) join_calls(begin);
    segment_ = event.segment;
    if (bucket_of(event) != bucket) begin = body.segments[static_cast<size_t>(segment_)].instructions.size();
    bucket = bucket_of(event);
    switch (event.what) {
      case LoweringPlan::Event::What::op: lower_op(event); break;
      case LoweringPlan::Event::What::delivery: lower_delivery(event); break;
      case LoweringPlan::Event::What::send: lower_send(event); break;
      case LoweringPlan::Event::What::signal: lower_signal(event); break;
    }
  }
  if (bucket >= 0) join_calls(begin);
  capture_before_updates();
  drop_unread();
  cross_to_host();
  number_claims();
}

// Updates that follow one another can be one call: captures of gradients do not stand between them.
void RankLowering::capture_before_updates() {
  const auto captures = [](const Instruction& i) {
    const auto* capture = std::get_if<Capture>(&i.expression);
    return capture && capture->what == Capture::What::gradient;
  };
  const auto is_other = [&](const Instruction& i) { return i.opcode != Opcode::update && !captures(i); };
  for (ProgramSegment& segment : body.segments)
    for (auto begin = segment.instructions.begin(), end = begin; end != segment.instructions.end(); begin = end) {
      begin = std::find_if_not(end, segment.instructions.end(), is_other);
      end = std::find_if(begin, segment.instructions.end(), is_other);
      std::stable_partition(begin, end, captures);
    }
}

// Kernels and copies whose results nobody reads: shares of a sum that another rank gives, statistics that no gradient needs.
void RankLowering::drop_unread() {
  for (bool dropped = true; dropped;) {
    std::vector<char> is_read(static_cast<size_t>(body.buffers.size()), 0);
    for (const ProgramSegment& segment : body.segments)
      for (const Instruction& i : segment.instructions)
        for (const View& view : i.ins) is_read[static_cast<size_t>(view.buffer.index)] = 1;
    const auto is_needed = [&](const Instruction& i) {
      const bool has_effect = i.opcode >= Opcode::send || i.opcode == Opcode::update;
      return has_effect || std::any_of(i.outs.begin(), i.outs.end(), [&](const View& view) {
               return is_read[static_cast<size_t>(view.buffer.index)] || body.buffers[view.buffer].source != Buffer::Source::none;
             });
    };
    dropped = false;
    for (ProgramSegment& segment : body.segments)
      dropped |= std::erase_if(segment.instructions, [&](const Instruction& i) { return !is_needed(i); }) > 0;
  }
}

// In the order of the instructions that are left: ranks with the same instructions name the same claims.
void RankLowering::number_claims() {
  std::vector<Claim> numbered;
  const auto number = [&](int32_t& index) {
    numbered.push_back(claims[static_cast<size_t>(index)]);
    index = static_cast<int32_t>(numbered.size()) - 1;
  };
  for (ProgramSegment& segment : body.segments)
    for (Instruction& i : segment.instructions) {
      for (int32_t& index : i.reads) number(index);
      for (int32_t& index : i.writes) number(index);
    }
  claims = std::move(numbered);
}

void RankLowering::make_segments() {
  for (size_t s = 0; s < module_.segments.size(); ++s)
    body.segments.push_back({module_.segments[s].name(), static_cast<int>(s), {}, module_.segments[s].variant});
  std::vector<size_t> events(body.segments.size(), 0);
  for (const LoweringPlan::Event& event : plan_.events[static_cast<size_t>(device_)]) ++events[static_cast<size_t>(event.segment)];
  for (size_t s = 0; s < events.size(); ++s) body.segments[s].instructions.reserve(events[s] + events[s] / 4);
  for (const Slot& slot : module_.timetable[static_cast<size_t>(device_)]) body.schedule.push_back({slot.segment, slot.micro_batch});
}

// Contributions with the same region that the same deliveries use alike become one sum. Only sums can be added to in place.
void RankLowering::group_contributions() {
  struct Use {
    TensorId tensor;
    OpId op;
    int32_t piece;
    Region full;
    llvm::SmallVector<std::pair<int32_t, Region>, 1> by;
  };
  std::vector<Use> uses;
  llvm::DenseMap<ContributionKey, size_t> index_of;
  for (const auto& [index, message] : plan_.gifts[static_cast<size_t>(device_)]) {
    const Delivery& delivery = module_.deliveries[static_cast<size_t>(index)];
    for (const Contribution& c : delivery.messages[static_cast<size_t>(message)].contributions) {
      if (!c.op.valid()) continue;
      const auto [it, fresh] = index_of.try_emplace(key_of(delivery.tensor, c.op, c.piece), uses.size());
      if (fresh) {
        const Op& o = op(c.op);
        const auto out = static_cast<int>(llvm::find(o.outputs, delivery.tensor) - o.outputs.begin());
        const Region full = region_of(module_, o, static_cast<int>(o.inputs.size()) + out, o.pieces[static_cast<size_t>(c.piece)]);
        uses.push_back({delivery.tensor, c.op, c.piece, full, {}});
      }
      uses[it->second].by.push_back({index, c.region});
    }
  }
  llvm::DenseMap<int32_t, llvm::SmallVector<const Use*, 2>> first;  // by tensor: of each of its sums
  for (const Use& use : uses) {
    std::vector<Sum>& sums = sums_[use.tensor];
    llvm::SmallVector<const Use*, 2>& alike = first[use.tensor.index];
    size_t s = 0;
    for (; s < sums.size(); ++s)
      if (tensor(use.tensor).join == Join::sum && alike[s]->full == use.full && alike[s]->by == use.by) break;
    if (s == sums.size()) {
      Sum sum;
      sum.region = use.full;
      for (size_t i = 0; i < use.by.size(); ++i) sum.uses += i == 0 || use.by[i].first != use.by[i - 1].first;
      sums.push_back(std::move(sum));
      alike.push_back(&use);
    }
    ++sums[s].members;
    sums[s].over_micro_batches |= adds_up_micro_batches(use.tensor, use.op);
    sum_of_[key_of(use.tensor, use.op, use.piece)] = static_cast<int>(s);
  }
}

bool RankLowering::adds_up_micro_batches(TensorId id, OpId self) const {
  const SegmentKind kind = module_.segments[static_cast<size_t>(plan_.segment_of[static_cast<size_t>(self.index)])].kind;
  return module_.cut.count > 1 && tensor(id).scope == Scope::step && (kind == SegmentKind::forward || kind == SegmentKind::backward);
}

// -- instructions, constants, buffers -------------------------------------------------------------------------------------------------------------

Instruction& RankLowering::emit(Opcode opcode, OpId from, TensorId id) {
  Instruction& instruction = body.segments[static_cast<size_t>(segment_)].instructions.emplace_back();
  instruction.opcode = opcode;
  instruction.op = from;
  instruction.on_host = from.valid() && op(from).on_host;
  instruction.tensor = id;
  return instruction;
}

// Zeros, for sums.
void RankLowering::fill(TensorId id, const Region& region, const View& view, int segment) {
  const int here = std::exchange(segment_, segment);
  Instruction& i = emit(Opcode::fill, OpId(), id);
  i.outs.push_back(view);
  i.writes.push_back(claim(id, region));
  i.expression = FillValue{neutral_value(tensor(id).join)};
  segment_ = here;
}

int32_t RankLowering::claim(TensorId id, const Region& region, Part part) {
  claims.push_back({id, region, std::move(part)});
  return static_cast<int32_t>(claims.size()) - 1;
}

int32_t RankLowering::add_region(TensorId id, const Region& region) {
  const int32_t first = static_cast<int32_t>(constants.regions.size());
  if (tensor(id).scope == Scope::step) {
    constants.regions.push_back(region);
    return first;
  }
  for (int64_t m = 0; m < module_.cut.count; ++m)  // nothing of those that other variants make
    constants.regions.push_back(module_.cut.variant_at(m) == tensor(id).variant ? to_whole(module_, id, region, m) : Region());
  return first;
}
int32_t RankLowering::add_peer(int32_t rank) {
  constants.peers.push_back(rank);
  return static_cast<int32_t>(constants.peers.size()) - 1;
}
int32_t RankLowering::add_group(llvm::ArrayRef<int32_t> ranks) {
  const auto it = llvm::find_if(constants.groups, [&](const std::vector<int32_t>& group) { return ranks == llvm::ArrayRef(group); });
  if (it != constants.groups.end()) return static_cast<int32_t>(it - constants.groups.begin());
  constants.groups.push_back(ranks.vec());
  return static_cast<int32_t>(constants.groups.size()) - 1;
}
int32_t RankLowering::add_offset(int64_t offset) {
  constants.offsets.push_back(offset);
  return static_cast<int32_t>(constants.offsets.size()) - 1;
}

BufferId RankLowering::new_buffer(const std::string& name, DType dtype, int64_t count) {
  Buffer buffer;
  buffer.name = name;
  buffer.dtype = dtype;
  buffer.elements = count;
  return body.buffers.add(std::move(buffer));
}

RankLowering::Value RankLowering::new_value(TensorId id, const Region& region, const char* prefix) {
  const BufferId buffer = new_buffer(prefix + tensor(id).name, tensor(id).dtype, region.elements());
  return {region, whole_buffer(buffer, region.local_shape()), true, 0};
}

// In a buffer with so many copies, of which micro-batch m has copy m mod copies, the variant's micro-batches share none.
static int64_t copies_of(const StepCut& cut, int variant) {
  const std::vector<int64_t> micro_batches = cut.micro_batches_of(variant);
  for (auto copies = static_cast<int64_t>(micro_batches.size());; ++copies) {
    std::set<int64_t> taken;
    for (const int64_t m : micro_batches) taken.insert(m % copies);
    if (taken.size() == micro_batches.size()) return copies;
  }
}

// Parameters, state, constants and inputs: loaded once, or (inputs) each step, with a copy for each micro-batch.
const RankLowering::Value& RankLowering::home(TensorId id) {
  if (auto it = homes_.find(id); it != homes_.end()) return it->second;
  const Tensor& t = tensor(id);
  const llvm::ArrayRef<Region> here = plan_.homes_of(device_, id);
  SSCC_CHECK(!here.empty(), t.name + " is not at home on rank " + std::to_string(device_));
  const char* prefix = t.role == Role::parameter ? "w:" : t.role == Role::state ? "s:" : t.role == Role::constant ? "c:" : "x:";
  Value value = new_value(id, here[0], prefix);
  Buffer& buffer = body.buffers[value.view.buffer];
  buffer.source = t.role == Role::parameter  ? Buffer::Source::parameter
                  : t.role == Role::state    ? Buffer::Source::state
                  : t.role == Role::constant ? Buffer::Source::constant
                                             : Buffer::Source::input;
  buffer.on_host = plan_.on_host[static_cast<size_t>(device_)].contains(id);
  buffer.tensor = t.micro_batch_of.valid() ? tensor(t.micro_batch_of).name : t.name;
  if (t.scope == Scope::micro_batch) {
    const std::vector<int64_t> micro_batches = module_.cut.micro_batches_of(t.variant);
    buffer.copies = copies_of(module_.cut, t.variant);
    buffer.regions = static_cast<int32_t>(constants.regions.size());
    for (int64_t copy = 0; copy < buffer.copies; ++copy) {
      const auto m = llvm::find_if(micro_batches, [&](int64_t each) { return each % buffer.copies == copy; });
      constants.regions.push_back(to_whole(module_, id, here[0], m == micro_batches.end() ? micro_batches[0] : *m));
    }
  } else {
    buffer.regions = add_region(id, here[0]);
  }
  value.owned = false;
  return homes_.emplace(id, std::move(value)).first->second;
}

bool RankLowering::is_at_home(TensorId id, const Region& region) const {
  return llvm::any_of(plan_.homes_of(device_, id), [&](const Region& home) { return home.contains(region); });
}

llvm::ArrayRef<Region> LoweringPlan::homes_of(int32_t device, TensorId tensor) const {
  const auto& here = homes[static_cast<size_t>(device)];
  const auto it = here.find(tensor);
  return it == here.end() ? llvm::ArrayRef<Region>() : it->second;
}

// -- values ---------------------------------------------------------------------------------------------------------------------------------------

// What is here of a tensor, whole: its home first.
std::vector<RankLowering::Value>& RankLowering::values_of(TensorId id) {
  auto [it, fresh] = complete_.try_emplace(id);
  if (fresh && tensor(id).producers.empty() && !plan_.homes_of(device_, id).empty()) it->second.push_back(home(id));
  return it->second;
}

int RankLowering::variant() const {
  const Segment& segment = module_.segments[static_cast<size_t>(segment_)];
  const bool in_micro_batch = segment.kind == SegmentKind::forward || segment.kind == SegmentKind::backward;
  return in_micro_batch && module_.cut.variants > 1 ? segment.variant : -1;
}

View RankLowering::complete(TensorId id, const Region& region) {
  for (const Value& value : values_of(id)) {
    if (!value.region.contains(region) || (value.segment >= 0 && value.segment != segment_)) continue;
    if (value.variant >= 0 && value.variant != variant()) continue;
    if (auto view = subview(value.view, value.region, region)) return *view;
    Value packed = new_value(id, region, "t:");
    packed.segment = value.segment;
    packed.variant = variant();
    copy(id, packed.view, region, value.view, value.region, region, false);
    values_of(id).push_back(packed);
    return packed.view;
  }
  SSCC_CHECK(false, "rank " + std::to_string(device_) + " reads " + region.to_string() + " of " + tensor(id).name + ", which was never delivered");
}

void RankLowering::copy(TensorId id, const View& to, const Region& to_region, const View& from, const Region& from_region, const Region& region,
                        bool accumulate, Part share) {
  for (BoxPair& box : matching_boxes(to, to_region, from, from_region, region)) {
    Instruction& i = emit(Opcode::copy, OpId(), id);
    i.outs.push_back(std::move(box.a));
    i.ins.push_back(std::move(box.b));
    i.reads.push_back(claim(id, box.region, share));
    i.writes.push_back(claim(id, box.region));
    i.writes.push_back(claim(id, to_region));
    i.accumulate = accumulate;
  }
}

Part RankLowering::share_of(TensorId id, const Contribution& c) const {
  if (!c.op.valid() || c.piece < 0) return Part();
  const Sum& sum = sums_.at(id)[static_cast<size_t>(sum_of_.at(key_of(id, c.op, c.piece)))];
  return sum.members == 1 ? c.part : Part();
}

View RankLowering::contiguous(TensorId id, const Region& region, const View& view, Part share) {
  if (view.is_contiguous()) return view;
  int64_t count = 1;
  for (int64_t d : view.dims) count *= d;
  const View packed = whole_buffer(new_buffer("t:" + tensor(id).name, tensor(id).dtype, count), view.dims);
  Instruction& i = emit(Opcode::copy, OpId(), id);
  i.outs.push_back(packed);
  i.ins.push_back(view);
  i.reads.push_back(claim(id, region, std::move(share)));
  i.writes.push_back(claim(id, region));
  return packed;
}

View RankLowering::as_contribution(TensorId id, const Contribution& c, Region& region, bool& owned) {
  if (c.op.valid()) {
    const Sum& sum = sums_.at(id)[static_cast<size_t>(sum_of_.at(key_of(id, c.op, c.piece)))];
    SSCC_CHECK(sum.exists, "a contribution is made before it is delivered: " + tensor(id).name);
    region = sum.region;
    owned = sum.value.owned && sum.uses == 1;
    return sum.value.view;
  }
  region = c.region;
  owned = false;
  if (c.part.whole()) return complete(id, c.region);
  const auto shares = llvm::reverse(shares_[id]);
  const auto left = llvm::find_if(shares, [&](const Share& share) { return share.part == c.part && share.value.region.contains(c.region); });
  SSCC_CHECK(left != shares.end(), "a share of a join is left by the delivery before: " + tensor(id).name);
  region = left->value.region;
  return left->value.view;
}

View RankLowering::assemble(TensorId id, const Region& region, llvm::ArrayRef<Contribution> contributions, bool fresh) {
  struct Source {
    View view;
    Region region, used;
    bool owned;
    Part share;
  };
  std::vector<Source> sources;
  llvm::SmallVector<std::pair<int, Region>, 4> seen;  // sums: their members come together, with the same regions
  bool overlap = false;                               // do two of them lie on each other?
  std::vector<Region> uncovered = {region};
  for (const Contribution& c : contributions) {
    if (c.op.valid()) {
      const std::pair<int, Region> sum{sum_of_.at(key_of(id, c.op, c.piece)), c.region};
      if (llvm::is_contained(seen, sum)) continue;
      seen.push_back(sum);
    }
    Source source;
    source.view = as_contribution(id, c, source.region, source.owned);
    source.used = c.region;
    source.share = share_of(id, c);
    for (const Source& other : sources) overlap |= overlaps(other.used, source.used);
    std::vector<Region> rest;
    for (const Region& each : uncovered)
      for (Region& left : subtract(each, source.used)) rest.push_back(std::move(left));
    uncovered = std::move(rest);
    sources.push_back(std::move(source));
  }
  if (sources.size() == 1 && sources[0].used == region) {
    const std::optional<View> view = subview(sources[0].view, sources[0].region, region);
    if (view && (!fresh || (sources[0].owned && view->is_contiguous() && sources[0].region == region))) return *view;
  }
  const Join join = tensor(id).join;
  if (overlap && join != Join::sum) {  // side by side in a new leading dimension, then joined
    Shape stacked = region.local_shape();
    stacked.insert(stacked.begin(), static_cast<int64_t>(sources.size()));
    const View stack = whole_buffer(new_buffer("t:parts of " + tensor(id).name, tensor(id).dtype, elements(stacked)), stacked);
    for (size_t s = 0; s < sources.size(); ++s) {
      View row = whole_buffer(stack.buffer, region.local_shape());
      row.offset = static_cast<int64_t>(s) * region.elements();
      if (!(sources[s].used == region)) fill(id, region, row, segment_);
      copy(id, row, region, sources[s].view, sources[s].region, sources[s].used, false, sources[s].share);
    }
    Value result = new_value(id, region, "t:");
    Instruction& i = emit(Opcode::reduce, OpId(), id);
    i.outs.push_back(result.view);
    i.ins.push_back(stack);
    for (size_t s = 0; s < sources.size(); ++s) i.reads.push_back(claim(id, region));
    i.writes.push_back(claim(id, region));
    i.expression = ReduceExpression{1, join, 1};
    return result.view;
  }
  Value result = new_value(id, region, "t:");
  bool first_covers_all = sources[0].used == region;
  if ((overlap && !first_covers_all) || !uncovered.empty()) fill(id, region, result.view, segment_);
  for (size_t s = 0; s < sources.size(); ++s) {
    const bool add = overlap && !(s == 0 && first_covers_all);
    copy(id, result.view, region, sources[s].view, sources[s].region, sources[s].used, add, sources[s].share);
  }
  return result.view;
}

}  // namespace sscc
