// Steps given call by call and as a graph: the same program, the same bits. What the watchdog knows of a graph.
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "emulated_gpu/gpu.h"
#include "runtime/cuda/device.h"
#include "runtime/device/cuda_processor.h"
#include "runtime/device/handles.h"
#include "runtime/device/step_graph.h"
#include "runtime/device/watchdog.h"
#include "runtime/src/run_rank.h"
#include "sscc_rt/cuda.h"
#include "sscc_rt/views.h"

using namespace sscc::rt;

namespace {

// A rank that is alone, as far as its program communicates at all; it counts what it is told.
struct Alone : DeviceDataPlane {
  int begun = 0, repeated = 0;
  bool records = true;

  void send(int, const void*, size_t, int64_t) override {}
  void wait_sends() override {}
  void receive(int, void*, size_t, int64_t) override {}
  void all_reduce(std::span<const int32_t>, void*, int64_t, DType, Join, int64_t) override {}
  void all_gather(std::span<const int32_t>, void*, const void*, size_t, int64_t) override {}
  void reduce_scatter(std::span<const int32_t>, void*, const void*, int64_t, DType, Join, int64_t) override {}
  void all_to_all(std::span<const int32_t>, void*, const void*, size_t, int64_t) override {}
  void broadcast(std::span<const int32_t>, size_t, void*, size_t, int64_t) override {}
  void at(const char*, const char*, int) override {}
  void begin_step() override { ++begun; }
  void repeat_step() override { ++repeated; }
  bool can_be_recorded() const override { return records; }
};

// y = x w for two micro-batches of x; loss = sum of y^2; AdamW with clipping.
namespace buf {
enum : int32_t { w, moment1, moment2, x, y, g, loss, clip };
}

ModelInfo model() {
  ModelInfo m;
  m.name = "squares";
  m.training = true;
  m.parameters = {{"w", DType::f32, {8, 4}, true}};
  m.inputs = {{"x", DType::f32, {32, 8}}};
  m.outputs = {{"y", DType::f32, {32, 4}}};
  return m;
}

ProgramInfo program() {
  ProgramInfo p;
  p.micro_batches = 2;
  const auto add = [&](const char* name, int64_t elements, Source source = Source::none, const char* tensor = "", int32_t regions = -1,
                       int64_t copies = 1) {
    const int64_t stride = (elements * 4 + 63) / 64 * 64;
    p.buffers.push_back({name, DType::f32, elements, copies, p.arena_bytes, stride, source, tensor, regions});
    p.arena_bytes += copies * stride;
  };
  add("w", 32, Source::parameter, "w", 0);
  add("m", 32, Source::state, "w.moment1");
  add("v", 32, Source::state, "w.moment2");
  add("x", 128, Source::input, "x", 1, 2);
  add("y", 64);
  add("g", 32);
  add("loss", 1);
  add("clip", 1);
  p.segments.push_back({"prologue", [](Rank& rank, int m) {
                          const Views view(rank, m);
                          rank.at("zero", m);
                          fill(view(buf::g, {8, 4}), 0);
                          fill(view(buf::loss, {}), 0);
                        }});
  p.segments.push_back({"0F", [](Rank& rank, int m) {
                          const Views view(rank, m);
                          rank.at("/Gemm", m);
                          contract(view(buf::y, {16, 4}), view(buf::x, {16, 8}), view(buf::w, {8, 4}), "mk,kn->mn", 1, overwrite);
                          rank.capture_output("y", view(buf::y, {16, 4}), 3, m);
                          sum_of_squares(view(buf::loss, {}), {view(buf::y, {16, 4})}, accumulate);
                          contract(view(buf::g, {8, 4}), view(buf::x, {16, 8}), view(buf::y, {16, 4}), "km,kn->mn", 2, accumulate);
                        }});
  p.segments.push_back({"epilogue", [](Rank& rank, int m) {
                          const Views view(rank, m);
                          rank.capture_loss(view(buf::loss, {}));
                          sum_of_squares(view(buf::clip, {}), {view(buf::g, {8, 4})}, overwrite);
                          rank.capture_grad_norm(view(buf::clip, {}));
                          pointwise(view(buf::clip, {}), Scalar::rsqrt, {view(buf::clip, {})}, {}, overwrite);
                          rank.at("w", m);
                          rank.capture_gradient("w", view(buf::g, {8, 4}), 0);
                          const UpdateRule adamw{
                              .optimizer = Optimizer::adamw, .lr = 0.05, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.01};
                          const Tensor w = view(buf::w, {8, 4}), first = view(buf::moment1, {8, 4}), second = view(buf::moment2, {8, 4});
                          update({in_place(w, view(buf::g, {8, 4}), first, second)}, view(buf::clip, {}), no_tensor, no_tensor, adamw, rank.step());
                        }});
  p.schedule = {{0, 0}, {1, 0}, {1, 1}, {2, 0}};
  return p;
}

const Constants constants{
    {}, {}, {{{{0, 8}}, {{0, 4}}}, {{{0, 16}}, {{0, 8}}}, {{{16, 32}}, {{0, 8}}}, {{{0, 16}}, {{0, 4}}}, {{{16, 32}}, {{0, 4}}}}, {}};

std::string content_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  REQUIRE(!text.str().empty());
  return text.str();
}

// All that a run leaves, but for the seconds in its log.
std::map<std::string, std::string> run(Alone& data, bool records, int64_t steps, const std::string& trace = "") {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / ("sscc-steps-" + std::to_string(getpid()));
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  Options options;
  options.data = "synthetic";
  options.steps = steps;
  options.quiet = true;
  options.log = folder / "log.jsonl";
  options.outputs = folder / "outputs";
  options.grads = folder / "grads.safetensors";
  options.final = folder / "final.safetensors";
  if (!trace.empty()) options.trace = folder / trace;
  const auto hosts = std::move(make_thread_transports(1, 10).front());
  const ModelInfo info = model();
  const ProgramInfo rank = program();
  const Platform platform{*hosts, data, [&](int64_t bytes, int64_t host_bytes) { return make_cuda_processor(bytes, host_bytes, data, records); }};
  const WeightReader weights = [](const std::string&, const Region&, void* to) {
    for (int i = 0; i < 32; ++i) static_cast<float*>(to)[i] = 0.1f * static_cast<float>(i % 7 - 3);
  };
  REQUIRE(run_rank(info, rank, constants, platform, weights, options) == 0);
  std::map<std::string, std::string> left;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    if (entry.is_regular_file() && entry.path().filename() != trace) left[std::filesystem::relative(entry.path(), folder)] = content_of(entry.path());
  std::string& log = left.at("log.jsonl");
  std::istringstream lines(std::exchange(log, ""));
  for (std::string line; std::getline(lines, line);) {
    const size_t begin = line.find("\"seconds\""), end = line.find("\"peak_memory_bytes\"");
    REQUIRE(end != std::string::npos);
    log += line.erase(begin, end - begin) + "\n";
  }
  std::filesystem::remove_all(folder);
  return left;
}

}  // namespace

TEST_CASE("a step that is recorded does what it does call by call") {
  constexpr int64_t steps = 6;
  Alone called, recorded;
  const auto wanted = run(called, false, steps), got = run(recorded, true, steps);
  CHECK(called.begun == steps);
  CHECK(called.repeated == 0);
  CHECK(recorded.begun == 2);             // the first one is given, the second one recorded
  CHECK(recorded.repeated == steps - 1);  // and launched, as are the others
  CHECK(wanted.size() == 3 + steps);
  CHECK(got == wanted);
  int64_t t = 0;
  check(cudaMemcpy(&t, device().step, sizeof t, cudaMemcpyDeviceToHost), "read the step counter");
  CHECK(t == steps + 1);
  const std::string& log = got.at("log.jsonl");
  INFO(log);
  CHECK(std::count(log.begin(), log.end(), '\n') == steps);
}

TEST_CASE("there is no graph where calls cannot be recorded, nor with a trace") {
  Alone loopback, traced;
  loopback.records = false;
  run(loopback, true, 3);
  CHECK((loopback.begun == 3 && loopback.repeated == 0));
  run(traced, true, 3, "trace.json");
  CHECK((traced.begun == 3 && traced.repeated == 0));
}

TEST_CASE("what cannot be recorded is told, with what does without") {
  const auto record = [] { StepGraph(compute_stream(), [] { check(cudaStreamSynchronize(compute_stream()), "wait for kernels"); }); };
  CHECK_THROWS_WITH(record(), Catch::Contains("SSCC_CUDA_GRAPH=0"));
  // The stream goes on.
  set_device_step(3);
}

TEST_CASE("the watchdog says which call of a graph the GPU has not passed") {
  const bool is_graph = GENERATE(false, true);
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    alarm(30);  // what is tested is that it does not wait for ever
    dup2(ends[1], STDERR_FILENO);
    const auto hosts = std::move(make_thread_transports(1, 10).front());
    const CommunicationStream first, second;
    const DeviceEvent fork_event, first_ended, second_ended;
    Watchdog watchdog(
        *hosts, 0.3, 2, [] { return std::nullopt; }, [] {});
    bool is_stuck = false;
    const auto give = [&] {
      watchdog.begin_step();
      fork_event.record(compute_stream());
      fork_event.hold(first.get());
      fork_event.hold(second.get());
      watchdog.given(first.get(), 0, {"0F", "X", 0, "all-reduce"}, "rank 1");
      emulated_gpu::enqueue(second.get(), "a message that does not come", [&] { return !is_stuck; });
      watchdog.given(second.get(), 1, {"1F", "Y", 3, "receive"}, "rank 2");
      watchdog.given(first.get(), 0, {"0B", "Z", 0, "send"}, "rank 3");
      first_ended.record(first.get());
      first_ended.hold(compute_stream());
      second_ended.record(second.get());
      second_ended.hold(compute_stream());
    };
    std::unique_ptr<StepGraph> graph;
    if (is_graph) graph = std::make_unique<StepGraph>(compute_stream(), give);
    for (int step = 0; step < 3; ++step) {
      is_stuck = step == 2;
      if (is_graph) {
        watchdog.repeat_step();
        graph->launch(compute_stream());
      } else {
        give();
      }
      check(cudaStreamSynchronize(compute_stream()), "run the step");
      watchdog.all_passed();
    }
    _exit(0);
  }
  close(ends[1]);
  std::string said;
  char buffer[256];
  for (ssize_t n = 0; (n = read(ends[0], buffer, sizeof buffer)) > 0;) said.append(buffer, static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 4));
  CHECK(said == "sscc: rank 0 waited 0.3 s for rank 2 in receive of 'Y' (segment 1F, micro-batch 3)\n");
}
