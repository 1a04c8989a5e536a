// Ranks as processes: how they learn who they are, how they meet over TCP, what they notice when one of them ends.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <barrier>
#include <catch2/catch.hpp>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <thread>

#include "../../../runtime/src/local_processes.h"
#include "../../../runtime/src/start_up.h"
#include "../../../runtime/src/tcp_transport.h"
#include "sscc_rt/kernels.h"
#include "sscc_rt/views.h"

using namespace sscc::rt;
using Catch::Matchers::Contains;

namespace {

constexpr double timeout = 20;

std::optional<StartUp> found(const std::map<std::string, const char*>& variables) {
  const auto value = [&](const char* name) {
    const auto entry = variables.find(name);
    return entry == variables.end() ? nullptr : entry->second;
  };
  return find_start_up(value, 4711);
}

// The start-up data of all ranks of a job on this machine.
std::vector<StartUp> job_of(int ranks) {
  const Listener listener = listen_on_loopback();
  std::vector<StartUp> all(static_cast<size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) {
    StartUp& start = all[static_cast<size_t>(rank)];
    start.rank = rank;
    start.size = ranks;
    start.port = listener.port;
    start.job = 99;
  }
  all[0].listener = listener.socket;
  return all;
}

// Runs `work` on as many threads, each a rank with a transport of its own.
void on_threads(int ranks, const std::function<void(Transport&)>& work, double seconds = timeout) {
  const std::vector<StartUp> job = job_of(ranks);
  std::vector<std::thread> threads;
  for (const StartUp& start : job) {
    threads.emplace_back([&] {
      const std::unique_ptr<Transport> transport = make_tcp_transport(start, seconds);
      work(*transport);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

std::vector<std::byte> bytes_of(const std::string& text) {
  const std::byte* begin = reinterpret_cast<const std::byte*>(text.data());
  return {begin, begin + text.size()};
}
std::string text_of(const std::vector<std::byte>& bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

// What a call throws; empty: nothing.
template <class Call>
std::string failure_of(const Call& call) {
  try {
    call();
  } catch (const PeerFailure& error) { return error.what(); }
  return "";
}

}  // namespace

TEST_CASE("ranks are found in the environment") {
  CHECK(!found({}));
  CHECK(!found({{"RANK", "1"}}));  // some other program's

  const auto torchrun = found({{"RANK", "3"},
                               {"WORLD_SIZE", "4"},
                               {"LOCAL_RANK", "1"},
                               {"MASTER_ADDR", "node7"},
                               {"MASTER_PORT", "29500"},
                               {"TORCHELASTIC_RUN_ID", "none"},
                               {"SLURM_PROCID", "0"},
                               {"SLURM_NTASKS", "1"}});
  REQUIRE(torchrun);
  CHECK(torchrun->rank == 3);
  CHECK(torchrun->size == 4);
  CHECK(torchrun->local_rank == 1);
  CHECK(torchrun->address == "node7");
  CHECK(torchrun->port == 29501);  // torchrun listens on its own

  const auto mpirun = found({{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}});
  REQUIRE(mpirun);
  CHECK(mpirun->rank == 1);
  CHECK(mpirun->size == 2);
  CHECK(mpirun->address == "127.0.0.1");
  const auto neighbour = found({{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "2"}});
  CHECK(neighbour->port == mpirun->port);
  CHECK(neighbour->job == mpirun->job);

  const auto slurm = found({{"SLURM_PROCID", "5"},
                            {"SLURM_NTASKS", "8"},
                            {"SLURM_LOCALID", "1"},
                            {"SLURM_STEP_NODELIST", "gpu[03-04,7],login1"},
                            {"SLURM_JOB_ID", "123"},
                            {"SLURM_STEP_ID", "0"}});
  REQUIRE(slurm);
  CHECK(slurm->rank == 5);
  CHECK(slurm->local_rank == 1);
  CHECK(slurm->address == "gpu03");
  CHECK(slurm->port >= 20000);
  CHECK(slurm->port < 32768);

  CHECK_THROWS_AS(found({{"PMI_RANK", "one"}, {"PMI_SIZE", "2"}}), EnvironmentFailure);
  CHECK_THROWS_AS(found({{"PMI_RANK", "2"}, {"PMI_SIZE", "2"}}), EnvironmentFailure);
}

TEST_CASE("the first host of a list of nodes") {
  CHECK(first_host("a") == "a");
  CHECK(first_host("a,b[1-2]") == "a");
  CHECK(first_host("gpu[12]") == "gpu12");
  CHECK(first_host("gpu[03-04,7],login1") == "gpu03");
  CHECK(first_host("gpu[7,9]") == "gpu7");
}

TEST_CASE("messages and data pass between all ranks over TCP") {
  constexpr int ranks = 4;
  std::array<std::string, ranks> heard;
  std::array<std::vector<float>, ranks> sums;
  on_threads(ranks, [&](Transport& transport) {
    const int rank = transport.rank(), next = (rank + 1) % ranks, before = (rank + ranks - 1) % ranks;
    transport.send_message(next, bytes_of("from " + std::to_string(rank)));
    heard[static_cast<size_t>(rank)] = text_of(transport.receive_message(before));
    // More than sockets hold, in a circle, by way of rank 0.
    std::vector<float> mine(1 << 20, static_cast<float>(rank)), theirs(mine.size());
    transport.send(next, mine.data(), mine.size() * sizeof(float), 7);
    transport.receive(before, theirs.data(), theirs.size() * sizeof(float), 7);
    const std::array<int32_t, 3> group = {3, 1, 2};
    if (rank != 0) transport.all_reduce(group, theirs.data(), static_cast<int64_t>(theirs.size()), DType::f32, Join::sum, 8);
    sums[static_cast<size_t>(rank)] = theirs;
    transport.barrier();
  });
  for (int rank = 0; rank < ranks; ++rank) {
    INFO(rank);
    CHECK(heard[static_cast<size_t>(rank)] == "from " + std::to_string((rank + ranks - 1) % ranks));
    const std::vector<float>& sum = sums[static_cast<size_t>(rank)];
    CHECK((sum.front() == 3 && sum.back() == 3));  // rank 0 has 3's, the others the sum of 0, 1 and 2
  }
}

TEST_CASE("a rank that gives up is heard by all") {
  std::array<std::string, 3> why, failure;
  std::barrier all_have_met(3);  // who gives up at once could be heard by one that has not left the transport's barrier yet
  on_threads(3, [&](Transport& transport) {
    transport.barrier();
    all_have_met.arrive_and_wait();
    const auto rank = static_cast<size_t>(transport.rank());
    if (rank == 1) return transport.abort("its data are wrong", 1);
    transport.at("1F", "/layers.2/Add", 3);
    why[rank] = failure_of([&] { transport.receive_message(rank == 0 ? 1 : 0); });
    failure[rank] = transport.failure().value_or("");
  });
  for (const size_t rank : {0, 2}) {
    CHECK(failure[rank] == "rank 1 failed: its data are wrong");
    CHECK_THAT(why[rank], Contains("leaves receive of '/layers.2/Add' (segment 1F, micro-batch 3): rank 1 failed: its data are wrong"));
  }
}

TEST_CASE("a rank that does not answer is named after the timeout") {
  std::string why;
  const auto begin = std::chrono::steady_clock::now();
  on_threads(
      2,
      [&](Transport& transport) {
        if (transport.rank() == 1) return std::this_thread::sleep_for(std::chrono::milliseconds(1500));
        transport.at("0B", "/down", 0);
        std::array<float, 1> value{};
        why = failure_of([&] { transport.receive(1, value.data(), sizeof value, 1); });
        transport.abort(why, 4);
      },
      0.5);
  CHECK_THAT(why, Contains("rank 0 waited 0.5 s for rank 1 in receive of '/down' (segment 0B, micro-batch 0)"));
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(8));
}

TEST_CASE("ranks that never come are named") {
  std::vector<StartUp> job = job_of(3);
  std::string first, second;
  std::thread other([&] { second = failure_of([&] { make_tcp_transport(job[1], 1)->receive_message(0); }); });
  first = failure_of([&] { make_tcp_transport(job[0], 1); });
  other.join();
  CHECK_THAT(first, Contains("rank 0 waited 1 s at start-up for these ranks to connect: 2"));
  CHECK(second != "");
}

TEST_CASE("strangers at the port are sent away") {
  std::vector<StartUp> job = job_of(2);
  sockaddr_in place{};
  place.sin_family = AF_INET;
  place.sin_port = htons(static_cast<uint16_t>(job[0].port));
  place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int stranger = socket(AF_INET, SOCK_STREAM, 0);
  REQUIRE(connect(stranger, reinterpret_cast<sockaddr*>(&place), sizeof place) == 0);
  REQUIRE(send(stranger, "GET / HTTP/1.1\r\n\r\n and so on.", 30, MSG_NOSIGNAL) == 30);
  std::string heard;
  std::thread other([&] { make_tcp_transport(job[1], timeout)->send_message(0, bytes_of("it is me")); });
  {
    const std::unique_ptr<Transport> transport = make_tcp_transport(job[0], timeout);
    heard = text_of(transport->receive_message(1));
  }
  other.join();
  close(stranger);
  CHECK(heard == "it is me");
}

TEST_CASE("a killed process is noticed at once") {
  const std::vector<StartUp> job = job_of(3);
  std::array<pid_t, 2> children{};
  for (const int rank : {1, 2}) {
    children[static_cast<size_t>(rank) - 1] = fork();
    if (children[static_cast<size_t>(rank) - 1] != 0) continue;
    close(job[0].listener);
    int status = 1;
    {
      const std::unique_ptr<Transport> transport = make_tcp_transport(job[static_cast<size_t>(rank)], 100);
      transport->barrier();
      status = failure_of([&] { transport->receive_message(0); }).find("rank 1 failed: its process ended") == std::string::npos;
    }
    _exit(status);
  }
  const std::unique_ptr<Transport> transport = make_tcp_transport(job[0], 100);
  transport->barrier();
  const auto begin = std::chrono::steady_clock::now();
  kill(children[0], SIGKILL);
  CHECK_THAT(failure_of([&] { transport->receive_message(2); }), Contains("rank 1 failed: its process ended"));
  int status = 1;
  waitpid(children[1], &status, 0);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  waitpid(children[0], &status, 0);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(5));
}

TEST_CASE("a program runs over TCP as over threads") {
  // Each rank has half of the input x; the loss is the sum of both halves' first elements, an output is all of x.
  ModelInfo model;
  model.inputs.push_back({"x", DType::f32, {4}});
  model.outputs.push_back({"y", DType::f32, {4}});
  ProgramInfo program;
  program.arena_bytes = 192;
  program.buffers = {{"x", DType::f32, 2, 1, 0, 64, Source::input, "x", 0},
                     {"sum", DType::f32, 2, 1, 64, 64, Source::none, "", -1},
                     {"all", DType::f32, 4, 1, 128, 64, Source::none, "", -1}};
  program.segments = {{"0F", [](Rank& rank, int micro_batch) {
                         const Views view(rank, micro_batch);
                         rank.at("/sum", micro_batch);
                         copy(view(1, {2}), view(0, {2}), overwrite);
                         rank.all_reduce(view(1, {2}), 0, Join::sum, 0, micro_batch);
                         rank.capture_loss(view(1, {1}));
                         rank.all_gather(view(2, {4}), view(0, {2}), 0, 1, micro_batch);
                         rank.capture_output("y", view(2, 0, {2, 2}, {1, 2}), 1, micro_batch);  // transposed, into another order
                       }}};
  program.schedule = {{0, 0}};
  std::array<Constants, 2> constants;
  for (int32_t rank = 0; rank < 2; ++rank) {
    Constants& mine = constants[static_cast<size_t>(rank)];
    mine.groups = {{0, 1}};
    mine.regions = {{{{2 * rank, 2 * rank + 2}}}, {{{0, 4}}}};
  }
  const WeightReader no_weights = [](const std::string&, const Region&, void*) { throw DataError("there are no weights"); };
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / ("sscc_processes_test_" + std::to_string(getpid()));
  const auto options_for = [&](const std::string& name) {
    Options options;
    options.data = "synthetic";
    options.steps = 3;
    options.quiet = true;
    options.log = folder / (name + ".jsonl");
    options.outputs = folder / name;
    return options;
  };
  const std::array<LocalRank, 2> ranks = {LocalRank{&program, &constants[0]}, LocalRank{&program, &constants[1]}};
  CHECK(run_local(model, ranks, no_weights, options_for("threads")) == 0);
  std::array<int, 2> status = {-1, -1};
  on_threads(2, [&](Transport& transport) {
    const auto rank = static_cast<size_t>(transport.rank());
    status[rank] = run_rank(model, program, constants[rank], transport, no_weights, options_for("tcp"));
  });
  CHECK(status == std::array<int, 2>{0, 0});

  const auto text_of_file = [&](const std::string& name) {
    std::ifstream file(folder / name, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  };
  const auto losses_of = [&](const std::string& name) {
    std::vector<std::string> losses;
    std::istringstream lines(text_of_file(name));
    for (std::string line; std::getline(lines, line);) losses.push_back(line.substr(0, line.find(", \"seconds")));
    return losses;
  };
  const std::vector<std::string> losses = losses_of("threads.jsonl");
  CHECK(losses.size() == 3);
  CHECK((losses.size() == 3 && losses[0] != losses[1] && losses[1] != losses[2]));  // each step has its own data
  CHECK(losses_of("tcp.jsonl") == losses);
  for (const char* step : {"step_0", "step_2"}) {
    const std::string file = std::string("/") + step + "/output_0.pb";
    CHECK(!text_of_file("threads" + file).empty());
    CHECK(text_of_file("threads" + file) == text_of_file("tcp" + file));
  }
  std::filesystem::remove_all(folder);
}

// What the processes of the next test do: this program again, with the name of what the rank is to do as a test's tag.
TEST_CASE("a rank of run_local_processes that meets the others", "[.meets]") {
  const auto start = find_start_up([](const char* name) { return std::getenv(name); }, getppid());
  REQUIRE(start);
  const std::unique_ptr<Transport> transport = make_tcp_transport(*start, timeout);
  transport->barrier();
}
TEST_CASE("a rank of run_local_processes of which one fails", "[.fails]") {
  const auto start = find_start_up([](const char* name) { return std::getenv(name); }, getppid());
  REQUIRE(start);
  const std::unique_ptr<Transport> transport = make_tcp_transport(*start, timeout);
  transport->barrier();
  if (start->rank == 1) end_at_once(3);
  end_at_once(failure_of([&] { transport->receive_message(start->rank == 0 ? 1 : 0); }).empty() ? 0 : 4);
}

TEST_CASE("run --local starts ranks as processes") {
  CHECK(run_local_processes(3, {"[.meets]", "-o", "/dev/null"}, timeout) == 0);
  CHECK(run_local_processes(3, {"[.fails]", "-o", "/dev/null"}, timeout) == 3);
}
