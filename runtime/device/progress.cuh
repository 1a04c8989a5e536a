// Words that tell the host how far streams have come, also where what they were given is launched as a graph.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace sscc::rt {

// Enqueues: when `stream` has come here, *word = number. `word`: in pinned memory, for the host to read at any time.
void tell_progress(uint32_t* word, uint32_t number, cudaStream_t stream);

}  // namespace sscc::rt
