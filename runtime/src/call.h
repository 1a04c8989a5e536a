// A collective call of one tensor, or of several (a bucket): these travel side by side, as one message.
#pragma once

#include <vector>

#include "sscc_rt/rank.h"

namespace sscc::rt {

class CollectiveCall {
 public:
  struct Operands {
    Tensor out, in;  // contiguous; all_reduce: the same
  };
  // What all tensors of a call have in common. The first one's tag is the call's.
  struct Terms {
    CollectiveKind kind = CollectiveKind::all_reduce;
    std::span<const int32_t> group;
    Join join = Join::sum;
    int64_t tag = 0;
  };

  void add(const Terms& terms, const Operands& operands);
  // Makes the call and forgets its tensors.
  void run(Transport& transport);

 private:
  // Each operand in `parts` parts of equal size: part 0 of all of them, part 1 of all of them, ...
  static void pack(const std::vector<Operands>& operands, size_t parts, std::vector<std::byte>& to);
  static void unpack(const std::vector<Operands>& operands, size_t parts, const std::vector<std::byte>& from);
  void exchange(Transport& transport, std::byte* out, const std::byte* in, size_t in_bytes) const;

  Terms terms_;
  DType dtype_ = DType::f32;
  std::vector<Operands> operands_;
  std::vector<std::byte> packed_, result_;  // kept from call to call
};

}  // namespace sscc::rt
