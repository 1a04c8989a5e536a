// All ranks in one process: every rank has a mailbox, a sender copies its bytes into it. Sends therefore never wait, whatever the order of calls.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>

#include "collectives.h"

namespace sscc::rt {
namespace {

enum class Channel { program, host };

struct Key {
  Channel channel;
  int source;
  int64_t tag;
  auto operator<=>(const Key&) const = default;
};

struct Mailbox {
  std::mutex mutex;
  std::condition_variable arrived;
  std::map<Key, std::deque<std::vector<std::byte>>> messages;
};

// What the ranks share.
struct World {
  explicit World(int ranks, double timeout) : mailboxes(static_cast<size_t>(ranks)), timeout_seconds(timeout) {}
  std::vector<Mailbox> mailboxes;
  const double timeout_seconds;

  std::mutex mutex;      // of the two below
  int failed_rank = -1;  // the first that gave up
  std::string why;
};

class ThreadTransport : public Collectives {
 public:
  ThreadTransport(std::shared_ptr<World> world, int rank) : world_(std::move(world)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(world_->mailboxes.size()); }

  void send(int peer, const void* data, size_t bytes, int64_t tag) override {
    const std::byte* from = static_cast<const std::byte*>(data);
    post(peer, {Channel::program, rank_, tag}, std::vector<std::byte>(from, from + bytes));
  }
  void wait_sends() override {}
  void receive(int peer, void* data, size_t bytes, int64_t tag) override {
    const std::vector<std::byte> message = take({Channel::program, peer, tag});
    if (message.size() != bytes) {
      throw std::logic_error("rank " + std::to_string(rank_) + " expects " + std::to_string(bytes) + " bytes from rank " + std::to_string(peer) +
                             " but gets " + std::to_string(message.size()) + " in " + place());
    }
    if (bytes > 0) std::memcpy(data, message.data(), bytes);
  }
  void send_message(int peer, std::vector<std::byte> message) override { post(peer, {Channel::host, rank_, 0}, std::move(message)); }
  std::vector<std::byte> receive_message(int peer) override { return take({Channel::host, peer, 0}); }

  void abort(const std::string& why, int) override {
    {
      const std::lock_guard lock(world_->mutex);
      if (world_->failed_rank >= 0) return;
      world_->failed_rank = rank_;
      world_->why = why;
    }
    for (Mailbox& mailbox : world_->mailboxes) {
      const std::lock_guard lock(mailbox.mutex);  // so that nobody is between his look at the failure and his sleep
      mailbox.arrived.notify_all();
    }
  }

 private:
  void post(int peer, const Key& key, std::vector<std::byte> message) {
    Mailbox& mailbox = world_->mailboxes[static_cast<size_t>(peer)];
    {
      const std::lock_guard lock(mailbox.mutex);
      mailbox.messages[key].push_back(std::move(message));
    }
    mailbox.arrived.notify_one();  // only its rank waits there
  }

  std::vector<std::byte> take(const Key& key) {
    Mailbox& mailbox = world_->mailboxes[static_cast<size_t>(rank_)];
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                                                                 std::chrono::duration<double>(std::min(world_->timeout_seconds, 1e8)));
    std::unique_lock lock(mailbox.mutex);
    while (true) {
      if (const auto found = mailbox.messages.find(key); found != mailbox.messages.end()) {
        std::vector<std::byte> message = std::move(found->second.front());
        found->second.pop_front();
        if (found->second.empty()) mailbox.messages.erase(found);
        return message;
      }
      check_failure();
      if (mailbox.arrived.wait_until(lock, deadline) == std::cv_status::timeout && !mailbox.messages.contains(key)) {
        check_failure();
        throw PeerFailure(waited(world_->timeout_seconds, key.source));
      }
    }
  }

  void check_failure() const {
    const std::lock_guard lock(world_->mutex);
    if (world_->failed_rank < 0) return;
    throw PeerFailure("rank " + std::to_string(rank_) + " leaves " + place() + ": rank " + std::to_string(world_->failed_rank) +
                      " failed: " + world_->why);
  }

  std::shared_ptr<World> world_;
  int rank_;
};

}  // namespace

std::vector<std::unique_ptr<Transport>> make_thread_transports(int ranks, double timeout_seconds) {
  const auto world = std::make_shared<World>(ranks, timeout_seconds);
  std::vector<std::unique_ptr<Transport>> transports;
  for (int rank = 0; rank < ranks; ++rank) transports.push_back(std::make_unique<ThreadTransport>(world, rank));
  return transports;
}

}  // namespace sscc::rt
