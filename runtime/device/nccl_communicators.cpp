#include "nccl_communicators.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <set>
#include <thread>

#include "sscc_rt/rank.h"

namespace sscc::rt {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto patience_at_the_end = std::chrono::seconds(5);

ncclConfig_t non_blocking() {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  return config;
}

std::string message_of(ncclComm_t communicator, ncclResult_t result) {
  const char* last = communicator ? ncclGetLastError(communicator) : nullptr;
  return std::string(ncclGetErrorString(result)) + (last && *last ? std::string(": ") + last : "");
}

// Groups that can be made by one call, in order: each goes into the first set of disjoint ones.
std::vector<std::vector<const std::vector<int32_t>*>> in_rounds(const std::vector<std::vector<int32_t>>& groups) {
  std::vector<std::vector<const std::vector<int32_t>*>> rounds;
  std::vector<std::set<int32_t>> taken;
  for (const std::vector<int32_t>& group : groups) {
    size_t round = 0;
    while (round < rounds.size() && std::any_of(group.begin(), group.end(), [&](int32_t rank) { return taken[round].contains(rank); })) ++round;
    if (round == rounds.size()) {
      rounds.emplace_back();
      taken.emplace_back();
    }
    rounds[round].push_back(&group);
    taken[round].insert(group.begin(), group.end());
  }
  return rounds;
}

}  // namespace

NcclCommunicators::NcclCommunicators(ControlPlane& control, const std::vector<std::vector<int32_t>>& all_groups, double timeout_seconds)
    : control_(control), timeout_seconds_(timeout_seconds) {
  try {
    make_world();
    for (const auto& round : in_rounds(all_groups)) split(round);
  } catch (...) {
    abort();
    throw;
  }
}

NcclCommunicators::~NcclCommunicators() {
  if (aborted_) return;
  // In one order on all ranks. A rank that does not come is not waited for.
  const auto deadline = Clock::now() + patience_at_the_end;
  for (ncclComm_t communicator : all()) {
    ncclResult_t state = ncclCommFinalize(communicator);
    while ((state == ncclInProgress || state == ncclSuccess) && ncclCommGetAsyncError(communicator, &state) == ncclSuccess &&
           state == ncclInProgress && Clock::now() < deadline)
      std::this_thread::yield();
    if (state == ncclSuccess)
      ncclCommDestroy(communicator);
    else
      ncclCommAbort(communicator);
  }
}

void NcclCommunicators::make_world() {
  ncclUniqueId id{};
  std::vector<std::byte> message(sizeof id);
  if (control_.rank() == 0) {
    const ncclResult_t result = ncclGetUniqueId(&id);
    if (result != ncclSuccess) message.clear();  // the others hear that there is none
    if (result == ncclSuccess) std::memcpy(message.data(), &id, sizeof id);
    for (int rank = 1; rank < control_.size(); ++rank) control_.send_message(rank, message);
    if (result != ncclSuccess) throw PeerFailure("NCCL does not start: " + message_of(nullptr, result));
  } else {
    message = control_.receive_message(0);
    if (message.size() != sizeof id) throw PeerFailure("rank 0 has no NCCL");
    std::memcpy(&id, message.data(), sizeof id);
  }
  world_ = std::make_unique<ncclComm_t>(nullptr);
  ncclConfig_t config = non_blocking();
  const ncclResult_t result = ncclCommInitRankConfig(world_.get(), control_.size(), id, control_.rank(), &config);
  settle(*world_, result, Place{.origin = "the making of the communicator of all ranks"});
}

void NcclCommunicators::split(const std::vector<const std::vector<int32_t>*>& disjoint) {
  int color = NCCL_SPLIT_NOCOLOR, key = 0;
  ncclComm_t no_communicator = nullptr, *made = &no_communicator;
  for (size_t i = 0; i < disjoint.size(); ++i) {
    const auto me = std::find(disjoint[i]->begin(), disjoint[i]->end(), control_.rank());
    if (me == disjoint[i]->end()) continue;
    color = static_cast<int>(i);
    key = static_cast<int>(me - disjoint[i]->begin());
    made = groups_.emplace(*disjoint[i], std::make_unique<ncclComm_t>(nullptr)).first->second.get();
  }
  ncclConfig_t config = non_blocking();
  const Place where{.origin = "the making of the groups' communicators"};
  settle(*world_, ncclCommSplit(*world_, color, key, made, &config), where);
  if (color == NCCL_SPLIT_NOCOLOR) return;
  if (!*made) throw PeerFailure("NCCL made no communicator for a group");
  settle(*made, ncclSuccess, where);
}

std::vector<ncclComm_t> NcclCommunicators::all() const {
  std::vector<ncclComm_t> result;
  for (const auto& [group, handle] : groups_) {
    if (*handle) result.push_back(*handle);
  }
  if (world_ && *world_) result.push_back(*world_);
  return result;
}

void NcclCommunicators::settle(ncclComm_t communicator, ncclResult_t result, const Place& where) const {
  const std::string here = "rank " + std::to_string(control_.rank());
  const auto begin = Clock::now();
  while (result == ncclInProgress || result == ncclSuccess) {
    while (aborted_) std::this_thread::sleep_for(std::chrono::seconds(1));  // the process is about to end
    if (!communicator) throw PeerFailure(here + ": NCCL refuses " + text_of(where));
    ncclResult_t state = ncclSuccess;
    result = ncclCommGetAsyncError(communicator, &state);
    if (result == ncclSuccess) result = state;
    if (result == ncclSuccess) return;
    if (result != ncclInProgress) break;
    if (const std::optional<std::string> failure = control_.failure()) throw PeerFailure(here + " leaves " + text_of(where) + ": " + *failure);
    if (std::chrono::duration<double>(Clock::now() - begin).count() > timeout_seconds_) {
      char seconds[32];
      std::snprintf(seconds, sizeof seconds, "%g", timeout_seconds_);
      throw PeerFailure(here + " waited " + seconds + " s for the other ranks in " + text_of(where));
    }
    std::this_thread::yield();
  }
  const std::string message = here + ": NCCL failed in " + text_of(where) + ": " + message_of(communicator, result);
  if (result == ncclInvalidArgument || result == ncclInvalidUsage) throw std::logic_error(message);
  throw PeerFailure(message);
}

std::optional<std::string> NcclCommunicators::failure() const {
  const std::unique_lock lock(calls_, std::try_to_lock);
  if (!lock) return std::nullopt;
  for (ncclComm_t communicator : all()) {
    ncclResult_t state = ncclSuccess;
    if (const ncclResult_t result = ncclCommGetAsyncError(communicator, &state); result != ncclSuccess) state = result;
    if (state != ncclSuccess && state != ncclInProgress) return "NCCL failed: " + message_of(communicator, state);
  }
  return std::nullopt;
}

void NcclCommunicators::abort() {
  aborted_ = true;
  for (ncclComm_t communicator : all()) ncclCommAbort(communicator);
}

}  // namespace sscc::rt
