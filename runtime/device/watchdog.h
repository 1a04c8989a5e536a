// Knows how far the GPU has come in the communication that it was given, and ends the process when it comes no further.
//
// The host runs ahead of the GPU, and may itself stand in a call of CUDA that waits for a peer; so a thread of its own looks on. It asks, in the order
// of the program, for the oldest call that the GPU has not passed: that is the operator and the micro-batch that this rank waits in. Nothing passed
// within the timeout, or a peer failed: it says so, tells the others, breaks off what the GPU waits for, and ends the process with status 4.
#pragma once

#include <cuda_runtime_api.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "sscc_rt/transport.h"

namespace sscc::rt {

// Where a program is; texts that outlive it.
struct Place {
  const char* segment = "";
  const char* origin = "";
  int micro_batch = 0;
  const char* operation = "";  // "all-reduce"
};
// "all-reduce of 'X' (segment 1F, micro-batch 3)"
std::string text_of(const Place& place);

class Watchdog {
 public:
  // `failure`: what else may fail behind the host's back, for any thread. `break_off`: ends what the GPU waits for; it may itself wait for ever.
  Watchdog(ControlPlane& control, double timeout_seconds, std::function<std::optional<std::string>()> failure, std::function<void()> break_off);
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  ~Watchdog();

  // A call was enqueued on `stream`. `peers`: "rank 1", "ranks 0 1 3"; the text outlives the watchdog.
  void given(cudaStream_t stream, const Place& place, const char* peers);
  // The GPU has ended all that it was given. Does not return where that is so because it was broken off: what it left is not to be looked at.
  void all_passed();

 private:
  struct Call {
    cudaEvent_t passed = nullptr;
    Place place;
    const char* peers = "";
  };
  void watch();
  void retire_passed();
  [[noreturn]] void end(const std::string& message);

  ControlPlane& control_;
  const double timeout_seconds_;
  const std::function<std::optional<std::string>()> failure_;
  const std::function<void()> break_off_;
  int device_ = 0;

  std::mutex mutex_;  // of what follows
  std::condition_variable stop_changed_;
  bool stop_ = false;
  std::deque<Call> calls_;           // oldest first
  std::vector<cudaEvent_t> events_;  // of no call
  uint64_t retired_ = 0;
  std::thread thread_;
};

}  // namespace sscc::rt
