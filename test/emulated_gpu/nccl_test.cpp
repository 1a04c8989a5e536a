// The emulated NCCL, between processes: each rank is a child.
#include <nccl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>
#include <functional>
#include <thread>
#include <vector>

#include "sscc_rt/cuda.h"

using namespace sscc::rt;

namespace {

struct Wrong {};
void need(bool holds) {
  if (!holds) throw Wrong();
}

class Member {
 public:
  Member(const ncclUniqueId& id, int size, int rank) : rank_(rank) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    settle(ncclCommInitRankConfig(&communicator, size, id, rank, &config));
    check(cudaMalloc(&memory, 4096), "allocate");
  }
  int rank() const { return rank_; }
  void settle(ncclResult_t result) const {
    need(result == ncclSuccess || result == ncclInProgress);
    for (ncclResult_t state = ncclInProgress; state == ncclInProgress;) need(ncclCommGetAsyncError(communicator, &state) == ncclSuccess);
  }
  void set(const std::vector<int>& values) const {
    check(cudaMemcpy(memory, values.data(), values.size() * sizeof(int), cudaMemcpyHostToDevice), "copy");
  }
  std::vector<int> get(size_t count) const {
    check(cudaStreamSynchronize(compute_stream()), "wait");
    std::vector<int> values(count);
    check(cudaMemcpy(values.data(), memory, count * sizeof(int), cudaMemcpyDeviceToHost), "copy");
    return values;
  }
  // Nothing moves any more.
  bool is_stuck() const {
    for (int i = 0; i < 50; ++i) {
      if (cudaStreamQuery(compute_stream()) != cudaErrorNotReady) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return true;
  }

  ncclComm_t communicator = nullptr;
  int* memory = nullptr;

 private:
  int rank_;
};

// Whether `work` did what it should on every rank.
bool on_ranks(int size, const std::function<void(Member&)>& work) {
  ncclUniqueId id;
  if (ncclGetUniqueId(&id) != ncclSuccess) return false;
  std::vector<pid_t> children;
  for (int rank = 0; rank < size; ++rank) {
    children.push_back(fork());
    if (children.back() > 0) continue;
    alarm(60);  // where one fails the others may wait for it
    int status = 1;
    try {
      Member member(id, size, rank);
      work(member);
      status = 0;
    } catch (...) {}
    _exit(status);
  }
  bool all = true;
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    all = all && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  std::filesystem::remove_all(id.internal);
  return all;
}

}  // namespace

TEST_CASE("collectives") {
  CHECK(on_ranks(3, [](Member& m) {
    m.set({m.rank(), 10 * m.rank(), 5});
    m.settle(ncclAllReduce(m.memory, m.memory, 3, ncclInt32, ncclSum, m.communicator, compute_stream()));
    need(m.get(3) == std::vector<int>{3, 30, 15});
    m.set({0, 0, 0, 0, 0, 0, m.rank(), 7});
    m.settle(ncclAllGather(m.memory + 6, m.memory, 2, ncclInt32, m.communicator, compute_stream()));
    need(m.get(6) == std::vector<int>{0, 7, 1, 7, 2, 7});
    m.set({1, 2, 3 + m.rank()});
    m.settle(ncclReduceScatter(m.memory, m.memory + 3, 1, ncclInt32, ncclMax, m.communicator, compute_stream()));
    need(m.get(4)[3] == std::vector<int>{1, 2, 5}[static_cast<size_t>(m.rank())]);
    m.set({m.rank()});
    m.settle(ncclBroadcast(m.memory, m.memory, 1, ncclInt32, 2, m.communicator, compute_stream()));
    need(m.get(1)[0] == 2);
  }));
}

TEST_CASE("communicators of groups") {
  CHECK(on_ranks(4, [](Member& m) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t part = nullptr;
    m.settle(ncclCommSplit(m.communicator, m.rank() == 3 ? NCCL_SPLIT_NOCOLOR : 0, -m.rank(), &part, &config));
    need((part == nullptr) == (m.rank() == 3));
    if (!part) return;
    m.set({m.rank()});
    need(ncclBroadcast(m.memory, m.memory, 1, ncclInt32, 0, part, compute_stream()) == ncclInProgress);
    for (ncclResult_t state = ncclInProgress; state == ncclInProgress;) ncclCommGetAsyncError(part, &state);
    need(m.get(1)[0] == 2);  // the lowest key is rank 2's
  }));
}

TEST_CASE("messages: a send waits for its receive, a group's go on side by side") {
  const auto exchange = [](Member& m, bool grouped) {
    const int other = 1 - m.rank();
    m.set({m.rank(), -1});
    if (grouped) ncclGroupStart();
    const ncclResult_t sent = ncclSend(m.memory, 4, ncclInt8, other, m.communicator, compute_stream());
    if (!grouped) m.settle(sent);
    const ncclResult_t received = ncclRecv(m.memory + 1, 4, ncclInt8, other, m.communicator, compute_stream());
    m.settle(grouped ? ncclGroupEnd() : received);
  };
  CHECK(on_ranks(2, [&](Member& m) {
    exchange(m, true);
    need(m.get(2)[1] == 1 - m.rank());
  }));
  CHECK(on_ranks(2, [&](Member& m) {
    exchange(m, false);
    need(m.is_stuck());
  }));
}

TEST_CASE("what members must not do") {
  CHECK(on_ranks(2, [](Member& m) {  // sizes differ
    m.set({1, 2, 3});
    m.settle(ncclAllReduce(m.memory, m.memory, m.rank() + 1, ncclInt32, ncclSum, m.communicator, compute_stream()));
    need(cudaStreamSynchronize(compute_stream()) != cudaSuccess);
  }));
  CHECK(on_ranks(2, [](Member& m) {  // a call while another is under way, or of memory that is not the GPU's
    int here = 0;
    need(ncclBroadcast(&here, &here, 1, ncclInt32, 0, m.communicator, compute_stream()) == ncclInvalidArgument);
    need(ncclBroadcast(m.memory, m.memory, 1, ncclInt32, 0, m.communicator, compute_stream()) == ncclInProgress);
    need(ncclBroadcast(m.memory, m.memory, 1, ncclInt32, 0, m.communicator, compute_stream()) == ncclInvalidArgument);
  }));
  CHECK(on_ranks(2, [](Member& m) {  // an aborted communicator lets go
    if (m.rank() == 0) return;
    m.settle(ncclBroadcast(m.memory, m.memory, 1, ncclInt32, 0, m.communicator, compute_stream()));
    need(m.is_stuck());
    ncclCommAbort(m.communicator);
    need(cudaStreamSynchronize(compute_stream()) == cudaSuccess);
  }));
}
