// Ranks on processors: threads of this process, or the processes that mpirun or srun started.
#include <cstdio>
#include <cstdlib>
#include <map>

#include "launch.h"
#include "sscc_rt/kernels.h"

namespace sscc::rt {

const char* const help_of_start = "  --local N        start the N ranks as threads of this process; without it: mpirun or srun\n";
const bool knows_one_gpu = false;

int rank_in_environment() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID"}) {
    if (const char* value = std::getenv(name)) return std::atoi(value);
  }
  return -1;
}

int run_all_here(const Launch& launch) {
  const ModelInfo model = sscc_model();
  std::map<int32_t, const ProgramInfo*> programs;
  std::vector<RankInfo> infos;
  std::vector<LocalRank> ranks;
  for (int rank = 0; rank < sscc_ranks(); ++rank) infos.push_back(sscc_rank(rank));
  for (const RankInfo& info : infos) {
    const ProgramInfo*& program = programs[info.program];
    if (!program) program = load_program(launch.folder, info.program);
    ranks.push_back({program, &info.constants});
  }
  return run_local(model, ranks, read_weights_from_folder(launch.folder / "weights", model), launch.options);
}

namespace {

#ifdef SSCC_WITH_MPI
int run_process(const Launch& launch) {
  const std::unique_ptr<Transport> transport = make_mpi_transport(launch.options.timeout_seconds);
  if (transport->size() != sscc_ranks()) {
    if (transport->rank() == 0) refuse_size(transport->size());
    return usage;
  }
  set_kernel_threads(kernel_threads_under_mpi());
  const ModelInfo model = sscc_model();
  const RankInfo info = sscc_rank(transport->rank());
  const ProgramInfo* program = nullptr;
  try {
    program = load_program(launch.folder, info.program);
  } catch (const EnvironmentFailure& error) {
    std::fprintf(stderr, "run: rank %d: %s\n", transport->rank(), error.what());
    transport->abort(error.what(), environment_failed);
    return environment_failed;
  }
  return run_rank(model, *program, info.constants, *transport, read_weights_from_folder(launch.folder / "weights", model), launch.options);
}
#else
int run_process(const Launch&) {
  std::fprintf(stderr, "run: built where MPI was not found; start all ranks with 'run --local %d ...'\n", sscc_ranks());
  return environment_failed;
}
#endif

}  // namespace

int run_this_one(const Launch& launch) {
  const bool is_alone = sscc_ranks() == 1 && rank_in_environment() < 0;
  return is_alone ? run_all_here(launch) : run_process(launch);
}

}  // namespace sscc::rt
