// How ranks reach each other: their hosts with words (ControlPlane), their programs with data (DataPlane). On processors one object is both, a
// Transport; on GPUs data go through NCCL and words through sockets.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sscc_rt/types.h"

namespace sscc::rt {

// What is no part of the program: reports, outputs, gradients, the end.
class ControlPlane {
 public:
  virtual ~ControlPlane() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Messages of any length, in the order of sending. receive_message returns within the timeout or throws PeerFailure.
  virtual void send_message(int peer, std::vector<std::byte> message) = 0;
  virtual std::vector<std::byte> receive_message(int peer) = 0;
  // Tell the others that this rank gives up; they leave their calls with PeerFailure. With MPI the job ends here, with this exit status.
  virtual void abort(const std::string& why, int status) = 0;
  // "rank 1 failed: ..." once a peer did, where this is known without a call that waits for it. For any thread.
  virtual std::optional<std::string> failure() const { return std::nullopt; }
  // Where the program is, for messages: static or long-lived texts. An empty segment: between steps.
  virtual void at(const char* segment, const char* origin, int micro_batch) = 0;
};

// What runs on a device one after the other: the kernels, the messages between two ranks, the collectives of one group. `group`: index of the rank's
// Constants::groups.
using Stream = int32_t;
namespace stream {
inline constexpr Stream kernels = 0, messages = 1;
constexpr Stream group(int32_t group) { return 2 + group; }
}  // namespace stream

// A point in the program's text, by number: that a stream has come there, as often as it does in a step.
using Event = int32_t;

// Moves the program's data.
//
// Calls follow one another in the program's order, the same on every rank (DESIGN: one total order over all groups). On processors a call has done its
// work when it returns, but for sends. On a device it is enqueued on its stream, and what has to wait for it on another stream says so with mark and
// wait; streams meet at the end of a step, and nowhere else. Blocking calls return within the timeout or throw PeerFailure. Joins of processors are made
// in group order, so that threads, sockets and MPI give the same bits.
class DataPlane {
 public:
  virtual ~DataPlane() = default;
  // Returns at once; `data` stays untouched by the caller until wait_sends(), on a device until its stream has passed. Messages between two ranks are
  // matched by tag, equal tags in the order in which they were sent.
  virtual void send(int peer, const void* data, size_t bytes, int64_t tag) = 0;
  virtual void wait_sends() = 0;
  virtual void receive(int peer, void* data, size_t bytes, int64_t tag) = 0;
  virtual void all_reduce(std::span<const int32_t> group, void* data, int64_t elements, DType dtype, Join join, int64_t tag) = 0;
  virtual void all_gather(std::span<const int32_t> group, void* all, const void* mine, size_t bytes_each, int64_t tag) = 0;
  virtual void reduce_scatter(std::span<const int32_t> group, void* mine, const void* all, int64_t elements_each, DType dtype, Join join,
                              int64_t tag) = 0;
  // Block i of `given` goes to the group's member i, block i of `received` comes from it.
  virtual void all_to_all(std::span<const int32_t> group, void* received, const void* given, size_t bytes_each, int64_t tag) = 0;
  // `data` of the group's member `root` becomes that of all members.
  virtual void broadcast(std::span<const int32_t> group, size_t root, void* data, size_t bytes, int64_t tag) = 0;
  // The collectives between the two, all of one kind, group, type and join, are one call, made at its end, or each a call of its own on all members.
  virtual void begin_call() {}
  virtual void end_call() {}
  // Where the program is, for messages: static or long-lived texts. An empty segment: between steps.
  virtual void at(const char* segment, const char* origin, int micro_batch) = 0;

  // -- of devices only ----------------------------------------------------------------------------------------------------------------------------
  // A step's calls come, which wait for nothing that was recorded before.
  virtual void begin_step() {}
  // All that the step has enqueued ends before anything of the next one begins.
  virtual void end_step() {}
  // The sends since the last kernel, and the receives that follow them, go together, and none waits for another. Here they end.
  virtual void end_group() {}
  // An open group ends with the slot, if the next one does not continue it.
  virtual void end_slot(bool /*group_continues*/) {}
  // `stream` has come to `event`; with messages of an open group: when the group has ended. Of what is recorded for an event the last `kept` can be
  // waited for.
  virtual void mark(Event /*event*/, Stream /*stream*/, int /*kept*/) {}
  // What `stream` is given from here on begins when it has passed what was recorded last for `event` in this step, or `age` times before that; at once
  // if nothing was.
  virtual void wait(Stream /*stream*/, Event /*event*/, int /*age*/) {}
};

class Transport : public ControlPlane, public DataPlane {
 public:
  void at(const char* segment, const char* origin, int micro_batch) override = 0;
  virtual void barrier() = 0;
};

// All ranks as threads of this process.
std::vector<std::unique_ptr<Transport>> make_thread_transports(int ranks, double timeout_seconds);
// MPI (transport_mpi.cpp, compiled where MPI is). Initialises MPI.
std::unique_ptr<Transport> make_mpi_transport(double timeout_seconds);
// How many threads the kernels of this rank may use: the processors that the ranks of this machine may run on, shared evenly. Collective; after MPI's
// start.
int kernel_threads_under_mpi();

}  // namespace sscc::rt
