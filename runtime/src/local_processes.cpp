#include "local_processes.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <thread>

#include "tcp_transport.h"

namespace sscc::rt {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int environment_failed = 3, peer_failed = 4;
constexpr double grace_seconds = 15;  // beyond the timeout
constexpr auto between_looks = std::chrono::milliseconds(20);

class Processes {
 public:
  Processes(int ranks, const std::vector<std::string>& arguments) : arguments_(arguments) {
    listener_ = listen_on_loopback();
    job_ = std::to_string(static_cast<int64_t>(getpid()) << 32 ^ Clock::now().time_since_epoch().count());
    for (int rank = 0; rank < ranks; ++rank) start(rank, ranks);
    close(listener_.socket);
  }

  int wait(double timeout_seconds) {
    Clock::time_point deadline = Clock::time_point::max();
    const auto patience = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(std::min(timeout_seconds, 1e8) + grace_seconds));
    while (!running_.empty()) {
      int how = 0;
      const pid_t ended = waitpid(-1, &how, status_ == 0 ? 0 : WNOHANG);
      if (ended > 0 && running_.contains(ended)) {
        note(running_.extract(ended).mapped(), how);
        if (status_ != 0 && deadline == Clock::time_point::max()) deadline = Clock::now() + patience;
        continue;
      }
      if (ended < 0 && errno != EINTR) break;
      if (ended == 0) std::this_thread::sleep_for(between_looks);
      if (Clock::now() > deadline) {
        for (const auto& [process, rank] : running_) kill(process, SIGKILL);
      }
    }
    return status_;
  }

 private:
  void start(int rank, int ranks) {
    const pid_t process = fork();
    if (process < 0) {
      const int error = errno;
      for (const auto& [other, number] : running_) kill(other, SIGKILL);
      throw EnvironmentFailure(std::string("cannot start a process: ") + std::strerror(error));
    }
    if (process > 0) {
      running_.emplace(process, rank);
      return;
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM);  // no rank outlives the launcher
    const std::pair<const char*, std::string> variables[] = {
        {"SSCC_RANK", std::to_string(rank)}, {"SSCC_SIZE", std::to_string(ranks)}, {"SSCC_PORT", std::to_string(listener_.port)}, {"SSCC_JOB", job_}};
    for (const auto& [name, value] : variables) setenv(name, value.c_str(), 1);
    if (rank == 0)
      setenv("SSCC_LISTENER", std::to_string(listener_.socket).c_str(), 1);
    else
      close(listener_.socket);
    std::vector<const char*> argv = {"run"};
    for (const std::string& argument : arguments_) argv.push_back(argument.c_str());
    argv.push_back(nullptr);
    execv("/proc/self/exe", const_cast<char* const*>(argv.data()));  // execv changes nothing
    std::fprintf(stderr, "run: cannot start rank %d: %s\n", rank, std::strerror(errno));
    std::_Exit(environment_failed);
  }

  void note(int rank, int how) {
    int status = WIFEXITED(how) ? WEXITSTATUS(how) : peer_failed;
    if (WIFSIGNALED(how)) std::fprintf(stderr, "run: rank %d was ended by signal %d (%s)\n", rank, WTERMSIG(how), strsignal(WTERMSIG(how)));
    if (status_ == 0 || (status_ == peer_failed && status != 0)) status_ = status;
  }

  const std::vector<std::string>& arguments_;
  Listener listener_;
  std::string job_;
  std::map<pid_t, int> running_;  // their ranks
  int status_ = 0;
};

}  // namespace

int run_local_processes(int ranks, const std::vector<std::string>& arguments, double timeout_seconds) {
  return Processes(ranks, arguments).wait(timeout_seconds);
}

void end_at_once(int status) {
  std::fflush(nullptr);
  std::_Exit(status);
}

}  // namespace sscc::rt
