// Reading plan and recipe from text: what read_plan (plan.h) does after it has opened the files. For tests and fuzzing.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "compiler/plan/plan.h"

namespace sscc {

// Gives the text of a file; throws EnvironmentError.
using FileReader = std::function<std::string(const std::string& path)>;

// Reads a whole file; "-" is standard input.
std::string read_file(const std::string& path);

// `file` is the plan's name for messages, and what a recipe's path is relative to. An empty `recipe_file` means the plan's own `train`.
PlanAndRecipe read_plan_text(std::string_view text, const std::string& file, const std::string& recipe_file, const Settings& settings,
                             const Module& module, Diagnostics& diagnostics, const FileReader& read = read_file);

Recipe read_recipe_text(std::string_view text, const std::string& file, const Module& module, Diagnostics& diagnostics);

}  // namespace sscc
