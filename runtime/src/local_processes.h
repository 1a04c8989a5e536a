// `run --local N` where ranks are processes.
#pragma once

#include <string>
#include <vector>

namespace sscc::rt {

// Starts this program `ranks` times with these arguments, as ranks that find each other over the loopback interface (start_up.h), and waits for all.
// When one has failed the others are given the timeout, and some more, to notice; then they are killed. The status of the rank that failed first, if
// one did; rather of one that says why than of one that misses a peer.
int run_local_processes(int ranks, const std::vector<std::string>& arguments, double timeout_seconds);

// Ends this process without taking anything down.
[[noreturn]] void end_at_once(int status);

}  // namespace sscc::rt
