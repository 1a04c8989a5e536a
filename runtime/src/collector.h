// Whole tensors put together on rank 0 from the regions that ranks have. Uses the control plane; counts as no traffic of the program.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "sscc_rt/rank.h"

namespace sscc::rt {

// A region of a tensor, packed.
struct Block {
  const Region* region = nullptr;
  std::span<const std::byte> data;
};

class Collector {
 public:
  explicit Collector(ControlPlane& control) : control_(control) {}

  // Every rank calls it, in the same order of tensors, with what it has; several may have the same region, with equal values. Rank 0 gets the whole
  // tensor, zero where nobody has anything; the others an empty one.
  struct Whole {
    std::vector<std::byte> data;
    std::vector<bool> covered;  // by element
    bool is_complete() const;
    bool is_empty() const;  // nobody has any of it
  };
  Whole collect(const FileTensor& tensor, std::span<const Block> mine);

 private:
  ControlPlane& control_;
  std::string place_;
};

}  // namespace sscc::rt
