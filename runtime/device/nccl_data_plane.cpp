#include "nccl_data_plane.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "handles.h"
#include "nccl_communicators.h"
#include "sscc_rt/cuda.h"
#include "sscc_rt/rank.h"
#include "watchdog.h"

namespace sscc::rt {
namespace {

constexpr int first_with_launch_order = 22600;  // 2.26.0

int version_of_library() {
  int version = 0;
  if (ncclGetVersion(&version) != ncclSuccess) throw EnvironmentFailure("NCCL does not tell its version");
  return version;
}

ncclDataType_t nccl_type(DType type) {
  switch (type) {
    case DType::f32: return ncclFloat32;
    case DType::f64: return ncclFloat64;
    case DType::f16: return ncclFloat16;
    case DType::bf16: return ncclBfloat16;
    case DType::i64: return ncclInt64;
    case DType::i32: return ncclInt32;
    case DType::i8: return ncclInt8;
    case DType::u8: return ncclUint8;
    case DType::b1: break;
  }
  throw std::logic_error(std::string("no collective joins values of type ") + name_of(type));
}

ncclRedOp_t nccl_join(Join join) {
  switch (join) {
    case Join::sum: return ncclSum;
    case Join::max: return ncclMax;
    case Join::min: return ncclMin;
    case Join::logsumexp: break;
  }
  throw std::logic_error("a join of log-sum-exps is no collective; its maxima and sums are");
}

class NcclDataPlane : public DeviceDataPlane {
 public:
  NcclDataPlane(ControlPlane& control, const std::vector<std::vector<int32_t>>& all_groups, const std::vector<std::vector<int32_t>>& groups,
                double timeout_seconds)
      : rank_(control.rank()),
        keeps_launch_order_(version_of_library() >= first_with_launch_order),
        communicators_(control, all_groups, timeout_seconds),
        watchdog_(
            control, timeout_seconds, 1 + all_groups.size(),
            [&] {
              const std::optional<std::string> peer = control.failure();
              return peer ? peer : communicators_.failure();
            },
            [this] { communicators_.abort(); }) {
    for (int rank = 0; rank < control.size(); ++rank) peer_names_.push_back("rank " + std::to_string(rank));
    lanes_.emplace_back(communicators_.world(), "", 0);
    for (const std::vector<int32_t>& group : groups) {
      const auto [entry, is_new] = lane_of_.emplace(group, lanes_.size());
      if (is_new) lanes_.emplace_back(communicators_.of(group), text_of_ranks(group), lanes_.size());
      lane_of_group_.push_back(entry->second);
    }
  }

  // -- messages -----------------------------------------------------------------------------------------------------------------------------------

  void send(int peer, const void* data, size_t bytes, int64_t) override {
    if (!messages_.empty() && !messages_.back().sends) end_group();
    if (bytes == 0) return messages_.push_back({true, peer, signal_.data(), 1, place("send")});
    messages_.push_back({true, peer, const_cast<void*>(data), bytes, place("send")});  // NCCL's send takes it as const
  }

  // The rules of which sends and receives go together are those that the programs were checked with (compiler/program/walk.h).
  void receive(int peer, void* data, size_t bytes, int64_t) override {
    if (bytes == 0) return messages_.push_back({false, peer, static_cast<std::byte*>(signal_.data()) + 1, 1, place("receive")});
    const std::byte* begin = static_cast<std::byte*>(data);
    const bool overwrites = std::any_of(messages_.begin(), messages_.end(), [&](const Message& other) {
      const std::byte* read = static_cast<std::byte*>(other.data);
      return other.sends && read < begin + bytes && begin < read + other.bytes;
    });
    if (overwrites) end_group();
    messages_.push_back({false, peer, data, bytes, place("receive")});
  }

  void end_group() override {
    if (messages_.empty()) return;
    Lane& lane = lanes_[0];
    const auto enqueue = [&] {
      for (const Message& message : messages_) {
        const ncclResult_t result = message.sends
                                        ? ncclSend(message.data, message.bytes, ncclInt8, message.peer, lane.communicator, lane.stream.get())
                                        : ncclRecv(message.data, message.bytes, ncclInt8, message.peer, lane.communicator, lane.stream.get());
        if (result != ncclSuccess && result != ncclInProgress) return result;
      }
      return ncclSuccess;
    };
    const Message& last = messages_.back();  // of a group, the last is what is told: receives come last
    call(lane, last.where, peer_names_[static_cast<size_t>(last.peer)].c_str(), [&] { return as_group(enqueue); });
    messages_.clear();
    for (const auto& [event, kept] : std::exchange(open_marks_, {})) record(event, lane.stream.get(), kept);
  }

  void wait_sends() override {}

  // -- collectives --------------------------------------------------------------------------------------------------------------------------------

  void all_reduce(std::span<const int32_t> group, void* data, int64_t elements, DType dtype, Join join, int64_t) override {
    collective(group, "all-reduce", [=](const Lane& lane) {
      return ncclAllReduce(data, data, static_cast<size_t>(elements), nccl_type(dtype), nccl_join(join), lane.communicator, lane.stream.get());
    });
  }
  void all_gather(std::span<const int32_t> group, void* all, const void* mine, size_t bytes_each, int64_t) override {
    collective(group, "all-gather",
               [=](const Lane& lane) { return ncclAllGather(mine, all, bytes_each, ncclInt8, lane.communicator, lane.stream.get()); });
  }
  void reduce_scatter(std::span<const int32_t> group, void* mine, const void* all, int64_t elements_each, DType dtype, Join join, int64_t) override {
    collective(group, "reduce-scatter", [=](const Lane& lane) {
      return ncclReduceScatter(all, mine, static_cast<size_t>(elements_each), nccl_type(dtype), nccl_join(join), lane.communicator,
                               lane.stream.get());
    });
  }
  void all_to_all(std::span<const int32_t> group, void* received, const void* given, size_t bytes_each, int64_t) override {
    collective(group, "all-to-all", [=](const Lane& lane) {
      return as_group([&] {
        for (size_t i = 0; i < group.size(); ++i) {
          const std::byte* from = static_cast<const std::byte*>(given) + i * bytes_each;
          std::byte* to = static_cast<std::byte*>(received) + i * bytes_each;
          const auto member = static_cast<int>(i);
          for (const ncclResult_t result : {ncclSend(from, bytes_each, ncclInt8, member, lane.communicator, lane.stream.get()),
                                            ncclRecv(to, bytes_each, ncclInt8, member, lane.communicator, lane.stream.get())})
            if (result != ncclSuccess && result != ncclInProgress) return result;
        }
        return ncclSuccess;
      });
    });
  }

  void broadcast(std::span<const int32_t> group, size_t root, void* data, size_t bytes, int64_t) override {
    collective(group, "broadcast", [=](const Lane& lane) {
      return ncclBroadcast(data, data, bytes, ncclInt8, static_cast<int>(root), lane.communicator, lane.stream.get());
    });
  }

  void begin_call() override { is_collecting_ = true; }
  void end_call() override {
    is_collecting_ = false;
    const std::vector<Enqueued> members = std::exchange(members_, {});
    Lane& lane = *members.front().lane;
    call(lane, members.front().where, lane.ranks.c_str(), [&] {
      return as_group([&] {
        for (const Enqueued& member : members)
          if (const ncclResult_t result = member.enqueue(lane); result != ncclSuccess && result != ncclInProgress) return result;
        return ncclSuccess;
      });
    });
  }

  // -- order --------------------------------------------------------------------------------------------------------------------------------------

  void at(const char* segment, const char* origin, int micro_batch) override {
    segment_ = segment;
    origin_ = origin;
    micro_batch_ = micro_batch;
  }

  void begin_step() override {
    step_begin_.record(compute_stream());
    watchdog_.begin_step();
  }
  void repeat_step() override { watchdog_.repeat_step(); }

  void end_step() override {
    for (Lane& lane : lanes_) {
      if (!lane.begun) continue;
      lane.ended.record(lane.stream.get());
      lane.ended.hold(compute_stream());
      lane.begun = false;
    }
    last_lane_ = nullptr;
    for (Mark& mark : marks_) mark.recorded = 0;
  }

  void end_slot(bool group_continues) override {
    if (!group_continues) end_group();
  }

  void mark(Event event, Stream stream, int kept) override {
    if (stream == stream::messages && !messages_.empty()) return open_marks_.push_back({event, kept});
    record(event, stream == stream::kernels ? compute_stream() : lane_of(stream).stream.get(), kept);
  }

  void wait(Stream stream, Event event, int age) override {
    const bool is_open = std::any_of(open_marks_.begin(), open_marks_.end(), [&](const auto& open) { return open.first == event; });
    if (is_open) end_group();
    if (static_cast<size_t>(event) >= marks_.size() || marks_[static_cast<size_t>(event)].recorded <= static_cast<size_t>(age)) return;
    cudaStream_t waiting = compute_stream();
    if (stream != stream::kernels) {
      begin(lane_of(stream));
      waiting = lane_of(stream).stream.get();
    }
    const Mark& mark = marks_[static_cast<size_t>(event)];
    mark.last[(mark.recorded - 1 - static_cast<size_t>(age)) % mark.last.size()].hold(waiting);
  }

  void all_ended() override { watchdog_.all_passed(); }

 private:
  // What a communicator was given runs on a stream of its own.
  struct Lane {
    Lane(ncclComm_t of, std::string others, size_t which) : communicator(of), ranks(std::move(others)), number(which) {}
    ncclComm_t communicator;
    std::string ranks;  // "ranks 0 1"
    size_t number;
    CommunicationStream stream;
    DeviceEvent ended;
    bool begun = false;  // in this step
  };
  // An event of the program: what was recorded last, in turn.
  struct Mark {
    std::vector<DeviceEvent> last;
    size_t recorded = 0;  // in this step
  };
  struct Message {
    bool sends = false;
    int peer = 0;
    void* data = nullptr;
    size_t bytes = 0;
    Place where;
  };

  // A member of a call that is put together.
  struct Enqueued {
    Lane* lane = nullptr;
    Place where;
    std::function<ncclResult_t(const Lane&)> enqueue;
  };

  std::string text_of_ranks(const std::vector<int32_t>& group) const {
    std::string text;
    for (const int32_t rank : group)
      if (rank != rank_) text += " " + std::to_string(rank);
    return (group.size() == 2 ? "rank" : "ranks") + text;
  }

  Lane& lane_of(Stream stream) { return lanes_[stream == stream::messages ? 0 : lane_of_group_[static_cast<size_t>(stream - stream::group(0))]]; }
  Place place(const char* operation) const { return {segment_, origin_, micro_batch_, operation}; }

  template <class Enqueue>
  static ncclResult_t as_group(const Enqueue& enqueue) {
    ncclResult_t result = ncclGroupStart();
    if (result != ncclSuccess) return result;
    result = enqueue();
    const ncclResult_t end = ncclGroupEnd();
    return result == ncclSuccess ? end : result;
  }

  // `enqueue` holds what it needs: it may be called later.
  template <class Enqueue>
  void collective(std::span<const int32_t> group, const char* name, const Enqueue& enqueue) {
    end_group();
    Lane& lane = lanes_[lane_of_.at({group.begin(), group.end()})];
    if (is_collecting_) return members_.push_back({&lane, place(name), enqueue});
    call(lane, place(name), lane.ranks.c_str(), [&] { return enqueue(lane); });
  }

  // The first of a step waits for the step's begin.
  void begin(Lane& lane) {
    if (lane.begun) return;
    step_begin_.hold(lane.stream.get());
    lane.begun = true;
  }

  void record(Event event, cudaStream_t stream, int kept) {
    if (marks_.size() <= static_cast<size_t>(event)) marks_.resize(static_cast<size_t>(event) + 1);
    Mark& mark = marks_[static_cast<size_t>(event)];
    while (mark.last.size() < static_cast<size_t>(kept)) mark.last.emplace_back();
    mark.last[mark.recorded++ % mark.last.size()].record(stream);
  }

  template <class Enqueue>
  void call(Lane& lane, const Place& where, const char* peers, const Enqueue& enqueue) {
    begin(lane);
    if (!keeps_launch_order_ && last_lane_ && last_lane_ != &lane) last_call_.hold(lane.stream.get());
    communicators_.call(lane.communicator, where, enqueue);
    if (!keeps_launch_order_) last_call_.record(lane.stream.get());
    last_lane_ = &lane;
    watchdog_.given(lane.stream.get(), lane.number, where, peers);
  }

  const int rank_;
  const bool keeps_launch_order_;
  std::deque<Lane> lanes_;  // 0: messages. Their places stay; their streams outlive the communicators
  NcclCommunicators communicators_;
  std::vector<std::string> peer_names_;
  std::map<std::vector<int32_t>, size_t> lane_of_;
  std::vector<size_t> lane_of_group_;  // by index of the rank's groups
  const Lane* last_lane_ = nullptr;
  const DeviceEvent step_begin_, last_call_;
  std::vector<Mark> marks_;                             // by event
  std::vector<Message> messages_;                       // of the open group
  std::vector<std::pair<Event, int>> open_marks_;       // that are recorded when it ends, and how many of each are kept
  const DeviceMemory signal_{2, "memory for signals"};  // what has no bytes makes nobody wait: one goes from here to there
  std::vector<Enqueued> members_;                       // of the call that is put together
  bool is_collecting_ = false;
  const char* segment_ = "";
  const char* origin_ = "";
  int micro_batch_ = 0;
  Watchdog watchdog_;  // last: its thread ends first
};

}  // namespace

std::unique_ptr<DeviceDataPlane> make_nccl_data_plane(ControlPlane& control, const std::vector<std::vector<int32_t>>& all_groups,
                                                      const std::vector<std::vector<int32_t>>& groups, double timeout_seconds) {
  setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", 1);  // before NCCL reads its variables; older versions do not know it
  return std::make_unique<NcclDataPlane>(control, all_groups, groups, timeout_seconds);
}

std::string nccl_version() {
  const int version = version_of_library();
  return "NCCL " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." + std::to_string(version % 100);
}

}  // namespace sscc::rt
