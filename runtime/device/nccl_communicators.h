// NCCL's communicators: non-blocking, so that every call can be left when a peer fails.
#pragma once

#include <nccl.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "sscc_rt/transport.h"
#include "watchdog.h"

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

  // Calls `enqueue`, which calls NCCL, and waits until that has been given to the GPU. Throws PeerFailure for failures and after the timeout,
  // std::logic_error for calls that NCCL calls wrong.
  template <class Enqueue>
  void call(ncclComm_t communicator, const Place& where, const Enqueue& enqueue) {
    const std::lock_guard lock(calls_);
    settle(communicator, enqueue(), where);
  }
  // What has gone wrong since, for any thread. Nothing while a call is under way: that finds out itself.
  std::optional<std::string> failure() const;
  // Ends everything that the GPU waits for. For any thread; communicators are of no use afterwards, and settle does not return any more.
  void abort();

 private:
  using Handle = std::unique_ptr<ncclComm_t>;  // NCCL may fill it in later: its place stays
  // `result`: of a call that may not be through.
  void settle(ncclComm_t communicator, ncclResult_t result, const Place& where) const;
  void make_world();
  void split(const std::vector<const std::vector<int32_t>*>& disjoint);
  std::vector<ncclComm_t> all() const;

  ControlPlane& control_;
  const double timeout_seconds_;
  Handle world_;
  std::map<std::vector<int32_t>, Handle> groups_;  // of this rank
  // A call's state may be asked for by one thread at a time: NCCL ends its own threads there.
  mutable std::mutex calls_;
  std::atomic<bool> aborted_ = false;
};

}  // namespace sscc::rt
