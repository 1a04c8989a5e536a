#include "step_log.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

namespace sscc::rt {
namespace {

constexpr int64_t lines_at_first = 10;                   // steps that each have a line where there is no terminal;
constexpr auto between_lines = std::chrono::seconds(1);  // later ones are at least this far apart
constexpr auto long_work = std::chrono::seconds(2);      // a run that takes longer has a bar
constexpr int bar_cells = 40;

std::string number(double value, const char* format) {
  if (!std::isfinite(value)) return "null";  // JSON has no other word
  char text[40];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

template <class Member>
std::string list(const std::vector<StepReport>& reports, Member member) {
  std::string text = "[";
  for (const StepReport& report : reports) text += (text.size() > 1 ? ", " : "") + std::to_string(report.*member);
  return text + "]";
}

// The value of the first rank that has it.
std::optional<double> first(const std::vector<StepReport>& reports, std::optional<double> StepReport::*member) {
  for (const StepReport& report : reports) {
    if (report.*member) return report.*member;
  }
  return std::nullopt;
}

}  // namespace

StepLog::StepLog(const ModelInfo& model, const Options& options, int64_t steps, double flops_per_second)
    : model_(model),
      path_(options.log),
      steps_(steps),
      flops_per_second_(flops_per_second),
      quiet_(options.quiet),
      on_terminal_(isatty(STDERR_FILENO) == 1) {
  if (path_.empty()) return;
  file_ = std::fopen(path_.c_str(), "we");
  if (!file_) throw EnvironmentFailure("cannot create the log '" + path_ + "': " + std::strerror(errno));
}

StepLog::~StepLog() {
  if (bar_drawn_) std::fputs("\r\033[K", stderr);
  if (file_) std::fclose(file_);
}

void StepLog::write(int64_t step, const std::vector<StepReport>& reports) {
  const std::optional<double> loss = first(reports, &StepReport::loss), grad_norm = first(reports, &StepReport::grad_norm);
  double seconds = 0;
  for (const StepReport& report : reports) seconds = std::max(seconds, report.seconds);
  if (!quiet_) write_console(step, loss, grad_norm, seconds);
  if (!file_) return;
  std::string line = "{\"step\": " + std::to_string(step);
  if (loss) line += ", \"loss\": " + number(*loss, "%.17g");
  if (grad_norm) line += ", \"grad_norm\": " + number(*grad_norm, "%.17g");
  line += ", \"seconds\": " + number(seconds, "%.9g");
  line += ", \"tokens_per_second\": " + number(seconds > 0 ? static_cast<double>(model_.tokens_per_step) / seconds : 0, "%.6g");
  const double flops = seconds > 0 ? static_cast<double>(model_.flops_per_step) / seconds : 0;
  line += ", \"tflop_per_second\": " + number(flops * 1e-12, "%.6g");
  if (flops_per_second_ > 0) line += ", \"mfu\": " + number(flops / flops_per_second_, "%.4g");
  line += ", \"peak_memory_bytes\": " + list(reports, &StepReport::peak_memory_bytes);
  line += ", \"bytes_sent\": " + list(reports, &StepReport::bytes_sent) + "}\n";
  if (std::fputs(line.c_str(), file_) < 0 || std::fflush(file_) != 0)
    throw EnvironmentFailure("cannot write the log '" + path_ + "': " + std::strerror(errno));
}

void StepLog::write_console(int64_t step, const std::optional<double>& loss, const std::optional<double>& grad_norm, double seconds) {
  const Clock::time_point now = Clock::now();
  const bool is_last = step + 1 == steps_;
  if (!on_terminal_ && step >= lines_at_first && !is_last && now - last_line_ < between_lines) return;
  last_line_ = now;
  std::string text = bar_drawn_ ? "\r\033[K" : "";
  const auto append = [&](const char* format, double value) {
    char word[64];
    std::snprintf(word, sizeof word, format, value);
    text += word;
  };
  text += "step " + std::to_string(step);
  if (loss) append("  loss %.6f", *loss);
  if (grad_norm) append("  grad norm %.6g", *grad_norm);
  append("  %.3f ms", seconds * 1e3);
  if (model_.tokens_per_step > 0 && seconds > 0) append("  %.0f tokens/s", static_cast<double>(model_.tokens_per_step) / seconds);
  text += "\n";
  bar_drawn_ = on_terminal_ && !is_last && now - begin_ > long_work;
  if (bar_drawn_) {
    const double done = static_cast<double>(step + 1) / static_cast<double>(steps_);
    const auto full = static_cast<size_t>(done * bar_cells);
    text += "[" + std::string(full, '#') + std::string(bar_cells - full, '.') + "] " + std::to_string(step + 1) + "/" + std::to_string(steps_);
    append("  %.0f s left", std::chrono::duration<double>(now - begin_).count() * (1 / done - 1));
  }
  std::fputs(text.c_str(), stderr);
}

}  // namespace sscc::rt
