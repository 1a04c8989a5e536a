// A model is compiled under a plan, its programs run on integer data, and what two runs wrote is compared.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "compiler/driver/compile.h"
#include "test/equivalence/random_model.h"

namespace sscc::equivalence {

// A folder for what runs read and write, removed at the end.
class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

enum class Outcome { equal, refused, failed };
struct Result {
  Outcome outcome = Outcome::equal;
  std::string why;
  size_t ranks = 1;
};

// Every step from the plan to checked programs. refused: by a diagnostic of the plan or the model; failed: by a checker.
Result compile_trial(const Model& model, const std::string& plan, Compilation& compilation, const std::string& cluster = "");

// The first refusal of the checkers; empty: all accept.
std::string refusal_of(const Module& module, const Programs& programs);

// Runs all ranks on the data for so many steps; outputs, gradients, final parameters and log lie in FOLDER/NAME.
Result run_programs(const Programs& programs, const std::string& data, int64_t steps, const Folder& folder, const std::string& name);

// Both, on FOLDER/data.
Result run_trial(const Model& model, const std::string& plan, const Folder& folder, const std::string& name, const std::string& cluster = "");

// The plan that divides nothing.
extern const char* const one_rank;

// Where two runs in the folder differ, as numbers, by more than `tolerance` (relative to numbers above 1); empty: nowhere.
std::string difference(const Folder& folder, const std::string& one, const std::string& other, double tolerance = 0);
constexpr double rounding = 1e-9;  // of sums in float64 that are not exact

// Has a run only sums that are exact in float64?
bool is_exact(const Folder& folder, const std::string& name);

// What `work` finds out, in a process of its own: a bug may end it.
Result apart(const std::function<Result()>& work);

}  // namespace sscc::equivalence
