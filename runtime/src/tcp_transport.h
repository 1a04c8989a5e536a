// All ranks as processes that meet at rank 0: a star of TCP connections (IPv4). Messages between two other ranks pass through rank 0, so this is made
// for words (ControlPlane); data go over it where nothing better is there (device/loopback.cpp, tests).
//
// A process that ends, however it does, closes its connection: rank 0 sees that at once and tells the others, whose calls then throw PeerFailure.
#pragma once

#include <memory>
#include <vector>

#include "sscc_rt/rank.h"
#include "start_up.h"

namespace sscc::rt {

// Blocks until all ranks are there. Throws PeerFailure after the timeout, EnvironmentFailure where rank 0 cannot listen or has no address.
std::unique_ptr<Transport> make_tcp_transport(const StartUp& start, double timeout_seconds);

// -- how they meet (tcp_meeting.cpp) --------------------------------------------------------------------------------------------------------------

// Connected sockets, which the caller closes: of rank 0 one for each other rank, at its number; of the others one, to rank 0, at 0. No socket: -1.
std::vector<int> meet_over_tcp(const StartUp& start, double timeout_seconds);

// A socket that listens on a free port of the loopback interface, for StartUp::listener; child processes inherit it.
struct Listener {
  int socket = -1, port = 0;
};
Listener listen_on_loopback();

}  // namespace sscc::rt
