#include "compiler/codegen/build_folder.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "compiler/codegen/manifest.h"
#include "compiler/support/diagnostics.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Program.h"
#include "llvm/TargetParser/Host.h"

namespace sscc {
namespace {

namespace fs = std::filesystem;

constexpr size_t lines_shown = 15;

std::string find_tool(const char* name) {
  const llvm::ErrorOr<std::string> path = llvm::sys::findProgramByName(name);
  if (!path) throw EnvironmentError(std::string("'") + name + "' is not on PATH; install it, or stop before the build with --emit source");
  return *path;
}

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string last_lines(const std::string& text) {
  size_t begin = text.size();
  for (size_t lines = 0; begin > 0 && lines <= lines_shown; ++lines) begin = begin > 1 ? text.rfind('\n', begin - 2) + 1 : 0;
  return text.substr(begin);
}

// The environment of this process, with ccache told that paths below `folder` do not matter.
std::vector<std::string> environment_for(const std::string& folder) {
  std::vector<std::string> environment;
  for (char** entry = environ; *entry; ++entry) environment.emplace_back(*entry);
  if (!std::getenv("CCACHE_BASEDIR")) environment.push_back("CCACHE_BASEDIR=" + folder);
  return environment;
}

// Runs a program with its output in `log`. Returns its exit status; negative: it did not start or was killed.
int run(const std::vector<std::string>& command, const std::vector<std::string>& environment, const std::string& log) {
  const llvm::SmallVector<llvm::StringRef> arguments(command.begin(), command.end());
  const llvm::SmallVector<llvm::StringRef> variables(environment.begin(), environment.end());
  std::error_code ignored;
  fs::remove(log, ignored);  // output would be written over an older one, which may be longer
  const std::optional<llvm::StringRef> redirects[] = {llvm::StringRef(""), llvm::StringRef(log), llvm::StringRef(log)};
  std::string error;
  const int status = llvm::sys::ExecuteAndWait(command[0], arguments, llvm::ArrayRef<llvm::StringRef>(variables), redirects, 0, 0, &error);
  if (!error.empty()) std::ofstream(log, std::ios::app) << command[0] << ": " << error << "\n";
  return status;
}

// "$XDG_CACHE_HOME/sscc", "~/.cache/sscc"; empty: there is no home.
fs::path cache_folder() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache && *cache) return fs::path(cache) / "sscc";
  if (const char* home = std::getenv("HOME"); home && *home) return fs::path(home) / ".cache" / "sscc";
  return {};
}

// The path of a compiler that a variable names, or else its usual name; empty: not there.
std::string compiler_of(const char* variable, const char* name) {
  const char* chosen = std::getenv(variable);
  const auto path = llvm::sys::findProgramByName(chosen && *chosen ? chosen : name);
  return path ? *path : "";
}

// The name of the compiled runtime of these sources; empty: nobody can tell what compiles it.
std::string name_of_runtime(const BuildOptions& options, const std::vector<std::string>& environment) {
  std::string key = options.runtime_hash + "\n";
  std::vector<std::string> compilers = {compiler_of("CXX", "c++")};
  if (options.target == Target::cuda)
    compilers.push_back(compiler_of("CUDACXX", "nvcc"));
  else
    key += llvm::sys::getHostCPUName().str() + "\n";
  for (const std::string& compiler : compilers) {
    if (compiler.empty()) return {};
    const std::string log = options.log + ".version";
    const int status = run({compiler, "--version"}, environment, log);
    key += read_text(log) + "\n";
    std::error_code ignored;
    fs::remove(log, ignored);
    if (status != 0) return {};
  }
  for (const char* flags : {"CXXFLAGS", "CUDAFLAGS", "LDFLAGS"}) {
    if (const char* value = std::getenv(flags)) key += value + std::string("\n");
  }
  return "libsscc_rt-" + sha256(key).substr(0, 32) + ".so";
}

// Where sscc has the runtimes that came with it.
fs::path folder_of_runtimes() {
  static const char here = 0;
  return fs::path(llvm::sys::fs::getMainExecutable(nullptr, const_cast<char*>(&here))).parent_path() / "precompiled";
}

// Written beside and renamed, so that another sscc never takes half a library.
void keep_runtime(const fs::path& library, const fs::path& cached) {
  std::error_code error;
  fs::create_directories(cached.parent_path(), error);
  const fs::path beside = cached.string() + "." + std::to_string(getpid());
  if (!fs::copy_file(library, beside, fs::copy_options::overwrite_existing, error)) return;
  fs::rename(beside, cached, error);
  if (error) fs::remove(beside, error);
}

}  // namespace

void bring_runtime(const std::string& library, const std::string& folder, const std::string& runtime_hash) {
  BuildOptions options;
  options.log = folder + ".log";
  options.runtime_hash = runtime_hash;
  const std::string name = name_of_runtime(options, environment_for(folder));
  if (name.empty()) throw EnvironmentError("the C++ compiler does not tell its version");
  std::error_code error;
  fs::remove_all(folder, error);  // of earlier sources
  keep_runtime(library, fs::path(folder) / name);
  if (!fs::exists(fs::path(folder) / name)) throw EnvironmentError("cannot write '" + folder + "/" + name + "'");
}

bool has_nvcc() { return !compiler_of("CUDACXX", "nvcc").empty(); }

void build_folder(const std::string& folder, const BuildOptions& options) {
  const std::string cmake = find_tool("cmake");
  const std::string ninja = find_tool("ninja");
  if (options.target == Target::cuda && !has_nvcc())
    throw EnvironmentError("'nvcc' is not on PATH; install the CUDA Toolkit, or stop before the build with --emit source");
  const std::vector<std::string> environment = environment_for(folder);
  const std::string runtime = name_of_runtime(options, environment);
  const fs::path cache = cache_folder();
  const fs::path cached = runtime.empty() || cache.empty() ? fs::path() : cache / runtime;
  std::error_code ignored;
  fs::path compiled;  // already
  for (const fs::path& place : {runtime.empty() ? fs::path() : folder_of_runtimes() / runtime, cached})
    if (compiled.empty() && !place.empty() && fs::exists(place, ignored)) compiled = place;

  const std::string build = folder + "/build";
  std::vector<std::string> configure = {cmake, "-S", folder, "-B", build, "-G", "Ninja", "-DCMAKE_MAKE_PROGRAM=" + ninja};
  if (!compiled.empty()) configure.push_back("-DSSCC_RUNTIME_LIBRARY=" + compiled.string());
  std::vector<std::string> compile = {ninja, "-C", build};
  if (options.jobs > 0) compile.push_back("-j" + std::to_string(options.jobs));

  for (const std::vector<std::string>& command : {configure, compile}) {
    const int status = run(command, environment, options.log);
    if (status == 0) continue;
    throw EnvironmentError("the build of '" + folder + "' failed (" + fs::path(command[0]).filename().string() + " ended with " +
                           std::to_string(status) + "); its output is in '" + options.log + "', which ends:\n" + last_lines(read_text(options.log)));
  }
  if (compiled.empty() && !cached.empty()) keep_runtime(fs::path(folder) / "bin" / "libsscc_rt.so", cached);
  fs::remove_all(build, ignored);
  fs::remove(options.log, ignored);
}

}  // namespace sscc
