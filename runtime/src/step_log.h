// What rank 0 says about each step: a line of the log file and a line on the terminal.
#pragma once

#include <chrono>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "sscc_rt/rank.h"

namespace sscc::rt {

// One rank's figures of one step.
struct StepReport {
  std::optional<double> loss, grad_norm;  // where the rank has them
  double seconds = 0;
  int64_t peak_memory_bytes = 0, bytes_sent = 0;
};

class StepLog {
 public:
  // Opens the log file. `flops_per_second`: what all ranks together could do; 0: not known. Throws EnvironmentFailure.
  StepLog(const ModelInfo& model, const Options& options, int64_t steps, double flops_per_second);
  StepLog(const StepLog&) = delete;
  StepLog& operator=(const StepLog&) = delete;
  ~StepLog();

  // `reports`: one a rank.
  void write(int64_t step, const std::vector<StepReport>& reports);

 private:
  using Clock = std::chrono::steady_clock;
  void write_console(int64_t step, const std::optional<double>& loss, const std::optional<double>& grad_norm, double seconds);

  const ModelInfo& model_;
  std::string path_;
  std::FILE* file_ = nullptr;
  int64_t steps_;
  double flops_per_second_;
  bool quiet_, on_terminal_, bar_drawn_ = false;
  Clock::time_point begin_ = Clock::now(), last_line_ = begin_;
};

}  // namespace sscc::rt
