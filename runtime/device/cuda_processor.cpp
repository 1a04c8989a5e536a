#include "cuda_processor.h"

#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <string>
#include <vector>

#include "arena_pattern.cuh"
#include "handles.h"
#include "pinned.h"
#include "sscc_rt/cuda.h"
#include "step_graph.h"

namespace sscc::rt {
namespace {

class CudaProcessor : public Processor {
 public:
  CudaProcessor(int64_t arena_bytes, int64_t host_bytes, DeviceDataPlane& data, bool records)
      : data_(data),
        records_(records && data.can_be_recorded()),
        bytes_(arena_bytes),
        words_(std::max<int64_t>((arena_bytes + 3) / 4, 1)),
        arena_(static_cast<size_t>(words_) * 4, ("allocate an arena of " + std::to_string(arena_bytes) + " bytes").c_str()),
        highest_(sizeof(unsigned long long), "allocate a counter") {
    fill_with_pattern(words(), words_, poison, compute_stream());
    check(cudaMemsetAsync(highest_.data(), 0, sizeof(unsigned long long), compute_stream()), "clear a counter");
    highest_found_ = reinterpret_cast<unsigned long long*>(kept_.take(sizeof(unsigned long long)));
    *highest_found_ = 0;
    set_device_step(1);
    if (host_bytes == 0) return;
    const auto words_there = static_cast<size_t>((host_bytes + 3) / 4);
    host_memory_ = mapped_.take(words_there * 4);
    std::fill_n(reinterpret_cast<uint32_t*>(host_memory_), words_there, poison);
  }
  ~CudaProcessor() override {
    if (is_range_open_) nvtxRangePop();
    cudaStreamSynchronize(compute_stream());  // nothing reads pinned memory any more
  }

  std::byte* arena() const override { return static_cast<std::byte*>(arena_.data()); }

  std::byte* host_memory() const override { return host_memory_; }

  void load(std::byte* at, size_t bytes, const Write& write) override {
    buffer_.resize(bytes);
    write(buffer_.data());
    check(cudaMemcpyAsync(at, buffer_.data(), bytes, cudaMemcpyDefault, compute_stream()), "copy to the GPU");
    check(cudaStreamSynchronize(compute_stream()), "copy to the GPU");
  }

  void stage(std::byte* at, size_t bytes, const Write& write) override {
    std::byte* const from = staged_[filling_].take(bytes);
    write(from);
    check(cudaMemcpyAsync(at, from, bytes, cudaMemcpyDefault, compute_stream()), "copy to the GPU");
  }

  const std::byte* fetch(const std::byte* at, size_t bytes) override {
    if (waited_) fetched_.reset();
    waited_ = ended_ = false;
    std::byte* const to = fetched_.take(bytes);
    check(cudaMemcpyAsync(to, at, bytes, cudaMemcpyDefault, compute_stream()), "copy from the GPU");
    return to;
  }

  void give_step(bool repeats, const std::function<void()>& give) override {
    buffer_ = {};
    // What the other pool held was copied before the step before this one, which is over.
    filling_ = 1 - filling_;
    staged_[filling_].reset();
    marked_ = 0;
    const auto give_all = [&] {
      give();
      advance_device_step();
    };
    begin_.record(compute_stream());
    if (repeats && records_) {
      // Places of fetched values are those of the step before: pinned memory does not grow meanwhile, and is not given to others afterwards.
      if (!graph_) graph_ = std::make_unique<StepGraph>(compute_stream(), give_all);
      waited_ = ended_ = false;
      data_.repeat_step();
      graph_->launch(compute_stream());
    } else {
      give_all();
    }
    at("");
    find_highest_changed(words(), static_cast<int64_t>(*highest_found_) / 4, words_, poison, static_cast<unsigned long long*>(highest_.data()),
                         compute_stream());
    check(cudaMemcpyAsync(highest_found_, highest_.data(), sizeof *highest_found_, cudaMemcpyDeviceToHost, compute_stream()), "copy from the GPU");
    end_.record(compute_stream());
    ended_ = has_step_ = true;
  }

  int64_t number_for_kernels(int64_t) const override { return step_on_device; }

  double wait() override {
    if (!ended_) end_.record(compute_stream());
    check(cudaEventSynchronize(end_.get()), "run the step");
    data_.all_ended();
    ended_ = waited_ = true;
    throw_data_errors();
    if (!has_step_) return 0;
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin_.get(), end_.get()), "measure the step");
    return static_cast<double>(milliseconds) * 1e-3;
  }

  int64_t highest_touched() override { return std::min(static_cast<int64_t>(*highest_found_), bytes_); }

  int mark() override {
    if (marked_ == marks_.size()) marks_.push_back(std::make_unique<DeviceEvent>(cudaEventDefault));
    marks_[marked_]->record(compute_stream());
    return static_cast<int>(marked_++);
  }
  double seconds_at(int mark) const override {
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin_.get(), marks_[static_cast<size_t>(mark)]->get()), "measure the step");
    return static_cast<double>(milliseconds) * 1e-3;
  }

  void at(const char* origin) override {
    if (is_range_open_) nvtxRangePop();
    is_range_open_ = *origin != '\0';
    if (is_range_open_) nvtxRangePushA(origin);
  }

 private:
  uint32_t* words() const { return static_cast<uint32_t*>(arena_.data()); }

  DeviceDataPlane& data_;
  const bool records_;
  const int64_t bytes_, words_;
  const DeviceMemory arena_, highest_;
  std::vector<std::byte> buffer_;  // of weights on their way
  PinnedPool staged_[2], fetched_, kept_, mapped_;
  std::byte* host_memory_ = nullptr;
  int filling_ = 0;  // the pool of the inputs that are staged next
  unsigned long long* highest_found_ = nullptr;
  const DeviceEvent begin_{cudaEventDefault}, end_{cudaEventDefault};
  std::vector<std::unique_ptr<DeviceEvent>> marks_;
  size_t marked_ = 0;   // of them, in this step
  bool ended_ = false;  // end_ is behind everything that the host waits for
  bool waited_ = false, has_step_ = false, is_range_open_ = false;
  std::unique_ptr<StepGraph> graph_;
};

}  // namespace

std::unique_ptr<Processor> make_cuda_processor(int64_t arena_bytes, int64_t host_bytes, DeviceDataPlane& data, bool records) {
  return std::make_unique<CudaProcessor>(arena_bytes, host_bytes, data, records);
}

}  // namespace sscc::rt
