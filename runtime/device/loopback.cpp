#include "loopback.h"

#include "pinned.h"
#include "sscc_rt/cuda.h"

namespace sscc::rt {
namespace {

class Loopback : public DeviceDataPlane {
 public:
  explicit Loopback(Transport& hosts) : hosts_(hosts) {}

  bool can_be_recorded() const override { return false; }

  void send(int peer, const void* data, size_t bytes, int64_t tag) override {
    hosts_.send(peer, from_device(data, bytes), bytes, tag);
    hosts_.wait_sends();
    pool_.reset();
  }
  void wait_sends() override {}
  void receive(int peer, void* data, size_t bytes, int64_t tag) override {
    std::byte* const host = pool_.take(bytes);
    hosts_.receive(peer, host, bytes, tag);
    to_device(data, host, bytes);
  }
  void all_reduce(std::span<const int32_t> group, void* data, int64_t elements, DType dtype, Join join, int64_t tag) override {
    const size_t bytes = static_cast<size_t>(elements) * size_of(dtype);
    std::byte* const host = from_device(data, bytes);
    hosts_.all_reduce(group, host, elements, dtype, join, tag);
    to_device(data, host, bytes);
  }
  void all_gather(std::span<const int32_t> group, void* all, const void* mine, size_t bytes_each, int64_t tag) override {
    std::byte *const given = from_device(mine, bytes_each), *const received = pool_.take(bytes_each * group.size());
    hosts_.all_gather(group, received, given, bytes_each, tag);
    to_device(all, received, bytes_each * group.size());
  }
  void reduce_scatter(std::span<const int32_t> group, void* mine, const void* all, int64_t elements_each, DType dtype, Join join,
                      int64_t tag) override {
    const size_t bytes = static_cast<size_t>(elements_each) * size_of(dtype);
    std::byte *const given = from_device(all, bytes * group.size()), *const received = pool_.take(bytes);
    hosts_.reduce_scatter(group, received, given, elements_each, dtype, join, tag);
    to_device(mine, received, bytes);
  }
  void all_to_all(std::span<const int32_t> group, void* received, const void* given, size_t bytes_each, int64_t tag) override {
    const size_t bytes = bytes_each * group.size();
    std::byte *const mine = from_device(given, bytes), *const theirs = pool_.take(bytes);
    hosts_.all_to_all(group, theirs, mine, bytes_each, tag);
    to_device(received, theirs, bytes);
  }
  void broadcast(std::span<const int32_t> group, size_t root, void* data, size_t bytes, int64_t tag) override {
    std::byte* const host = from_device(data, bytes);
    hosts_.broadcast(group, root, host, bytes, tag);
    to_device(data, host, bytes);
  }
  void at(const char* segment, const char* origin, int micro_batch) override { hosts_.at(segment, origin, micro_batch); }

 private:
  // Kernels and copies share a stream, so what the kernels so far wrote is there.
  std::byte* from_device(const void* data, size_t bytes) {
    std::byte* const host = pool_.take(bytes);
    check(cudaMemcpyAsync(host, data, bytes, cudaMemcpyDeviceToHost, compute_stream()), "copy from the GPU");
    check(cudaStreamSynchronize(compute_stream()), "copy from the GPU");
    return host;
  }
  void to_device(void* data, const std::byte* host, size_t bytes) {
    check(cudaMemcpyAsync(data, host, bytes, cudaMemcpyHostToDevice, compute_stream()), "copy to the GPU");
    check(cudaStreamSynchronize(compute_stream()), "copy to the GPU");
    pool_.reset();
  }

  Transport& hosts_;
  PinnedPool pool_;
};

}  // namespace

std::unique_ptr<DeviceDataPlane> make_loopback(Transport& hosts) { return std::make_unique<Loopback>(hosts); }

}  // namespace sscc::rt
