// How this process came to be one of several ranks: what mpirun, srun, torchrun or `run --local` put into its environment.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace sscc::rt {

struct StartUp {
  int rank = 0, size = 1;
  int local_rank = 0;                 // among the ranks of this machine
  std::string address = "127.0.0.1";  // of rank 0
  int port = 0;                       // where rank 0 listens, or one of the next few
  int listener = -1;                  // `run --local`: rank 0 has this socket already
  uint64_t job = 0;                   // the same in all processes of a job, another one in others
};

// The value of an environment variable, null if it is not set.
using Variables = std::function<const char*(const char* name)>;

// Empty: nothing of the kind started this process. Looks for SSCC_RANK (run --local), RANK and WORLD_SIZE (torchrun), Open MPI, PMI (MPICH, Intel MPI),
// Slurm, in this order. Address and port of rank 0 are MASTER_ADDR and MASTER_PORT where they are set; else the first node of a Slurm step, else this
// machine, and a port made of the job's name. `parent`: of this process; with Open MPI on one machine it names the job.
// Throws EnvironmentFailure for variables that make no sense.
std::optional<StartUp> find_start_up(const Variables& variables, int64_t parent);

// Of Slurm's "gpu[01-03,07],login1": "gpu01".
std::string first_host(const std::string& node_list);

}  // namespace sscc::rt
