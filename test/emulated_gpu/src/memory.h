// Memory of the emulated GPU, and of the host where it is pinned.
#pragma once

#include <cstddef>
#include <string>

namespace emulated_gpu {

enum class Kind { device, pinned, pageable };  // pageable: what was not allocated here

// Filled with bytes 0xff, between guard zones and pages that cannot be touched; aligned to 256 bytes. Null where there is no such memory.
void* allocate(size_t bytes, Kind kind);
// False if there is no such memory of this kind. Throws Fault if a guard zone was written to.
bool release(void* memory, Kind kind);

// The kind of the memory that holds all of these bytes. Throws Fault where they begin in memory that ends before they do.
Kind kind_of(const void* memory, size_t bytes);

// Throws Fault, "`what` wrote ...", if a guard zone of any memory was written to.
void check_guards(const std::string& what);

}  // namespace emulated_gpu
