// The machine that programs run on, as far as the compiler's costs need it: what a device does in a second, and how fast devices reach each other.
// From a cluster file (docs/cluster.md); without one, the reference device.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "compiler/ir/module.h"
#include "llvm/ADT/ArrayRef.h"

namespace sscc {

// What one device sends over it, in each direction.
struct Link {
  double bytes_per_second = 2e10;
  double latency_seconds = 1e-5;
  // So many messages of so many bytes, one after another: the alpha-beta model.
  double seconds(double messages, double bytes_each) const { return messages * (latency_seconds + bytes_each / bytes_per_second); }
  auto operator<=>(const Link&) const = default;
};

struct Cluster {
  std::string file, text;  // for locations and hashes; empty: the reference
  std::string name = "the reference device";
  struct Device {
    double flops_per_second = 1e12;                              // f32
    double bf16_flops_per_second = 0, f16_flops_per_second = 0;  // 0: as f32
    double memory_bytes_per_second = 2e11;
    double kernel_seconds = 2e-6;  // launch
    int64_t memory_bytes = 0;      // 0: not known

    double flops_per_second_in(DType precision) const {
      const double small = precision == DType::bf16 ? bf16_flops_per_second : precision == DType::f16 ? f16_flops_per_second : 0;
      return small > 0 ? small : flops_per_second;
    }
  } device;
  // Groups of devices that reach each other over a link: a node, then nodes, ...
  struct Level {
    std::string name;
    Link link;
    std::vector<int32_t> group;  // by device; empty: all are one group
  };
  std::vector<Level> levels = {Level()};  // from inside out; of the last, all devices are one group
  int64_t devices = 0;                    // 0: as many as a plan wants
  Location devices_where, memory_where;

  bool is_given() const { return !file.empty(); }
  bool is_flat() const { return levels.size() == 1; }
  // The innermost level of which one group has all these devices: its link is the slowest between them.
  size_t level_of(llvm::ArrayRef<int32_t> devices) const;
  const Link& link_of(llvm::ArrayRef<int32_t> devices) const { return levels[level_of(devices)].link; }
};

}  // namespace sscc
