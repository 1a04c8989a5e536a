#include <algorithm>

#include "arena_pattern.cuh"
#include "sscc_rt/cuda_launch.cuh"

namespace sscc::rt {
namespace {

constexpr int threads = 256;
constexpr int64_t most_blocks = 4096;

unsigned blocks_for_words(int64_t words) { return static_cast<unsigned>(std::min((words + threads - 1) / threads, most_blocks)); }

__global__ void fill_words(uint32_t* words, int64_t count, uint32_t pattern) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) words[i] = pattern;
}

__global__ void highest_changed(const uint32_t* words, int64_t begin, int64_t end, uint32_t pattern, unsigned long long* highest) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  unsigned long long mine = 0;
  for (int64_t i = begin + int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < end; i += step) {
    const uint32_t changed = words[i] ^ pattern;
    if (changed != 0) mine = static_cast<unsigned long long>(i) * 4 + 4 - static_cast<unsigned>(__clz(static_cast<int>(changed))) / 8;
  }
  for (int distance = 16; distance > 0; distance /= 2) {
    const unsigned long long other = __shfl_down_sync(0xffffffff, mine, static_cast<unsigned>(distance));
    if (other > mine) mine = other;
  }
  if (threadIdx.x % 32 == 0 && mine > 0) atomicMax(highest, mine);
}

}  // namespace

void fill_with_pattern(uint32_t* words, int64_t count, uint32_t pattern, cudaStream_t stream) {
  if (count == 0) return;
  launch_on(stream, fill_words, blocks_for_words(count), threads, 0, words, count, pattern);
}

void find_highest_changed(const uint32_t* words, int64_t begin, int64_t end, uint32_t pattern, unsigned long long* highest, cudaStream_t stream) {
  if (begin >= end) return;
  launch_on(stream, highest_changed, blocks_for_words(end - begin), threads, 0, words, begin, end, pattern, highest);
}

}  // namespace sscc::rt
