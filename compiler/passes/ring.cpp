// n devices in a ring, the value in n chunks. A chunk goes once round to be joined, each device adding its share, and ends where its number is; then
// once round again to be known. In each round every device sends one chunk to the next and gets another from the one before:
//
//   reduce_scatter   chunk k from device k+1 over k+2, .. to k             n-1 rounds
//   all_gather       chunk k from device k over k+1, .. to k-1             n-1 rounds
//   all_reduce       one after the other                                  2(n-1) rounds, of 1/n of the value for each device: no way sends less
//
// On its way a chunk is a share of the join: that of all devices it has passed. A value with fewer positions than there are devices has fewer chunks.
#include "compiler/passes/ring.h"

#include "compiler/support/check.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

using How = Delivery::How;

class Ring {
 public:
  explicit Ring(const Delivery& call) : call_(call), n_(call.devices.size()), given_(n_) {
    for (const Message& message : call.messages)
      llvm::append_range(given_[static_cast<size_t>(llvm::find(call.devices, message.from) - call.devices.begin())], message.contributions);
    if (call.how == How::all_reduce) cut();
    if (call.how == How::reduce_scatter) chunks_ = call.regions;
    if (call.how == How::all_gather)
      for (const int32_t device : call.devices)
        chunks_.push_back(llvm::find_if(call.messages, [&](const Message& message) { return message.from == device; })->region);
  }

  std::optional<std::vector<Delivery>> run(std::string& why_not) {
    if (call_.how != How::all_gather && !join_round()) {
      why_not = "its devices have different shares of different regions of it";
      return std::nullopt;
    }
    if (call_.how == How::reduce_scatter) return std::move(result_);
    tell_round();
    for (size_t place = 0; place < n_; ++place) put_together(place);
    return std::move(result_);
  }

 private:
  size_t after(size_t place, size_t hops) const { return (place + hops) % n_; }

  // The chunks of a whole value: along the first dimension that has one for each device, or else the longest.
  void cut() {
    const Region& region = call_.region;
    if (region.rank() == 0) return chunks_.push_back(region);
    const auto length_of = [&](size_t d) { return std::min(region.dim(d).length(), static_cast<int64_t>(n_)); };
    size_t dim = 0;
    for (size_t d = 1; d < region.rank(); ++d)
      if (length_of(d) > length_of(dim)) dim = d;
    const int64_t length = region.dim(dim).length(), count = std::min(length, static_cast<int64_t>(n_));
    for (int64_t k = 0; k < count; ++k) {
      Region chunk = region;
      chunk.set_dim(dim, region.dim(dim).from_to(length * k / count, length * (k + 1) / count));
      chunks_.push_back(std::move(chunk));
    }
  }

  // What a device itself gives of a chunk.
  Contributions own(size_t place, const Region& chunk) const {
    Contributions result;
    for (const Contribution& c : given_[place]) {
      Region common = intersect(c.region, chunk);
      if (common.empty()) continue;
      result.push_back(c);
      result.back().region = std::move(common);
    }
    return result;
  }

  // The share of the join that contributions are of a chunk; nothing if it is not the same everywhere.
  static std::optional<Part> share_of(llvm::ArrayRef<Contribution> contributions, const Region& chunk) {
    Part part = Part::none();
    Rational there = 0;
    for (const Contribution& c : contributions) {
      part = unite(part, c.part);
      there = there + Rational(c.region.elements()) * c.part.measure();
    }
    if (part.empty() || !(there == Rational(chunk.elements()) * part.measure())) return std::nullopt;
    return part;
  }

  Message message(size_t from, size_t to, const Region& chunk, Contributions contributions) const {
    return {call_.devices[from], call_.devices[to], chunk, std::move(contributions)};
  }
  // What a delivery of this ring has left of a chunk.
  Contributions left(size_t place, const Region& chunk, const Part& part) const { return {{call_.devices[place], OpId(), 0, chunk, part}}; }

  Delivery& add(size_t to, const Region& region) {
    Delivery& delivery = result_.emplace_back();
    delivery.how = How::point_to_point;
    delivery.tensor = call_.tensor;
    delivery.region = region;
    delivery.devices = {call_.devices[to]};
    delivery.segment = call_.segment;
    delivery.before = call_.before;
    delivery.on_the_way = true;
    return delivery;
  }

  bool join_round() {
    std::vector<Part> joined(chunks_.size());
    for (size_t hop = 1; hop < n_; ++hop)
      for (size_t k = 0; k < chunks_.size(); ++k) {
        const Region& chunk = chunks_[k];
        const size_t from = after(k, hop), to = after(k, hop + 1);
        Contributions mine = own(to, chunk), sent = hop == 1 ? own(from, chunk) : left(from, chunk, joined[k]);
        const std::optional<Part> first = hop == 1 ? share_of(sent, chunk) : joined[k], share = share_of(mine, chunk);
        if (!first || !share || overlaps(*first, *share)) return false;
        joined[k] = unite(*first, *share);
        Delivery& delivery = add(to, chunk);
        delivery.part = joined[k];
        delivery.messages = {message(from, to, chunk, std::move(sent)), message(to, to, chunk, std::move(mine))};
        if (hop + 1 < n_) continue;
        if (!joined[k].whole()) return false;
        delivery.on_the_way = call_.on_the_way || call_.how != How::reduce_scatter;
      }
    return true;
  }

  void tell_round() {
    for (size_t hop = 1; hop < n_; ++hop)
      for (size_t k = 0; k < chunks_.size(); ++k) {
        const size_t from = after(k, hop - 1), to = after(k, hop);
        const bool is_given = hop == 1 && call_.how == How::all_gather;
        add(to, chunks_[k]).messages = {message(from, to, chunks_[k], is_given ? own(from, chunks_[k]) : left(from, chunks_[k], Part()))};
      }
  }

  void put_together(size_t place) {
    Delivery& delivery = add(place, call_.region);
    delivery.how = How::local;
    delivery.on_the_way = call_.on_the_way;
    Contributions all;
    for (size_t k = 0; k < chunks_.size(); ++k)
      llvm::append_range(all, k == place && call_.how == How::all_gather ? own(place, chunks_[k]) : left(place, chunks_[k], Part()));
    delivery.messages = {message(place, place, call_.region, std::move(all))};
  }

  const Delivery& call_;
  const size_t n_;
  std::vector<Contributions> given_;  // by place in the ring
  std::vector<Region> chunks_;        // chunk k belongs to place k
  std::vector<Delivery> result_;
};

}  // namespace

std::optional<std::vector<Delivery>> ring_of(const Delivery& call, std::string& why_not) {
  SSCC_CHECK(call.how == How::all_reduce || call.how == How::all_gather || call.how == How::reduce_scatter, "only sums and gathers go round a ring");
  return Ring(call).run(why_not);
}

}  // namespace sscc
