// Predicted time of a step: every rank's program on a reference device, instruction by instruction (roofline per kernel, latency and bandwidth per
// transfer), streams running side by side as the program lets them. Good for comparing plans, not for promising seconds.
#pragma once

#include "compiler/program/program.h"

namespace sscc {

struct Machine {
  double flops_per_second = 1e12;
  double memory_bytes_per_second = 2e11;
  double link_bytes_per_second = 2e10;
  double link_latency_seconds = 1e-5;
  double kernel_seconds = 2e-6;  // launch
};

struct Prediction {
  double makespan_seconds = 0;
  double bubble_fraction = 0;  // 1 - busy / (ranks x makespan); busy: some stream works
  struct Bar {
    int32_t rank, segment, micro_batch;
    double begin, end;
  };
  std::vector<Bar> bars;  // one for each slot of each rank
};
Prediction predict(const Programs& programs, const Machine& machine = {});

}  // namespace sscc
