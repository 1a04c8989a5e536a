// A GPU as processor: the one of start_device (sscc_rt/cuda.h).
//
// The step is enqueued as a whole while the GPU works on it, then the next step's inputs are read from files into pinned memory and enqueued behind
// it; the host waits once, for the step's end. Captured values travel into pinned memory where the program captures them.
#pragma once

#include <memory>

#include "../src/processor.h"

namespace sscc::rt {

// `host_bytes` of pinned memory, which kernels reach over the bus. `ended`: called whenever the GPU has ended all that it was given, before the host
// looks at what it left. Throws EnvironmentFailure.
std::unique_ptr<Processor> make_cuda_processor(int64_t arena_bytes, int64_t host_bytes, std::function<void()> ended);

}  // namespace sscc::rt
