// A GPU as processor: the one of start_device (sscc_rt/cuda.h).
//
// The step is enqueued as a whole while the GPU works on it, then the next step's inputs are read from files into pinned memory and enqueued behind
// it; the host waits once, for the step's end. Captured values travel into pinned memory where the program captures them.
//
// The first step that repeats is recorded as a graph, and from there on a step is one launch. What it knows of the step that it is launched for is on the
// GPU (the optimizer's t) or in places that stay where they are: the inputs in the arena, to which they were copied before; captured values in pinned
// memory.
#pragma once

#include <memory>

#include "../src/processor.h"
#include "device_data_plane.h"

namespace sscc::rt {

// `host_bytes` of pinned memory, which kernels reach over the bus. `data`: what the step's communication goes through; it is told whenever the GPU has
// ended all that it was given, before the host looks at what it left. `records`: whether steps that repeat become a graph. Throws EnvironmentFailure.
std::unique_ptr<Processor> make_cuda_processor(int64_t arena_bytes, int64_t host_bytes, DeviceDataPlane& data, bool records);

}  // namespace sscc::rt
