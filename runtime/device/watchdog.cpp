#include "watchdog.h"

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>

#include "progress.cuh"

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

Watchdog::Watchdog(ControlPlane& control, double timeout_seconds, size_t streams, std::function<std::optional<std::string>()> failure,
                   std::function<void()> break_off)
    : control_(control),
      timeout_seconds_(timeout_seconds),
      streams_(streams),
      failure_(std::move(failure)),
      break_off_(std::move(break_off)),
      words_(reinterpret_cast<uint32_t*>(memory_.take(streams * sizeof(uint32_t)))) {
  forget_progress();
  thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stop_changed_.notify_all();
  thread_.join();
}

void Watchdog::begin_step() {
  const std::lock_guard lock(mutex_);
  calls_.clear();
  forget_progress();
}

void Watchdog::given(cudaStream_t stream, size_t index, const Place& place, const char* peers) {
  uint32_t number = 0;
  {
    const std::lock_guard lock(mutex_);
    if (passed_ == calls_.size()) since_ = Clock::now();
    calls_.push_back({index, place, peers});
    number = static_cast<uint32_t>(calls_.size());
  }
  tell_progress(words_ + index, number, stream);  // may wait for the GPU, while the other thread looks on
}

void Watchdog::repeat_step() {
  const std::lock_guard lock(mutex_);
  forget_progress();
}

void Watchdog::all_passed() {
  const std::lock_guard lock(mutex_);  // for ever, where end() has begun
  passed_ = calls_.size();
}

// With the mutex.
void Watchdog::forget_progress() {
  passed_ = 0;
  since_ = Clock::now();
  for (size_t s = 0; s < streams_; ++s) std::atomic_ref(words_[s]).store(0);
}

bool Watchdog::has_passed(size_t call) const { return std::atomic_ref(words_[calls_[call].stream]).load() > call; }

void Watchdog::watch() {
  std::unique_lock lock(mutex_);
  while (!stop_changed_.wait_for(lock, between_looks, [&] { return stop_; })) {
    for (; passed_ < calls_.size() && has_passed(passed_); ++passed_) since_ = Clock::now();
    if (passed_ == calls_.size()) continue;  // the program's thread is on its own
    const Call& oldest = calls_[passed_];
    const std::string here = "rank " + std::to_string(control_.rank());
    if (const std::optional<std::string> failure = failure_()) end(here + " leaves " + text_of(oldest.place) + ": " + *failure);
    if (std::chrono::duration<double>(Clock::now() - since_).count() < timeout_seconds_) continue;
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
