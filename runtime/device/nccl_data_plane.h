// NCCL as the way of a program's data between GPUs.
//
// One communicator over all ranks carries messages, since sends and receives that go together have to be one call of one communicator; every group has
// one of its own. Each has its stream, and runs beside the kernels but for what mark and wait order. Calls follow one another in the program's order,
// the same on every rank; below NCCL 2.26 an event between two calls of different communicators keeps it on the GPU, from 2.26 on NCCL does
// (NCCL_LAUNCH_ORDER_IMPLICIT).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "device_data_plane.h"

namespace sscc::rt {

// Collective: all ranks make all communicators, in the order of `all_groups`, the same on every rank. `groups`: of this rank, as its constants have
// them. Throws PeerFailure where NCCL refuses, a peer fails, or it takes longer than the timeout.
std::unique_ptr<DeviceDataPlane> make_nccl_data_plane(ControlPlane& control, const std::vector<std::vector<int32_t>>& all_groups,
                                                      const std::vector<std::vector<int32_t>>& groups, double timeout_seconds);

// "NCCL 2.28.9", of the library that this process has loaded.
std::string nccl_version();

}  // namespace sscc::rt
