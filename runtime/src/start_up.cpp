#include "start_up.h"

#include <charconv>
#include <cstring>

#include "sscc_rt/rank.h"

namespace sscc::rt {
namespace {

constexpr int first_port = 20000, ports = 12000;  // below those that systems give to clients

class Reader {
 public:
  Reader(const Variables& variables, int64_t parent) : variables_(variables), parent_(parent) {}

  std::optional<StartUp> run() const {
    if (has("SSCC_RANK")) {
      StartUp start = ranks("SSCC_RANK", "SSCC_SIZE", "SSCC_RANK");
      start.port = static_cast<int>(number("SSCC_PORT", 0));
      start.listener = static_cast<int>(number("SSCC_LISTENER", -1));
      start.job = static_cast<uint64_t>(number("SSCC_JOB", 0));
      return start;
    }
    if (has("RANK") && has("WORLD_SIZE")) return meet_at(ranks("RANK", "WORLD_SIZE", "LOCAL_RANK"), text("TORCHELASTIC_RUN_ID"));
    if (has("OMPI_COMM_WORLD_RANK")) {
      const std::string job = text("PMIX_NAMESPACE");
      return meet_at(ranks("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
                     job.empty() ? std::to_string(parent_) : job);
    }
    if (has("PMI_RANK")) return meet_at(ranks("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"), std::to_string(parent_));
    if (has("SLURM_PROCID") && has("SLURM_NTASKS")) {
      StartUp start = ranks("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID");
      const std::string nodes = has("SLURM_STEP_NODELIST") ? text("SLURM_STEP_NODELIST") : text("SLURM_JOB_NODELIST");
      if (!nodes.empty()) start.address = first_host(nodes);
      return meet_at(start, text("SLURM_JOB_ID") + "." + text("SLURM_STEP_ID"));
    }
    return std::nullopt;
  }

 private:
  bool has(const char* name) const { return variables_(name) != nullptr; }
  std::string text(const char* name) const { return has(name) ? variables_(name) : ""; }
  int64_t number(const char* name, int64_t otherwise) const {
    if (!has(name)) return otherwise;
    const std::string value = text(name);
    int64_t result = 0;
    const auto [at, error] = std::from_chars(value.data(), value.data() + value.size(), result);
    if (error != std::errc() || at != value.data() + value.size())
      throw EnvironmentFailure(std::string("the environment variable ") + name + " is '" + value + "', not a number");
    return result;
  }

  StartUp ranks(const char* rank, const char* size, const char* local_rank) const {
    StartUp start;
    start.rank = static_cast<int>(number(rank, 0));
    start.size = static_cast<int>(number(size, 1));
    start.local_rank = static_cast<int>(number(local_rank, start.rank));
    if (start.rank < 0 || start.rank >= start.size) {
      throw EnvironmentFailure(std::string("the environment variable ") + rank + " is " + std::to_string(start.rank) + ", but " + size + " is " +
                               std::to_string(start.size));
    }
    return start;
  }

  StartUp meet_at(StartUp start, const std::string& job) const {
    const std::string port = text("MASTER_PORT");
    start.job = hash_of(job + " " + port);
    // torchrun itself may listen on its port.
    start.port = port.empty() ? first_port + static_cast<int>(start.job % ports)
                              : static_cast<int>(number("MASTER_PORT", 0)) + (has("TORCHELASTIC_RUN_ID") ? 1 : 0);
    if (has("MASTER_ADDR")) start.address = text("MASTER_ADDR");
    return start;
  }

  static uint64_t hash_of(const std::string& text) {  // FNV-1a
    uint64_t hash = 0xcbf29ce484222325;
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    return hash;
  }

  const Variables& variables_;
  int64_t parent_;
};

}  // namespace

std::optional<StartUp> find_start_up(const Variables& variables, int64_t parent) { return Reader(variables, parent).run(); }

std::string first_host(const std::string& node_list) {
  const size_t bracket = node_list.find('[');
  const std::string head = node_list.substr(0, std::min(bracket, node_list.find(',')));
  if (bracket == std::string::npos || bracket > head.size()) return head;
  const size_t end = node_list.find_first_of("-,]", bracket);
  return head + node_list.substr(bracket + 1, end - bracket - 1);
}

}  // namespace sscc::rt
