#include "test/equivalence/trial.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

#include "compiler/plan/read_cluster.h"
#include "compiler/plan/read_text.h"
#include "compiler/program/check.h"
#include "compiler/simulate/interpret.h"
#include "sscc_rt/tensor_files.h"

namespace sscc::equivalence {
namespace {

namespace fs = std::filesystem;

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The losses and norms of a log.
std::vector<double> figures(const fs::path& log) {
  const std::string text = read_file(log);
  std::vector<double> result;
  for (const char* key : {"\"loss\": ", "\"grad_norm\": "})
    for (size_t at = 0; (at = text.find(key, at)) != std::string::npos; ++at) result.push_back(std::atof(text.c_str() + at + std::strlen(key)));
  return result;
}

bool are_equal(double a, double b, double tolerance) { return a == b || std::abs(a - b) <= tolerance * std::max({1.0, std::abs(a), std::abs(b)}); }

// The tensors of a file, by name.
std::map<std::string, rt::StoredTensor> tensors_of(const fs::path& file) {
  if (file.extension() == ".safetensors") return rt::read_safetensors(file);
  return {{"", rt::read_pb(file)}};
}

// Equal as numbers: a maximum of 0 and -0 may be either.
bool are_equal(const rt::StoredTensor& a, const rt::StoredTensor& b, double tolerance) {
  if (a.dtype != b.dtype || a.dims != b.dims) return false;
  int64_t count = 1;
  for (const int64_t d : a.dims) count *= d;
  if (a.dtype != DType::f64) return std::memcmp(a.data, b.data, static_cast<size_t>(count) * rt::size_of(a.dtype)) == 0;
  for (int64_t i = 0; i < count; ++i) {
    double x, y;
    std::memcpy(&x, a.data + i * 8, 8);
    std::memcpy(&y, b.data + i * 8, 8);
    if (!are_equal(x, y, tolerance)) return false;
  }
  return true;
}

}  // namespace

const char* const one_rank = R"({"version": 1})";

// In memory where the machine has such a folder: runs are short, and their files small and many.
Folder::Folder() {
  const fs::path shared = "/dev/shm";
  const fs::path parent = access(shared.c_str(), W_OK) == 0 ? shared : fs::temp_directory_path();
  static int folders = 0;
  path_ = parent / ("sscc_equivalence_" + std::to_string(getpid()) + "_" + std::to_string(folders++));
  fs::create_directories(path_);
}
Folder::~Folder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

Result compile_trial(const Model& model, const std::string& plan, Compilation& c, const std::string& cluster) {
  c.module = model.module;
  Diagnostics diagnostics;
  PlanAndRecipe read = read_plan_text(plan, "plan.json", model.recipe.empty() ? "" : "recipe", {}, c.module, diagnostics,
                                      [&](const std::string&) { return model.recipe; });
  c.plan = std::move(read.plan);
  c.recipe = std::move(read.recipe);
  c.module.meshes[0] = c.plan.mesh;
  if (!cluster.empty()) c.cluster = read_cluster_text(cluster, "cluster.json", diagnostics);
  if (!diagnostics.has_errors()) run_passes({"differentiate.."}, c, diagnostics);
  for (const Diagnostic& each : diagnostics.all()) {
    if (each.severity != Severity::error) continue;
    const std::string text = to_text(each);
    return {text.find("SSC5") == std::string::npos ? Outcome::refused : Outcome::failed, text};
  }
  return {Outcome::equal, "", c.programs.ranks.size()};
}

std::string refusal_of(const Module& module, const Programs& programs) {
  Diagnostics diagnostics;
  const bool is_good = check_deadlock(programs, diagnostics) && check_lineage(module, programs, diagnostics) && check_memory(programs, diagnostics) &&
                       check_races(programs, diagnostics) && check_order(module, programs, diagnostics);
  return is_good ? "" : to_text(diagnostics.all().front());
}

Result run_programs(const Programs& programs, const std::string& data, int64_t steps, const Folder& folder, const std::string& name) {
  rt::Options options;
  options.data = data;
  options.steps = steps;
  options.outputs = folder / name + "/outputs";
  if (programs.training) options.grads = folder / name + "/grads.safetensors";
  options.final = folder / name + "/final.safetensors";
  options.log = folder / name + "/log.jsonl";
  options.timeout_seconds = 60;
  options.quiet = true;
  fs::remove_all(folder / name);
  const int status = interpret(programs, options);
  if (status != 0) return {Outcome::failed, "the run ended with status " + std::to_string(status)};
  return {Outcome::equal, "", programs.ranks.size()};
}

Result run_trial(const Model& model, const std::string& plan, const Folder& folder, const std::string& name, const std::string& cluster) {
  Compilation compilation;
  const Result compiled = compile_trial(model, plan, compilation, cluster);
  return compiled.outcome == Outcome::equal ? run_programs(compilation.programs, folder / "data", model.steps, folder, name) : compiled;
}

std::string difference(const Folder& folder, const std::string& one, const std::string& other, double tolerance) {
  const fs::path logs[] = {folder / one + "/log.jsonl", folder / other + "/log.jsonl"};
  const std::vector<double> first = figures(logs[0]), second = figures(logs[1]);
  // In a log, too: the squares of large numbers, which a norm adds up, have more bits than a number has.
  const auto equal = [&](double a, double b) { return are_equal(a, b, std::max(tolerance, 1e-14)); };
  if (!std::equal(first.begin(), first.end(), second.begin(), second.end(), equal))
    return "the log differs:\n" + read_file(logs[0]) + "against\n" + read_file(logs[1]);
  for (const auto& entry : fs::recursive_directory_iterator(folder / one)) {
    if (!entry.is_regular_file() || entry.path().extension() == ".jsonl") continue;
    const fs::path relative = fs::relative(entry.path(), folder / one);
    const auto expected = tensors_of(entry.path()), found = tensors_of(folder / other / relative);
    for (const auto& [name, tensor] : expected)
      if (!found.contains(name) || !are_equal(tensor, found.at(name), tolerance))
        return relative.string() + (name.empty() ? "" : ", " + name) + " differs";
  }
  return "";
}

// The largest sum is the square of the gradient norm.
bool is_exact(const Folder& folder, const std::string& name) {
  const std::vector<double> sums = figures(folder / name + "/log.jsonl");
  return std::all_of(sums.begin(), sums.end(), [](double sum) { return std::abs(sum) <= 0x1p24; });
}

Result apart(const std::function<Result()>& work) {
  int ends[2];
  if (pipe(ends) != 0) throw std::runtime_error("no pipe");
  std::cout.flush();
  const pid_t child = fork();
  if (child == 0) {
    Result result;
    try {
      result = work();
    } catch (const std::exception& error) { result = {Outcome::failed, error.what()}; }
    const std::string text = std::to_string(result.ranks) + " " + result.why;
    const ssize_t written = write(ends[1], text.data(), text.size());
    std::_Exit(written == static_cast<ssize_t>(text.size()) ? static_cast<int>(result.outcome) : 3);
  }
  close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) > 2) return {Outcome::failed, "it ended with a bug (see above), status " + std::to_string(status)};
  Result result;
  result.outcome = static_cast<Outcome>(WEXITSTATUS(status));
  std::istringstream(text) >> result.ranks;
  result.why = text.substr(std::min(text.find(' ') + 1, text.size()));
  return result;
}

}  // namespace sscc::equivalence
