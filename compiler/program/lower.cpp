#include "compiler/program/lower.h"

#include <algorithm>
#include <array>
#include <optional>

#include "compiler/ops/ops.h"
#include "compiler/program/lower_rank.h"
#include "compiler/support/check.h"
#include "compiler/support/parallel.h"

namespace sscc {
namespace {

using Key = LoweringPlan::Key;
using Event = LoweringPlan::Event;

class Planner {
 public:
  explicit Planner(const Module& module) : module_(module) {
    const size_t devices = static_cast<size_t>(module.devices());
    plan_.events.resize(devices);
    plan_.gifts.resize(devices);
    plan_.segment_of.assign(static_cast<size_t>(module.ops.size()), -1);
    for (size_t s = 0; s < module.segments.size(); ++s)
      for (OpId id : module.segments[s].ops) plan_.segment_of[static_cast<size_t>(id.index)] = static_cast<int>(s);
    position_.assign(static_cast<size_t>(module.ops.size()), -1);
    for (size_t i = 0; i < module.order.size(); ++i) position_[static_cast<size_t>(module.order[i].index)] = static_cast<int64_t>(i);
    plan_.homes.resize(devices);
    plan_.on_host.resize(devices);
    for (const auto& [tensor, homes] : module.homes)
      for (const Home& home : homes) {
        plan_.homes[static_cast<size_t>(home.device)][tensor].push_back(home.region);
        if (home.on_host) plan_.on_host[static_cast<size_t>(home.device)].insert(tensor);
      }
  }

  LoweringPlan run() {
    for (OpId id : module_.order) {
      const Op& op = module_.ops[id];
      for (size_t p = 0; p < op.pieces.size(); ++p) {
        Event event;
        event.key = {position(id), 1, static_cast<int64_t>(p)};
        event.segment = segment_of(id);
        event.op = id;
        event.piece = static_cast<int32_t>(p);
        add(op.pieces[p].device, event);
      }
    }
    deliveries_of_.resize(static_cast<size_t>(module_.tensors.size()));
    for (size_t d = 0; d < module_.deliveries.size(); ++d)
      deliveries_of_[static_cast<size_t>(module_.deliveries[d].tensor.index)].push_back(static_cast<int32_t>(d));
    place_buckets();
    for (size_t d = 0; d < module_.deliveries.size(); ++d) keys_.push_back(delivery_key(module_.deliveries[d], static_cast<int32_t>(d)));
    for (size_t d = 0; d < module_.deliveries.size(); ++d) add_delivery(static_cast<int32_t>(d));
    for (size_t s = 0; s < module_.signals.size(); ++s) add_signal(static_cast<int32_t>(s));
    in_parallel(plan_.events.size(),
                [&](size_t device) { llvm::sort(plan_.events[device], [](const Event& a, const Event& b) { return a.key < b.key; }); });
    return std::move(plan_);
  }

 private:
  int64_t position(OpId id) const { return position_[static_cast<size_t>(id.index)]; }
  int segment_of(OpId id) const { return plan_.segment_of[static_cast<size_t>(id.index)]; }
  void add(int32_t device, Event event) { plan_.events[static_cast<size_t>(device)].push_back(event); }

  // Buckets of what is there when the segment begins stand in the order of their numbers, each before anything of it or of a later one is needed; one of
  // values that are needed later stands where the last of them is made.
  void place_buckets() {
    std::map<int, int> segment_of;  // of those that are there when it begins
    for (size_t d = 0; d < module_.deliveries.size(); ++d) {
      const Delivery& delivery = module_.deliveries[d];
      if (delivery.bucket < 0) continue;
      if (delivery.before.valid()) segment_of[delivery.bucket] = delivery.segment;
      const Key own = key_by_itself(delivery, static_cast<int32_t>(d));
      const auto [it, fresh] = buckets_.try_emplace(delivery.bucket, own);
      if (!fresh) it->second = delivery.before.valid() ? std::min(it->second, own) : std::max(it->second, own);
    }
    std::map<int, int64_t> needed_at;  // by segment: what the later ones are needed for first
    int64_t later = 0;
    for (auto it = segment_of.rbegin(); it != segment_of.rend(); ++it) {
      Key& key = buckets_.at(it->first);
      int64_t& first = needed_at.try_emplace(it->second, key.position).first->second;
      first = std::min(first, key.position);
      key = {first, 0, -++later * stride()};
    }
  }

  Key delivery_key(const Delivery& delivery, int32_t index) const {
    if (delivery.bucket < 0) return key_by_itself(delivery, index);
    Key key = buckets_.at(delivery.bucket);
    key.member = index;
    return key;
  }

  // A delivery without an operator to stand before stands behind the tensor's last producer.
  Key key_by_itself(const Delivery& delivery, int32_t index) const {
    if (delivery.before.valid()) return {position(delivery.before), 0, index * stride()};
    int64_t last = -1;
    for (OpId producer : module_.tensors[delivery.tensor].producers) last = std::max(last, position(producer));
    return {last, 2, index * stride()};
  }
  // Between one delivery and the next there is room for the sends that the first makes possible: whoever waited for more before sending could wait
  // for someone who does the same.
  int64_t stride() const { return static_cast<int64_t>(module_.deliveries.size()) + 1; }

  void add_delivery(int32_t index) {
    const Delivery& delivery = module_.deliveries[static_cast<size_t>(index)];
    wait_for_givers(delivery, index);
    Event event;
    event.what = Event::What::delivery;
    event.key = keys_[static_cast<size_t>(index)];
    event.segment = delivery.segment;
    event.delivery = index;
    for (int32_t device : delivery.devices) add(device, event);
    const bool is_call = delivery.how != Delivery::How::local && delivery.how != Delivery::How::point_to_point;
    plan_.transfer.push_back(is_call ? next_transfer(delivery.tensor, delivery.devices) : -1);
    plan_.message_transfer.emplace_back();
    for (size_t m = 0; m < delivery.messages.size(); ++m) {
      const Message& message = delivery.messages[m];
      plan_.gifts[static_cast<size_t>(message.from)].push_back({index, static_cast<int32_t>(m)});
      const bool travels = delivery.how == Delivery::How::point_to_point && message.from != message.to;
      plan_.message_transfer.back().push_back(travels ? next_transfer(delivery.tensor, {message.from, message.to}) : -1);
      if (travels) add_send(delivery, index, static_cast<int32_t>(m), event);
    }
  }

  // What stands without an operator to stand before, and passes on what others have left, stands behind them: a receiver that waited before could keep
  // from its work somebody for whom they wait.
  void wait_for_givers(const Delivery& delivery, int32_t index) {
    if (delivery.before.valid() || delivery.bucket >= 0) return;
    Key& key = keys_[static_cast<size_t>(index)];
    for (const Message& message : delivery.messages)
      for (const Contribution& c : message.contributions) {
        if (c.op.valid() || is_at_home(delivery.tensor, message.from, c.region)) continue;
        const auto [left, segment] = left_here(delivery, index, message.from, c);
        if (segment == delivery.segment && key < left) key = left;
      }
  }

  static constexpr int32_t transfers_of_one = 64;  // numbers that a tensor has; signals have those behind

  // The same number for ranks that play the same part, so that they can share a program: counted for each tensor and set of ranks.
  int32_t next_transfer(TensorId tensor, llvm::ArrayRef<int32_t> ranks) {
    const int32_t ordinal = transfers_[{tensor, ranks.vec()}]++;
    return tensor.index * transfers_of_one + ordinal % transfers_of_one;
  }

  // A sender sends as soon as it has what it sends; sums over micro-batches at the receiver's place, when they are complete.
  void add_send(const Delivery& delivery, int32_t index, int32_t m, const Event& receive) {
    const Message& message = delivery.messages[static_cast<size_t>(m)];
    Event send = receive;
    send.what = Event::What::send;
    send.message = m;
    const bool made_in_micro_batches = module_.cut.count > 1 && module_.tensors[delivery.tensor].scope == Scope::step;
    Key key{-1, 2, index - stride()};
    int segment = -1;
    for (const Contribution& c : message.contributions) {
      Key made = {-1, 2, index - stride()};  // at once after the operator
      int in = -1;
      if (c.op.valid() && !is_stored(module_.tensors[delivery.tensor])) {
        made.position = position(c.op);
        in = segment_of(c.op);
      } else if (!c.op.valid() && !is_at_home(delivery.tensor, message.from, c.region)) {
        std::tie(made, in) = left_here(delivery, index, message.from, c);
      }
      if (key < made) {  // segments of one device do not always run in the order of their numbers: backward ones run the other way
        key = made;
        segment = in;
      }
    }
    const SegmentKind kind = segment >= 0 ? module_.segments[static_cast<size_t>(segment)].kind : SegmentKind::prologue;
    if (segment >= 0 && !(made_in_micro_batches && (kind == SegmentKind::forward || kind == SegmentKind::backward))) {
      send.key = key;
      send.segment = segment;
    }
    add(message.from, send);
  }

  // At once behind the one operator and before the other. What a segment of micro-batches and one that runs once have to tell each other is told where
  // each is told once.
  void add_signal(int32_t index) {
    const Signal& signal = module_.signals[static_cast<size_t>(index)];
    Event given, taken;
    given.what = taken.what = Event::What::signal;
    given.signal = taken.signal = index;
    const int64_t behind_deliveries = (static_cast<int64_t>(module_.deliveries.size()) + 1) * stride() + index;
    given.key = {position(signal.after), 2, behind_deliveries};
    taken.key = {position(signal.before), 0, behind_deliveries};
    given.segment = segment_of(signal.after);
    taken.segment = segment_of(signal.before);
    if (runs_once(given.segment) != runs_once(taken.segment)) {
      const auto [moved, stays] = runs_once(given.segment) ? std::tie(taken, given) : std::tie(given, taken);
      moved.key = stays.key;
      moved.segment = stays.segment;
    }
    add(signal.from, given);
    add(signal.to, taken);
    plan_.signal_transfer.push_back(static_cast<int32_t>(module_.tensors.size()) * transfers_of_one + signals_[{signal.from, signal.to}]++);
  }

  bool runs_once(int segment) const {
    const SegmentKind kind = module_.segments[static_cast<size_t>(segment)].kind;
    return kind == SegmentKind::prologue || kind == SegmentKind::epilogue;
  }

  // When the first of the tensor's other deliveries has left a contribution on a device, and in which segment.
  std::pair<Key, int> left_here(const Delivery& delivery, int32_t index, int32_t device, const Contribution& contribution) const {
    std::optional<std::pair<Key, int>> first;
    for (const int32_t d : deliveries_of_[static_cast<size_t>(delivery.tensor.index)]) {
      const Delivery& other = module_.deliveries[static_cast<size_t>(d)];
      const Region* left = other.left_on(device);
      if (d == index || !left || !left->contains(contribution.region) || !(other.part == contribution.part)) continue;
      const bool is_dropped = is_stored(module_.tensors[delivery.tensor]) && other.segment != 0;  // a stored parameter, after its segment
      if (is_dropped && other.segment != delivery.segment) continue;
      Key key = keys_[static_cast<size_t>(d)];
      key.order_class = key.order_class == 0 ? 0 : 2;
      key.index += 1 + index;
      if (!first || key < first->first) first = {key, other.segment};
    }
    SSCC_CHECK(first, "a device sends what it has been given");
    return *first;
  }

  bool is_at_home(TensorId tensor, int32_t device, const Region& region) const {
    return module_.tensors[tensor].producers.empty() &&
           llvm::any_of(plan_.homes_of(device, tensor), [&](const Region& home) { return home.contains(region); });
  }

  const Module& module_;
  LoweringPlan plan_;
  std::vector<std::vector<int32_t>> deliveries_of_;  // by tensor
  std::vector<int64_t> position_;
  std::map<int, Key> buckets_;
  std::vector<Key> keys_;  // by delivery: where it stands
  std::map<std::pair<TensorId, std::vector<int32_t>>, int32_t> transfers_;
  std::map<std::pair<int32_t, int32_t>, int32_t> signals_;  // between two ranks
};

FileTensor file_tensor(const Module& module, TensorId id, Shape shape) {
  const Tensor& t = module.tensors[id];
  return {t.name, t.dtype, std::move(shape), t.trainable, t.weight};
}

// The shape that files hold: of the whole step.
Shape whole_shape(const Module& module, TensorId id) {
  Shape shape = module.tensors[id].shape;
  for (const StepCut::Where& where : cuts_of(module, id)) {
    int64_t& length = shape[static_cast<size_t>(where.dim)];
    length = length / module.cut.largest_of(where) * where.length;
  }
  return shape;
}

}  // namespace

namespace {

// FLOPs of one piece: the share of every axis that it works on.
double flops_of(const Module& module, const Op& op, const Piece& piece) {
  double flops = static_cast<double>(definition(op.kind).flops(module, op));
  if (!op.storage.empty()) {
    const Shape& whole = module.tensors[op.inputs[0]].shape;
    return flops * static_cast<double>(op.storage[static_cast<size_t>(piece.coordinates[0])].elements()) / static_cast<double>(elements(whole));
  }
  for (const Split& split : op.splits) {
    bool counted = false;  // an axis that several splits divide counts once
    for (const Split& earlier : op.splits) {
      if (&earlier == &split) break;
      counted |= earlier.axis == split.axis;
    }
    if (counted) continue;
    flops *= static_cast<double>(axis_positions(op, split.axis, piece).length()) /
             static_cast<double>(op.rule.axes[static_cast<size_t>(split.axis)].length);
  }
  return flops;
}

void count_flops(const Module& module, Programs& programs) {
  std::vector<double> by_rank(programs.ranks.size(), 0);
  double model = 0;
  std::vector<size_t> runs;  // of each variant
  for (int variant = 0; variant < module.cut.variants; ++variant) runs.push_back(module.cut.micro_batches_of(variant).size());
  for (OpId id : module.order) {
    const Op& op = module.ops[id];
    const double times = op.scope == Scope::micro_batch ? static_cast<double>(runs[static_cast<size_t>(op.variant)]) : 1;
    model += times * static_cast<double>(definition(op.kind).flops(module, op));
    for (const Piece& piece : op.pieces) by_rank[static_cast<size_t>(piece.device)] += times * flops_of(module, op, piece);
  }
  programs.model_flops_per_step = static_cast<int64_t>(model);
  for (size_t r = 0; r < by_rank.size(); ++r) programs.ranks[r].flops_per_step = static_cast<int64_t>(by_rank[r]);
}

// What tells bodies apart: everything but constants, as bytes.
class Description {
 public:
  explicit Description(const Body& body) {
    for (const Buffer& b : body.buffers) {
      add(b.name);
      add(b.tensor);
      add(static_cast<int64_t>(b.dtype), b.elements, b.copies, b.regions, b.on_host);
    }
    for (const ProgramSegment& segment : body.segments) {
      add(segment.name);
      add(static_cast<int64_t>(segment.instructions.size()));
      for (const Instruction& i : segment.instructions) add(i);
    }
    for (const ProgramSlot& slot : body.schedule) add(slot.segment, slot.micro_batch);
  }
  std::string take() { return std::move(bytes_); }

 private:
  template <class... Numbers>
  void add(int64_t first, Numbers... numbers) {
    const std::array<int64_t, 1 + sizeof...(numbers)> all{first, static_cast<int64_t>(numbers)...};
    bytes_.append(reinterpret_cast<const char*>(all.data()), sizeof(all));
  }
  void add(const std::string& text) {
    add(static_cast<int64_t>(text.size()));
    bytes_ += text;
  }
  void add(llvm::ArrayRef<int32_t> numbers) {
    add(static_cast<int64_t>(numbers.size()));
    for (const int32_t number : numbers) add(number);
  }
  void add(llvm::ArrayRef<View> views) {
    add(static_cast<int64_t>(views.size()));
    for (const View& view : views) {
      add(view.buffer.index, view.offset, view.dims.size());
      for (size_t d = 0; d < view.dims.size(); ++d) add(view.dims[d], view.strides[d]);
    }
  }
  void add(const Instruction& i) {
    add(static_cast<int64_t>(i.opcode), i.accumulate, i.op.index, i.tensor.index, i.piece, i.on_host, i.with_next);
    add(llvm::ArrayRef<View>(i.outs));
    add(llvm::ArrayRef<View>(i.ins));
    add(llvm::ArrayRef<int32_t>(i.reads));
    add(llvm::ArrayRef<int32_t>(i.writes));
    if (const auto* c = std::get_if<Communication>(&i.expression)) add(c->peer, c->group, c->transfer, c->root, c->crosses_micro_batches);
    if (const auto* x = std::get_if<IndexExpression>(&i.expression)) add(x->offset);
    if (const auto* c = std::get_if<Capture>(&i.expression)) add(c->regions);
    if (const auto* w = std::get_if<WindowExpression>(&i.expression)) add(w->window.pad[0], w->window.pad[1], w->window.pad[2]);
    if (const auto* p = std::get_if<PadExpression>(&i.expression))
      for (int64_t s : p->starts) add(s);
  }

  std::string bytes_;
};

// For people: what each instruction comes from.
void name_origins(const Module& module, Body& body) {
  for (ProgramSegment& segment : body.segments)
    for (Instruction& i : segment.instructions) {
      if (i.op.valid()) {
        const Op& o = module.ops[i.op];
        i.origin = o.phase == Phase::backward ? "grad of " + o.name : o.name;
      } else if (i.tensor.valid()) {
        i.origin = module.tensors[i.tensor].name;
      }
    }
}

struct Lowered {
  Body body;
  std::string description;
  Constants constants;
  std::vector<Claim> claims;
};
constexpr int64_t ranks_at_a_time = 16;

}  // namespace

Programs lower(const Module& module) {
  LoweringPlan plan = Planner(module).run();
  Programs programs;
  programs.model = module.name;
  programs.training = module.loss.valid();
  std::map<std::string, int32_t> bodies;
  // Ranks are lowered side by side, and so many at a time that their bodies, of which most are dropped again, take little memory.
  std::vector<Lowered> lowered;  // outlives a round: what the one before left is given back by many threads
  for (int64_t first = 0; first < module.devices(); first += ranks_at_a_time) {
    lowered.resize(static_cast<size_t>(std::min(ranks_at_a_time, module.devices() - first)));
    in_parallel(lowered.size(), [&](size_t i) {
      const size_t device = static_cast<size_t>(first) + i;
      RankLowering rank(module, plan, static_cast<int32_t>(device));
      rank.run();
      plan.events[device] = std::vector<Event>();  // what is lowered takes their place
      plan.gifts[device] = decltype(plan.gifts)::value_type();
      std::string description = Description(rank.body).take();
      lowered[i] = {std::move(rank.body), std::move(description), std::move(rank.constants), std::move(rank.claims)};
    });
    for (Lowered& each : lowered) {
      const auto device = static_cast<int32_t>(programs.ranks.size());
      const auto [it, fresh] = bodies.try_emplace(std::move(each.description), static_cast<int32_t>(programs.bodies.size()));
      if (fresh) {
        name_origins(module, each.body);
        programs.bodies.push_back(std::move(each.body));
      }
      int32_t stage = -1;
      for (const Slot& slot : module.timetable[static_cast<size_t>(device)])
        if (stage < 0) stage = module.segments[static_cast<size_t>(slot.segment)].stage;
      programs.ranks.push_back({device, it->second, std::max(stage, 0), std::move(each.constants), 0, std::move(each.claims)});
    }
  }
  for (int64_t t = 0; t < module.tensors.size(); ++t) {
    const Tensor& tensor = module.tensors[TensorId(t)];
    if (!tensor.producers.empty()) continue;
    if (tensor.role == Role::parameter) programs.parameters.push_back(file_tensor(module, TensorId(t), tensor.shape));
    if (tensor.role == Role::constant && tensor.weight) programs.constants.push_back(file_tensor(module, TensorId(t), tensor.shape));
  }
  for (TensorId id : module.inputs) {
    programs.inputs.push_back(file_tensor(module, id, whole_shape(module, id)));
    if (programs.tokens_per_step == 0 && module.tensors[id].dtype == DType::i64) programs.tokens_per_step = elements(whole_shape(module, id));
  }
  for (TensorId id : module.labels) programs.labels.push_back(file_tensor(module, id, whole_shape(module, id)));
  for (TensorId id : module.outputs) {
    programs.outputs.push_back(file_tensor(module, id, whole_shape(module, id)));
    programs.outputs.back().dtype = rt::arithmetic_type(module.tensors[id].dtype);  // what is small here is float in files
  }
  for (const Tensor& tensor : module.tensors)
    if (rt::is_small(tensor.dtype)) programs.precision = tensor.dtype;
  count_flops(module, programs);
  return programs;
}

}  // namespace sscc
