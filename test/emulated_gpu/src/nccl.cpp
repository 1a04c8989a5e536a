// NCCL's rules, as a program meets them:
//   - Communicators do not block: each answers a call with ncclInProgress, and has given it to its stream only when ncclCommGetAsyncError says so;
//     until then it takes no other call.
//   - A call waits on its stream until the peers have come. A send waits for its receive, too. What is called as one group goes on side by side; all
//     else that a communicator was given, one after the other.
//   - With NCCL_LAUNCH_ORDER_IMPLICIT, and from version 2.26 on, calls of all communicators of a process run in the order in which they were made. They
//     might overlap; here they do not, since a program must not rely on it.
//   - Members of a collective call it alike: the kinds, sizes, types and roots that they give are compared.
//   - Sums of small floats are rounded at every step from rank to rank.
//
// Processes meet in a folder below TMPDIR, whose name is the unique id. A member of a communicator leaves there, for each call, a file with what it
// gives; a file appears as a whole, under its name, by rename. It is removed when everybody has read it: of a message, the receiver does that; of a
// collective, whoever gave it, when all have ended a later call. The folder itself stays: whoever starts ranks removes their TMPDIR.
#include <nccl.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "emulated_gpu/gpu.h"
#include "memory.h"

using namespace emulated_gpu;

namespace {

using Bytes = std::vector<std::byte>;

constexpr int first_with_launch_order = 22600;

int version() {
  const char* text = std::getenv("SSCC_EMULATED_NCCL_VERSION");
  return text ? std::atoi(text) : 22809;
}

// -- files ----------------------------------------------------------------------------------------------------------------------------------------

void publish(const std::string& path, const std::string& title, const std::byte* data, size_t bytes) {
  const std::string unfinished = path + ".unfinished";
  std::ofstream file(unfinished, std::ios::binary);
  file << title << '\n';
  file.write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(bytes));
  file.close();
  if (!file || std::rename(unfinished.c_str(), path.c_str()) != 0) throw Fault("cannot write " + path);
}
void publish(const std::string& path, const std::string& title) { publish(path, title, nullptr, 0); }

struct Published {
  std::string title;
  Bytes data;
};
std::optional<Published> find(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  Published found;
  std::getline(file, found.title);
  const std::streamoff begin = file.tellg();
  file.seekg(0, std::ios::end);
  found.data.resize(static_cast<size_t>(file.tellg() - begin));
  file.seekg(begin);
  file.read(reinterpret_cast<char*>(found.data.data()), static_cast<std::streamsize>(found.data.size()));
  return found;
}

// -- communicators --------------------------------------------------------------------------------------------------------------------------------

}  // namespace

struct ncclComm {
  std::string path;  // where its files are
  int rank = 0, size = 0;
  std::atomic<bool> aborted = false;
  int splits = 0;
  uint64_t collectives = 0;               // begun so far
  std::deque<std::string> left;           // of collectives, oldest first: what others may not have read
  std::vector<uint64_t> sent, received;   // messages begun so far, by peer
  std::function<ncclResult_t()> pending;  // the state of the call that is under way, which goes on whenever somebody asks; null: no call is
};

namespace {

// By whoever calls NCCL, with the mutex of the GPU.
ncclResult_t begin(ncclComm_t communicator, std::function<ncclResult_t()> call) {
  if (communicator->pending) return ncclInvalidUsage;
  communicator->pending = std::move(call);
  return ncclInProgress;
}

// True when all members have left their file; their contents by rank.
bool all_published(const std::string& path, int size, std::vector<Published>& found) {
  found.clear();
  for (int rank = 0; rank < size; ++rank) {
    std::optional<Published> theirs = find(path + "." + std::to_string(rank));
    if (!theirs) return false;
    found.push_back(std::move(*theirs));
  }
  return true;
}

ncclComm_t make(const std::string& path, int rank, int size) {
  auto* made = new ncclComm;
  made->path = path;
  made->rank = rank;
  made->size = size;
  made->sent.resize(static_cast<size_t>(size));
  made->received.resize(static_cast<size_t>(size));
  return made;
}

// -- calls ----------------------------------------------------------------------------------------------------------------------------------------

size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
    case ncclUint8: return 1;
    case ncclFloat16:
    case ncclBfloat16: return 2;
    case ncclInt32:
    case ncclFloat32: return 4;
    case ncclInt64:
    case ncclFloat64: return 8;
  }
  return 0;
}

template <class T, class Wide>
void join_as(std::byte* to, const std::byte* from, size_t count, ncclRedOp_t how) {
  for (size_t i = 0; i < count; ++i) {
    T mine, theirs;
    std::memcpy(&mine, to + i * sizeof(T), sizeof(T));
    std::memcpy(&theirs, from + i * sizeof(T), sizeof(T));
    const auto a = static_cast<Wide>(mine), b = static_cast<Wide>(theirs);
    mine = static_cast<T>(how == ncclSum ? a + b : how == ncclMax ? std::max(a, b) : std::min(a, b));
    std::memcpy(to + i * sizeof(T), &mine, sizeof(T));
  }
}
void join(std::byte* to, const std::byte* from, size_t count, ncclDataType_t type, ncclRedOp_t how) {
  switch (type) {
    case ncclInt8: return join_as<int8_t, int>(to, from, count, how);
    case ncclUint8: return join_as<uint8_t, int>(to, from, count, how);
    case ncclInt32: return join_as<int32_t, int32_t>(to, from, count, how);
    case ncclInt64: return join_as<int64_t, int64_t>(to, from, count, how);
    case ncclFloat16: return join_as<__half, float>(to, from, count, how);
    case ncclBfloat16: return join_as<__nv_bfloat16, float>(to, from, count, how);
    case ncclFloat32: return join_as<float, float>(to, from, count, how);
    case ncclFloat64: return join_as<double, double>(to, from, count, how);
  }
}

enum class Operation { send, receive, all_reduce, all_gather, reduce_scatter, broadcast };
constexpr const char* names[] = {"a send", "a receive", "an all-reduce", "an all-gather", "a reduce-scatter", "a broadcast"};

struct Call {
  Operation kind;
  const void* from;
  void* to;
  size_t count;  // elements that a member gives, or of reduce-scatter gets
  ncclDataType_t type;
  int other;  // the peer, the root or the join
  ncclComm_t communicator;
  cudaStream_t stream;

  size_t bytes() const { return count * size_of(type); }
  size_t given() const {
    return kind == Operation::receive ? 0 : bytes() * static_cast<size_t>(kind == Operation::reduce_scatter ? communicator->size : 1);
  }
  size_t taken() const { return kind == Operation::send ? 0 : bytes() * static_cast<size_t>(kind == Operation::all_gather ? communicator->size : 1); }
  bool is_message() const { return kind == Operation::send || kind == Operation::receive; }
  std::string title() const {
    return std::string(names[static_cast<int>(kind)]) + " of " + std::to_string(count) + " elements of type " + std::to_string(type) + ", " +
           std::to_string(other);
  }
};

// A call on its stream.
struct Running {
  Call call;
  uint64_t number = 0;  // of the communicator's collectives, or of its messages in this direction to this peer
  bool has_begun = false, has_given = false, ended = false;

  bool advance() {
    if (ended || call.communicator->aborted) return ended = true;
    if (!has_begun) number = next_number();
    has_begun = true;
    return ended = call.kind == Operation::send ? send() : call.kind == Operation::receive ? receive() : collective();
  }

 private:
  uint64_t next_number() const {
    ncclComm& communicator = *call.communicator;
    switch (call.kind) {
      case Operation::send: return communicator.sent[static_cast<size_t>(call.other)]++;
      case Operation::receive: return communicator.received[static_cast<size_t>(call.other)]++;
      default: return communicator.collectives++;
    }
  }
  std::string message(int from, int to) const {
    return call.communicator->path + "/" + std::to_string(from) + "-" + std::to_string(to) + "." + std::to_string(number);
  }
  bool send() {
    const std::string path = message(call.communicator->rank, call.other);
    if (!std::exchange(has_given, true)) publish(path, "", static_cast<const std::byte*>(call.from), call.bytes());
    return !std::filesystem::exists(path);
  }
  bool receive() {
    const std::string path = message(call.other, call.communicator->rank);
    const std::optional<Published> found = find(path);
    if (!found) return false;
    if (found->data.size() != call.bytes())
      throw Fault("rank " + std::to_string(call.other) + " sends " + std::to_string(found->data.size()) + " bytes, rank " +
                  std::to_string(call.communicator->rank) + " receives " + std::to_string(call.bytes()));
    std::memcpy(call.to, found->data.data(), found->data.size());
    std::filesystem::remove(path);
    return true;
  }
  bool collective() {
    ncclComm& communicator = *call.communicator;
    const std::string path = communicator.path + "/collective." + std::to_string(number), mine = path + "." + std::to_string(communicator.rank);
    if (!std::exchange(has_given, true)) {
      publish(mine, call.title(), static_cast<const std::byte*>(call.from), call.given());
      communicator.left.push_back(mine);
    }
    std::vector<Published> all;
    if (!all_published(path, communicator.size, all)) return false;
    for (int rank = 0; rank < communicator.size; ++rank)
      if (const std::string& theirs = all[static_cast<size_t>(rank)].title; theirs != call.title())
        throw Fault("rank " + std::to_string(rank) + " calls " + theirs + ", rank " + std::to_string(communicator.rank) + " " + call.title());
    write(all);
    // All have come to this one, so they have ended those before.
    while (communicator.left.front() != mine) {
      std::filesystem::remove(communicator.left.front());
      communicator.left.pop_front();
    }
    return true;
  }
  void write(const std::vector<Published>& all) {
    auto* const to = static_cast<std::byte*>(call.to);
    const size_t bytes = call.bytes();
    const auto join_all = [&](size_t offset) {
      Bytes result(all[0].data.begin() + static_cast<std::ptrdiff_t>(offset), all[0].data.begin() + static_cast<std::ptrdiff_t>(offset + bytes));
      for (size_t rank = 1; rank < all.size(); ++rank)
        join(result.data(), all[rank].data.data() + offset, call.count, call.type, static_cast<ncclRedOp_t>(call.other));
      std::memcpy(to, result.data(), bytes);
    };
    switch (call.kind) {
      case Operation::all_reduce: return join_all(0);
      case Operation::reduce_scatter: return join_all(bytes * static_cast<size_t>(call.communicator->rank));
      case Operation::all_gather:
        for (size_t rank = 0; rank < all.size(); ++rank) std::memcpy(to + rank * bytes, all[rank].data.data(), bytes);
        return;
      case Operation::broadcast: std::memcpy(to, all[static_cast<size_t>(call.other)].data.data(), bytes); return;
      default: return;
    }
  }
};

// In the order in which calls were made: how many, and how many have ended.
uint64_t calls_made = 0, calls_ended = 0;

// The place of the next call in the order that NCCL keeps; none where it keeps no order, as within a graph.
std::optional<uint64_t> next_place(cudaStream_t stream) {
  const char* order = std::getenv("NCCL_LAUNCH_ORDER_IMPLICIT");
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  cudaStreamIsCapturing(stream, &capture);
  if (version() < first_with_launch_order || !order || std::strcmp(order, "1") != 0 || capture != cudaStreamCaptureStatusNone) return std::nullopt;
  return calls_made++;
}

// The calls of a group that one communicator was given. Messages go on side by side, collectives one after the other.
struct Group {
  std::vector<Running> running;
  std::optional<uint64_t> place;

  Group(const std::vector<Call>& calls, std::optional<uint64_t> in_order) : place(in_order) {
    for (const Call& call : calls) running.push_back({call});
  }
  bool operator()() {
    if (place && calls_ended < *place) return false;
    bool all = true, collectives = true;  // have ended so far
    for (Running& each : running) {
      if (!each.call.is_message() && !collectives) continue;
      const bool ended = each.advance();
      all = all && ended;
      if (!each.call.is_message()) collectives = ended;
    }
    all = all && collectives;
    if (all && place) ++calls_ended;
    return all;
  }
};

int depth = 0;  // of groups that are open; NCCL is called by one thread
std::vector<Call> grouped;

bool reaches(const void* memory, size_t bytes) { return bytes == 0 || kind_of(memory, bytes) != Kind::pageable; }

// What is wrong; empty: nothing.
std::string mistake_in(const Call& call) {
  const int size = call.communicator->size;
  if (call.is_message() && (call.other < 0 || call.other >= size)) return "there is no such peer";
  if (call.kind == Operation::broadcast && (call.other < 0 || call.other >= size)) return "there is no such root";
  if (call.communicator->pending) return "the communicator's last call is under way";
  try {
    if (!reaches(call.from, call.given()) || !reaches(call.to, call.taken())) return "memory that the GPU does not reach";
  } catch (const Fault& fault) { return fault.what(); }
  return "";
}

ncclResult_t end_group() {
  std::vector<Call> calls = std::exchange(grouped, {});
  ncclResult_t result = ncclSuccess;
  while (!calls.empty()) {
    ncclComm_t communicator = calls.front().communicator;
    const auto rest = std::stable_partition(calls.begin(), calls.end(), [&](const Call& each) { return each.communicator == communicator; });
    std::vector<Call> together(calls.begin(), rest);
    calls.erase(calls.begin(), rest);
    const cudaStream_t stream = together.front().stream;
    if (std::any_of(together.begin(), together.end(), [&](const Call& each) { return each.stream != stream; })) return ncclInvalidUsage;
    // Given to the stream when the state is asked for the second time.
    result = begin(communicator, [=, asked = 0]() mutable {
      if (++asked < 2) return ncclInProgress;
      const cudaError_t status = enqueue(stream, "a call of NCCL", Group(together, next_place(stream)));
      return status == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
    });
  }
  return result;
}

ncclResult_t call(const Call& each) {
  const std::lock_guard lock(mutex());
  if (const std::string mistake = mistake_in(each); !mistake.empty()) {
    std::fprintf(stderr, "emulated GPU: NCCL: %s: %s\n", names[static_cast<int>(each.kind)], mistake.c_str());
    return ncclInvalidArgument;
  }
  grouped.push_back(each);
  return depth > 0 ? ncclSuccess : end_group();
}

}  // namespace

ncclResult_t ncclGetVersion(int* number) {
  *number = version();
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess: return "no error";
    case ncclUnhandledCudaError: return "unhandled cuda error";
    case ncclSystemError: return "unhandled system error";
    case ncclInternalError: return "internal error";
    case ncclInvalidArgument: return "invalid argument";
    case ncclInvalidUsage: return "invalid usage";
    case ncclRemoteError: return "remote process exited or there was a network error";
    case ncclInProgress: return "NCCL operation in progress";
  }
  return "unknown result code";
}
const char* ncclGetLastError(ncclComm_t) { return ""; }

// -- making communicators -------------------------------------------------------------------------------------------------------------------------

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const char* folder = std::getenv("TMPDIR");
  *id = {};
  std::snprintf(id->internal, sizeof id->internal, "%s/sscc-emulated-nccl-XXXXXX", folder ? folder : "/tmp");
  return mkdtemp(id->internal) ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* communicator, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  const std::lock_guard lock(mutex());
  if (config->blocking) return ncclInvalidArgument;  // sscc's do not
  ncclComm_t made = make(id.internal, rank, ranks);
  publish(made->path + "/member." + std::to_string(rank), "");
  *communicator = made;
  return begin(made, [made] {
    std::vector<Published> all;
    return all_published(made->path + "/member", made->size, all) ? ncclSuccess : ncclInProgress;
  });
}

ncclResult_t ncclCommSplit(ncclComm_t communicator, int color, int key, ncclComm_t* made, ncclConfig_t* config) {
  const std::lock_guard lock(mutex());
  if (communicator->pending) return ncclInvalidUsage;
  if (config->blocking) return ncclInvalidArgument;
  const std::string path = communicator->path + "/split." + std::to_string(communicator->splits++);
  publish(path + "." + std::to_string(communicator->rank), std::to_string(color) + " " + std::to_string(key));
  *made = nullptr;
  return begin(communicator, [=] {
    std::vector<Published> all;
    if (!all_published(path, communicator->size, all)) return ncclInProgress;
    if (color == NCCL_SPLIT_NOCOLOR) return ncclSuccess;
    std::vector<std::pair<int, int>> members;  // key, rank
    for (int rank = 0; rank < communicator->size; ++rank) {
      int theirs = 0, place = 0;
      std::sscanf(all[static_cast<size_t>(rank)].title.c_str(), "%d %d", &theirs, &place);
      if (theirs == color) members.emplace_back(place, rank);
    }
    std::sort(members.begin(), members.end());
    const auto me = std::find_if(members.begin(), members.end(), [&](const auto& each) { return each.second == communicator->rank; });
    const std::string folder = path + "." + std::to_string(color) + ".communicator";
    mkdir(folder.c_str(), 0700);  // by whoever comes first
    *made = make(folder, static_cast<int>(me - members.begin()), static_cast<int>(members.size()));
    return ncclSuccess;
  });
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t communicator, ncclResult_t* state) {
  const std::lock_guard lock(mutex());
  *state = ncclSuccess;
  if (!communicator->pending) return ncclSuccess;
  *state = communicator->pending();
  if (*state != ncclInProgress) communicator->pending = nullptr;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t communicator) {
  const std::lock_guard lock(mutex());
  return begin(communicator, [] { return ncclSuccess; });
}
ncclResult_t ncclCommDestroy(ncclComm_t communicator) {
  const std::lock_guard lock(mutex());
  delete communicator;
  return ncclSuccess;
}
// What the GPU waits for is over; the memory of the communicator stays, since the GPU may look at it.
ncclResult_t ncclCommAbort(ncclComm_t communicator) {
  communicator->aborted = true;
  return ncclSuccess;
}

// -- calls ----------------------------------------------------------------------------------------------------------------------------------------

ncclResult_t ncclGroupStart() {
  ++depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  const std::lock_guard lock(mutex());
  if (depth == 0) return ncclInvalidUsage;
  return --depth > 0 ? ncclSuccess : end_group();
}
ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t communicator, cudaStream_t stream) {
  return call({Operation::send, data, nullptr, count, type, peer, communicator, stream});
}
ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t communicator, cudaStream_t stream) {
  return call({Operation::receive, nullptr, data, count, type, peer, communicator, stream});
}
ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t how, ncclComm_t communicator,
                           cudaStream_t stream) {
  return call({Operation::all_reduce, from, to, count, type, how, communicator, stream});
}
ncclResult_t ncclAllGather(const void* from, void* to, size_t count, ncclDataType_t type, ncclComm_t communicator, cudaStream_t stream) {
  return call({Operation::all_gather, from, to, count, type, 0, communicator, stream});
}
ncclResult_t ncclReduceScatter(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t how, ncclComm_t communicator,
                               cudaStream_t stream) {
  return call({Operation::reduce_scatter, from, to, count, type, how, communicator, stream});
}
ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t type, int root, ncclComm_t communicator, cudaStream_t stream) {
  return call({Operation::broadcast, from, to, count, type, root, communicator, stream});
}
