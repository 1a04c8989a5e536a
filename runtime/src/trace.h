// When a rank did what (--trace): a span for each operator of each slot, as it ran, and for each step, in the format of Perfetto and chrome://tracing.
// On a GPU a span is the kernels' stream's: it begins when what was given before has ended, and takes in what the stream waits for.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "processor.h"
#include "sscc_rt/rank.h"

namespace sscc::rt {

class Trace {
 public:
  // All ranks at once: they compare their clocks. Time counts from here, by that of rank 0.
  explicit Trace(ControlPlane& control);

  // The step is about to be given; what is given from here on, until the next of these; an empty origin: nothing.
  void begin_step(int64_t step);
  void at(Processor& processor, const char* segment, const char* origin, int micro_batch);
  // After the step's wait().
  void end_step(const Processor& processor, double seconds);

  // The spans of all ranks, in one file of rank 0; all ranks call it. Throws EnvironmentFailure there.
  void write(const std::string& path);

 private:
  using Clock = std::chrono::steady_clock;
  struct Span {
    int32_t name = 0, segment = 0;  // of names_
    int32_t micro_batch = -1;
    int64_t step = 0;
    double begin = 0, end = 0;  // seconds
  };
  struct Given {
    const char *segment, *origin;
    int micro_batch = 0;
    int mark = 0;
  };

  double now() const { return std::chrono::duration<double>(Clock::now() - begin_).count() + ahead_; }
  int32_t number_of(const std::string& name);

  ControlPlane& control_;
  const Clock::time_point begin_ = Clock::now();
  double ahead_ = 0;  // how far rank 0's clock is ahead of this one's
  int64_t step_ = 0;
  double step_begin_ = 0;
  std::vector<Given> given_;  // in this step
  std::vector<Span> spans_;
  std::vector<std::string> names_;
  std::map<std::string, int32_t> numbers_;
};

}  // namespace sscc::rt
