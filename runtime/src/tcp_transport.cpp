// A thread of its own moves the bytes: what is sent is put into queues, so that a send never waits; what arrives is put into mailboxes or, on rank 0,
// passed on.
#include "tcp_transport.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "collectives.h"

namespace sscc::rt {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto farewell = std::chrono::seconds(10);   // that a rank which has ended waits for the others' goodbye
constexpr auto last_words = std::chrono::seconds(2);  // that a rank which has failed takes to say so
constexpr size_t read_at_once = size_t{1} << 16;

enum class Kind : uint32_t { program, host, failed, goodbye };

struct Header {
  Kind kind;
  int32_t source, destination;
  uint32_t unused;
  int64_t tag;
  uint64_t bytes;
};

// One connection. Only the moving thread touches what has arrived in part.
struct Link {
  int socket = -1;
  int peer = 0;
  std::deque<std::vector<std::byte>> out;
  size_t out_at = 0;  // bytes of the first that have left
  std::vector<std::byte> in;
  bool said_goodbye = false;
};

class TcpTransport : public Collectives {
 public:
  TcpTransport(const StartUp& start, double timeout_seconds) : rank_(start.rank), size_(start.size), timeout_seconds_(timeout_seconds) {
    const std::vector<int> sockets = meet_over_tcp(start, timeout_seconds);
    for (size_t i = 0; i < sockets.size(); ++i) {
      Link& link = links_.emplace_back();
      link.socket = sockets[i];
      link.peer = static_cast<int>(i);
    }
    wake_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (wake_ < 0) throw EnvironmentFailure(std::string("cannot make an event: ") + std::strerror(errno));
    mover_ = std::thread([this] { move(); });
  }
  ~TcpTransport() override {
    {
      const std::lock_guard lock(mutex_);
      for (Link& link : links_) queue(link, {Kind::goodbye, rank_, link.peer, 0, 0, 0}, {});
      leave_at_ = Clock::now() + (failed_rank_ >= 0 || gave_up_ ? Clock::duration(0) : Clock::duration(farewell));
      leaving_ = true;
    }
    wake();
    mover_.join();
    for (const Link& link : links_) {
      if (link.socket >= 0) close(link.socket);
    }
    close(wake_);
  }
  TcpTransport(const TcpTransport&) = delete;
  TcpTransport& operator=(const TcpTransport&) = delete;

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void send(int peer, const void* data, size_t bytes, int64_t tag) override {
    const std::byte* from = static_cast<const std::byte*>(data);
    post(Kind::program, peer, tag, std::vector<std::byte>(from, from + bytes));
  }
  void wait_sends() override {}
  void receive(int peer, void* data, size_t bytes, int64_t tag) override {
    const std::vector<std::byte> message = take({Kind::program, peer, tag});
    if (message.size() != bytes) {
      throw std::logic_error("rank " + std::to_string(rank_) + " expects " + std::to_string(bytes) + " bytes from rank " + std::to_string(peer) +
                             " but gets " + std::to_string(message.size()) + " in " + place());
    }
    if (bytes > 0) std::memcpy(data, message.data(), bytes);
  }
  void send_message(int peer, std::vector<std::byte> message) override { post(Kind::host, peer, 0, std::move(message)); }
  std::vector<std::byte> receive_message(int peer) override { return take({Kind::host, peer, 0}); }

  void abort(const std::string& why, int) override {
    std::unique_lock lock(mutex_);
    gave_up_ = true;
    tell_failure(rank_, why, -1);
    wake();
    const auto all_left = [&] {
      return std::all_of(links_.begin(), links_.end(), [](const Link& link) { return link.socket < 0 || link.out.empty(); });
    };
    changed_.wait_for(lock, last_words, all_left);
  }

  std::optional<std::string> failure() const override {
    const std::lock_guard lock(mutex_);
    if (failed_rank_ < 0) return std::nullopt;
    return "rank " + std::to_string(failed_rank_) + " failed: " + why_;
  }

 private:
  struct Key {
    Kind kind;
    int source;
    int64_t tag;
    auto operator<=>(const Key&) const = default;
  };

  // -- the program's threads ----------------------------------------------------------------------------------------------------------------------

  void post(Kind kind, int peer, int64_t tag, std::vector<std::byte> data) {
    {
      const std::lock_guard lock(mutex_);
      queue(link_to(peer), {kind, rank_, peer, 0, tag, 0}, std::move(data));
    }
    wake();
  }

  std::vector<std::byte> take(const Key& key) {
    const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(std::min(timeout_seconds_, 1e8)));
    std::unique_lock lock(mutex_);
    while (true) {
      if (const auto found = arrived_.find(key); found != arrived_.end()) {
        std::vector<std::byte> message = std::move(found->second.front());
        found->second.pop_front();
        if (found->second.empty()) arrived_.erase(found);
        return message;
      }
      if (failed_rank_ >= 0) {
        throw PeerFailure("rank " + std::to_string(rank_) + " leaves " + place() + ": rank " + std::to_string(failed_rank_) + " failed: " + why_);
      }
      if (Clock::now() >= deadline) throw PeerFailure(waited(timeout_seconds_, key.source));
      changed_.wait_until(lock, deadline);
    }
  }

  // -- with the mutex -----------------------------------------------------------------------------------------------------------------------------

  Link& link_to(int peer) { return links_[rank_ == 0 ? static_cast<size_t>(peer) : 0]; }

  static void queue(Link& link, Header header, std::vector<std::byte> data) {
    if (link.socket < 0) return;
    header.bytes = data.size();
    const std::byte* begin = reinterpret_cast<const std::byte*>(&header);
    link.out.emplace_back(begin, begin + sizeof header);
    if (!data.empty()) link.out.push_back(std::move(data));
  }

  // To everybody that this rank is connected to but `except`.
  void tell_failure(int failed, const std::string& why, int except) {
    const std::byte* text = reinterpret_cast<const std::byte*>(why.data());
    for (Link& link : links_) {
      if (link.peer != except) queue(link, {Kind::failed, failed, link.peer, 0, 0, 0}, {text, text + why.size()});
    }
  }

  void note_failure(int failed, const std::string& why) {
    if (failed_rank_ >= 0) return;
    failed_rank_ = failed;
    why_ = why;
    if (rank_ == 0) tell_failure(failed, why, failed);
    changed_.notify_all();
  }

  void arrive(Link& link, const Header& header, std::vector<std::byte> data) {
    switch (header.kind) {
      case Kind::program:
      case Kind::host:
        if (header.destination == rank_) {
          arrived_[{header.kind, header.source, header.tag}].push_back(std::move(data));
          changed_.notify_all();
        } else {
          queue(link_to(header.destination), header, std::move(data));
        }
        return;
      case Kind::failed: return note_failure(header.source, {reinterpret_cast<const char*>(data.data()), data.size()});
      case Kind::goodbye: link.said_goodbye = true; return;
    }
  }

  // -- the moving thread --------------------------------------------------------------------------------------------------------------------------

  void wake() const {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(wake_, &one, sizeof one);  // full: it is awake
  }

  bool may_leave() const {
    if (!leaving_) return false;
    const bool all_gone =
        std::all_of(links_.begin(), links_.end(), [](const Link& link) { return link.socket < 0 || (link.said_goodbye && link.out.empty()); });
    return all_gone || Clock::now() >= leave_at_;
  }

  void move() {
    std::vector<pollfd> watched;
    std::unique_lock lock(mutex_);
    while (!may_leave()) {
      watched.assign(1, {wake_, POLLIN, 0});
      for (const Link& link : links_) watched.push_back({link.socket, static_cast<int16_t>(POLLIN | (link.out.empty() ? 0 : POLLOUT)), 0});
      const int patience = leaving_ ? 10 : 1000;  // milliseconds
      lock.unlock();
      poll(watched.data(), watched.size(), patience);
      uint64_t count = 0;
      [[maybe_unused]] const ssize_t got = read(wake_, &count, sizeof count);
      lock.lock();
      for (size_t i = 0; i < links_.size(); ++i) {
        const auto events = watched[i + 1].revents;
        if (links_[i].socket >= 0 && (events & (POLLIN | POLLHUP | POLLERR)) && !read_from(links_[i])) lose(links_[i]);
        if (links_[i].socket >= 0 && !write_to(links_[i])) lose(links_[i]);
      }
      changed_.notify_all();
    }
  }

  void lose(Link& link) {
    close(link.socket);
    link.socket = -1;
    link.out.clear();
    if (!link.said_goodbye) note_failure(link.peer, "its process ended");
  }

  // False: the connection is over.
  bool read_from(Link& link) {
    while (true) {
      const size_t before = link.in.size();
      link.in.resize(before + read_at_once);
      const ssize_t got = recv(link.socket, link.in.data() + before, read_at_once, MSG_DONTWAIT);
      link.in.resize(before + static_cast<size_t>(std::max<ssize_t>(got, 0)));
      if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return false;
      take_messages(link);
      if (got < static_cast<ssize_t>(read_at_once)) return true;
    }
  }

  void take_messages(Link& link) {
    size_t at = 0;
    Header header{};
    while (link.in.size() - at >= sizeof header) {
      std::memcpy(&header, link.in.data() + at, sizeof header);
      if (link.in.size() - at - sizeof header < header.bytes) break;
      const std::byte* data = link.in.data() + at + sizeof header;
      arrive(link, header, {data, data + header.bytes});
      at += sizeof header + header.bytes;
    }
    link.in.erase(link.in.begin(), link.in.begin() + static_cast<ptrdiff_t>(at));
  }

  static bool write_to(Link& link) {
    while (!link.out.empty()) {
      const std::vector<std::byte>& first = link.out.front();
      const ssize_t sent = ::send(link.socket, first.data() + link.out_at, first.size() - link.out_at, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent < 0) return errno == EAGAIN || errno == EINTR;
      link.out_at += static_cast<size_t>(sent);
      if (link.out_at < first.size()) continue;
      link.out.pop_front();
      link.out_at = 0;
    }
    return true;
  }

  const int rank_, size_;
  const double timeout_seconds_;
  int wake_ = -1;
  std::thread mover_;

  mutable std::mutex mutex_;  // of all that follows
  std::condition_variable changed_;
  std::vector<Link> links_;  // rank 0: by peer, the first of no use; others: one
  std::map<Key, std::deque<std::vector<std::byte>>> arrived_;
  int failed_rank_ = -1;  // the first that failed
  std::string why_;
  bool gave_up_ = false, leaving_ = false;
  Clock::time_point leave_at_;
};

}  // namespace

std::unique_ptr<Transport> make_tcp_transport(const StartUp& start, double timeout_seconds) {
  return std::make_unique<TcpTransport>(start, timeout_seconds);
}

}  // namespace sscc::rt
