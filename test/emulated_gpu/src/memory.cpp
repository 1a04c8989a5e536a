#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>

#include "emulated_gpu/gpu.h"

namespace emulated_gpu {
namespace {

// Pages that nobody can touch, a guard zone, the memory, a guard zone up to the next multiple of `alignment`, pages that nobody can touch.
constexpr size_t page = 4096, alignment = 256, guard = 256;
constexpr int poison = 0xff, guard_byte = 0xa5;
constexpr size_t device_bytes = size_t{8} << 30;

struct Allocation {
  size_t bytes = 0, mapped = 0;
  std::byte* mapping = nullptr;
  Kind kind = Kind::device;

  size_t guard_beyond() const { return (alignment - bytes % alignment) % alignment; }
};

std::map<std::byte*, Allocation> allocations;  // by their first byte
size_t allocated = 0;

// Where a guard zone was written to; null: nowhere.
const std::byte* written(const std::byte* begin, const std::byte* end) {
  const std::byte* const found = std::find_if(begin, end, [](std::byte each) { return each != std::byte{guard_byte}; });
  return found == end ? nullptr : found;
}

void check_guards_of(std::byte* memory, const Allocation& allocation, const std::string& what) {
  const std::string of = " memory of " + std::to_string(allocation.bytes) + " bytes";
  if (const std::byte* at = written(memory - guard, memory)) throw Fault(what + " wrote " + std::to_string(memory - at) + " bytes before" + of);
  const std::byte* const end = memory + allocation.bytes;
  if (const std::byte* at = written(end, end + allocation.guard_beyond()))
    throw Fault(what + " wrote " + std::to_string(at - end) + " bytes beyond" + of);
}

}  // namespace

void* allocate(size_t bytes, Kind kind) {
  const std::lock_guard lock(mutex());
  if (bytes == 0) return nullptr;
  if (kind == Kind::device && allocated + bytes > device_bytes) return nullptr;
  Allocation allocation{bytes, 0, nullptr, kind};
  const size_t usable = (guard + bytes + allocation.guard_beyond() + page - 1) / page * page;
  allocation.mapped = usable + 2 * page;
  void* const mapping = mmap(nullptr, allocation.mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  allocation.mapping = static_cast<std::byte*>(mapping);
  std::byte* const end = allocation.mapping + page + usable;
  if (mprotect(allocation.mapping + page, usable, PROT_READ | PROT_WRITE) != 0) return nullptr;
  std::byte* const memory = end - allocation.guard_beyond() - bytes;
  std::memset(memory - guard, guard_byte, guard);
  std::memset(memory, poison, bytes);
  std::memset(memory + bytes, guard_byte, allocation.guard_beyond());
  allocations.emplace(memory, allocation);
  if (kind == Kind::device) allocated += bytes;
  return memory;
}

bool release(void* memory, Kind kind) {
  const std::lock_guard lock(mutex());
  const auto found = allocations.find(static_cast<std::byte*>(memory));
  if (found == allocations.end() || found->second.kind != kind) return false;
  const Allocation allocation = found->second;
  allocations.erase(found);
  if (kind == Kind::device) allocated -= allocation.bytes;
  check_guards_of(static_cast<std::byte*>(memory), allocation, "something");
  munmap(allocation.mapping, allocation.mapped);
  return true;
}

Kind kind_of(const void* memory, size_t bytes) {
  const std::lock_guard lock(mutex());
  auto* const begin = static_cast<std::byte*>(const_cast<void*>(memory));
  auto next = allocations.upper_bound(begin);
  if (next == allocations.begin()) return Kind::pageable;
  const auto& [first, allocation] = *--next;
  if (begin >= first + allocation.bytes + allocation.guard_beyond()) return Kind::pageable;
  if (begin + bytes > first + allocation.bytes)
    throw Fault("bytes " + std::to_string(begin - first) + " to " + std::to_string(static_cast<size_t>(begin - first) + bytes) +
                " are asked for of memory of " + std::to_string(allocation.bytes) + " bytes");
  return allocation.kind;
}

void check_guards(const std::string& what) {
  for (const auto& [memory, allocation] : allocations) check_guards_of(memory, allocation, what);
}

}  // namespace emulated_gpu
