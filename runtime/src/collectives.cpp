#include "collectives.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "sscc_rt/small_floats.h"

namespace sscc::rt {
namespace {

// Below this many bytes one member joins everything: 2(n-1) messages. Above it each member joins its n-th: 2n(n-1) messages, equal work.
constexpr int64_t small_bytes = 16 << 10;

// NaN wins, as in PyTorch.
template <class T>
T greater(T a, T b) {
  return b > a || b != b ? b : a;
}
template <class T>
T lesser(T a, T b) {
  return b < a || b != b ? b : a;
}

template <class T>
void join_elements(T* a, const T* b, int64_t elements, Join join) {
  switch (join) {
    case Join::sum:
      for (int64_t i = 0; i < elements; ++i) a[i] = static_cast<T>(Arithmetic<T>(a[i]) + Arithmetic<T>(b[i]));
      return;
    case Join::max:
      for (int64_t i = 0; i < elements; ++i) a[i] = greater(a[i], b[i]);
      return;
    case Join::min:
      for (int64_t i = 0; i < elements; ++i) a[i] = lesser(a[i], b[i]);
      return;
    case Join::logsumexp: break;
  }
  throw std::logic_error("a join of log-sum-exps is no collective; its maxima and sums are");
}

void join_elements(std::byte* a, const std::byte* b, int64_t elements, DType dtype, Join join) {
  const auto as = [&]<class T>(T* typed) { join_elements(typed, reinterpret_cast<const T*>(b), elements, join); };
  switch (dtype) {
    case DType::f32: return as(reinterpret_cast<float*>(a));
    case DType::f64: return as(reinterpret_cast<double*>(a));
    case DType::i64: return as(reinterpret_cast<int64_t*>(a));
    case DType::i32: return as(reinterpret_cast<int32_t*>(a));
    case DType::i8: return as(reinterpret_cast<int8_t*>(a));
    case DType::u8: return as(reinterpret_cast<uint8_t*>(a));
    case DType::f16: return as(reinterpret_cast<f16*>(a));
    case DType::bf16: return as(reinterpret_cast<bf16*>(a));
    case DType::b1: break;
  }
  throw std::logic_error(std::string("no collective joins values of type ") + name_of(dtype));
}

// Sets a text while a collective runs.
class Operation {
 public:
  Operation(const char*& where, const char* name) : where_(where), before_(where) { where = name; }
  ~Operation() { where_ = before_; }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;

 private:
  const char*& where_;
  const char* before_;
};

}  // namespace

size_t Collectives::index_in(std::span<const int32_t> group) const {
  const auto me = std::find(group.begin(), group.end(), rank());
  if (me == group.end()) throw std::logic_error("rank " + std::to_string(rank()) + " calls a collective of a group that it is not in");
  return static_cast<size_t>(me - group.begin());
}

void Collectives::join_from(std::span<const int32_t> group, size_t me, const std::byte* own, std::byte* result, int64_t elements, DType dtype,
                            Join join, int64_t tag) {
  const size_t bytes = static_cast<size_t>(elements) * size_of(dtype);
  std::vector<std::byte> kept;
  if (me != 0 && own == result) {  // the first member's values go there before mine are joined to them
    kept.assign(own, own + bytes);
    own = kept.data();
  }
  for (size_t i = 0; i < group.size(); ++i) {
    const std::byte* from = own;
    if (i != me) {
      if (i > 0) received_.resize(std::max(received_.size(), bytes));
      std::byte* to = i == 0 ? result : received_.data();
      receive(group[i], to, bytes, tag);
      from = to;
    }
    if (i > 0)
      join_elements(result, from, elements, dtype, join);
    else if (from != result)
      std::memcpy(result, from, bytes);
  }
}

void Collectives::all_reduce(std::span<const int32_t> group, void* data, int64_t elements, DType dtype, Join join, int64_t tag) {
  if (is_collecting_) {
    const size_t whole = static_cast<size_t>(elements) * size_of(dtype);
    return call_.add({CollectiveCall::Kind::all_reduce, group, dtype, join, tag}, {data, whole, data, whole});
  }
  const Operation operation(operation_, "all-reduce");
  const size_t me = index_in(group), n = group.size(), size = size_of(dtype);
  std::byte* const bytes = static_cast<std::byte*>(data);
  if (n == 1) return;
  if (elements * static_cast<int64_t>(size) <= small_bytes) {
    const size_t all = static_cast<size_t>(elements) * size;
    if (me != 0) {
      send(group[0], data, all, tag);
      return receive(group[0], data, all, tag);
    }
    join_from(group, me, bytes, bytes, elements, dtype, join, tag);
    for (size_t i = 1; i < n; ++i) send(group[i], data, all, tag);
    return;
  }
  const auto begin = [&](size_t i) { return elements * static_cast<int64_t>(i) / static_cast<int64_t>(n); };
  const auto at = [&](size_t i) { return bytes + static_cast<size_t>(begin(i)) * size; };
  const auto length = [&](size_t i) { return static_cast<size_t>(begin(i + 1) - begin(i)) * size; };
  for (size_t k = 1; k < n; ++k) {  // each begins with its neighbour, so that not all send to the same
    const size_t i = (me + k) % n;
    send(group[i], at(i), length(i), tag);
  }
  join_from(group, me, at(me), at(me), begin(me + 1) - begin(me), dtype, join, tag);
  wait_sends();  // the other ranges are overwritten now
  for (size_t k = 1; k < n; ++k) send(group[(me + k) % n], at(me), length(me), tag);
  for (size_t k = 1; k < n; ++k) {
    const size_t i = (me + n - k) % n;
    receive(group[i], at(i), length(i), tag);
  }
  wait_sends();
}

void Collectives::all_gather(std::span<const int32_t> group, void* all, const void* mine, size_t bytes_each, int64_t tag) {
  if (is_collecting_)
    return call_.add({CollectiveCall::Kind::all_gather, group, DType::u8, Join::sum, tag}, {all, bytes_each * group.size(), mine, bytes_each});
  const Operation operation(operation_, "all-gather");
  const size_t me = index_in(group), n = group.size();
  std::byte* const blocks = static_cast<std::byte*>(all);
  for (size_t k = 1; k < n; ++k) send(group[(me + k) % n], mine, bytes_each, tag);
  if (blocks + me * bytes_each != mine) std::memcpy(blocks + me * bytes_each, mine, bytes_each);
  for (size_t k = 1; k < n; ++k) {
    const size_t i = (me + n - k) % n;
    receive(group[i], blocks + i * bytes_each, bytes_each, tag);
  }
  wait_sends();
}

void Collectives::reduce_scatter(std::span<const int32_t> group, void* mine, const void* all, int64_t elements_each, DType dtype, Join join,
                                 int64_t tag) {
  if (is_collecting_) {
    const size_t own = static_cast<size_t>(elements_each) * size_of(dtype);
    return call_.add({CollectiveCall::Kind::reduce_scatter, group, dtype, join, tag}, {mine, own, all, own * group.size()});
  }
  const Operation operation(operation_, "reduce-scatter");
  const size_t me = index_in(group), n = group.size();
  const size_t bytes = static_cast<size_t>(elements_each) * size_of(dtype);
  const std::byte* const blocks = static_cast<const std::byte*>(all);
  for (size_t k = 1; k < n; ++k) {
    const size_t i = (me + k) % n;
    send(group[i], blocks + i * bytes, bytes, tag);
  }
  join_from(group, me, blocks + me * bytes, static_cast<std::byte*>(mine), elements_each, dtype, join, tag);
  wait_sends();
}

void Collectives::all_to_all(std::span<const int32_t> group, void* received, const void* given, size_t bytes_each, int64_t tag) {
  if (is_collecting_) {
    const size_t whole = bytes_each * group.size();
    return call_.add({CollectiveCall::Kind::all_to_all, group, DType::u8, Join::sum, tag}, {received, whole, given, whole});
  }
  const Operation operation(operation_, "all-to-all");
  const size_t me = index_in(group), n = group.size();
  const std::byte* const to = static_cast<const std::byte*>(given);
  std::byte* const from = static_cast<std::byte*>(received);
  for (size_t k = 1; k < n; ++k) {
    const size_t i = (me + k) % n;
    send(group[i], to + i * bytes_each, bytes_each, tag);
  }
  std::memcpy(from + me * bytes_each, to + me * bytes_each, bytes_each);
  for (size_t k = 1; k < n; ++k) {
    const size_t i = (me + n - k) % n;
    receive(group[i], from + i * bytes_each, bytes_each, tag);
  }
  wait_sends();
}

// Along a tree: whoever has the value gives it to the member that is a power of two further on, so that it is everywhere after log2(n) rounds.
void Collectives::broadcast(std::span<const int32_t> group, size_t root, void* data, size_t bytes, int64_t tag) {
  const Operation operation(operation_, "broadcast");
  const size_t n = group.size(), place = (index_in(group) + n - root) % n;
  const auto member = [&](size_t at) { return group[(at + root) % n]; };
  size_t reach = 1;  // members below it have the value
  while (reach <= place) reach *= 2;
  if (place > 0) receive(member(place - reach / 2), data, bytes, tag);
  for (; place + reach < n; reach *= 2) send(member(place + reach), data, bytes, tag);
  wait_sends();
}

void Collectives::end_call() {
  is_collecting_ = false;
  call_.run(*this);
}

void Collectives::barrier() {
  const Operation operation(operation_, "barrier");
  if (rank() != 0) {
    send_message(0, {});
    receive_message(0);
    return;
  }
  for (int i = 1; i < size(); ++i) receive_message(i);
  for (int i = 1; i < size(); ++i) send_message(i, {});
}

void Collectives::at(const char* segment, const char* origin, int micro_batch) {
  segment_ = segment;
  origin_ = origin;
  micro_batch_ = micro_batch;
}

std::string Collectives::place() const {
  if (*segment_ == '\0') return *origin_ ? origin_ : "start-up";
  return std::string(operation_) + " of '" + origin_ + "' (segment " + segment_ + ", micro-batch " + std::to_string(micro_batch_) + ")";
}

std::string Collectives::waited(double seconds, int peer) const {
  char time[32];
  std::snprintf(time, sizeof time, "%g", seconds);
  return "rank " + std::to_string(rank()) + " waited " + time + " s for rank " + std::to_string(peer) + " in " + place();
}

}  // namespace sscc::rt
