#include "emulated_gpu/gpu.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "memory.h"

using emulated_gpu::Kind;
using emulated_gpu::Work;

namespace {

using Clock = std::chrono::steady_clock;

// One recording of an event.
struct Record {
  bool passed = false;
  Clock::time_point when;
};

struct Node {
  const char* what = "";
  Work work;
  std::set<size_t> after;  // indices of other nodes
};

// A capture that has not ended: the nodes so far and the streams that take part.
struct Capture {
  std::vector<Node> nodes;
  CUstream_st* origin = nullptr;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::thread::id thread;  // that began it
  cudaError_t broken = cudaSuccess;
  bool has_ended = false;
};

struct Operation {
  const char* what = "";
  Work work;
};

}  // namespace

struct CUstream_st {
  std::deque<Operation> queue;
  std::shared_ptr<Capture> capture;  // null: none
  std::set<size_t> tail;             // of the capture: what the stream's next node comes after
};

struct CUevent_st {
  bool has_time = true;
  std::shared_ptr<Record> record;    // the last one; null: none
  CUstream_st* stream = nullptr;     // that it was recorded on
  std::shared_ptr<Capture> capture;  // where it was recorded last, if that was a capture
  std::set<size_t> captured;         // what it stands behind there
};

struct CUgraph_st {
  std::vector<Node> nodes;
};
struct CUgraphExec_st {
  std::vector<Node> nodes;
};

namespace emulated_gpu {
namespace {

// -- the queues -----------------------------------------------------------------------------------------------------------------------------------

std::vector<CUstream_st*> streams;
cudaError_t failed = cudaSuccess;  // for ever
bool begins_early = true;          // until the host waits next: now and then does what it can as soon as it is given it
std::map<const void*, int> dynamic_limits;

std::mt19937& randomness() {
  static std::mt19937 engine([] {
    const char* seed = std::getenv("SSCC_EMULATED_GPU_SEED");
    return seed ? static_cast<unsigned>(std::strtoul(seed, nullptr, 10)) : 1u;
  }());
  return engine;
}

void fail(const char* what, const std::string& why) {
  std::fprintf(stderr, "emulated GPU: %s: %s\n", what, why.c_str());
  failed = cudaErrorLaunchFailure;
  for (CUstream_st* stream : streams) stream->queue.clear();
}

// Does the stream's next work. False if there is none, or it has to wait.
bool advance(CUstream_st* stream) {
  if (stream->queue.empty() || failed != cudaSuccess) return false;
  const char* const what = stream->queue.front().what;
  try {
    if (!stream->queue.front().work()) return false;
    check_guards(what);
  } catch (const Fault& fault) {
    fail(what, fault.what());
    return false;
  }
  stream->queue.pop_front();
  return true;
}

void shuffle(std::vector<CUstream_st*>& list) {
  for (size_t i = list.size(); i > 1; --i) std::swap(list[i - 1], list[choose(static_cast<unsigned>(i))]);
}

// All that can be done, one stream after the other.
void run_ahead() {
  for (bool moved = true; moved;) {
    moved = false;
    std::vector<CUstream_st*> order = streams;
    shuffle(order);
    for (CUstream_st* stream : order)
      while (advance(stream)) moved = true;
  }
}

// Until is_reached(): `wanted` is the stream that it depends on.
template <class Reached>
cudaError_t run_until(CUstream_st* wanted, const Reached& is_reached) {
  std::unique_lock lock(mutex());
  enum Order { others_first, wanted_first, in_turns };
  const auto order = static_cast<Order>(choose(3));
  begins_early = choose(2) == 0;
  while (!is_reached() && failed == cudaSuccess) {
    std::vector<CUstream_st*> list = streams;
    shuffle(list);
    bool moved = false;
    if (order == others_first) {
      for (CUstream_st* stream : list)
        while (stream != wanted && advance(stream)) moved = true;
    }
    if (order != in_turns && advance(wanted)) continue;
    for (CUstream_st* stream : list)
      if (!moved) moved = advance(stream);
    if (moved) continue;
    // Other processes have to come.
    lock.unlock();
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    lock.lock();
  }
  return failed;
}

// -- graphs ---------------------------------------------------------------------------------------------------------------------------------------

cudaError_t add_node(CUstream_st* stream, const char* what, Work work) {
  Capture& capture = *stream->capture;
  if (capture.broken != cudaSuccess) return cudaErrorStreamCaptureInvalidated;
  capture.nodes.push_back({what, std::move(work), stream->tail});
  stream->tail = {capture.nodes.size() - 1};
  return cudaSuccess;
}

cudaError_t breaks_capture(CUstream_st* stream, cudaError_t status) {
  stream->capture->broken = status;
  return status;
}

// Calls that a GPU might do at once are refused while one captures: by the thread that does, or by all, as its mode says. With the mutex.
cudaError_t refused_by_capture() {
  for (CUstream_st* stream : streams) {
    if (!stream->capture || stream->capture->mode == cudaStreamCaptureModeRelaxed) continue;
    if (stream->capture->mode == cudaStreamCaptureModeThreadLocal && stream->capture->thread != std::this_thread::get_id()) continue;
    return breaks_capture(stream, cudaErrorStreamCaptureUnsupported);
  }
  return cudaSuccess;
}

// Nodes in any order that their dependences allow.
class Launched {
 public:
  explicit Launched(std::vector<Node> nodes) : nodes_(std::move(nodes)), missing_(nodes_.size()), followers_(nodes_.size()) {
    for (size_t i = 0; i < nodes_.size(); ++i) {
      missing_[i] = nodes_[i].after.size();
      for (const size_t other : nodes_[i].after) followers_[other].push_back(i);
      if (missing_[i] == 0) ready_.push_back(i);
    }
  }
  bool operator()() {
    // Those that have to wait are moved to the end, and are tried again when another one is done.
    for (size_t waiting = 0; waiting < ready_.size();) {
      size_t& chosen = ready_[choose(static_cast<unsigned>(ready_.size() - waiting))];
      const size_t node = chosen;
      if (!nodes_[node].work()) {
        std::swap(chosen, ready_[ready_.size() - ++waiting]);
        continue;
      }
      check_guards(nodes_[node].what);
      waiting = 0;
      chosen = ready_.back();
      ready_.pop_back();
      for (const size_t follower : followers_[node])
        if (--missing_[follower] == 0) ready_.push_back(follower);
    }
    return ready_.empty();
  }

 private:
  std::vector<Node> nodes_;
  std::vector<size_t> missing_;  // nodes that come before, and are not done
  std::vector<std::vector<size_t>> followers_;
  std::vector<size_t> ready_;
};

bool is_stream(cudaStream_t stream) { return std::find(streams.begin(), streams.end(), stream) != streams.end(); }

}  // namespace

std::recursive_mutex& mutex() {
  static std::recursive_mutex the_mutex;
  return the_mutex;
}

unsigned choose(unsigned count) { return static_cast<unsigned>(uint64_t{static_cast<uint32_t>(randomness()())} * count >> 32); }

cudaError_t enqueue(cudaStream_t stream, const char* what, Work work) {
  const std::lock_guard lock(mutex());
  if (failed != cudaSuccess) return failed;
  if (!is_stream(stream)) return cudaErrorInvalidResourceHandle;
  if (stream->capture) return add_node(stream, what, std::move(work));
  stream->queue.push_back({what, std::move(work)});
  if (begins_early && choose(16) == 0) run_ahead();
  return failed;
}

cudaError_t enqueue_kernel(Kernel kernel, cudaStream_t stream) {
  constexpr size_t without_asking = 48 << 10;
  const dim3 grid = kernel.grid, block = kernel.block;
  const size_t threads = size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.z > 64 || size_t{grid.x} * grid.y * grid.z == 0 || grid.x > 0x7fffffff || grid.y > 65535 ||
      grid.z > 65535)
    return cudaErrorInvalidConfiguration;
  {
    const std::lock_guard lock(mutex());
    const auto limit = dynamic_limits.find(kernel.function);
    if (kernel.shared_bytes > (limit == dynamic_limits.end() ? without_asking : static_cast<size_t>(limit->second))) return cudaErrorInvalidValue;
  }
  return enqueue(stream, "a kernel", [kernel = std::move(kernel)] {
    run(kernel);
    return true;
  });
}

cudaError_t refused_while_capturing() {
  const std::lock_guard lock(mutex());
  return refused_by_capture();
}

cudaError_t allow_dynamic_shared_memory(const void* kernel, int bytes) {
  constexpr int most = 227 << 10;
  if (bytes < 0 || bytes > most) return cudaErrorInvalidValue;
  const std::lock_guard lock(mutex());
  dynamic_limits[kernel] = bytes;
  return cudaSuccess;
}

}  // namespace emulated_gpu

using namespace emulated_gpu;

// -- errors ---------------------------------------------------------------------------------------------------------------------------------------

cudaError_t cudaGetLastError() { return failed; }
cudaError_t cudaPeekAtLastError() { return failed; }

// -- streams --------------------------------------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (flags != cudaStreamNonBlocking) return cudaErrorInvalidValue;  // there is no default stream that the others could wait for
  const std::lock_guard lock(mutex());
  *stream = streams.emplace_back(new CUstream_st);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) { return cudaStreamCreateWithFlags(stream, flags); }

// What the stream was given is done all the same: others may wait for it.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (const cudaError_t status = cudaStreamSynchronize(stream); status == cudaErrorInvalidResourceHandle) return status;
  const std::lock_guard lock(mutex());
  std::erase(streams, stream);
  delete stream;
  return failed;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  {
    const std::lock_guard lock(mutex());
    if (!is_stream(stream)) return cudaErrorInvalidResourceHandle;
    if (stream->capture) return breaks_capture(stream, cudaErrorStreamCaptureUnsupported);
  }
  return run_until(stream, [&] { return stream->queue.empty(); });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const std::lock_guard lock(mutex());
  if (!is_stream(stream)) return cudaErrorInvalidResourceHandle;
  if (stream->capture) return breaks_capture(stream, cudaErrorStreamCaptureUnsupported);
  run_ahead();
  return failed != cudaSuccess ? failed : stream->queue.empty() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize() {
  for (CUstream_st* stream : std::vector(streams))
    if (const cudaError_t status = cudaStreamSynchronize(stream); status != cudaSuccess) return status;
  return failed;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*function)(void*), void* argument) {
  return enqueue(stream, "a function of the host", [=] {
    function(argument);
    return true;
  });
}

// -- events ---------------------------------------------------------------------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new CUevent_st;
  (*event)->has_time = !(flags & cudaEventDisableTiming);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const std::lock_guard lock(mutex());
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard lock(mutex());
  if (!is_stream(stream)) return cudaErrorInvalidResourceHandle;
  if (stream->capture) {
    event->capture = stream->capture;
    event->captured = stream->tail;
    return cudaSuccess;
  }
  event->capture = nullptr;
  event->record = std::make_shared<Record>();
  event->stream = stream;
  return enqueue(stream, "an event", [record = event->record] {
    record->passed = true;
    record->when = Clock::now();
    return true;
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const std::lock_guard lock(mutex());
  if (!is_stream(stream)) return cudaErrorInvalidResourceHandle;
  if (event->capture) {
    if (event->capture->has_ended) return cudaErrorCapturedEvent;
    if (event->capture->broken != cudaSuccess) return cudaErrorStreamCaptureInvalidated;
    if (stream->capture && stream->capture != event->capture) return breaks_capture(stream, cudaErrorStreamCaptureMerge);
    stream->capture = event->capture;
    stream->tail.insert(event->captured.begin(), event->captured.end());
    return cudaSuccess;
  }
  if (stream->capture) return breaks_capture(stream, cudaErrorStreamCaptureIsolation);
  if (!event->record) return cudaSuccess;
  return enqueue(stream, "a wait for an event", [record = event->record] { return record->passed; });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  const std::lock_guard lock(mutex());
  if (const cudaError_t status = refused_by_capture(); status != cudaSuccess) return status;
  if (event->capture) return cudaErrorCapturedEvent;
  run_ahead();
  if (failed != cudaSuccess) return failed;
  return !event->record || event->record->passed ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  std::shared_ptr<Record> record;
  {
    const std::lock_guard lock(mutex());
    if (const cudaError_t status = refused_by_capture(); status != cudaSuccess) return status;
    if (event->capture) return cudaErrorCapturedEvent;
    record = event->record;
    if (!record || record->passed) return failed;
  }
  return run_until(event->stream, [&] { return record->passed; });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  const std::lock_guard lock(mutex());
  if (!begin->has_time || !end->has_time || !begin->record || !end->record) return cudaErrorInvalidResourceHandle;
  if (!begin->record->passed || !end->record->passed) return cudaErrorNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(end->record->when - begin->record->when).count();
  return cudaSuccess;
}

// -- graphs ---------------------------------------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  const std::lock_guard lock(mutex());
  if (!is_stream(stream)) return cudaErrorInvalidResourceHandle;
  if (stream->capture) return breaks_capture(stream, cudaErrorStreamCaptureUnsupported);
  stream->capture = std::make_shared<Capture>();
  stream->capture->origin = stream;
  stream->capture->mode = mode;
  stream->capture->thread = std::this_thread::get_id();
  stream->tail.clear();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard lock(mutex());
  *graph = nullptr;
  if (!is_stream(stream) || !stream->capture) return cudaErrorInvalidValue;
  const std::shared_ptr<Capture> capture = stream->capture;
  if (capture->origin != stream) return cudaErrorStreamCaptureUnmatched;
  capture->has_ended = true;
  // Whatever no other node comes after has to be what this stream stands at.
  std::set<size_t> last;
  for (size_t i = 0; i < capture->nodes.size(); ++i) last.insert(i);
  for (const Node& node : capture->nodes)
    for (const size_t other : node.after) last.erase(other);
  const bool is_joined = std::includes(stream->tail.begin(), stream->tail.end(), last.begin(), last.end());
  for (CUstream_st* each : streams) {
    if (each->capture != capture) continue;
    each->capture = nullptr;
    each->tail.clear();
  }
  if (capture->broken != cudaSuccess) return cudaErrorStreamCaptureInvalidated;
  if (!is_joined) return cudaErrorStreamCaptureUnjoined;
  *graph = new CUgraph_st{std::move(capture->nodes)};
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const std::lock_guard lock(mutex());
  if (!is_stream(stream)) return cudaErrorInvalidResourceHandle;
  *status = !stream->capture                         ? cudaStreamCaptureStatusNone
            : stream->capture->broken == cudaSuccess ? cudaStreamCaptureStatusActive
                                                     : cudaStreamCaptureStatusInvalidated;
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, CUgraphNode_st** nodes, size_t* count) {
  if (nodes) return cudaErrorInvalidValue;
  *count = graph->nodes.size();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{graph->nodes};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) { return enqueue(stream, "a graph", Launched(executable->nodes)); }
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
