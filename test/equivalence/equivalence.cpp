// Random models times random plans: what all ranks compute together is what one rank computes (outputs, gradients, new parameters, loss), bit for bit,
// but for models with exponentials, whose sums are rounded; in the order of the programs, or in another one that their streams and waits allow.
//
//   equivalence [--pairs N] [--seed S] [--minutes M] [--failures FOLDER] [--verbose]
//
// A plan that the compiler refuses with a diagnostic of the model or the plan does not count. A refusal by a checker, a bug, or a difference is a
// failure: it is shrunk and written below FOLDER as a model (for sscc-opt), a plan and a recipe.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>

#include "compiler/ir/print.h"
#include "compiler/simulate/other_order.h"
#include "test/equivalence/shrink.h"
#include "test/equivalence/trial.h"

namespace sscc::equivalence {
namespace {

// The same in floats, with small ones between: rounding depends on the plan, so that it runs, and what the checkers say, is all there is to see.
Result run_in_small_floats(const Pair& pair, uint64_t seed, const Folder& folder) {
  Model model = pair.model;
  for (Tensor& tensor : model.module.tensors) {
    if (tensor.dtype != DType::f64) continue;
    tensor.dtype = DType::f32;
    if (!tensor.weight) continue;
    std::string floats;
    for (int64_t at = 0; at < tensor.weight->length; at += static_cast<int64_t>(sizeof(double))) {
      double wide = 0;
      std::memcpy(&wide, tensor.weight->bytes->data() + tensor.weight->offset + at, sizeof wide);
      const auto value = static_cast<float>(wide);
      floats.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
    const auto length = static_cast<int64_t>(floats.size());
    tensor.weight = Weight{"", 0, length, std::make_shared<const std::string>(std::move(floats))};
  }
  std::string plan = pair.plan.text();
  plan.insert(plan.find('{') + 1, seed % 8 == 0 ? "\"precision\": \"bf16\", " : "\"precision\": \"f16\", ");
  Random random(seed);
  write_data(model, folder / "data", random);
  Result result = run_trial(model, plan, folder, "small", pair.plan.cluster);
  if (result.outcome != Outcome::failed) return {};
  result.why = "in small floats: " + result.why;
  return result;
}

// Every second one in an order that an adversary chooses among those that streams and waits allow.
Result run_on_many_ranks(const Pair& pair, uint64_t seed, const Folder& folder) {
  Compilation compilation;
  const Result compiled = compile_trial(pair.model, pair.plan.text(), compilation, pair.plan.cluster);
  if (compiled.outcome != Outcome::equal) return compiled;
  Random random(seed);
  const std::optional<Programs> programs = seed % 2 == 0 ? compilation.programs : in_other_order(compilation.programs, random);
  if (!programs) return {Outcome::failed, "in another order the ranks stand for ever"};
  return run_programs(*programs, folder / "data", pair.model.steps, folder, "many");
}

Result compare(const Pair& pair, uint64_t seed, const Folder& folder) {
  Random random(seed);
  write_data(pair.model, folder / "data", random);
  Result many = run_on_many_ranks(pair, seed, folder);
  if (many.outcome != Outcome::equal) return many;
  const Result one = run_trial(pair.model, one_rank, folder, "one");
  if (one.outcome != Outcome::equal) return {Outcome::failed, "on one rank: " + one.why};
  if (pair.model.is_exact() && !is_exact(folder, "one")) return {Outcome::refused, "[SSC-too-large", 1};
  many.why = difference(folder, "one", "many", pair.model.is_exact() ? 0 : rounding);
  if (!many.why.empty()) many.outcome = Outcome::failed;
  if (many.outcome == Outcome::equal && seed % 4 == 0) {
    const Result small = run_in_small_floats(pair, seed, folder);
    if (small.outcome == Outcome::failed) return small;
  }
  return many;
}

// Failures of one kind: of one code, or with the same first words.
std::string kind_of(const std::string& why) {
  const size_t code = why.find("[SSC");
  return code == std::string::npos ? why.substr(0, 20) : why.substr(code, 9);
}

// Shrinks a failure; the folder that holds it then.
std::string write_failure(const Pair& pair, const std::string& why, uint64_t seed, const std::string& failures, const Folder& folder) {
  const auto outcome = [&](const Pair& candidate) { return apart([&] { return compare(candidate, seed, folder); }); };
  const Pair smallest = shrunk(pair, [&](const Pair& candidate) {
    const Result result = outcome(candidate);
    return result.outcome == Outcome::failed && kind_of(result.why) == kind_of(why);
  });
  const std::string path = failures + "/seed_" + std::to_string(seed);
  std::filesystem::create_directories(path);
  std::ofstream(path + "/model.txt") << print(smallest.model.module);
  std::ofstream(path + "/plan.json") << smallest.plan.text();
  if (!smallest.plan.cluster.empty()) std::ofstream(path + "/cluster.json") << smallest.plan.cluster;
  std::ofstream(path + "/recipe.json") << smallest.model.recipe << "\n";
  std::ofstream(path + "/why.txt") << why << "\nand, shrunk:\n" << outcome(smallest).why << "\n";
  return path;
}

int main_of(int argc, char** argv) {
  int64_t pairs = 2000;
  uint64_t seed = 1;
  double minutes = 0;
  bool verbose = false;
  std::string failures = "failures";
  for (int i = 1; i < argc; ++i) {
    const auto value = [&] { return i + 1 < argc ? argv[++i] : ""; };
    if (std::strcmp(argv[i], "--pairs") == 0)
      pairs = std::atoll(value());
    else if (std::strcmp(argv[i], "--seed") == 0)
      seed = static_cast<uint64_t>(std::atoll(value()));
    else if (std::strcmp(argv[i], "--minutes") == 0)
      minutes = std::atof(value());
    else if (std::strcmp(argv[i], "--failures") == 0)
      failures = value();
    else if (std::strcmp(argv[i], "--verbose") == 0)
      verbose = true;
    else
      return std::fprintf(stderr, "equivalence [--pairs N] [--seed S] [--minutes M] [--failures FOLDER] [--verbose]\n"), 2;
  }
  const Folder folder;
  const auto begin = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  int64_t equal = 0, refused = 0, failed = 0, several = 0;
  std::map<std::string, int64_t> reasons;
  for (; minutes > 0 ? elapsed() < minutes * 60 : equal < pairs; ++seed) {
    Random random(seed);
    Pair pair;
    pair.model = random_model(random, 2 + static_cast<int>(below(random, 9)));
    pair.plan = random_plan(pair.model.module, random);
    const Result result = apart([&] { return compare(pair, seed, folder); });
    equal += result.outcome == Outcome::equal;
    several += result.outcome == Outcome::equal && result.ranks > 1;
    refused += result.outcome == Outcome::refused;
    if (result.outcome == Outcome::refused) ++reasons[result.why.substr(result.why.find("[SSC"), 9)];
    if (verbose && result.outcome == Outcome::refused) std::cout << "seed " << seed << " refused: " << result.why << "\n";
    if (result.outcome != Outcome::failed) continue;
    ++failed;
    std::cout << "FAILED seed " << seed << ": " << result.why << std::endl;
    std::cout << "-- shrunk: " << write_failure(pair, result.why, seed, failures, folder) << "/{model.txt,plan.json,recipe.json,why.txt}"
              << std::endl;
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
