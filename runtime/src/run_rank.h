// The run of one rank, whatever it runs on.
#pragma once

#include <functional>
#include <memory>

#include "processor.h"
#include "sscc_rt/rank.h"

namespace sscc::rt {

struct Platform {
  ControlPlane& control;
  DataPlane& data;
  std::function<std::unique_ptr<Processor>(int64_t arena_bytes, int64_t host_bytes)> make_processor;
  // Where taking things down would wait for peers that never come: ends the process after a failure.
  std::function<void(int status)> leave = nullptr;
  double flops_per_second = 0;  // at most, of one rank; 0: not known
};

// As run_rank of sscc_rt/rank.h.
int run_rank(const ModelInfo& model, const ProgramInfo& program, const Constants& constants, const Platform& platform, const WeightReader& weights,
             const Options& options);

}  // namespace sscc::rt
