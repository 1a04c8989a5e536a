// Start-up: rank 0 listens, the others connect and say who they are. The port may belong to somebody else, another job even: then rank 0 takes one of
// the next, and the others try them all. Both sides say which job they are of before they trust a connection.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>

#include "tcp_transport.h"

namespace sscc::rt {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int ports_tried = 16;
constexpr auto between_tries = std::chrono::milliseconds(50);
constexpr int hello_seconds = 5;  // to say hello once connected
constexpr char magic[8] = "sscc-1";

struct Hello {
  char magic[8];
  uint64_t job;
  int32_t rank, size;
};

Hello hello_of(const StartUp& start) {
  Hello hello{};
  std::memcpy(hello.magic, magic, sizeof magic);
  hello.job = start.job;
  hello.rank = start.rank;
  hello.size = start.size;
  return hello;
}

// A socket that closes itself.
class Socket {
 public:
  explicit Socket(int file) : file_(file) {}
  Socket(Socket&& other) noexcept : file_(other.release()) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(file_, other.file_);
    return *this;
  }
  ~Socket() {
    if (file_ >= 0) close(file_);
  }
  int file() const { return file_; }
  int release() { return std::exchange(file_, -1); }

 private:
  int file_;
};

void set_time_limit(int socket, int seconds) {
  const timeval limit{seconds, 0};
  setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);  // of connect, too
}

bool send_hello(int socket, const Hello& hello) { return send(socket, &hello, sizeof hello, MSG_NOSIGNAL) == sizeof hello; }

// Of a process of the same job and size.
std::optional<Hello> receive_hello(int socket, const StartUp& start) {
  Hello hello{};
  if (recv(socket, &hello, sizeof hello, MSG_WAITALL) != sizeof hello) return std::nullopt;
  if (std::memcmp(hello.magic, magic, sizeof magic) != 0 || hello.job != start.job || hello.size != start.size) return std::nullopt;
  return hello;
}

// From now on it waits for ever, and small messages leave at once; a machine that is gone shows after a while.
void settle(int socket) {
  set_time_limit(socket, 0);
  const int yes = 1;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
}

Socket listen_at(in_addr address, int port, int waiting) {
  Socket made(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (made.file() < 0) throw EnvironmentFailure(std::string("cannot make a socket: ") + std::strerror(errno));
  const int yes = 1;
  setsockopt(made.file(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  sockaddr_in place{};
  place.sin_family = AF_INET;
  place.sin_port = htons(static_cast<uint16_t>(port));
  place.sin_addr = address;
  if (bind(made.file(), reinterpret_cast<sockaddr*>(&place), sizeof place) != 0 || listen(made.file(), waiting) != 0) return Socket(-1);
  return made;
}

Socket listen_for(const StartUp& start) {
  if (start.listener >= 0) return Socket(start.listener);
  int error = 0;
  for (int i = 0; i < ports_tried; ++i) {
    Socket made = listen_at({htonl(INADDR_ANY)}, start.port + i, start.size);
    if (made.file() >= 0) return made;
    error = errno;
  }
  throw EnvironmentFailure("cannot listen on any port from " + std::to_string(start.port) + " to " + std::to_string(start.port + ports_tried - 1) +
                           ": " + std::strerror(error) + "; set MASTER_PORT to a free one, the same for all ranks");
}

std::string seconds_text(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", seconds);
  return text;
}

std::vector<int> wait_for_others(const StartUp& start, double timeout_seconds, Clock::time_point deadline) {
  const Socket listener = listen_for(start);
  set_time_limit(listener.file(), 1);
  std::vector<Socket> sockets;
  for (int rank = 0; rank < start.size; ++rank) sockets.emplace_back(-1);
  for (int missing = start.size - 1; missing > 0;) {
    Socket made(accept4(listener.file(), nullptr, nullptr, SOCK_CLOEXEC));
    if (made.file() >= 0) {
      set_time_limit(made.file(), hello_seconds);
      const std::optional<Hello> hello = receive_hello(made.file(), start);
      if (hello && hello->rank > 0 && hello->rank < start.size && sockets[static_cast<size_t>(hello->rank)].file() < 0 &&
          send_hello(made.file(), hello_of(start))) {
        settle(made.file());
        sockets[static_cast<size_t>(hello->rank)] = std::move(made);
        --missing;
      }
    }
    if (missing == 0 || Clock::now() < deadline) continue;
    std::string who;
    for (int rank = 1; rank < start.size; ++rank) {
      if (sockets[static_cast<size_t>(rank)].file() < 0) who += (who.empty() ? "" : ", ") + std::to_string(rank);
    }
    throw PeerFailure("rank 0 waited " + seconds_text(timeout_seconds) + " s at start-up for these ranks to connect: " + who);
  }
  std::vector<int> files;
  for (Socket& socket : sockets) files.push_back(socket.release());
  return files;
}

// Empty: nobody there, or somebody else.
std::optional<int> try_connection(const StartUp& start, in_addr address, int port) {
  Socket made(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (made.file() < 0) throw EnvironmentFailure(std::string("cannot make a socket: ") + std::strerror(errno));
  set_time_limit(made.file(), hello_seconds);
  sockaddr_in place{};
  place.sin_family = AF_INET;
  place.sin_port = htons(static_cast<uint16_t>(port));
  place.sin_addr = address;
  if (connect(made.file(), reinterpret_cast<sockaddr*>(&place), sizeof place) != 0) return std::nullopt;
  if (!send_hello(made.file(), hello_of(start)) || !receive_hello(made.file(), start)) return std::nullopt;
  settle(made.file());
  return made.release();
}

std::optional<in_addr> resolve(const std::string& name) {
  addrinfo wanted{}, *found = nullptr;
  wanted.ai_family = AF_INET;
  wanted.ai_socktype = SOCK_STREAM;
  if (getaddrinfo(name.c_str(), nullptr, &wanted, &found) != 0 || !found) return std::nullopt;
  const in_addr address = reinterpret_cast<const sockaddr_in*>(found->ai_addr)->sin_addr;
  freeaddrinfo(found);
  return address;
}

int connect_to_first(const StartUp& start, double timeout_seconds, Clock::time_point deadline) {
  const std::optional<in_addr> address = resolve(start.address);
  if (!address) throw EnvironmentFailure("the machine of rank 0, '" + start.address + "', has no address; set MASTER_ADDR");
  while (true) {
    for (int i = 0; i < ports_tried; ++i) {
      if (const std::optional<int> made = try_connection(start, *address, start.port + i)) return *made;
    }
    if (Clock::now() >= deadline) {
      throw PeerFailure("rank " + std::to_string(start.rank) + " waited " + seconds_text(timeout_seconds) + " s at start-up for rank 0 at " +
                        start.address + ", port " + std::to_string(start.port));
    }
    std::this_thread::sleep_for(between_tries);
  }
}

}  // namespace

std::vector<int> meet_over_tcp(const StartUp& start, double timeout_seconds) {
  const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(std::min(timeout_seconds, 1e8)));
  if (start.rank == 0) return wait_for_others(start, timeout_seconds, deadline);
  return {connect_to_first(start, timeout_seconds, deadline)};
}

Listener listen_on_loopback() {
  Socket made = listen_at({htonl(INADDR_LOOPBACK)}, 0, SOMAXCONN);
  sockaddr_in place{};
  socklen_t length = sizeof place;
  if (made.file() < 0 || getsockname(made.file(), reinterpret_cast<sockaddr*>(&place), &length) != 0)
    throw EnvironmentFailure(std::string("cannot listen on the loopback interface: ") + std::strerror(errno));
  fcntl(made.file(), F_SETFD, 0);  // stays open in the programs that child processes become
  return {made.release(), ntohs(place.sin_port)};
}

}  // namespace sscc::rt
