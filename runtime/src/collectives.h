// Collectives made of sends and receives, the same for every transport: a join of n values is made element by element in group order, so the bits
// do not depend on what carries them.
//
// Bytes that travel, all ranks together: all_reduce 2(n-1)B, all_gather and reduce_scatter (n-1) times the whole, all_to_all (n-1) times what one
// rank holds, broadcast (n-1) times the value.
#pragma once

#include "call.h"
#include "sscc_rt/rank.h"

namespace sscc::rt {

class Collectives : public Transport {
 public:
  void all_reduce(std::span<const int32_t> group, void* data, int64_t elements, DType dtype, Join join, int64_t tag) final;
  void all_gather(std::span<const int32_t> group, void* all, const void* mine, size_t bytes_each, int64_t tag) final;
  void reduce_scatter(std::span<const int32_t> group, void* mine, const void* all, int64_t elements_each, DType dtype, Join join, int64_t tag) final;
  void all_to_all(std::span<const int32_t> group, void* received, const void* given, size_t bytes_each, int64_t tag) final;
  void broadcast(std::span<const int32_t> group, size_t root, void* data, size_t bytes, int64_t tag) final;
  void begin_call() final { is_collecting_ = true; }
  void end_call() final;
  void barrier() final;
  void at(const char* segment, const char* origin, int micro_batch) final;

 protected:
  // "rank 2 waited 30 s for rank 0 in receive of 'X' (segment 1F, micro-batch 3)"
  std::string waited(double seconds, int peer) const;
  // "receive of 'X' (segment 1F, micro-batch 3)"
  std::string place() const;

 private:
  // Joins, in group order, what the members have for one range of elements; mine is at `own`. The result replaces it at `result`.
  void join_from(std::span<const int32_t> group, size_t me, const std::byte* own, std::byte* result, int64_t elements, DType dtype, Join join,
                 int64_t tag);
  size_t index_in(std::span<const int32_t> group) const;

  const char* segment_ = "";
  const char* origin_ = "";
  int micro_batch_ = 0;
  const char* operation_ = "receive";
  std::vector<std::byte> received_;
  CollectiveCall call_;  // that is being put together
  bool is_collecting_ = false;
};

}  // namespace sscc::rt
