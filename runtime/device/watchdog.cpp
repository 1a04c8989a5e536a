#include "watchdog.h"

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "sscc_rt/cuda.h"

namespace sscc::rt {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int peer_failed = 4;
constexpr auto between_looks = std::chrono::milliseconds(10);
constexpr auto patience_at_the_end = std::chrono::seconds(2);  // for communicators that do not let themselves be aborted

}  // namespace

std::string text_of(const Place& place) {
  if (*place.segment == '\0') return *place.origin ? place.origin : "start-up";
  return std::string(place.operation) + " of '" + place.origin + "' (segment " + place.segment + ", micro-batch " +
         std::to_string(place.micro_batch) + ")";
}

Watchdog::Watchdog(ControlPlane& control, double timeout_seconds, std::function<std::optional<std::string>()> failure,
                   std::function<void()> break_off)
    : control_(control), timeout_seconds_(timeout_seconds), failure_(std::move(failure)), break_off_(std::move(break_off)) {
  check(cudaGetDevice(&device_), "find the GPU");
  thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stop_changed_.notify_all();
  thread_.join();
  for (const Call& call : calls_) cudaEventDestroy(call.passed);
  for (cudaEvent_t event : events_) cudaEventDestroy(event);
}

void Watchdog::given(cudaStream_t stream, const Place& place, const char* peers) {
  const std::lock_guard lock(mutex_);
  if (events_.empty()) retire_passed();
  Call call{nullptr, place, peers};
  if (events_.empty()) {
    check(cudaEventCreateWithFlags(&call.passed, cudaEventDisableTiming), "create an event");
  } else {
    call.passed = events_.back();
    events_.pop_back();
  }
  check(cudaEventRecord(call.passed, stream), "record an event");
  calls_.push_back(call);
}

void Watchdog::all_passed() {
  const std::lock_guard lock(mutex_);  // for ever, where end() has begun
  retire_passed();
}

// With the mutex. An error is left to the program's thread, which finds it at the end of the step.
void Watchdog::retire_passed() {
  while (!calls_.empty() && cudaEventQuery(calls_.front().passed) == cudaSuccess) {
    events_.push_back(calls_.front().passed);
    calls_.pop_front();
    ++retired_;
  }
}

void Watchdog::watch() {
  if (cudaSetDevice(device_) != cudaSuccess) return;  // the program's thread meets the same error
  Clock::time_point since = Clock::now();
  uint64_t retired_before = 0;
  std::unique_lock lock(mutex_);
  while (!stop_changed_.wait_for(lock, between_looks, [&] { return stop_; })) {
    retire_passed();
    if (calls_.empty() || retired_ != retired_before) {
      since = Clock::now();
      retired_before = retired_;
    }
    if (calls_.empty()) continue;  // the program's thread is on its own
    const Call& oldest = calls_.front();
    const std::string here = "rank " + std::to_string(control_.rank());
    if (const std::optional<std::string> failure = failure_()) end(here + " leaves " + text_of(oldest.place) + ": " + *failure);
    if (std::chrono::duration<double>(Clock::now() - since).count() < timeout_seconds_) continue;
    char seconds[32];
    std::snprintf(seconds, sizeof seconds, "%g", timeout_seconds_);
    end(here + " waited " + seconds + " s for " + oldest.peers + " in " + text_of(oldest.place));
  }
}

void Watchdog::end(const std::string& message) {
  // The program's thread may stand in a call of what is broken off.
  for (const int signal : {SIGSEGV, SIGBUS, SIGABRT}) std::signal(signal, [](int) { std::_Exit(peer_failed); });
  std::fprintf(stderr, "sscc: %s\n", message.c_str());
  std::fflush(nullptr);
  control_.abort(message, peer_failed);
  std::thread([this] { break_off_(); }).detach();
  std::this_thread::sleep_for(patience_at_the_end);
  std::_Exit(peer_failed);
}

}  // namespace sscc::rt
