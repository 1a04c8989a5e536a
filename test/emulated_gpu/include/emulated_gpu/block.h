// The threads of a block, as kernels on the emulated GPU see them.
//
// Blocks run one after the other, the threads of a block as fibers, in an order that a seed chooses. A thread runs until it has to meet others. What
// is wrong ends the kernel with a message and cudaErrorLaunchFailure:
//   - a barrier or an exchange of lanes that a thread does not come to, be it that it has left the kernel or waits elsewhere in the source;
//   - reading the value of a lane that is not in the mask.
// Shared memory holds bytes 0xff when a block begins: not a number in every type of float.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <source_location>
#include <stdexcept>
#include <type_traits>

#include "cuda_runtime_api.h"

// Of the thread that runs.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace emulated_gpu {

// -- for kernels ----------------------------------------------------------------------------------------------------------------------------------

int lane();

void block_barrier(std::source_location where);

// What the launch asked for, aligned to 128 bytes and to no more.
void* dynamic_shared_memory();

namespace detail {
// The lanes of `mask` meet at `where`; the values of all of them, 32 places of `bytes`, until the calling lane's next exchange of that mask.
const std::byte* exchange(unsigned mask, const void* mine, size_t bytes, std::source_location where);
[[noreturn]] void wrong_lane(unsigned mask, int lane, std::source_location where);
}  // namespace detail

// What each lane of the mask gave.
template <class T>
class Exchanged {
 public:
  Exchanged(const std::byte* values, unsigned mask, std::source_location where) : values_(values), mask_(mask), where_(where) {}
  T of(int lane) const {
    if (!(mask_ >> lane & 1)) detail::wrong_lane(mask_, lane, where_);
    T value;
    __builtin_memcpy(&value, values_ + static_cast<size_t>(lane) * sizeof value, sizeof value);
    return value;
  }

 private:
  const std::byte* values_;
  unsigned mask_;
  std::source_location where_;
};
template <class T>
Exchanged<T> exchange(unsigned mask, const T& mine, std::source_location where = std::source_location::current()) {
  static_assert(std::is_trivially_copyable_v<T>);
  return {detail::exchange(mask, &mine, sizeof mine, where), mask, where};
}

// All 32 lanes of a warp come, and each gets what all of them gave: what instructions of whole warps (mma, ldmatrix) are made of.
template <class T>
std::array<T, 32> all_lanes(const T& mine, std::source_location where = std::source_location::current()) {
  const Exchanged<T> values = exchange(0xffffffffu, mine, where);
  std::array<T, 32> result;
  for (int lane = 0; lane < 32; ++lane) result[static_cast<size_t>(lane)] = values.of(lane);
  return result;
}

// -- for the emulation ----------------------------------------------------------------------------------------------------------------------------

struct Kernel {
  const void* function;  // tells which library's shared memory it uses
  dim3 grid, block;
  size_t shared_bytes;
  std::function<void()> thread;  // the kernel with its arguments
};

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Runs all blocks. Throws Fault. One kernel at a time.
void run(const Kernel& kernel);

}  // namespace emulated_gpu
