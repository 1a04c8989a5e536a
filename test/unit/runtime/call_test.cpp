// Collectives of several tensors in one call against the same collectives one by one.
#include <catch2/catch.hpp>
#include <functional>
#include <numeric>
#include <thread>

#include "sscc_rt/rank.h"

namespace sscc::rt {
namespace {

constexpr int ranks = 3;

Tensor vector_at(std::vector<float>& data, size_t begin, int64_t length) {
  Tensor tensor;
  tensor.data = data.data() + begin;
  tensor.dtype = DType::f32;
  tensor.rank = 1;
  tensor.dims[0] = length;
  tensor.strides[0] = 1;
  return tensor;
}

// What is in memory on every rank after `work`, which finds numbers there that differ from rank to rank.
std::vector<std::vector<float>> after(const std::function<void(Rank&, std::vector<float>&)>& work) {
  const ProgramInfo program;
  const Constants constants{{}, {{2, 0, 1}}, {}, {}};
  auto transports = make_thread_transports(ranks, 10);
  std::vector<std::vector<float>> memory(ranks, std::vector<float>(64));
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    std::iota(memory[r].begin(), memory[r].end(), static_cast<float>(100 * r));
    threads.emplace_back([&, r] {
      Rank rank(nullptr, program, constants, *transports[r]);
      work(rank, memory[r]);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return memory;
}

using Collective = std::function<void(Rank&, std::vector<float>&, size_t begin, int64_t length, int transfer)>;

void compare(const Collective& collective) {
  const auto both = [&](Rank& rank, std::vector<float>& memory) {
    collective(rank, memory, 0, 6, 1);
    collective(rank, memory, 32, 3, 2);
  };
  const auto one_by_one = after(both);
  const auto together = after([&](Rank& rank, std::vector<float>& memory) {
    rank.begin_call();
    both(rank, memory);
    rank.end_call();
  });
  CHECK(together == one_by_one);
  CHECK(together != after([](Rank&, std::vector<float>&) {}));
}

}  // namespace

TEST_CASE("several tensors are joined in one call") {
  compare([](Rank& rank, std::vector<float>& memory, size_t begin, int64_t length, int transfer) {
    rank.all_reduce(vector_at(memory, begin, length), 0, Join::sum, transfer, 0);
  });
}

TEST_CASE("several tensors are gathered in one call") {
  compare([](Rank& rank, std::vector<float>& memory, size_t begin, int64_t length, int transfer) {
    rank.all_gather(vector_at(memory, begin + 8, ranks * length), vector_at(memory, begin, length), 0, transfer, 0);
  });
}

TEST_CASE("several tensors are scattered in one call") {
  compare([](Rank& rank, std::vector<float>& memory, size_t begin, int64_t length, int transfer) {
    rank.reduce_scatter(vector_at(memory, begin, length), vector_at(memory, begin + 8, ranks * length), 0, Join::sum, transfer, 0);
  });
}

TEST_CASE("blocks of several tensors are exchanged in one call") {
  compare([](Rank& rank, std::vector<float>& memory, size_t begin, int64_t length, int transfer) {
    rank.all_to_all(vector_at(memory, begin + 8, ranks * length), vector_at(memory, begin, ranks * length), 0, transfer, 0);
  });
}

}  // namespace sscc::rt
