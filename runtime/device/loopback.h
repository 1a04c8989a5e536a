// A program's data between GPUs by way of the hosts: GPU, pinned memory, a host's Transport, and back. Slow, and without conditions: for tests of
// several ranks on one GPU where NCCL refuses. Every call has ended when it returns, so mark and wait have nothing to do.
#pragma once

#include <memory>

#include "device_data_plane.h"

namespace sscc::rt {

// `hosts` outlives it.
std::unique_ptr<DeviceDataPlane> make_loopback(Transport& hosts);

}  // namespace sscc::rt
