// Knows how far the GPU has come in the communication that it was given, and ends the process when it comes no further.
//
// The host runs ahead of the GPU, and may itself stand in a call of CUDA that waits for a peer; so a thread of its own looks on. It asks, in the order
// of the program, for the oldest call that the GPU has not passed: that is the operator and the micro-batch that this rank waits in. Nothing passed
// within the timeout, or a peer failed: it says so, tells the others, breaks off what the GPU waits for, and ends the process with status 4.
//
// Behind each call its stream writes the call's number into a word of the host's memory (progress.cuh). That goes on where the step is launched as a
// graph, of which the host otherwise sees nothing but its end.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "pinned.h"
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
  // `streams`: how many there are. `failure`: what else may fail behind the host's back, for any thread. `break_off`: ends what the GPU waits for; it may
  // itself wait for ever.
  Watchdog(ControlPlane& control, double timeout_seconds, size_t streams, std::function<std::optional<std::string>()> failure,
           std::function<void()> break_off);
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  ~Watchdog();

  // A step's calls come; those of the one before have ended.
  void begin_step();
  // A call was enqueued on `stream`, which is number `index`. `peers`: "rank 1", "ranks 0 1 3"; the text outlives the watchdog.
  void given(cudaStream_t stream, size_t index, const Place& place, const char* peers);
  // The calls since begin_step() were recorded, and are given to the GPU now.
  void repeat_step();
  // The GPU has ended all that it was given. Does not return where that is so because it was broken off: what it left is not to be looked at.
  void all_passed();

 private:
  struct Call {
    size_t stream = 0;
    Place place;
    const char* peers = "";
  };
  void watch();
  bool has_passed(size_t call) const;
  void forget_progress();
  [[noreturn]] void end(const std::string& message);

  ControlPlane& control_;
  const double timeout_seconds_;
  const size_t streams_;
  const std::function<std::optional<std::string>()> failure_;
  const std::function<void()> break_off_;
  PinnedPool memory_;
  uint32_t* const words_;  // of each stream: the number of the step's last call that it has passed; 0: none

  std::mutex mutex_;  // of what follows
  std::condition_variable stop_changed_;
  bool stop_ = false;
  std::vector<Call> calls_;  // of the step; the first one is number 1
  size_t passed_ = 0;        // so many of them are known to have been passed
  std::chrono::steady_clock::time_point since_;
  std::thread thread_;
};

}  // namespace sscc::rt
