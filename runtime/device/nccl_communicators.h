// NCCL's communicators: non-blocking, so that every call can be left when a peer fails.
#pragma once

#include <nccl.h>

#include <atomic>
#include <map>
#include <memory>
#include <vector>

#include "sscc_rt/transport.h"

namespace sscc::rt {

class NcclCommunicators {
 public:
  // As make_nccl_data_plane.
  NcclCommunicators(ControlPlane& control, const std::vector<std::vector<int32_t>>& all_groups, double timeout_seconds);
  NcclCommunicators(const NcclCommunicators&) = delete;
  NcclCommunicators& operator=(const NcclCommunicators&) = delete;
  ~NcclCommunicators();

  ncclComm_t world() const { return *world_; }
  ncclComm_t of(const std::vector<int32_t>& group) const { return *groups_.at(group); }

  // Waits until what was called has been given to the GPU. `result`: of the call. Throws PeerFailure for failures and after the timeout,
  // std::logic_error for calls that NCCL calls wrong.
  void settle(ncclComm_t communicator, ncclResult_t result, const std::string& what) const;
  // What has gone wrong since, for any thread.
  std::optional<std::string> failure() const;
  // Ends everything that the GPU waits for. For any thread; communicators are of no use afterwards, and settle does not return any more.
  void abort();

 private:
  using Handle = std::unique_ptr<ncclComm_t>;  // NCCL may fill it in later: its place stays
  void make_world();
  void split(const std::vector<const std::vector<int32_t>*>& disjoint);
  std::vector<ncclComm_t> all() const;

  ControlPlane& control_;
  const double timeout_seconds_;
  Handle world_;
  std::map<std::vector<int32_t>, Handle> groups_;  // of this rank
  std::atomic<bool> aborted_ = false;
};

}  // namespace sscc::rt
