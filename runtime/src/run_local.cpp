// All ranks as threads of one process.
#include <sched.h>

#include <algorithm>
#include <mutex>
#include <thread>

#include "sscc_rt/kernels.h"
#include "sscc_rt/rank.h"

namespace sscc::rt {
namespace {

// Joins its threads whatever happens.
class Threads {
 public:
  Threads() = default;
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  ~Threads() { join(); }
  template <class Work>
  void start(Work work) {
    threads_.emplace_back(std::move(work));
  }
  void join() {
    for (std::thread& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }

 private:
  std::vector<std::thread> threads_;
};

}  // namespace

int run_local(const ModelInfo& model, std::span<const LocalRank> ranks, const WeightReader& weights, const Options& options) {
  // All of the processors that this process may run on (taskset, containers), shared evenly.
  cpu_set_t allowed;
  const int processors = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
  set_kernel_threads(std::max(1, processors / static_cast<int>(std::max<size_t>(1, ranks.size()))));
  const auto transports = make_thread_transports(static_cast<int>(ranks.size()), options.timeout_seconds);
  std::mutex mutex;
  int first_status = 0;
  const auto run = [&](size_t rank) {
    const int status = run_rank(model, *ranks[rank].program, *ranks[rank].constants, *transports[rank], weights, options);
    const std::lock_guard lock(mutex);
    // What a rank found out itself says more than that a peer is gone.
    constexpr int peer_failed = 4;
    if (first_status == 0 || (first_status == peer_failed && status != 0)) first_status = status;
  };
  Threads threads;
  for (size_t rank = 1; rank < ranks.size(); ++rank) threads.start([&run, rank] { run(rank); });
  run(0);
  threads.join();
  return first_status;
}

}  // namespace sscc::rt
