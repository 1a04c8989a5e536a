// The flags of rank programs (PLAN_LANGUAGE section 4).
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "sscc_rt/rank.h"

namespace sscc::rt {
namespace {

constexpr const char* help_text =
    "  --data DATA      folder of step_0, step_1, ... (input_I.pb, label_I.pb or .npy in each, or step_K.safetensors), or \"synthetic\"\n"
    "  --steps N        steps to run; default: as many as DATA has (synthetic: 1). Beyond them, data starts again at step_0\n"
    "  --log FILE       a JSON object a step, one a line\n"
    "  --outputs DIR    write the model's outputs as DIR/step_K/output_I.pb\n"
    "  --grads FILE     write the gradients of the first step, before clipping, as safetensors\n"
    "  --final FILE     write the parameters after the last step as safetensors\n"
    "  --trace FILE     write when each rank did what, for Perfetto (ui.perfetto.dev)\n"
    "  --timeout S      seconds to wait for another rank; default 300\n"
    "  --seed N         seed of synthetic data; default 0\n"
    "  --quiet          no line a step\n"
    "  --help           this text\n";

struct Flag {
  const char* name;
  bool (*set)(Options&, const char* value);
  const char* wanted;
};

template <class T>
bool read_number(const char* text, T& value) {
  const char* end = text + std::strlen(text);
  const auto [at, error] = std::from_chars(text, end, value);
  return error == std::errc() && at == end;
}

template <std::string Options::*field>
bool set_text(Options& options, const char* value) {
  options.*field = value;
  return *value != '\0';
}

constexpr Flag flags[] = {
    {"--data", set_text<&Options::data>, "a folder or \"synthetic\""},
    {"--log", set_text<&Options::log>, "a file"},
    {"--outputs", set_text<&Options::outputs>, "a folder"},
    {"--grads", set_text<&Options::grads>, "a file"},
    {"--final", set_text<&Options::final>, "a file"},
    {"--trace", set_text<&Options::trace>, "a file"},
    {"--steps", [](Options& options, const char* value) { return read_number(value, options.steps) && options.steps > 0; }, "a positive number"},
    {"--seed", [](Options& options, const char* value) { return read_number(value, options.seed); }, "a number"},
    {"--timeout",
     [](Options& options, const char* value) {
       return read_number(value, options.timeout_seconds) && options.timeout_seconds > 0 && std::isfinite(options.timeout_seconds);
     },
     "a positive number of seconds"},
};

constexpr std::string_view refused[] = {"--save", "--save-every", "--resume"};

class Parser {
 public:
  Parser(int argc, const char* const* argv, Options& options, bool& help, bool silent)
      : argc_(argc), argv_(argv), options_(options), help_(help), silent_(silent) {}

  int run() {
    help_ = false;
    for (at_ = 1; at_ < argc_; ++at_) {
      if (const int status = parse_one(argv_[at_]); status != 0) return status;
      if (help_) return 0;
    }
    if (options_.data.empty()) return usage("--data DATA is missing: a folder of step_0, step_1, ..., or \"synthetic\"");
    return 0;
  }

 private:
  int parse_one(std::string_view argument) {
    if (argument == "--help" || argument == "-h") {
      help_ = true;
      if (!silent_) std::printf("usage: %s --data DATA [flags]\n%s", argv_[0], help_text);
      return 0;
    }
    if (argument == "--quiet" || argument == "-q") {
      options_.quiet = true;
      return 0;
    }
    const size_t equals = argument.find('=');
    const std::string name(argument.substr(0, equals));
    for (const std::string_view each : refused) {
      if (name == each) return usage(name + " is not in this version: checkpoints cannot be written or read");
    }
    for (const Flag& flag : flags) {
      if (name != flag.name) continue;
      const bool is_last = at_ + 1 == argc_;
      if (equals == std::string_view::npos && is_last) return usage(name + " needs " + flag.wanted);
      const char* value = equals == std::string_view::npos ? argv_[++at_] : argv_[at_] + equals + 1;
      if (!flag.set(options_, value)) return usage(name + " needs " + flag.wanted + ", not '" + value + "'");
      return 0;
    }
    return usage("unknown argument '" + std::string(argument) + "'");
  }

  int usage(const std::string& message) const {
    if (!silent_) std::fprintf(stderr, "%s: %s; see --help\n", argv_[0], message.c_str());
    return 2;
  }

  int argc_;
  const char* const* argv_;
  Options& options_;
  bool& help_;
  bool silent_;
  int at_ = 1;
};

}  // namespace

int parse_options(int argc, const char* const* argv, Options& options, bool& help, bool silent) {
  return Parser(argc, argv, options, help, silent).run();
}

}  // namespace sscc::rt
