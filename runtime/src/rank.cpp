// What a segment's code sees: views of the arena, communication, captures.
#include <algorithm>

#include "captures.h"
#include "processor.h"
#include "trace.h"

namespace sscc::rt {
namespace {

int64_t bytes_of(const Tensor& tensor) { return tensor.elements() * static_cast<int64_t>(size_of(tensor.dtype)); }

// The bytes from a view's first to its last element.
size_t extent_of(const Tensor& view) {
  int64_t last = 0;
  for (int d = 0; d < view.rank; ++d) {
    if (view.dims[d] == 0) return 0;
    last += (view.dims[d] - 1) * view.strides[d];
  }
  return static_cast<size_t>(last + 1) * size_of(view.dtype);
}

FetchedView fetch(Processor& processor, const Tensor& view) {
  return {view, processor.fetch(static_cast<const std::byte*>(view.data), extent_of(view))};
}

}  // namespace

Rank::Rank(int number, const ProgramInfo& program, const Constants& constants, Processor& processor, DataPlane& data)
    : number_(number),
      arena_(processor.arena()),
      host_memory_(processor.host_memory()),
      program_(program),
      constants_(constants),
      processor_(processor),
      data_(data) {}

// -- views ----------------------------------------------------------------------------------------------------------------------------------------

Tensor Rank::view(int32_t buffer, int64_t offset, std::span<const int64_t> dims, std::span<const int64_t> strides, int micro_batch) const {
  const BufferInfo& info = program_.buffers[static_cast<size_t>(buffer)];
  Tensor tensor;
  tensor.data = memory_at(info.offset) + micro_batch % info.copies * info.stride + offset * static_cast<int64_t>(size_of(info.dtype));
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
  processor_.at(origin);
  if (trace_) trace_->at(processor_, segment_, origin, micro_batch);
}

template <class Call>
void Rank::communicate(const Call& call) {
  data_.at(segment_, origin_, micro_batch_);
  call();
}

// A collective's bytes count once, for all members together; each answers for its share, and the shares add up exactly.
void Rank::count_collective(std::span<const int32_t> group, int64_t bytes) {
  const auto me = std::find(group.begin(), group.end(), number_) - group.begin();
  const auto n = static_cast<int64_t>(group.size());
  bytes_sent_ += bytes / n + (me < bytes % n);
}

void Rank::send(const Tensor& data, int32_t peer, int32_t transfer, int micro_batch) {
  communicate(
      [&] { data_.send(constants_.peers[static_cast<size_t>(peer)], data.data, static_cast<size_t>(bytes_of(data)), tag(transfer, micro_batch)); });
  bytes_sent_ += bytes_of(data);
}

void Rank::receive(const Tensor& data, int32_t peer, int32_t transfer, int micro_batch) {
  communicate([&] {
    data_.receive(constants_.peers[static_cast<size_t>(peer)], data.data, static_cast<size_t>(bytes_of(data)), tag(transfer, micro_batch));
  });
}

void Rank::all_reduce(const Tensor& data, int32_t group, Join join, int32_t transfer, int micro_batch) {
  const std::vector<int32_t>& ranks = constants_.groups[static_cast<size_t>(group)];
  communicate([&] { data_.all_reduce(ranks, data.data, data.elements(), data.dtype, join, tag(transfer, micro_batch, true)); });
  count_collective(ranks, 2 * (static_cast<int64_t>(ranks.size()) - 1) * bytes_of(data));
}

void Rank::all_gather(const Tensor& all, const Tensor& mine, int32_t group, int32_t transfer, int micro_batch) {
  const std::vector<int32_t>& ranks = constants_.groups[static_cast<size_t>(group)];
  communicate([&] { data_.all_gather(ranks, all.data, mine.data, static_cast<size_t>(bytes_of(mine)), tag(transfer, micro_batch, true)); });
  count_collective(ranks, (static_cast<int64_t>(ranks.size()) - 1) * bytes_of(all));
}

void Rank::reduce_scatter(const Tensor& mine, const Tensor& all, int32_t group, Join join, int32_t transfer, int micro_batch) {
  const std::vector<int32_t>& ranks = constants_.groups[static_cast<size_t>(group)];
  communicate([&] { data_.reduce_scatter(ranks, mine.data, all.data, mine.elements(), mine.dtype, join, tag(transfer, micro_batch, true)); });
  count_collective(ranks, (static_cast<int64_t>(ranks.size()) - 1) * bytes_of(all));
}

void Rank::all_to_all(const Tensor& received, const Tensor& given, int32_t group, int32_t transfer, int micro_batch) {
  const std::vector<int32_t>& ranks = constants_.groups[static_cast<size_t>(group)];
  const size_t bytes_each = static_cast<size_t>(bytes_of(given)) / ranks.size();
  communicate([&] { data_.all_to_all(ranks, received.data, given.data, bytes_each, tag(transfer, micro_batch, true)); });
  count_collective(ranks, (static_cast<int64_t>(ranks.size()) - 1) * bytes_of(given));
}

void Rank::broadcast(const Tensor& data, int32_t group, int32_t root, int32_t transfer, int micro_batch) {
  const std::vector<int32_t>& ranks = constants_.groups[static_cast<size_t>(group)];
  communicate(
      [&] { data_.broadcast(ranks, static_cast<size_t>(root), data.data, static_cast<size_t>(bytes_of(data)), tag(transfer, micro_batch, true)); });
  count_collective(ranks, (static_cast<int64_t>(ranks.size()) - 1) * bytes_of(data));
}

void Rank::end_call() {
  communicate([&] { data_.end_call(); });
}

// -- captures -------------------------------------------------------------------------------------------------------------------------------------

void Rank::capture_loss(const Tensor& scalar) {
  if (captures_) captures_->loss = fetch(processor_, scalar);
}

void Rank::capture_grad_norm(const Tensor& scalar) {
  if (captures_) captures_->grad_norm = fetch(processor_, scalar);
}

void Rank::capture_output(const char* tensor, const Tensor& value, int32_t regions, int micro_batch) {
  if (!captures_ || !captures_->wants_outputs) return;
  captures_->outputs.push_back({tensor, &constants_.regions[static_cast<size_t>(regions + micro_batch)], fetch(processor_, value)});
}

void Rank::capture_gradient(const char* parameter, const Tensor& value, int32_t regions, const Tensor& scale) {
  if (!captures_ || !captures_->wants_gradients) return;
  CapturedBlock block{parameter, &constants_.regions[static_cast<size_t>(regions)], fetch(processor_, value)};
  if (scale.data) block.scale = fetch(processor_, scale);
  captures_->gradients.push_back(std::move(block));
}

}  // namespace sscc::rt
