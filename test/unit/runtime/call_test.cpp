// Collectives of several tensors in one call against the same collectives one by one.
#include <catch2/catch.hpp>
#include <functional>
#include <numeric>
#include <thread>

#include "sscc_rt/transport.h"

namespace sscc::rt {
namespace {

constexpr int ranks = 3;
const std::vector<int32_t> group = {2, 0, 1};

using Memory = std::vector<float>;
// Of `length` elements; what is gathered, or scattered, lies behind them.
using Collective = std::function<void(DataPlane&, float* data, int64_t length, int64_t tag)>;

// What is in memory on every rank after `work`, which finds numbers there that differ from rank to rank.
std::vector<Memory> after(const std::function<void(DataPlane&, Memory&)>& work) {
  const auto transports = make_thread_transports(ranks, 10);
  std::vector<Memory> memory(ranks, Memory(128));
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    std::iota(memory[r].begin(), memory[r].end(), static_cast<float>(100 * r));
    threads.emplace_back([&, r] { work(*transports[r], memory[r]); });
  }
  for (std::thread& thread : threads) thread.join();
  return memory;
}

void compare(const Collective& collective) {
  const auto both = [&](DataPlane& data, Memory& memory) {
    collective(data, &memory[0], 6, 1);
    collective(data, &memory[64], 3, 2);
  };
  const auto one_by_one = after(both);
  const auto together = after([&](DataPlane& data, Memory& memory) {
    data.begin_call();
    both(data, memory);
    data.end_call();
  });
  CHECK(together == one_by_one);
  CHECK(together != after([](DataPlane&, Memory&) {}));
}

size_t bytes(int64_t elements) { return static_cast<size_t>(elements) * sizeof(float); }

}  // namespace

TEST_CASE("several tensors are joined in one call") {
  compare([](DataPlane& data, float* at, int64_t length, int64_t tag) { data.all_reduce(group, at, length, DType::f32, Join::sum, tag); });
}

TEST_CASE("several tensors are gathered in one call") {
  compare([](DataPlane& data, float* at, int64_t length, int64_t tag) { data.all_gather(group, at + 8, at, bytes(length), tag); });
}

TEST_CASE("several tensors are scattered in one call") {
  compare(
      [](DataPlane& data, float* at, int64_t length, int64_t tag) { data.reduce_scatter(group, at, at + 8, length, DType::f32, Join::sum, tag); });
}

TEST_CASE("blocks of several tensors are exchanged in one call") {
  compare([](DataPlane& data, float* at, int64_t length, int64_t tag) { data.all_to_all(group, at + 24, at, bytes(length), tag); });
}

}  // namespace sscc::rt
