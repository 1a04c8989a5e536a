#include "pinned.h"

#include <algorithm>

#include "sscc_rt/cuda.h"

namespace sscc::rt {

constexpr size_t smallest_block = size_t{1} << 20, alignment = 64;

PinnedPool::~PinnedPool() {
  for (const Block& block : blocks_) cudaFreeHost(block.data);
}

std::byte* PinnedPool::take(size_t bytes) {
  bytes = (bytes + alignment - 1) / alignment * alignment;
  while (block_ < blocks_.size() && blocks_[block_].bytes - used_ < bytes) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) {
    Block block{nullptr, std::max(bytes, smallest_block)};
    void* data = nullptr;
    check(cudaHostAlloc(&data, block.bytes, cudaHostAllocDefault), "allocate pinned memory");
    block.data = static_cast<std::byte*>(data);
    blocks_.push_back(block);
  }
  std::byte* const place = blocks_[block_].data + used_;
  used_ += bytes;
  return place;
}

}  // namespace sscc::rt
