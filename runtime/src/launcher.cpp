// bin/launch of a build folder, which `run` starts: becomes the program of its rank. See sscc_rt/bundle.h for what it is linked with and loads.
#include <dlfcn.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "launch.h"

namespace sscc::rt {
namespace {

// The build folder: bin/launch is this program.
std::filesystem::path find_folder() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) throw EnvironmentFailure("cannot read /proc/self/exe: " + error.message());
  return self.parent_path().parent_path();
}

CommandLine read_command_line(int argc, char** argv) {
  CommandLine line;
  line.arguments.push_back("run");
  for (int i = 1; i < argc; ++i) {
    if (knows_one_gpu && std::strncmp(argv[i], "--one-gpu", 9) == 0 && (argv[i][9] == '\0' || argv[i][9] == '=')) {
      line.one_gpu = argv[i][9] == '=' ? argv[i] + 10 : "nccl";
      if (line.one_gpu == "nccl" || line.one_gpu == "loopback") continue;
      line.arguments.push_back(argv[i]);  // an unknown one
      continue;
    }
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

std::string how_to_start() {
  const std::string ranks = std::to_string(sscc_ranks());
  return "start it with 'mpirun -n " + ranks + " run ...', 'srun -n " + ranks + " run ...' or 'run --local " + ranks + " ...'";
}

int launch(int argc, char** argv) {
  const CommandLine line = read_command_line(argc, argv);
  const bool is_local = line.local > 0 || !line.is_valid;
  const bool silent = !is_local && rank_in_environment() > 0;
  Options options;
  bool help = false;
  if (const int status = parse_options(static_cast<int>(line.arguments.size()), line.arguments.data(), options, help, silent); status != 0)
    return status;
  if (help) {
    if (!silent) std::fputs(help_of_start, stdout);
    return 0;
  }
  if (is_local && line.local != sscc_ranks()) {
    std::fprintf(stderr, "run: this program has %d ranks; --local needs that number\n", sscc_ranks());
    return usage;
  }
  const Launch launch{find_folder(), line, options};
  return is_local ? run_all_here(launch) : run_this_one(launch);
}

}  // namespace

const ProgramInfo* load_program(const std::filesystem::path& folder, int32_t number) {
  const std::string path = folder / "bin" / ("program_" + std::to_string(number) + ".so");
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw EnvironmentFailure("cannot load " + std::string(dlerror()));
  void* symbol = dlsym(library, "sscc_program");
  if (!symbol) throw EnvironmentFailure(path + " has no sscc_program; it is not of this build");
  return reinterpret_cast<decltype(&sscc_program)>(symbol)();
}

void refuse_size(int started) {
  std::fprintf(stderr, "run: this program has %d ranks but %d %s started; %s\n", sscc_ranks(), started,
               started == 1 ? "process was" : "processes were", how_to_start().c_str());
}

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
