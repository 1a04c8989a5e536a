// Host memory that a GPU copies from and to while the host goes on.
#pragma once

#include <cstddef>
#include <vector>

namespace sscc::rt {

// Gives places one after another and takes them back all at once. It grows in the first steps; then it allocates nothing.
class PinnedPool {
 public:
  PinnedPool() = default;
  PinnedPool(const PinnedPool&) = delete;
  PinnedPool& operator=(const PinnedPool&) = delete;
  ~PinnedPool();

  std::byte* take(size_t bytes);  // throws EnvironmentFailure
  void reset() { block_ = used_ = 0; }

 private:
  struct Block {
    std::byte* data = nullptr;
    size_t bytes = 0;
  };
  std::vector<Block> blocks_;
  size_t block_ = 0, used_ = 0;  // where the next place is
};

}  // namespace sscc::rt
