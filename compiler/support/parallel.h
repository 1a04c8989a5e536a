// Independent work on all cores.
#pragma once

#include <cstddef>
#include <functional>

namespace sscc {

// work(0) to work(count - 1), in any order, each on some thread; returns when all are done.
void in_parallel(size_t count, const std::function<void(size_t)>& work);

}  // namespace sscc
