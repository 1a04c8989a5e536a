#include "compiler/report/library_memory.h"

#include <set>

#include "sscc_rt/workspaces.h"

namespace sscc {
namespace {

constexpr int64_t mebibyte = int64_t{1} << 20;
// The driver's context, with the code of our kernels and of cuBLASLt.
constexpr int64_t context_bytes = 512 * mebibyte;
// NCCL has buffers of 4 MiB and smaller ones (NCCL_BUFFSIZE; of low latency) for each neighbour on each channel: of a group two neighbours on up to 16
// channels, of a rank that gets messages two channels.
constexpr int64_t connection_bytes = 6 * mebibyte;
constexpr int64_t group_bytes = 2 * 16 * connection_bytes, peer_bytes = 2 * connection_bytes;

}  // namespace

int64_t library_bytes(const Body& body, const RankProgram& rank) {
  int64_t bytes = context_bytes + static_cast<int64_t>(rt::blas_workspace_bytes + rt::scratch_bytes);
  if (has_convolutions(body)) bytes += rt::most_convolution_workspace_bytes;
  const std::set<int32_t> peers(rank.constants.peers.begin(), rank.constants.peers.end());
  return bytes + static_cast<int64_t>(rank.constants.groups.size()) * group_bytes + static_cast<int64_t>(peers.size()) * peer_bytes;
}

}  // namespace sscc
