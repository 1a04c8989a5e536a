// The emulated GPU itself: what a kernel or a program does wrong is found, and what is right is not.
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "sscc_rt/cuda_launch.cuh"

using namespace sscc::rt;

namespace {

// Failures are for ever, as on a GPU: a child has them. True if `work` ends with a status other than success.
template <class Work>
bool fails(const Work& work) {
  const pid_t child = fork();
  if (child == 0) {
    cudaError_t status = cudaErrorLaunchFailure;
    try {
      work();
      status = cudaStreamSynchronize(compute_stream());
    } catch (const std::exception&) {}
    _exit(status == cudaSuccess ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 1;
}

template <class T>
class OnDevice {
 public:
  explicit OnDevice(size_t count) : count_(count) { check(cudaMalloc(&data_, count * sizeof(T)), "allocate"); }
  explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) {
    check(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), "copy");
  }
  OnDevice(const OnDevice&) = delete;
  ~OnDevice() { cudaFree(data_); }
  T* data() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> result(count_);
    check(cudaStreamSynchronize(compute_stream()), "wait");
    check(cudaMemcpy(result.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), "copy");
    return result;
  }

 private:
  size_t count_;
  T* data_ = nullptr;
};

struct NonBlocking {
  cudaStream_t stream = nullptr;
  NonBlocking() { check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "create a stream"); }
  ~NonBlocking() { cudaStreamDestroy(stream); }
};

// -- kernels --------------------------------------------------------------------------------------------------------------------------------------

__global__ void reverse(int* values, bool with_barrier) {
  __shared__ int copy[64];
  copy[threadIdx.x] = values[threadIdx.x];
  if (with_barrier) __syncthreads();
  values[threadIdx.x] = copy[63 - threadIdx.x];
}
__global__ void read_unwritten(float* out) {
  __shared__ float memory[1];
  float* const more = dynamic_shared_memory<float>();
  out[2 * blockIdx.x] = memory[0];
  out[2 * blockIdx.x + 1] = more[7];
  memory[0] = more[7] = 1;
}
__global__ void some_leave(int) {
  if (threadIdx.x == 5) return;
  __syncthreads();
}
__global__ void two_barriers(int) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}
__global__ void sum_of_warp(int* out, unsigned mask) {
  if (!(mask >> threadIdx.x % 32 & 1)) return;
  int value = static_cast<int>(threadIdx.x);
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(mask, value, distance);
  out[threadIdx.x] = value;
}
__global__ void lane_that_leaves(int) {
  if (threadIdx.x % 32 == 31) return;
  __shfl_down_sync(0xffffffff, 1, 1);
}
__global__ void halves(int* out) {
  const unsigned mask = threadIdx.x < 16 ? 0xffffu : 0xffff0000u;
  for (unsigned i = 0; i < (threadIdx.x < 16 ? 3u : 5u); ++i) out[threadIdx.x] = __shfl_sync(mask, static_cast<int>(threadIdx.x + i), 3, 16);
}
__global__ void transpose_by_lanes(int* out) {
  struct Row {
    int values[32];
  } row;
  for (int i = 0; i < 32; ++i) row.values[i] = static_cast<int>(threadIdx.x) * 100 + i;
  const std::array<Row, 32> all = emulated_gpu::all_lanes(row);
  for (size_t i = 0; i < 32; ++i) out[threadIdx.x * 32 + i] = all[i].values[threadIdx.x];
}
__global__ void write_at(int* out, int at) { out[at] = 1; }
__global__ void read_at(int* out, int at) { *out = *static_cast<volatile int*>(out + at); }
__global__ void add_one(int* value) { *value += 1; }

}  // namespace

TEST_CASE("barriers") {
  std::vector<int> numbers(64);
  for (int i = 0; i < 64; ++i) numbers[static_cast<size_t>(i)] = i;
  const std::vector<int> turned(numbers.rbegin(), numbers.rend());
  int wrong = 0;
  for (int i = 0; i < 20; ++i) {
    const OnDevice<int> right(numbers), racing(numbers);
    launch(reverse, 1, 64, 0, right.data(), true);
    launch(reverse, 1, 64, 0, racing.data(), false);
    CHECK(right.values() == turned);
    wrong += racing.values() != turned;
  }
  CHECK(wrong == 20);
  CHECK(fails([] { launch(some_leave, 1, 64, 0, 0); }));
  CHECK(fails([] { launch(two_barriers, 1, 64, 0, 0); }));
}

TEST_CASE("shared memory is no number before it is written") {
  const OnDevice<float> out(6);
  launch(read_unwritten, 3, 1, 32, out.data());
  launch(read_unwritten, 3, 1, 32, out.data());
  for (const float each : out.values()) CHECK(std::isnan(each));
  CHECK(fails([&] { launch(read_unwritten, 1, 1, 49 << 10, out.data()); }));
}

TEST_CASE("lanes of a warp") {
  const OnDevice<int> sums(64), half(32), all(32 * 32);
  launch(sum_of_warp, 1, 64, 0, sums.data(), 0xffffffffu);
  for (int i = 0; i < 64; ++i) CHECK(sums.values()[static_cast<size_t>(i)] == (i < 32 ? 496 : 1520));
  CHECK(fails([&] { launch(sum_of_warp, 1, 64, 0, sums.data(), 0x7fffffffu); }));
  CHECK(fails([] { launch(lane_that_leaves, 1, 32, 0, 0); }));
  launch(halves, 1, 32, 0, half.data());
  CHECK(half.values()[9] == 3 + 2);
  CHECK(half.values()[20] == 19 + 4);
  launch(transpose_by_lanes, 1, 32, 0, all.data());
  CHECK(all.values()[5 * 32 + 7] == 705);
}

TEST_CASE("memory") {
  const OnDevice<int> out(10);
  launch(write_at, 1, 1, 0, out.data(), 9);
  CHECK(out.values()[9] == 1);
  CHECK(fails([&] { launch(write_at, 1, 1, 0, out.data(), 10); }));
  CHECK(fails([&] { launch(write_at, 1, 1, 0, out.data(), -1); }));
  CHECK(fails([&] { launch(read_at, 1, 1, 0, out.data(), 64); }));
  CHECK(fails([&] { launch(read_at, 1, 1, 0, out.data(), -2000); }));
  int host[11];
  CHECK(cudaMemcpy(host, out.data(), sizeof host, cudaMemcpyDeviceToHost) != cudaSuccess);
  CHECK(cudaMemcpy(host, out.data(), 40, cudaMemcpyHostToDevice) != cudaSuccess);
  CHECK(cudaMemcpy(host, out.data(), 40, cudaMemcpyDefault) == cudaSuccess);
  CHECK(host[0] == -1);
}

TEST_CASE("launches that no GPU takes") {
  CHECK_THROWS_AS(launch(add_one, 1, 1025, 0, nullptr), std::logic_error);
  CHECK_THROWS_AS(launch(add_one, 0, 1, 0, nullptr), std::logic_error);
  CHECK_THROWS_AS(launch(add_one, dim3(1, 65536), 1, 0, nullptr), std::logic_error);
  CHECK_THROWS_AS(launch_on(nullptr, add_one, 1, 1, 0, nullptr), std::logic_error);
}

TEST_CASE("streams: only events order them") {
  const NonBlocking other;
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "create an event");
  int without = 0;
  for (int i = 0; i < 50; ++i) {
    for (const bool waits : {false, true}) {
      const OnDevice<int> value(std::vector<int>{0});
      OnDevice<int> copy(std::vector<int>{0});
      launch(add_one, 1, 1, 0, value.data());
      launch(add_one, 1, 1, 0, value.data());
      check(cudaEventRecord(event, compute_stream()), "record");
      if (waits) check(cudaStreamWaitEvent(other.stream, event), "wait");
      check(cudaMemcpyAsync(copy.data(), value.data(), sizeof(int), cudaMemcpyDefault, other.stream), "copy");
      check(cudaStreamSynchronize(other.stream), "wait");
      check(cudaEventRecord(event, compute_stream()), "record");  // what is waited for is what was recorded before
      const int seen = copy.values()[0];
      if (waits)
        CHECK(seen == 2);
      else
        without += seen != 2;
    }
  }
  CHECK(without > 10);
  cudaEventDestroy(event);
}

TEST_CASE("graphs") {
  const NonBlocking side;
  const OnDevice<int> a(std::vector<int>{0}), b(std::vector<int>{0}), both(std::vector<int>{0, 0});
  cudaEvent_t fork_event = nullptr, join_event = nullptr, outside = nullptr;
  for (cudaEvent_t* each : {&fork_event, &join_event, &outside}) check(cudaEventCreateWithFlags(each, cudaEventDisableTiming), "create an event");
  const auto capture = [&](bool joins, bool waits_for_outside) {
    check(cudaEventRecord(outside, side.stream), "record");
    check(cudaStreamBeginCapture(compute_stream(), cudaStreamCaptureModeThreadLocal), "capture");
    launch(add_one, 1, 1, 0, a.data());
    check(cudaEventRecord(fork_event, compute_stream()), "record");
    check(cudaStreamWaitEvent(side.stream, fork_event), "wait");
    launch_on(side.stream, add_one, 1, 1, 0, b.data());
    check(cudaEventRecord(join_event, side.stream), "record");
    if (joins) check(cudaStreamWaitEvent(compute_stream(), join_event), "wait");
    if (waits_for_outside) CHECK(cudaStreamWaitEvent(compute_stream(), outside) == cudaErrorStreamCaptureIsolation);
    if (!waits_for_outside) check(cudaMemcpyAsync(both.data(), a.data(), 4, cudaMemcpyDefault, compute_stream()), "copy");
    if (!waits_for_outside) check(cudaMemcpyAsync(both.data() + 1, b.data(), 4, cudaMemcpyDefault, compute_stream()), "copy");
    cudaGraph_t graph = nullptr;
    const cudaError_t status = cudaStreamEndCapture(compute_stream(), &graph);
    return std::pair(status, graph);
  };
  CHECK(capture(false, false).first == cudaErrorStreamCaptureUnjoined);
  CHECK(capture(true, true).first == cudaErrorStreamCaptureInvalidated);
  check(cudaStreamBeginCapture(compute_stream(), cudaStreamCaptureModeThreadLocal), "capture");
  void* memory = nullptr;
  CHECK(cudaMalloc(&memory, 16) == cudaErrorStreamCaptureUnsupported);
  cudaGraph_t broken = nullptr;
  CHECK(cudaStreamEndCapture(compute_stream(), &broken) == cudaErrorStreamCaptureInvalidated);
  const auto [status, graph] = capture(true, false);
  REQUIRE(status == cudaSuccess);
  CHECK(a.values()[0] == 0);  // nothing was done
  CHECK(cudaStreamWaitEvent(side.stream, fork_event) == cudaErrorCapturedEvent);
  cudaGraphExec_t executable = nullptr;
  check(cudaGraphInstantiate(&executable, graph), "instantiate");
  for (int i = 1; i <= 10; ++i) {
    check(cudaGraphLaunch(executable, compute_stream()), "launch");
    CHECK(both.values() == std::vector<int>{i, i});
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  for (cudaEvent_t each : {fork_event, join_event, outside}) cudaEventDestroy(each);
}

TEST_CASE("bf16 is rounded once, to nearest, ties to even") {
  const auto bits = [](double value) { return static_cast<__nv_bfloat16_raw>(__nv_bfloat16(value)).x; };
  CHECK(bits(1) == 0x3f80);
  CHECK(bits(1 + 1.0 / 256) == 0x3f80);
  CHECK(bits(1 + 3.0 / 256) == 0x3f82);
  CHECK(bits(1 + 1.0 / 256 + std::ldexp(1.0, -40)) == 0x3f81);  // the nearest float lies on the tie
  CHECK(bits(1 + 3.0 / 256 - std::ldexp(1.0, -40)) == 0x3f81);
  CHECK(bits(-1 - 1.0 / 256 - std::ldexp(1.0, -40)) == 0xbf81);
  CHECK(bits(INFINITY) == 0x7f80);
  CHECK((bits(NAN) & 0x7fff) > 0x7f80);
}

TEST_CASE("cuBLASLt: epilogues") {
  // D (2 x 3) = A (2 x 1) B (1 x 3) with what follows.
  const std::vector<float> a{1, -2}, b{1, 2, -1}, bias{0.5f, 1};
  const OnDevice<float> a_there(a), b_there(b), d(6), aux(24);
  OnDevice<float> bias_there(bias);
  cublasLtHandle_t handle = nullptr;
  check(cublasLtCreate(&handle) == CUBLAS_STATUS_SUCCESS ? cudaSuccess : cudaErrorInvalidValue, "start");
  const auto run = [&](cublasLtEpilogue_t epilogue) {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t of_a = nullptr, of_b = nullptr, of_d = nullptr;
    cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatrixLayoutCreate(&of_a, CUDA_R_32F, 2, 1, 2);
    cublasLtMatrixLayoutCreate(&of_b, CUDA_R_32F, 1, 3, 1);
    cublasLtMatrixLayoutCreate(&of_d, CUDA_R_32F, 2, 3, 2);
    void *bias_memory = bias_there.data(), *aux_memory = aux.data();
    const int64_t leading = 8;
    cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias_memory, sizeof bias_memory);
    cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux_memory, sizeof aux_memory);
    cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &leading, sizeof leading);
    const float one = 1, zero = 0;
    const cublasStatus_t status = cublasLtMatmul(handle, operation, &one, a_there.data(), of_a, b_there.data(), of_b, &zero, d.data(), of_d, d.data(),
                                                 of_d, nullptr, nullptr, 0, compute_stream());
    cublasLtMatmulDescDestroy(operation);
    for (cublasLtMatrixLayout_t each : {of_a, of_b, of_d}) cublasLtMatrixLayoutDestroy(each);
    REQUIRE(status == CUBLAS_STATUS_SUCCESS);
    return d.values();
  };
  const auto gelu = [](double x) { return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); };
  CHECK(run(CUBLASLT_EPILOGUE_DEFAULT) == std::vector<float>{1, -2, 2, -4, -1, 2});
  CHECK(run(CUBLASLT_EPILOGUE_RELU_BIAS) == std::vector<float>{1.5f, 0, 2.5f, 0, 0, 3});
  const std::vector<float> curved = run(CUBLASLT_EPILOGUE_GELU_AUX_BIAS);
  CHECK(curved[1] == Approx(gelu(-1)));
  CHECK(aux.values()[9] == -3);
  const std::vector<float> slopes = run(CUBLASLT_EPILOGUE_DGELU_BGRAD);
  CHECK(slopes[3] == Approx(-4 * (gelu(-3 + 1e-5) - gelu(-3 - 1e-5)) / 2e-5));
  CHECK(bias_there.values()[0] == Approx(slopes[0] + slopes[2] + slopes[4]));
  run(CUBLASLT_EPILOGUE_BGRADA);
  CHECK(bias_there.values() == std::vector<float>{1, -2});
  cublasLtDestroy(handle);
}
