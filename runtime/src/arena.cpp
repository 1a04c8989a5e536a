#include "arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "sscc_rt/rank.h"

namespace sscc::rt {
namespace {

// As f32 and f64 a NaN, as an index far outside, and no byte of a small integer of either sign at its end.
constexpr uint32_t poison = 0x7ffadbad;

}  // namespace

Arena::Arena(int64_t bytes) : bytes_(bytes), mapped_(std::max<int64_t>(bytes + 3, 4) / 4 * 4) {
  void* memory = mmap(nullptr, static_cast<size_t>(mapped_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw EnvironmentFailure("cannot get an arena of " + std::to_string(bytes) + " bytes: " + std::strerror(errno));
  madvise(memory, static_cast<size_t>(mapped_), MADV_HUGEPAGE);
  data_ = static_cast<std::byte*>(memory);
  std::fill_n(reinterpret_cast<uint32_t*>(memory), mapped_ / 4, poison);
}

Arena::~Arena() { munmap(data_, static_cast<size_t>(mapped_)); }

int64_t Arena::highest_touched() {
  for (int64_t at = bytes_; at > highest_; --at) {
    const auto untouched = static_cast<std::byte>(poison >> ((at - 1) % 4 * 8) & 0xff);
    if (data_[at - 1] != untouched) {
      highest_ = at;
      break;
    }
  }
  return highest_;
}

}  // namespace sscc::rt
