// MPI as transport: MPI_Isend and MPI_Irecv, tested in a loop that gives the core to others while it waits (several ranks may share one) and that
// ends after the timeout. What is sent is copied first, so that a send never waits for its receiver, whatever the order of calls.
#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>
#include <thread>

#include "collectives.h"

namespace sscc::rt {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t longest_message = size_t{1} << 30;      // MPI counts with int; longer ones go in pieces
constexpr auto patience = std::chrono::milliseconds(2);  // waits that are longer sleep between two looks
constexpr auto nap = std::chrono::microseconds(50);

class MpiTransport : public Collectives {
 public:
  explicit MpiTransport(double timeout_seconds) : timeout_seconds_(timeout_seconds) {
    int provided = 0;
    if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) throw EnvironmentFailure("MPI does not start");
    check(MPI_Comm_dup(MPI_COMM_WORLD, &program_), "MPI_Comm_dup");
    check(MPI_Comm_dup(MPI_COMM_WORLD, &host_), "MPI_Comm_dup");
    MPI_Comm_set_errhandler(program_, MPI_ERRORS_RETURN);
    MPI_Comm_set_errhandler(host_, MPI_ERRORS_RETURN);
    MPI_Comm_rank(program_, &rank_);
    MPI_Comm_size(program_, &size_);
    int* bound = nullptr;
    int found = 0;
    MPI_Comm_get_attr(program_, MPI_TAG_UB, &bound, &found);
    if (found) largest_tag_ = *bound;
  }
  ~MpiTransport() override {
    try {
      wait_for([&] { return reap(); }, [&] { return "rank " + std::to_string(rank_) + " waited for its last messages to leave"; });
    } catch (const std::exception& error) { end(error.what(), 4); }
    MPI_Comm_free(&program_);
    MPI_Comm_free(&host_);
    MPI_Finalize();
  }
  MpiTransport(const MpiTransport&) = delete;
  MpiTransport& operator=(const MpiTransport&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void send(int peer, const void* data, size_t bytes, int64_t tag) override {
    const std::byte* from = static_cast<const std::byte*>(data);
    post(program_, peer, std::vector<std::byte>(from, from + bytes), mpi_tag(tag));
  }
  void wait_sends() override {}
  void receive(int peer, void* data, size_t bytes, int64_t tag) override { take(program_, peer, static_cast<std::byte*>(data), bytes, mpi_tag(tag)); }

  void send_message(int peer, std::vector<std::byte> message) override {
    const uint64_t bytes = message.size();
    std::vector<std::byte> length(sizeof bytes);
    std::memcpy(length.data(), &bytes, sizeof bytes);
    post(host_, peer, std::move(length), 0);
    post(host_, peer, std::move(message), 0);
  }
  std::vector<std::byte> receive_message(int peer) override {
    uint64_t bytes = 0;
    take(host_, peer, reinterpret_cast<std::byte*>(&bytes), sizeof bytes, 0);
    std::vector<std::byte> message(bytes);
    take(host_, peer, message.data(), bytes, 0);
    return message;
  }

  void abort(const std::string&, int status) override { end("", status); }

 private:
  struct Sent {
    std::vector<std::byte> data;
    std::vector<MPI_Request> requests;
  };

  static void check(int code, const char* call) {
    if (code == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    MPI_Error_string(code, text, &length);
    throw PeerFailure(std::string(call) + " failed: " + text);
  }

  // Ends all processes. MPI_Abort does not return.
  [[noreturn]] static void end(const std::string& message, int status) {
    if (!message.empty()) std::fprintf(stderr, "sscc: %s\n", message.c_str());
    std::fflush(nullptr);
    MPI_Abort(MPI_COMM_WORLD, status);
    std::_Exit(status);
  }

  int mpi_tag(int64_t tag) const {
    if (tag > largest_tag_)
      throw EnvironmentFailure("this MPI has tags up to " + std::to_string(largest_tag_) + " only, the program needs " + std::to_string(tag));
    return static_cast<int>(tag);
  }

  void post(MPI_Comm communicator, int peer, std::vector<std::byte> data, int tag) {
    reap();
    Sent& sent = sent_.emplace_back();
    sent.data = std::move(data);
    size_t at = 0;
    do {  // an empty message is one message
      const size_t bytes = std::min(longest_message, sent.data.size() - at);
      check(MPI_Isend(sent.data.data() + at, static_cast<int>(bytes), MPI_BYTE, peer, tag, communicator, &sent.requests.emplace_back()), "MPI_Isend");
      at += bytes;
    } while (at < sent.data.size());
  }

  void take(MPI_Comm communicator, int peer, std::byte* data, size_t bytes, int tag) {
    size_t at = 0;
    do {
      const size_t now = std::min(longest_message, bytes - at);
      MPI_Request request = MPI_REQUEST_NULL;
      check(MPI_Irecv(data + at, static_cast<int>(now), MPI_BYTE, peer, tag, communicator, &request), "MPI_Irecv");
      MPI_Status status;
      const auto done = [&] {
        int flag = 0;
        check(MPI_Test(&request, &flag, &status), "MPI_Test");
        return flag != 0;
      };
      wait_for(done, [&] { return waited(timeout_seconds_, peer); });
      int count = 0;
      MPI_Get_count(&status, MPI_BYTE, &count);
      if (static_cast<size_t>(count) != now) {
        throw std::logic_error("rank " + std::to_string(rank_) + " expects " + std::to_string(now) + " bytes from rank " + std::to_string(peer) +
                               " but gets " + std::to_string(count) + " in " + place());
      }
      at += now;
    } while (at < bytes);
  }

  // Frees what has left; true if nothing is under way.
  bool reap() {
    while (!sent_.empty()) {
      Sent& oldest = sent_.front();
      int done = 0;
      check(MPI_Testall(static_cast<int>(oldest.requests.size()), oldest.requests.data(), &done, MPI_STATUSES_IGNORE), "MPI_Testall");
      if (!done) break;
      sent_.pop_front();
    }
    return sent_.empty();
  }

  template <class Done, class Message>
  void wait_for(const Done& done, const Message& message) {
    if (done()) return;
    const Clock::time_point begin = Clock::now();
    while (!done()) {
      const auto elapsed = Clock::now() - begin;
      if (std::chrono::duration<double>(elapsed).count() > timeout_seconds_) throw PeerFailure(message());
      if (elapsed < patience)
        sched_yield();
      else
        std::this_thread::sleep_for(nap);
    }
  }

  double timeout_seconds_;
  MPI_Comm program_ = MPI_COMM_NULL, host_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  int64_t largest_tag_ = 32767;  // what the standard promises
  std::deque<Sent> sent_;
};

}  // namespace

int kernel_threads_under_mpi() {
  MPI_Comm machine = MPI_COMM_NULL;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine);
  int ranks = 1;
  MPI_Comm_size(machine, &ranks);
  cpu_set_t mine, all;
  CPU_ZERO(&mine);
  sched_getaffinity(0, sizeof mine, &mine);
  MPI_Allreduce(&mine, &all, sizeof mine, MPI_BYTE, MPI_BOR, machine);
  MPI_Comm_free(&machine);
  return std::max(1, std::min(CPU_COUNT(&mine), CPU_COUNT(&all) / ranks));
}

std::unique_ptr<Transport> make_mpi_transport(double timeout_seconds) { return std::make_unique<MpiTransport>(timeout_seconds); }

}  // namespace sscc::rt
