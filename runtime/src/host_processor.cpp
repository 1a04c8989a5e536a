#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "processor.h"
#include "sscc_rt/rank.h"

namespace sscc::rt {
namespace {

using Clock = std::chrono::steady_clock;

// Anonymous memory, filled with the pattern.
class Memory {
 public:
  explicit Memory(int64_t bytes) : mapped_(std::max<int64_t>((bytes + 3) / 4, 1) * 4) {
    void* memory = mmap(nullptr, static_cast<size_t>(mapped_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw EnvironmentFailure("cannot get an arena of " + std::to_string(mapped_) + " bytes: " + std::strerror(errno));
    madvise(memory, static_cast<size_t>(mapped_), MADV_HUGEPAGE);
    begin_ = static_cast<std::byte*>(memory);
    std::fill_n(reinterpret_cast<uint32_t*>(memory), mapped_ / 4, poison);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { munmap(begin_, static_cast<size_t>(mapped_)); }
  std::byte* begin() const { return begin_; }

 private:
  std::byte* begin_ = nullptr;
  int64_t mapped_ = 0;
};

class HostProcessor : public Processor {
 public:
  HostProcessor(int64_t bytes, int64_t host_bytes) : bytes_(bytes), arena_(bytes) {
    if (host_bytes > 0) host_memory_ = std::make_unique<Memory>(host_bytes);
  }

  std::byte* arena() const override { return arena_.begin(); }
  std::byte* host_memory() const override { return host_memory_ ? host_memory_->begin() : nullptr; }
  void load(std::byte* at, size_t, const Write& write) override { write(at); }
  void stage(std::byte* at, size_t, const Write& write) override { write(at); }
  const std::byte* fetch(const std::byte* at, size_t bytes) override {
    if (waited_) fetched_.clear();
    waited_ = false;
    return fetched_.emplace_back(at, at + bytes).data();
  }

  void give_step(bool, const std::function<void()>& give) override {
    begin_ = Clock::now();
    marks_.clear();
    give();
    seconds_ = std::chrono::duration<double>(Clock::now() - begin_).count();
  }
  int mark() override {
    marks_.push_back(Clock::now());
    return static_cast<int>(marks_.size()) - 1;
  }
  double seconds_at(int mark) const override { return std::chrono::duration<double>(marks_[static_cast<size_t>(mark)] - begin_).count(); }
  double wait() override {
    waited_ = true;
    return seconds_;
  }

  int64_t highest_touched() override {
    // Looks only above what the last call returned.
    for (int64_t at = bytes_; at > highest_; --at) {
      const auto untouched = static_cast<std::byte>(poison >> ((at - 1) % 4 * 8) & 0xff);
      if (arena()[at - 1] != untouched) {
        highest_ = at;
        break;
      }
    }
    return highest_;
  }

 private:
  const int64_t bytes_;
  const Memory arena_;
  std::unique_ptr<Memory> host_memory_;
  int64_t highest_ = 0;
  std::deque<std::vector<std::byte>> fetched_;
  bool waited_ = false;
  Clock::time_point begin_;
  std::vector<Clock::time_point> marks_;
  double seconds_ = 0;
};

}  // namespace

std::unique_ptr<Processor> make_host_processor(int64_t arena_bytes, int64_t host_bytes) {
  return std::make_unique<HostProcessor>(arena_bytes, host_bytes);
}

}  // namespace sscc::rt
