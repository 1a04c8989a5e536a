// bin/launch of a build folder, which `run` starts: becomes the program of its rank. See sscc_rt/bundle.h for what it is linked with and loads.
#include <dlfcn.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>

#include "sscc_rt/bundle.h"
#include "sscc_rt/kernels.h"

namespace sscc::rt {
namespace {

constexpr int usage = 2, environment_failed = 3, bug = 70;

// The build folder: bin/launch is this program.
std::filesystem::path find_folder() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) throw EnvironmentFailure("cannot read /proc/self/exe: " + error.message());
  return self.parent_path().parent_path();
}

const ProgramInfo* load_program(const std::filesystem::path& folder, int32_t number) {
  const std::string path = folder / "bin" / ("program_" + std::to_string(number) + ".so");
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw EnvironmentFailure("cannot load " + std::string(dlerror()));
  void* symbol = dlsym(library, "sscc_program");
  if (!symbol) throw EnvironmentFailure(path + " has no sscc_program; it is not of this build");
  return reinterpret_cast<decltype(&sscc_program)>(symbol)();
}

// The rank that mpirun or srun gave this process, -1: none of them started it.
int rank_in_environment() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID"}) {
    if (const char* value = std::getenv(name)) return std::atoi(value);
  }
  return -1;
}

struct CommandLine {
  int local = 0;  // --local N; 0: not given
  bool is_valid = true;
  std::vector<const char*> arguments;  // without it
};

CommandLine read_command_line(int argc, char** argv) {
  CommandLine line;
  line.arguments.push_back("run");
  for (int i = 1; i < argc; ++i) {
    const bool joined = std::strncmp(argv[i], "--local=", 8) == 0;
    if (!joined && std::strcmp(argv[i], "--local") != 0) {
      line.arguments.push_back(argv[i]);
      continue;
    }
    const char* value = joined ? argv[i] + 8 : i + 1 < argc ? argv[++i] : "";
    const char* end = value + std::strlen(value);
    const auto [at, error] = std::from_chars(value, end, line.local);
    line.is_valid = line.is_valid && error == std::errc() && at == end && line.local > 0;
  }
  return line;
}

int run_threads(const std::filesystem::path& folder, const Options& options) {
  const ModelInfo model = sscc_model();
  std::map<int32_t, const ProgramInfo*> programs;
  std::vector<RankInfo> infos;
  std::vector<LocalRank> ranks;
  for (int rank = 0; rank < sscc_ranks(); ++rank) infos.push_back(sscc_rank(rank));
  for (const RankInfo& info : infos) {
    const ProgramInfo*& program = programs[info.program];
    if (!program) program = load_program(folder, info.program);
    ranks.push_back({program, &info.constants});
  }
  return run_local(model, ranks, read_weights_from_folder(folder / "weights", model), options);
}

std::string how_to_start() {
  const std::string ranks = std::to_string(sscc_ranks());
  return "start it with 'mpirun -n " + ranks + " run ...', 'srun -n " + ranks + " run ...' or 'run --local " + ranks + " ...'";
}

#ifdef SSCC_WITH_MPI
int run_process(const std::filesystem::path& folder, const Options& options) {
  const std::unique_ptr<Transport> transport = make_mpi_transport(options.timeout_seconds);
  if (transport->size() != sscc_ranks()) {
    if (transport->rank() == 0) {
      std::fprintf(stderr, "run: this program has %d ranks but %d %s started; %s\n", sscc_ranks(), transport->size(),
                   transport->size() == 1 ? "process was" : "processes were", how_to_start().c_str());
    }
    return usage;
  }
  set_kernel_threads(kernel_threads_under_mpi());
  const ModelInfo model = sscc_model();
  const RankInfo info = sscc_rank(transport->rank());
  const ProgramInfo* program = nullptr;
  try {
    program = load_program(folder, info.program);
  } catch (const EnvironmentFailure& error) {
    std::fprintf(stderr, "run: rank %d: %s\n", transport->rank(), error.what());
    transport->abort(error.what(), environment_failed);
    return environment_failed;
  }
  return run_rank(model, *program, info.constants, *transport, read_weights_from_folder(folder / "weights", model), options);
}
#else
int run_process(const std::filesystem::path&, const Options&) {
  std::fprintf(stderr, "run: built where MPI was not found; start all ranks with 'run --local %d ...'\n", sscc_ranks());
  return environment_failed;
}
#endif

int launch(int argc, char** argv) {
  const CommandLine line = read_command_line(argc, argv);
  const bool is_local = line.local > 0 || !line.is_valid;
  const bool silent = !is_local && rank_in_environment() > 0;
  Options options;
  bool help = false;
  if (const int status = parse_options(static_cast<int>(line.arguments.size()), line.arguments.data(), options, help, silent); status != 0)
    return status;
  if (help) {
    if (!silent) std::printf("  --local N        start the N ranks as threads of this process; without it: mpirun or srun\n");
    return 0;
  }
  if (is_local && line.local != sscc_ranks()) {
    std::fprintf(stderr, "run: this program has %d ranks; --local needs that number\n", sscc_ranks());
    return usage;
  }
  const std::filesystem::path folder = find_folder();
  const bool is_alone = sscc_ranks() == 1 && rank_in_environment() < 0;
  return is_local || is_alone ? run_threads(folder, options) : run_process(folder, options);
}

}  // namespace
}  // namespace sscc::rt

int main(int argc, char** argv) {
  try {
    return sscc::rt::launch(argc, argv);
  } catch (const sscc::rt::EnvironmentFailure& error) {
    std::fprintf(stderr, "run: %s\n", error.what());
    return sscc::rt::environment_failed;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "run: bug: %s\n", error.what());
    return sscc::rt::bug;
  }
}
