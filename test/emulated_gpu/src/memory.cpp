#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>

#include "emulated_gpu/gpu.h"

namespace emulated_gpu {
namespace {

constexpr size_t guard = 256;
constexpr int poison = 0xff, guard_byte = 0xa5;
constexpr size_t device_bytes = size_t{8} << 30;

struct Allocation {
  size_t bytes = 0, mapped = 0;
  std::byte* mapping = nullptr;
  Kind kind = Kind::device;
};

std::map<std::byte*, Allocation> allocations;  // by their first byte
size_t allocated = 0;

// Where a guard zone was written to; null: nowhere.
const std::byte* written(const std::byte* begin) {
  const std::byte* const end = begin + guard;
  const std::byte* const found = std::find_if(begin, end, [](std::byte each) { return each != std::byte{guard_byte}; });
  return found == end ? nullptr : found;
}

void check_guards_of(std::byte* memory, const Allocation& allocation, const std::string& what) {
  const std::string of = " memory of " + std::to_string(allocation.bytes) + " bytes";
  if (const std::byte* at = written(memory - guard)) throw Fault(what + " wrote " + std::to_string(memory - at) + " bytes before" + of);
  const std::byte* const end = memory + allocation.bytes;
  if (const std::byte* at = written(end)) throw Fault(what + " wrote " + std::to_string(at - end) + " bytes beyond" + of);
}

}  // namespace

void* allocate(size_t bytes, Kind kind) {
  const std::lock_guard lock(mutex());
  if (bytes == 0) return nullptr;
  if (kind == Kind::device && allocated + bytes > device_bytes) return nullptr;
  const size_t mapped = bytes + 4 * guard;
  void* const mapping = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  Allocation allocation{bytes, mapped, static_cast<std::byte*>(mapping), kind};
  std::byte* const memory = allocation.mapping + guard;  // pages begin at multiples of 512
  std::memset(memory - guard, guard_byte, guard);
  std::memset(memory, poison, bytes);
  std::memset(memory + bytes, guard_byte, guard);
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
  if (begin >= first + allocation.bytes + guard) return Kind::pageable;
  if (begin + bytes > first + allocation.bytes)
    throw Fault("bytes " + std::to_string(begin - first) + " to " + std::to_string(static_cast<size_t>(begin - first) + bytes) +
                " are asked for of memory of " + std::to_string(allocation.bytes) + " bytes");
  return allocation.kind;
}

void check_guards(const std::string& what) {
  for (const auto& [memory, allocation] : allocations) check_guards_of(memory, allocation, what);
}

}  // namespace emulated_gpu
