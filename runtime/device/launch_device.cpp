// Ranks on GPUs: each is a process with one GPU. mpirun, srun or torchrun started it, or `run --local N` did; the ranks find each other over TCP.
#include <cuda_runtime_api.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "../src/launch.h"
#include "../src/local_processes.h"
#include "../src/run_rank.h"
#include "../src/start_up.h"
#include "../src/tcp_transport.h"
#include "cuda_processor.h"
#include "loopback.h"
#include "sscc_rt/cuda.h"
#ifdef SSCC_WITH_CUDNN
#include "../cudnn/cudnn_convolutions.h"
#endif
#ifdef SSCC_WITH_NCCL
#include "nccl_data_plane.h"
#endif

namespace sscc::rt {

const char* const help_of_start =
    "  --local N        start the N ranks as processes on this machine; without it: mpirun, srun or torchrun\n"
    "  --one-gpu[=WAY]  for tests: all ranks share the first GPU. WAY: nccl (default; by way of the hosts where NCCL refuses) or loopback\n";
const bool knows_one_gpu = true;

namespace {

constexpr int peer_failed = 4;

std::optional<StartUp> start_up() {
  return find_start_up([](const char* name) { return std::getenv(name); }, getppid());
}

class AloneDataPlane : public DeviceDataPlane {
 public:
  void send(int, const void*, size_t, int64_t) override { nobody(); }
  void wait_sends() override {}
  void receive(int, void*, size_t, int64_t) override { nobody(); }
  void all_reduce(std::span<const int32_t>, void*, int64_t, DType, Join, int64_t) override { nobody(); }
  void all_gather(std::span<const int32_t>, void*, const void*, size_t, int64_t) override { nobody(); }
  void reduce_scatter(std::span<const int32_t>, void*, const void*, int64_t, DType, Join, int64_t) override { nobody(); }
  void all_to_all(std::span<const int32_t>, void*, const void*, size_t, int64_t) override { nobody(); }
  void broadcast(std::span<const int32_t>, size_t, void*, size_t, int64_t) override { nobody(); }
  void at(const char*, const char*, int) override {}

 private:
  [[noreturn]] static void nobody() { throw std::logic_error("a program of one rank communicates"); }
};

// A scheduler may give each process a GPU of its own to see, or all of the machine's to all.
int choose_gpu(const StartUp& start, bool one_gpu) {
  int count = 0;
  check(cudaGetDeviceCount(&count), "find a GPU");
  if (one_gpu || count == 1) return 0;
  if (start.local_rank < count) return start.local_rank;
  throw EnvironmentFailure("rank " + std::to_string(start.rank) + " is number " + std::to_string(start.local_rank) + " on its machine, which has " +
                           std::to_string(count) + " GPUs; start one rank for each GPU, or for tests all on one with --one-gpu");
}

// -- several ranks --------------------------------------------------------------------------------------------------------------------------------

#ifdef SSCC_WITH_NCCL

// What every rank says, in order of ranks.
std::vector<std::string> tell_all(ControlPlane& control, const std::string& mine) {
  const auto bytes_of = [](const std::string& text) {
    const std::byte* begin = reinterpret_cast<const std::byte*>(text.data());
    return std::vector<std::byte>(begin, begin + text.size());
  };
  const auto receive = [&](int rank) {
    const std::vector<std::byte> message = control.receive_message(rank);
    return std::string(reinterpret_cast<const char*>(message.data()), message.size());
  };
  std::vector<std::string> all(static_cast<size_t>(control.size()));
  if (control.rank() != 0) {
    control.send_message(0, bytes_of(mine));
    for (std::string& text : all) text = receive(0);
    return all;
  }
  all[0] = mine;
  for (int rank = 1; rank < control.size(); ++rank) all[static_cast<size_t>(rank)] = receive(rank);
  for (int rank = 1; rank < control.size(); ++rank) {
    for (const std::string& text : all) control.send_message(rank, bytes_of(text));
  }
  return all;
}

// Which GPU of which machine this is.
std::string name_of_gpu() {
  utsname machine{};
  uname(&machine);
  int device = 0;
  char bus[32] = "";
  check(cudaGetDevice(&device), "find the GPU");
  check(cudaDeviceGetPCIBusId(bus, sizeof bus, device), "find the GPU");
  return std::string(bus) + " of " + machine.nodename;
}

void refuse_shared_gpu(ControlPlane& control) {
  const std::vector<std::string> gpus = tell_all(control, name_of_gpu());
  for (size_t a = 0; a < gpus.size(); ++a) {
    for (size_t b = 0; b < a; ++b) {
      if (gpus[a] != gpus[b]) continue;
      throw EnvironmentFailure("ranks " + std::to_string(b) + " and " + std::to_string(a) + " have the same GPU, " + gpus[a] +
                               "; start one rank for each GPU, or for tests all on one with --one-gpu");
    }
  }
}

// NCCL, but for tests on one GPU: then it is said by which way data travel.
std::unique_ptr<DeviceDataPlane> choose_way(Transport& hosts, const Constants& constants, const Launch& launch) {
  const bool one_gpu = !launch.line.one_gpu.empty();
  std::string refusal;
  std::unique_ptr<DeviceDataPlane> data;
  if (launch.line.one_gpu == "loopback") {
    refusal = "as --one-gpu=loopback says";
  } else {
    if (one_gpu) {  // NCCL refuses a GPU that is there twice, unless each rank looks like a machine of its own
      setenv("NCCL_HOSTID", ("sscc-rank-" + std::to_string(hosts.rank())).c_str(), 1);
      setenv("NCCL_SOCKET_IFNAME", "lo", 0);
    }
    try {
      data = make_nccl_data_plane(hosts, sscc_groups(), constants.groups, launch.options.timeout_seconds);
    } catch (const PeerFailure& error) { refusal = error.what(); }
    for (const std::string& theirs : tell_all(hosts, refusal)) {
      if (refusal.empty()) refusal = theirs;
    }
  }
  if (!refusal.empty() && !one_gpu) throw PeerFailure(refusal);
  if (one_gpu && hosts.rank() == 0) {
    const std::string way = refusal.empty() ? nccl_version() : "the hosts: " + refusal;
    std::fprintf(stderr, "run: all ranks share a GPU; data travel through %s\n", way.c_str());
  }
  if (refusal.empty()) return data;
  data.reset();
  return make_loopback(hosts);
}

std::unique_ptr<DeviceDataPlane> make_data_plane(Transport& hosts, const Constants& constants, const Launch& launch) {
  if (hosts.size() == 1) return std::make_unique<AloneDataPlane>();
  if (launch.line.one_gpu.empty()) refuse_shared_gpu(hosts);
  return choose_way(hosts, constants, launch);
}

// Either all ranks record their steps as graphs or none: what NCCL prepares for a graph it prepares with all members of a call.
bool all_record(ControlPlane& control, bool records) {
  const std::vector<std::string> answers = tell_all(control, records ? "graph" : "");
  return std::none_of(answers.begin(), answers.end(), [](const std::string& answer) { return answer.empty(); });
}
#else
bool all_record(ControlPlane&, bool records) { return records; }
std::unique_ptr<DeviceDataPlane> make_data_plane(Transport&, const Constants&, const Launch&) { return std::make_unique<AloneDataPlane>(); }
#endif

// Does whoever started this rank want graphs? Tools that show operators by name (NVTX) find none in one.
bool wants_graphs() {
  const char* wanted = std::getenv("SSCC_CUDA_GRAPH");
  return wanted ? std::string(wanted) != "0" : !std::getenv("NVTX_INJECTION64_PATH");
}

int run_rank_on_gpu(const Launch& launch, const StartUp& start, Transport& hosts) {
  const ModelInfo model = sscc_model();
  const RankInfo info = sscc_rank(hosts.rank());
  const ProgramInfo* program = load_program(launch.folder, info.program);
  start_device(choose_gpu(start, !launch.line.one_gpu.empty()));
#ifdef SSCC_WITH_CUDNN
  use_cudnn();
#endif
  const std::unique_ptr<DeviceDataPlane> data = make_data_plane(hosts, info.constants, launch);
  const bool records = all_record(hosts, wants_graphs());
  const Platform platform{hosts, *data, [&](int64_t bytes, int64_t host_bytes) { return make_cuda_processor(bytes, host_bytes, *data, records); },
                          end_at_once, flops_per_second(model.precision)};
  const int status = run_rank(model, *program, info.constants, platform, read_weights_from_folder(launch.folder / "weights", model), launch.options);
  // A peer may be gone, and what the GPU waits for never come: nothing is taken down then.
  if (status != 0) end_at_once(status);
  return 0;
}

}  // namespace

int rank_in_environment() {
  const std::optional<StartUp> start = start_up();
  return start ? start->rank : -1;
}

int run_all_here(const Launch& launch) {
  if (sscc_ranks() == 1) return run_this_one(launch);
  std::vector<std::string> arguments(launch.line.arguments.begin() + 1, launch.line.arguments.end());
  if (!launch.line.one_gpu.empty()) arguments.push_back("--one-gpu=" + launch.line.one_gpu);
  return run_local_processes(sscc_ranks(), arguments, launch.options.timeout_seconds);
}

int run_this_one(const Launch& launch) {
  const StartUp start = launch.line.local > 0 ? StartUp() : start_up().value_or(StartUp());
  if (start.size != sscc_ranks()) {
    if (start.rank == 0) refuse_size(start.size);
    return usage;
  }
  std::unique_ptr<Transport> hosts;
  const auto fail = [&](int status, const std::string& what) {
    std::fprintf(stderr, "sscc: %s\n", what.c_str());
    if (hosts) hosts->abort(what, status);
    end_at_once(status);
  };
  const std::string here = "rank " + std::to_string(start.rank) + ": ";
  int status = 0;
  try {
    hosts = start.size > 1 ? make_tcp_transport(start, launch.options.timeout_seconds)
                           : std::move(make_thread_transports(1, launch.options.timeout_seconds).front());
    status = run_rank_on_gpu(launch, start, *hosts);
  } catch (const PeerFailure& error) { fail(peer_failed, error.what()); } catch (const EnvironmentFailure& error) {
    fail(environment_failed, here + error.what());
  } catch (const std::exception& error) { fail(bug, here + "bug: " + error.what()); }
  stop_device();
  return status;
}

}  // namespace sscc::rt
