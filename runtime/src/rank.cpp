// What a segment's code sees: views of the arena, communication, captures.
#include <algorithm>
#include <cstring>

#include "call.h"
#include "captures.h"
#include "sscc_rt/kernels.h"

namespace sscc::rt {
namespace {

int64_t bytes_of(const Tensor& tensor) { return tensor.elements() * static_cast<int64_t>(size_of(tensor.dtype)); }

template <class T>
T first_element(const Tensor& tensor) {
  T value;
  std::memcpy(&value, tensor.data, sizeof value);
  return value;
}

double scalar_of(const Tensor& tensor) {
  if (tensor.elements() == 1 && tensor.dtype == DType::f32) return static_cast<double>(first_element<float>(tensor));
  if (tensor.elements() == 1 && tensor.dtype == DType::f64) return first_element<double>(tensor);
  throw std::logic_error(std::string("a captured scalar is ") + name_of(tensor.dtype) + " with " + std::to_string(tensor.elements()) + " elements");
}

// The elements of a view, row-major.
std::vector<std::byte> dense_copy(const Tensor& from) {
  std::vector<std::byte> data(static_cast<size_t>(bytes_of(from)));
  Tensor to = from;
  to.data = data.data();
  int64_t stride = 1;
  for (int d = to.rank; d-- > 0;) {
    to.strides[d] = stride;
    stride *= to.dims[d];
  }
  if (!data.empty()) copy(to, from, false);
  return data;
}

}  // namespace

Rank::Rank(std::byte* arena, const ProgramInfo& program, const Constants& constants, Transport& transport)
    : arena_(arena), program_(program), constants_(constants), transport_(transport), call_(std::make_shared<CollectiveCall>()) {}

// -- views ----------------------------------------------------------------------------------------------------------------------------------------

Tensor Rank::view(int32_t buffer, int64_t offset, std::span<const int64_t> dims, std::span<const int64_t> strides, int micro_batch) const {
  const BufferInfo& info = program_.buffers[static_cast<size_t>(buffer)];
  Tensor tensor;
  tensor.data = arena_ + info.offset + micro_batch % info.copies * info.stride + offset * static_cast<int64_t>(size_of(info.dtype));
  tensor.dtype = info.dtype;
  tensor.rank = static_cast<int>(dims.size());
  std::copy(dims.begin(), dims.end(), tensor.dims);
  std::copy(strides.begin(), strides.end(), tensor.strides);
  return tensor;
}

Tensor Rank::view(int32_t buffer, int64_t offset, std::initializer_list<int64_t> dims, std::initializer_list<int64_t> strides,
                  int micro_batch) const {
  return view(buffer, offset, std::span(dims.begin(), dims.size()), std::span(strides.begin(), strides.size()), micro_batch);
}

// -- communication --------------------------------------------------------------------------------------------------------------------------------

void Rank::at(const char* origin, int micro_batch) {
  origin_ = origin;
  micro_batch_ = micro_batch;
}

template <class Call>
void Rank::communicate(const Call& call) {
  transport_.at(segment_, origin_, micro_batch_);
  call();
}

// A collective's bytes count once, for all members together; each answers for its share, and the shares add up exactly.
void Rank::count_collective(std::span<const int32_t> group, int64_t bytes) {
  const auto me = std::find(group.begin(), group.end(), transport_.rank()) - group.begin();
  const auto n = static_cast<int64_t>(group.size());
  bytes_sent_ += bytes / n + (me < bytes % n);
}

void Rank::send(const Tensor& data, int32_t peer, int32_t transfer, int micro_batch) {
  communicate([&] {
    transport_.send(constants_.peers[static_cast<size_t>(peer)], data.data, static_cast<size_t>(bytes_of(data)), tag(transfer, micro_batch));
  });
  bytes_sent_ += bytes_of(data);
}

void Rank::receive(const Tensor& data, int32_t peer, int32_t transfer, int micro_batch) {
  communicate([&] {
    transport_.receive(constants_.peers[static_cast<size_t>(peer)], data.data, static_cast<size_t>(bytes_of(data)), tag(transfer, micro_batch));
  });
}

void Rank::collective(CollectiveKind kind, const Tensor& out, const Tensor& in, int32_t group, Join join, int32_t transfer, int micro_batch) {
  const std::vector<int32_t>& ranks = constants_.groups[static_cast<size_t>(group)];
  const int64_t whole = std::max(bytes_of(out), bytes_of(in));
  count_collective(ranks, (kind == CollectiveKind::all_reduce ? 2 : 1) * (static_cast<int64_t>(ranks.size()) - 1) * whole);
  call_->add({kind, ranks, join, tag(transfer, micro_batch, true)}, {out, in});
  if (!is_collecting_) communicate([&] { call_->run(transport_); });
}

void Rank::all_reduce(const Tensor& data, int32_t group, Join join, int32_t transfer, int micro_batch) {
  collective(CollectiveKind::all_reduce, data, data, group, join, transfer, micro_batch);
}
void Rank::all_gather(const Tensor& all, const Tensor& mine, int32_t group, int32_t transfer, int micro_batch) {
  collective(CollectiveKind::all_gather, all, mine, group, Join::sum, transfer, micro_batch);
}
void Rank::reduce_scatter(const Tensor& mine, const Tensor& all, int32_t group, Join join, int32_t transfer, int micro_batch) {
  collective(CollectiveKind::reduce_scatter, mine, all, group, join, transfer, micro_batch);
}
void Rank::all_to_all(const Tensor& received, const Tensor& given, int32_t group, int32_t transfer, int micro_batch) {
  collective(CollectiveKind::all_to_all, received, given, group, Join::sum, transfer, micro_batch);
}

void Rank::begin_call() { is_collecting_ = true; }
void Rank::end_call() {
  is_collecting_ = false;
  communicate([&] { call_->run(transport_); });
}

void Rank::broadcast(const Tensor& data, int32_t group, int32_t root, int32_t transfer, int micro_batch) {
  const std::vector<int32_t>& ranks = constants_.groups[static_cast<size_t>(group)];
  communicate([&] {
    transport_.broadcast(ranks, static_cast<size_t>(root), data.data, static_cast<size_t>(bytes_of(data)), tag(transfer, micro_batch, true));
  });
  count_collective(ranks, (static_cast<int64_t>(ranks.size()) - 1) * bytes_of(data));
}

void Rank::wait_sends() {
  communicate([&] { transport_.wait_sends(); });
}

// -- captures -------------------------------------------------------------------------------------------------------------------------------------

void Rank::capture_loss(const Tensor& scalar) {
  if (captures_) captures_->loss = scalar_of(scalar);
}

void Rank::capture_grad_norm(const Tensor& scalar) {
  if (captures_) captures_->grad_norm = scalar_of(scalar);
}

void Rank::capture_output(const char* tensor, const Tensor& value, int32_t regions, int micro_batch) {
  if (!captures_ || !captures_->wants_outputs) return;
  captures_->outputs.push_back({tensor, &constants_.regions[static_cast<size_t>(regions + micro_batch)], dense_copy(value)});
}

void Rank::capture_gradient(const char* parameter, const Tensor& value, int32_t regions) {
  if (!captures_ || !captures_->wants_gradients) return;
  captures_->gradients.push_back({parameter, &constants_.regions[static_cast<size_t>(regions)], dense_copy(value)});
}

}  // namespace sscc::rt
