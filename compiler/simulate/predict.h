// Predicted time of a step: every rank's program on the devices and links of a cluster, instruction by instruction (roofline per kernel, latency and bandwidth per
// transfer), streams running side by side as the program lets them. Good for comparing plans, not for promising seconds.
#pragma once

#include "compiler/ir/cluster.h"
#include "compiler/program/program.h"

namespace sscc {

struct Prediction {
  std::string device;  // what times are of: the cluster's name
  double makespan_seconds = 0;
  double bubble_fraction = 0;  // 1 - busy / (ranks x makespan); busy: some stream works
  struct Bar {
    int32_t rank, segment, micro_batch;
    double begin, end;
    bool of_kernels;  // else of transfers, where the slot has nothing else
  };
  std::vector<Bar> bars;  // one for each slot of each rank, if anything happens in it
};
Prediction predict(const Programs& programs, const Cluster& cluster = {});

}  // namespace sscc
