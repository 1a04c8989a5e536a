// sscc: the command line (PLAN_LANGUAGE section 3). Parses, calls the driver, prints, and maps failures to exit statuses:
// 0 done, 1 the model, recipe, plan or data is refused, 2 usage, 3 the environment failed, 70 a bug of ours.
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <chrono>
#include <iostream>
#include <regex>
#include <sstream>

#include "compiler/driver/build.h"
#include "compiler/driver/compile.h"
#include "compiler/driver/explain.h"
#include "compiler/ir/print.h"
#include "compiler/program/print.h"
#include "compiler/report/check_report.h"
#include "compiler/report/diagnostics_formats.h"
#include "compiler/simulate/interpret.h"
#include "compiler/support/check.h"
#include "llvm/ADT/STLExtras.h"

namespace {

using namespace sscc;

constexpr int refused = 1, usage = 2, environment = 3, bug = 70;

struct CommandLine {
  Request request;
  std::string output, target, arch, emit = "binary", format = "text", color = "auto", dump, op;
  std::vector<std::string> shapes, settings, warnings;
  std::vector<std::string> architectures = {"sm_80", "sm_90"};
  int jobs = 0;
  bool time_report = false, verbose = false, quiet = false, force = false, warnings_are_errors = false;
};

class UsageError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

void add_common(CLI::App& app, CommandLine& line) {
  app.add_option("MODEL", line.request.model, "the ONNX model; - is standard input")->required();
  app.add_option("--train", line.request.recipe, "training recipe (JSON); wins over the plan's own");
  app.add_option("--cluster", line.request.cluster, "the machine (JSON): devices, links, memory");
  app.add_option("--set", line.settings, "k=v: value of a plan parameter")->allow_extra_args(false);
  app.add_option("--shape", line.shapes, "input=8x128: shape of a graph input")->allow_extra_args(false);
  app.add_option("--target", line.target, "cuda or cpu; compiling: cuda where nvcc is found, else cpu");
  app.add_option("--arch", line.arch, "GPUs to compile for; default sm_80,sm_90");
  app.add_option("--dump-ir", line.dump, "write the IR after every step into this folder");
  app.add_option("-j", line.jobs, "jobs of the build");
  app.add_option("-W", line.warnings, "no-NAME silences a warning, error turns warnings into errors")->allow_extra_args(false);
  app.add_option("--diagnostics-format", line.format, "text, json or sarif")->check(CLI::IsMember({"text", "json", "sarif"}));
  app.add_option("--color", line.color, "auto, always or never")->check(CLI::IsMember({"auto", "always", "never"}));
  app.add_flag("--time-report", line.time_report, "seconds by step");
  app.add_flag("-v", line.verbose, "say more");
  app.add_flag("-q", line.quiet, "say less");
}

void add_plan(CLI::App& app, CommandLine& line) {
  app.add_option("--plan", line.request.plan, "the parallelization plan (JSON); - is standard input");
}

// "input=8x128", "k=v"
std::pair<std::string, std::string> key_value(const std::string& text, const char* option) {
  const size_t at = text.find('=');
  if (at == std::string::npos || at == 0) throw UsageError(std::string(option) + " needs NAME=VALUE, not '" + text + "'");
  return {text.substr(0, at), text.substr(at + 1)};
}

// "sm_80,sm_90a"
std::vector<std::string> split_architectures(const std::string& text) {
  std::vector<std::string> architectures;
  std::stringstream words(text);
  static const std::regex form("sm_[0-9]{2,3}[af]?");
  for (std::string word; std::getline(words, word, ',');) {
    if (!std::regex_match(word, form)) throw UsageError("--arch needs GPUs such as sm_80,sm_90, not '" + word + "'");
    architectures.push_back(word);
  }
  return architectures;
}

void finish_options(CommandLine& line, Diagnostics& diagnostics) {
  for (const std::string& text : line.settings) line.request.settings.push_back(key_value(text, "--set"));
  for (const std::string& text : line.shapes) {
    const auto [name, dims] = key_value(text, "--shape");
    std::vector<int64_t> shape;
    std::stringstream stream(dims);
    for (std::string word; std::getline(stream, word, 'x');) {
      int64_t length = 0;
      const auto [end, failure] = std::from_chars(word.data(), word.data() + word.size(), length);
      shape.push_back(length);
      if (end != word.data() + word.size() || failure != std::errc() || length <= 0)
        throw UsageError("--shape needs positive lengths such as 8x128, not '" + dims + "'");
    }
    line.request.shapes[name] = shape;
  }
  if (!line.target.empty() && line.target != "cpu" && line.target != "cuda") throw UsageError("--target is cuda or cpu, not '" + line.target + "'");
  if (!line.arch.empty()) line.architectures = split_architectures(line.arch);
  if (line.target == "cpu" && !line.arch.empty()) throw UsageError("--arch names GPUs, but the target is cpu");
  if (line.request.model == "-" && line.request.plan == "-") throw UsageError("standard input is the model or the plan, not both");
  for (const std::string& warning : line.warnings) {
    if (warning == "error")
      diagnostics.warnings_are_errors = true;
    else if (warning.starts_with("no-"))
      diagnostics.silenced.push_back(warning.substr(3));
    else
      throw UsageError("unknown warning option -W" + warning + "; known are -Wno-NAME and -Werror");
  }
}

bool use_color(const CommandLine& line) { return line.color == "always" || (line.color == "auto" && isatty(STDERR_FILENO)); }

// Since it was made.
struct Clock {
  std::chrono::steady_clock::time_point begin = std::chrono::steady_clock::now();
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); }
};

int64_t peak_rss() {
  rusage use{};
  getrusage(RUSAGE_SELF, &use);
  return static_cast<int64_t>(use.ru_maxrss) * 1024;
}

// What a checker refuses is no fault of the user's.
bool tells_a_bug(const Diagnostics& diagnostics) {
  return llvm::any_of(diagnostics.all(), [](const Diagnostic& each) {
    return each.code == Code::not_equivalent || each.code == Code::deadlock || each.code == Code::memory_conflict ||
           each.code == Code::order_not_kept;
  });
}

// Diagnostics as text go to stderr; as JSON a refusal is the one object on stdout; SARIF comes when all is done (main).
int print_diagnostics(const CommandLine& line, const Diagnostics& diagnostics, bool is_refusal) {
  if (line.format == "json") {
    if (is_refusal) std::cout << refusal_json(diagnostics);
  } else if (line.format == "text") {
    for (const Diagnostic& diagnostic : diagnostics.all())
      if (!line.quiet || diagnostic.severity == Severity::error) std::cerr << to_text(diagnostic, use_color(line)) << "\n";
  }
  return !is_refusal ? 0 : tells_a_bug(diagnostics) ? bug : refused;
}

// What a command is asked to show, on stdout: as JSON within the one object; beside SARIF nothing has a place.
void print_text(const CommandLine& line, const Diagnostics& diagnostics, const std::string& text) {
  if (line.format == "text") std::cout << text;
  if (line.format == "json") std::cout << text_json(diagnostics, text);
}

void print_times(const CommandLine& line, const Compilation& compilation) {
  if (!line.time_report) return;
  for (const auto& [step, seconds] : compilation.seconds) fprintf(stderr, "%9.3f ms  %s\n", seconds * 1e3, step.c_str());
}

void need_plan(const CommandLine& line) {
  if (line.request.plan.empty()) throw UsageError("--plan PLAN.json is missing");
}

After dump_after(const CommandLine& line) {
  if (line.dump.empty()) return {};
  return [folder = line.dump, count = 0](const char* step, const Compilation& c) mutable { dump_step(folder, count++, step, c); };
}

int run_check(CommandLine& line, Diagnostics& diagnostics) {
  need_plan(line);
  const Clock clock;
  Compilation c;
  const bool good = compile(line.request, c, diagnostics, "", dump_after(line));
  print_times(line, c);
  if (!good) return print_diagnostics(line, diagnostics, true);
  print_diagnostics(line, diagnostics, false);
  const CheckFacts facts = facts_of(c, line.target == "cuda" ? Target::cuda : Target::cpu);
  if (line.format == "json") std::cout << with_compile(check_json(c.programs, facts, diagnostics), clock.seconds(), peak_rss(), c.seconds);
  if (line.format == "text" && !line.quiet) std::cout << check_summary(c.programs, facts);
  return 0;
}

int run_compile(CommandLine& line, Diagnostics& diagnostics) {
  need_plan(line);
  const Clock clock;
  static const std::map<std::string, std::string> last_step = {
      {"graph", "differentiate"}, {"transformed", "transform"}, {"scheduled", "order"}, {"program", ""}, {"source", ""}, {"binary", ""}};
  if (!last_step.contains(line.emit)) throw UsageError("--emit is graph, transformed, scheduled, program, source or binary, not '" + line.emit + "'");
  const bool text = line.emit != "source" && line.emit != "binary";
  if (!text && line.output.empty()) throw UsageError("-o DIR is missing");
  if (!text) check_output(line.output, line.force);
  const Target target = line.target.empty() ? default_target() : line.target == "cuda" ? Target::cuda : Target::cpu;
  if (target == Target::cpu && !line.arch.empty()) throw UsageError("--arch names GPUs, but the target is cpu: there is no nvcc");
  if (!text && !line.quiet && line.target.empty()) std::cerr << "sscc: target " << name_of(target) << "\n";
  line.request.needs_weights = !text;
  Compilation c;
  const bool good = compile(line.request, c, diagnostics, last_step.at(line.emit), dump_after(line));
  print_times(line, c);
  if (!good) return print_diagnostics(line, diagnostics, true);
  print_diagnostics(line, diagnostics, false);
  if (text) {
    print_text(line, diagnostics, line.emit == "program" ? print(c.programs) : print(c.module));
  } else {
    const std::vector<std::string> architectures = target == Target::cuda ? line.architectures : std::vector<std::string>();
    build({line.request.model, line.output, target, architectures, line.emit == "binary", line.jobs, line.force, SSCC_VERSION}, c, diagnostics);
    if (line.format == "json")
      std::cout << with_compile(check_json(c.programs, facts_of(c, target), diagnostics), clock.seconds(), peak_rss(), c.seconds);
    else if (!line.quiet)
      std::cerr << "sscc: wrote " << line.output << " (" << c.programs.ranks.size() << " ranks, " << c.programs.bodies.size() << " programs)\n";
  }
  return 0;
}

int run_run(CommandLine& line, const std::vector<std::string>& flags, Diagnostics& diagnostics) {
  need_plan(line);
  if (line.target == "cuda") throw UsageError("sscc run uses processors; compile with --target cuda and start the program that it writes");
  std::vector<const char*> argv = {"sscc run"};
  for (const std::string& flag : flags) argv.push_back(flag.c_str());
  rt::Options options;
  bool help = false;
  if (const int status = rt::parse_options(static_cast<int>(argv.size()), argv.data(), options, help); status != 0 || help) return status;
  options.quiet |= line.quiet;
  line.request.needs_weights = true;
  const Clock clock;
  Compilation c;
  const bool good = compile(line.request, c, diagnostics, "", dump_after(line));
  print_times(line, c);
  if (!good) return print_diagnostics(line, diagnostics, true);
  print_diagnostics(line, diagnostics, false);
  const double seconds = clock.seconds();
  const int status = interpret(c.programs, options);
  if (status != 0) diagnostics.error(Code::environment_failed, {}, "the ranks ended with exit status " + std::to_string(status), "see stderr");
  if (line.format == "json")
    std::cout << (status == 0 ? with_compile(check_json(c.programs, facts_of(c, Target::cpu), diagnostics), seconds, peak_rss(), c.seconds)
                              : refusal_json(diagnostics));
  return status;
}

int run_explain(CommandLine& line, Diagnostics& diagnostics) {
  Compilation c;
  const bool planned = !line.request.plan.empty();
  const bool good = compile(line.request, c, diagnostics, planned ? "order" : "recognize", dump_after(line));
  print_times(line, c);
  if (!good) return print_diagnostics(line, diagnostics, true);
  print_diagnostics(line, diagnostics, false);
  print_text(line, diagnostics, explain(c.module, line.op));
  return 0;
}

int dispatch(int argc, char** argv, CommandLine& line, Diagnostics& diagnostics) {
  CLI::App app{"sscc " SSCC_VERSION ": compiles an ONNX model and a parallelization plan to one native program for each rank"};
  app.set_version_flag("--version", "sscc " SSCC_VERSION);
  app.footer("Other commands: sscc check | run | explain MODEL --plan PLAN ...; sscc COMMAND --help");
  add_common(app, line);
  add_plan(app, line);
  app.add_option("-o", line.output, "the build folder");
  app.add_option("--emit", line.emit, "graph, transformed, scheduled, program, source or binary (default)");
  app.add_flag("--force", line.force, "replace a folder that sscc did not write");

  const std::string command = argc > 1 ? argv[1] : "";
  for (const char* later : {"expand", "report", "diff", "search", "checkpoint"})
    if (command == later) throw UsageError("'sscc " + command + "' is not in this version; see sscc --help");
  CLI::App check{"everything short of code", "sscc check"}, run{"all ranks as threads of one process", "sscc run"},
      explain{"operators, axes and what became of them", "sscc explain"};
  CLI::App* chosen = command == "check" ? &check : command == "run" ? &run : command == "explain" ? &explain : &app;
  if (chosen != &app) {
    chosen->set_version_flag("--version", "sscc " SSCC_VERSION);
    add_common(*chosen, line);
    add_plan(*chosen, line);
    --argc;
    ++argv;
  }
  if (chosen == &run) run.allow_extras()->footer("The flags of rank programs too: --data --steps --log --outputs --grads --final --timeout --seed");
  if (chosen == &explain) explain.add_option("--op", line.op, "only operators whose name matches this glob");
  try {
    chosen->parse(argc, argv);
  } catch (const CLI::ParseError& error) { return chosen->exit(error) == 0 ? 0 : usage; }
  finish_options(line, diagnostics);
  if (chosen == &check) return run_check(line, diagnostics);
  if (chosen == &run) return run_run(line, run.remaining(), diagnostics);
  if (chosen == &explain) return run_explain(line, diagnostics);
  return run_compile(line, diagnostics);
}

}  // namespace

int main(int argc, char** argv) {
  CommandLine line;
  Diagnostics diagnostics;
  try {
    const int status = dispatch(argc, argv, line, diagnostics);
    if (line.format == "sarif" && status != usage) std::cout << to_sarif(diagnostics, SSCC_VERSION);
    return status;
  } catch (const UsageError& error) {
    std::cerr << "sscc: " << error.what() << "\n";
    return usage;
  } catch (const EnvironmentError& error) {
    std::cerr << "sscc: " << error.what() << "\n";
    diagnostics.error(Code::environment_failed, {}, error.what());
    if (line.format == "json") std::cout << refusal_json(diagnostics);  // programs read stdout alone
    if (line.format == "sarif") std::cout << to_sarif(diagnostics, SSCC_VERSION);
    return environment;
  } catch (const std::exception& error) {
    std::cerr << "sscc: bug: " << error.what() << "\n";
    return bug;
  }
}
