// The memory of one rank's program: one block, filled with a pattern before the run, so that what was never written shows.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sscc::rt {

class Arena {
 public:
  explicit Arena(int64_t bytes);  // throws EnvironmentFailure
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena();

  std::byte* data() const { return data_; }
  // One more than the position of the highest byte that was ever found changed. Looks only above what the last call returned.
  int64_t highest_touched();

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0, mapped_ = 0;
  int64_t highest_ = 0;
};

}  // namespace sscc::rt
