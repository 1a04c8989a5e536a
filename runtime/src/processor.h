// What a rank's program runs on: one block of memory, the arena, another on the host, and whatever runs kernels over them. The host reads and writes
// both through this interface only, since it may be a GPU's (device/cuda_processor.cpp), which runs behind the host; the host's own is always up to date.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

namespace sscc::rt {

class Processor {
 public:
  virtual ~Processor() = default;

  // Filled with a pattern before the run, so that what was never written shows.
  virtual std::byte* arena() const = 0;
  // Memory of the host that kernels reach, too: for what plans put on the host. Null: the program wants none.
  virtual std::byte* host_memory() const = 0;

  // Write `bytes` bytes at `at`, a place in either: `write` gets the place where it has to put them. `load`: before the first step. `stage`: the
  // next step's inputs, between two steps; steps that were given before still see the old ones.
  using Write = std::function<void(std::byte* destination)>;
  virtual void load(std::byte* at, size_t bytes, const Write& write) = 0;
  virtual void stage(std::byte* at, size_t bytes, const Write& write) = 0;

  // The bytes at `at` as the kernels so far leave them: the host has them after wait(), until the first fetch after that.
  virtual const std::byte* fetch(const std::byte* at, size_t bytes) = 0;

  // Gives a step's work: `give` gives it, piece by piece. `repeats`: from this step on all have the same work, so that a processor may keep it and need
  // not ask for it again; places that fetch() returned for it then hold each step's bytes.
  // wait() returns when it is done, with the seconds that it took, and tells what it finds wrong (DataError, an index that a kernel met). It may be called
  // without a step, for what was fetched.
  virtual void give_step(bool repeats, const std::function<void()>& give) = 0;
  virtual double wait() = 0;
  // What kernels get as the number of step `t`, counted from 1: a processor that counts steps itself tells them so.
  virtual int64_t number_for_kernels(int64_t t) const { return t; }

  // One more than the position of the highest byte that was ever found changed; after wait().
  virtual int64_t highest_touched() = 0;

  // A point in the step's work, here in what is given, for traces; numbered from 0. When that was, after wait(): seconds from the step's begin.
  virtual int mark() = 0;
  virtual double seconds_at(int mark) const = 0;

  // The instruction that is given next, for tools that record time.
  virtual void at(const char* /*origin*/) {}
};

// The pattern: as f32 and f64 a NaN, as an index far outside, and no byte of a small integer of either sign at its end.
inline constexpr uint32_t poison = 0x7ffadbad;

// The processor is its own host. Throws EnvironmentFailure.
std::unique_ptr<Processor> make_host_processor(int64_t arena_bytes, int64_t host_bytes);

}  // namespace sscc::rt
