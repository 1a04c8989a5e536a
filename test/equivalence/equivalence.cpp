// Random models times random plans: what all ranks compute together is, bit for bit, what one rank computes (outputs, gradients, new parameters, loss).
//
//   equivalence [--pairs N] [--seed S] [--minutes M]
//
// A plan that the compiler refuses with a diagnostic of the model or the plan does not count. A refusal by a checker, a bug, or a difference is a
// failure: it is shrunk by leaving out rules and operators, and printed as a model (for sscc-opt) and a plan.
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

#include "compiler/driver/compile.h"
#include "compiler/ir/print.h"
#include "compiler/plan/read_text.h"
#include "compiler/simulate/interpret.h"
#include "sscc_rt/tensor_files.h"
#include "test/equivalence/random_plan.h"

namespace sscc::equivalence {
namespace {

namespace fs = std::filesystem;
constexpr int64_t steps = 2;

class Folder {
 public:
  Folder() : path_(fs::temp_directory_path() / ("sscc_equivalence_" + std::to_string(getpid()))) { fs::create_directories(path_); }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

enum class Outcome { equal, refused, failed };
struct Result {
  Outcome outcome = Outcome::equal;
  std::string why;
  size_t ranks = 1;
};

// Compiles and runs; what it wrote lies in `folder`. refused: by a diagnostic of the plan or the model.
Result run(const Module& model, const std::string& plan, const std::string& data, const std::string& folder) {
  Compilation c;
  c.module = model;
  Diagnostics diagnostics;
  try {
    PlanAndRecipe read =
        read_plan_text(plan, "plan.json", "recipe", {}, c.module, diagnostics, [](const std::string&) { return std::string(recipe); });
    c.plan = std::move(read.plan);
    c.recipe = std::move(read.recipe);
    c.module.meshes[0] = c.plan.mesh;
    if (!diagnostics.has_errors())
      run_passes({"differentiate", "transform", "assign", "order", "materialize", "form_collectives", "lower", "fuse", "plan_buffers",
                  "assign_streams", "check_deadlock", "check_lineage", "check_memory"},
                 c, diagnostics);
    if (diagnostics.has_errors()) {
      for (const Diagnostic& each : diagnostics.all()) {
        if (each.severity != Severity::error) continue;
        const std::string text = to_text(each);
        return {text.find("SSC5") == std::string::npos ? Outcome::refused : Outcome::failed, text};
      }
    }
    rt::Options options;
    options.data = data;
    options.steps = steps;
    options.outputs = folder + "/outputs";
    options.grads = folder + "/grads.safetensors";
    options.final = folder + "/final.safetensors";
    options.log = folder + "/log.jsonl";
    options.timeout_seconds = 60;
    options.quiet = true;
    fs::remove_all(folder);
    const int status = interpret(c.programs, options);
    if (status != 0) return {Outcome::failed, "the run ended with status " + std::to_string(status)};
    return {Outcome::equal, "", c.programs.ranks.size()};
  } catch (const std::exception& error) { return {Outcome::failed, error.what()}; }
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The losses and norms of a log, without times and memory.
std::string figures(const fs::path& log) {
  std::istringstream lines(read_file(log));
  std::string text;
  for (std::string line; std::getline(lines, line);) text += line.substr(0, line.find("\"seconds\"")) + "\n";
  return text;
}

// Are all sums exact in float64? The largest is the square of the gradient norm.
bool is_exact(const fs::path& run) {
  const std::string text = figures(run / "log.jsonl");
  for (const char* key : {"\"loss\": ", "\"grad_norm\": "})
    for (size_t at = 0; (at = text.find(key, at)) != std::string::npos; ++at)
      if (std::abs(std::atof(text.c_str() + at + std::strlen(key))) > 0x1p24) return false;
  return true;
}

// The tensors of a file, by name.
std::map<std::string, rt::StoredTensor> tensors_of(const fs::path& file) {
  if (file.extension() == ".safetensors") return rt::read_safetensors(file);
  return {{"", rt::read_pb(file)}};
}

// Equal as numbers: a maximum of 0 and -0 may be either.
bool are_equal(const rt::StoredTensor& a, const rt::StoredTensor& b) {
  if (a.dtype != b.dtype || a.dims != b.dims) return false;
  int64_t count = 1;
  for (const int64_t d : a.dims) count *= d;
  if (a.dtype != DType::f64) return std::memcmp(a.data, b.data, static_cast<size_t>(count) * rt::size_of(a.dtype)) == 0;
  for (int64_t i = 0; i < count; ++i) {
    double x, y;
    std::memcpy(&x, a.data + i * 8, 8);
    std::memcpy(&y, b.data + i * 8, 8);
    if (!(x == y)) return false;
  }
  return true;
}

std::string difference(const fs::path& one, const fs::path& many) {
  if (figures(one / "log.jsonl") != figures(many / "log.jsonl"))
    return "the log differs:\n" + figures(one / "log.jsonl") + "against\n" + figures(many / "log.jsonl");
  for (const auto& entry : fs::recursive_directory_iterator(one)) {
    if (!entry.is_regular_file() || entry.path().extension() == ".jsonl") continue;
    const fs::path relative = fs::relative(entry.path(), one);
    const auto first = tensors_of(entry.path()), second = tensors_of(many / relative);
    for (const auto& [name, tensor] : first)
      if (!second.contains(name) || !are_equal(tensor, second.at(name))) return relative.string() + (name.empty() ? "" : ", " + name) + " differs";
  }
  return "";
}

Result compare(const Module& model, const RandomPlan& plan, uint64_t seed, const Folder& folder) {
  Random random(seed);
  fs::remove_all(folder / "data");
  write_data(model, folder / "data", steps, random);
  Result many = run(model, plan.text(), folder / "data", folder / "many");
  if (many.outcome != Outcome::equal) return many;
  const Result one = run(model, "{\"version\": 1}", folder / "data", folder / "one");
  if (one.outcome != Outcome::equal) return {Outcome::failed, "on one rank: " + one.why};
  if (!is_exact(folder / "one")) return {Outcome::refused, "[SSC-too-large", 1};
  many.why = difference(folder / "one", folder / "many");
  if (!many.why.empty()) many.outcome = Outcome::failed;
  return many;
}

// The same in a process of its own: a bug may end it.
Result compare_apart(const Module& model, const RandomPlan& plan, uint64_t seed, const Folder& folder) {
  int ends[2];
  if (pipe(ends) != 0) throw std::runtime_error("no pipe");
  std::cout.flush();
  const pid_t child = fork();
  if (child == 0) {
    const Result result = compare(model, plan, seed, folder);
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

// Leaves out what is not needed to fail.
RandomPlan shrunk(const Module& model, RandomPlan plan, uint64_t seed, const Folder& folder) {
  for (bool smaller = true; smaller;) {
    smaller = false;
    const auto fails = [&](const RandomPlan& candidate) { return compare_apart(model, candidate, seed, folder).outcome == Outcome::failed; };
    for (auto part : {&RandomPlan::transform, &RandomPlan::assign})
      for (size_t i = 0; i < (plan.*part).size(); ++i) {
        RandomPlan candidate = plan;
        (candidate.*part).erase((candidate.*part).begin() + static_cast<std::ptrdiff_t>(i));
        if (!fails(candidate)) continue;
        plan = candidate;
        smaller = true;
        --i;
      }
    if (plan.order.empty()) continue;
    RandomPlan candidate = plan;
    candidate.order.clear();
    if (fails(candidate)) {
      plan = candidate;
      smaller = true;
    }
  }
  return plan;
}

int main_of(int argc, char** argv) {
  int64_t pairs = 2000;
  uint64_t seed = 1;
  double minutes = 0;
  bool verbose = false;
  for (int i = 1; i < argc; ++i) {
    const auto value = [&] { return i + 1 < argc ? argv[++i] : ""; };
    if (std::strcmp(argv[i], "--pairs") == 0)
      pairs = std::atoll(value());
    else if (std::strcmp(argv[i], "--seed") == 0)
      seed = static_cast<uint64_t>(std::atoll(value()));
    else if (std::strcmp(argv[i], "--minutes") == 0)
      minutes = std::atof(value());
    else if (std::strcmp(argv[i], "--verbose") == 0)
      verbose = true;
    else
      return std::fprintf(stderr, "equivalence [--pairs N] [--seed S] [--minutes M] [--verbose]\n"), 2;
  }
  const Folder folder;
  const auto begin = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  int64_t equal = 0, refused = 0, failed = 0, several = 0;
  std::map<std::string, int64_t> reasons;
  for (; minutes > 0 ? elapsed() < minutes * 60 : equal < pairs; ++seed) {
    Random random(seed);
    const Module model = random_model(random, 2 + static_cast<int>(below(random, 9)));
    const RandomPlan plan = random_plan(model, random);
    const Result result = compare_apart(model, plan, seed, folder);
    equal += result.outcome == Outcome::equal;
    several += result.outcome == Outcome::equal && result.ranks > 1;
    refused += result.outcome == Outcome::refused;
    if (result.outcome == Outcome::refused) ++reasons[result.why.substr(result.why.find("[SSC"), 9)];
    if (verbose && result.outcome == Outcome::refused) std::cout << "seed " << seed << " refused: " << result.why << "\n";
    if (result.outcome != Outcome::failed) continue;
    ++failed;
    const RandomPlan smallest = shrunk(model, plan, seed, folder);
    std::cout << "FAILED seed " << seed << ": " << result.why << "\n-- the model\n"
              << print(model) << "-- the plan, shrunk\n"
              << smallest.text() << "-- now: " << compare_apart(model, smallest, seed, folder).why << std::endl;
    if (failed >= 5) break;
  }
  std::cout << equal << " pairs equal (" << several << " on several ranks), " << refused << " plans refused, " << failed << " failed, in "
            << static_cast<int>(elapsed()) << " s; next seed " << seed << "\n";
  for (const auto& [reason, count] : reasons) std::cout << "  refused " << reason << " " << count << "\n";
  return failed == 0 ? 0 : 1;
}

}  // namespace
}  // namespace sscc::equivalence

int main(int argc, char** argv) { return sscc::equivalence::main_of(argc, argv); }
