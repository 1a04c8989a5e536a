#include "compiler/support/parallel.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace sscc {

void in_parallel(size_t count, const std::function<void(size_t)>& work) {
  std::atomic<size_t> next = 0;
  const auto take = [&] {
    for (size_t i = next++; i < count; i = next++) work(i);
  };
  std::vector<std::jthread> others;
  for (size_t t = 1; t < std::min<size_t>(count, std::thread::hardware_concurrency()); ++t) others.emplace_back(take);
  take();
}

}  // namespace sscc
