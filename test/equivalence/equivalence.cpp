// Random models times random plans: what all ranks compute together is, bit for bit, what one rank computes (outputs, gradients, new parameters, loss).
//
//   equivalence [--pairs N] [--seed S] [--minutes M]
//
// A plan that the compiler refuses with a diagnostic of the model or the plan does not count. A refusal by a checker, a bug, or a difference is a
// failure: it is shrunk by leaving out rules and operators, and printed as a model (for sscc-opt) and a plan.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <iostream>

#include "compiler/ir/print.h"
#include "test/equivalence/random_plan.h"
#include "test/equivalence/trial.h"

namespace sscc::equivalence {
namespace {

Result compare(const Module& model, const RandomPlan& plan, uint64_t seed, const Folder& folder) {
  Random random(seed);
  write_data(model, folder / "data", random);
  Result many = run_trial(model, plan.text(), folder, "many");
  if (many.outcome != Outcome::equal) return many;
  const Result one = run_trial(model, one_rank, folder, "one");
  if (one.outcome != Outcome::equal) return {Outcome::failed, "on one rank: " + one.why};
  if (!is_exact(folder, "one")) return {Outcome::refused, "[SSC-too-large", 1};
  many.why = difference(folder, "one", "many");
  if (!many.why.empty()) many.outcome = Outcome::failed;
  return many;
}

Result compare_apart(const Module& model, const RandomPlan& plan, uint64_t seed, const Folder& folder) {
  return apart([&] { return compare(model, plan, seed, folder); });
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
