// A collective call of several tensors (a bucket): they travel side by side, as one message.
#pragma once

#include <vector>

#include "sscc_rt/transport.h"

namespace sscc::rt {

class CollectiveCall {
 public:
  enum class Kind { all_reduce, all_gather, reduce_scatter, all_to_all };
  // What all tensors of a call have in common. The first one's tag is the call's.
  struct Terms {
    Kind kind = Kind::all_reduce;
    std::span<const int32_t> group;
    DType dtype = DType::f32;  // of a join
    Join join = Join::sum;
    int64_t tag = 0;
  };
  // Of one tensor; all_reduce: the same place twice.
  struct Operands {
    void* out = nullptr;
    size_t out_bytes = 0;
    const void* in = nullptr;
    size_t in_bytes = 0;
  };

  void add(const Terms& terms, const Operands& operands);
  // Makes the call and forgets its tensors.
  void run(DataPlane& data);

 private:
  void exchange(DataPlane& data, std::byte* out, const std::byte* in, size_t in_bytes) const;

  Terms terms_;
  std::vector<Operands> operands_;
  std::vector<std::byte> packed_, result_;  // kept from call to call
};

}  // namespace sscc::rt
