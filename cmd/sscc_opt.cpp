// sscc-opt: runs single passes over the text of a module (docs/ir.md) and prints what they make of it. For golden tests and bug reports.
//
//   sscc-opt MODULE.txt --plan plan.json --train train.json --passes differentiate,transform,assign,order
//
// Exit statuses are sscc's.
#include <CLI/CLI.hpp>
#include <fstream>
#include <iostream>
#include <sstream>

#include "compiler/driver/compile.h"
#include "compiler/ir/print.h"
#include "compiler/ops/parse_module.h"
#include "compiler/program/print.h"
#include "compiler/support/check.h"

namespace {

using namespace sscc;

constexpr int refused = 1, usage = 2, environment = 3, bug = 70;

std::string read_text(const std::string& path) {
  std::ostringstream text;
  if (path == "-") {
    text << std::cin.rdbuf();
    return text.str();
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) throw EnvironmentError("cannot open '" + path + "': " + std::strerror(errno));
  text << file.rdbuf();
  return text.str();
}

std::vector<std::string> split_commas(const std::string& text) {
  std::vector<std::string> words;
  std::stringstream stream(text);
  for (std::string word; std::getline(stream, word, ',');) words.push_back(word);
  return words;
}

int run(const std::string& path, const Request& request, const std::string& passes) {
  Diagnostics diagnostics;
  Compilation c;
  c.module = parse_module(read_text(path), path, diagnostics);
  bool is_good = !diagnostics.has_errors();
  if (is_good && (!request.plan.empty() || !request.recipe.empty())) {
    PlanAndRecipe read = read_plan(request.plan, request.recipe, request.settings, c.module, diagnostics);
    c.plan = std::move(read.plan);
    c.recipe = std::move(read.recipe);
    c.module.meshes[0] = c.plan.mesh;
    is_good = !diagnostics.has_errors();
  }
  if (is_good) is_good = run_passes(split_commas(passes), c, diagnostics);
  for (const Diagnostic& diagnostic : diagnostics.all()) std::cerr << to_text(diagnostic) << "\n";
  if (!is_good) return refused;
  std::cout << (c.programs.ranks.empty() ? print(c.module) : print(c.programs));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"sscc-opt: runs passes over the text of a module and prints the result"};
  std::string path, passes;
  Request request;
  app.add_option("MODULE", path, "text of a module as sscc --dump-ir writes it before 'transform'; - is standard input")->required();
  app.add_option("--plan", request.plan, "the parallelization plan (JSON)");
  app.add_option("--train", request.recipe, "the training recipe (JSON)");
  app.add_option("--passes", passes, "names separated by commas; none: the text is read, verified and printed");
  try {
    app.parse(argc, argv);
    return run(path, request, passes);
  } catch (const CLI::ParseError& error) { return app.exit(error) == 0 ? 0 : usage; } catch (const UnknownPass& error) {
    std::cerr << "sscc-opt: " << error.what() << "\n";
    return usage;
  } catch (const EnvironmentError& error) {
    std::cerr << "sscc-opt: " << error.what() << "\n";
    return environment;
  } catch (const std::exception& error) {
    std::cerr << "sscc-opt: bug: " << error.what() << "\n";
    return bug;
  }
}
