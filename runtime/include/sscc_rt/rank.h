// One rank of a distributed step: what an emitted program (or the interpreter) describes, and what the runtime does for it.
//
// A program is data (buffers, schedule, constants) plus one function a segment. `run_rank` owns everything else: the arena, weights and data
// (each rank reads only its regions), the loop over steps and slots, the log, captured outputs and gradients, final parameters, counters,
// timeouts. `Rank` is what a segment's code sees.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "sscc_rt/transport.h"
#include "sscc_rt/types.h"

namespace sscc::rt {

// -- failures -------------------------------------------------------------------------------------------------------------------------------------
// run_rank turns them into messages and the exit statuses of the contract; any other exception is a bug (70).

// Data or weights are not what the program needs (1). what() names the file, what was expected and what was found.
struct DataError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// A file cannot be opened or written, memory cannot be had (3).
struct EnvironmentFailure : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// A peer failed or did not answer within the timeout (4). what(): "rank 2 waited 30 s for rank 0 in receive of '/layers.2/Add_output_0' (segment 1F,
// micro-batch 3)".
struct PeerFailure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// -- the description of a program -----------------------------------------------------------------------------------------------------------------

struct Interval {
  int64_t begin = 0, end = 0;
};                                                  // half-open
using Region = std::vector<std::vector<Interval>>;  // for each dimension sorted disjoint intervals, in coordinates of the whole tensor

struct FileTensor {
  std::string name;
  DType dtype;
  std::vector<int64_t> dims;
  bool trainable = false;
  int64_t upper_bound = 2;  // synthetic integers are in [0, upper_bound)
};

// The model's tensors as files hold them; the same on all ranks.
struct ModelInfo {
  std::string name;
  bool training = false;
  int64_t tokens_per_step = 0;
  int64_t flops_per_step = 0;    // of the model: what its division repeats does not count
  DType precision = DType::f32;  // of activations
  std::vector<FileTensor> parameters, constants, inputs, labels, outputs;
};

enum class Source : uint8_t { none, parameter, constant, state, input };
struct BufferInfo {
  const char* name;
  DType dtype;
  int64_t elements;        // of one copy
  int64_t copies;          // micro-batch m lies in copy m mod copies
  int64_t offset, stride;  // bytes: copy k at offset + k * stride
  Source source;
  const char* tensor;  // parameter, constant, input or label; state: "NAME.moment1"
  int32_t regions;     // index of the region of copy 0 in Constants::regions (copy m: + m); -1: not loaded
};

struct Constants {
  std::vector<int32_t> peers;
  std::vector<std::vector<int32_t>> groups;
  std::vector<Region> regions;
  std::vector<int64_t> offsets;
};

struct Slot {
  int32_t segment, micro_batch;
};

class Rank;
struct SegmentInfo {
  std::string name;
  std::function<void(Rank&, int micro_batch)> run;
  bool continues_group = false;  // begins with receives of the group that ends the slot before (DataPlane::end_group)
};

struct ProgramInfo {
  int64_t arena_bytes = 0;
  int64_t host_bytes = 0;  // on the host: offsets from the next multiple of 64 on
  int64_t host_begin() const { return (arena_bytes + 63) / 64 * 64; }
  int64_t micro_batches = 1;
  std::vector<BufferInfo> buffers;
  std::vector<SegmentInfo> segments;
  std::vector<Slot> schedule;
};

// -- what segment code sees -----------------------------------------------------------------------------------------------------------------------

class Processor;  // what runs the kernels, and holds the arena
class Trace;      // of a run that writes one

class Rank {
 public:
  Rank(int number, const ProgramInfo& program, const Constants& constants, Processor& processor, DataPlane& data);

  // A view of buffer `buffer`, of the copy that micro-batch `micro_batch` uses. offset in elements.
  Tensor view(int32_t buffer, int64_t offset, std::initializer_list<int64_t> dims, std::initializer_list<int64_t> strides, int micro_batch) const;
  Tensor view(int32_t buffer, int64_t offset, std::span<const int64_t> dims, std::span<const int64_t> strides, int micro_batch) const;

  std::byte* memory_at(int64_t offset) const {
    return offset < program_.host_begin() ? arena_ + offset : host_memory_ + (offset - program_.host_begin());
  }
  int64_t offset_constant(int32_t index) const { return constants_.offsets[static_cast<size_t>(index)]; }
  int64_t step() const { return step_; }  // t of `update`

  // The instruction that runs now: for messages and traces.
  void at(const char* origin, int micro_batch);

  // Communication; views are contiguous. `transfer` is unique among all transfers of the programs; the micro-batch makes the tag.
  void send(const Tensor& data, int32_t peer, int32_t transfer, int micro_batch);
  void receive(const Tensor& data, int32_t peer, int32_t transfer, int micro_batch);
  void all_reduce(const Tensor& data, int32_t group, Join join, int32_t transfer, int micro_batch);
  void all_gather(const Tensor& all, const Tensor& mine, int32_t group, int32_t transfer, int micro_batch);
  void reduce_scatter(const Tensor& mine, const Tensor& all, int32_t group, Join join, int32_t transfer, int micro_batch);
  void all_to_all(const Tensor& received, const Tensor& given, int32_t group, int32_t transfer, int micro_batch);
  void broadcast(const Tensor& data, int32_t group, int32_t root, int32_t transfer, int micro_batch);  // root: a member's place in the group
  // The collectives between the two are one call, made at its end; all are of one kind, group, type and join.
  void begin_call() { data_.begin_call(); }
  void end_call();
  // All sends so far have left their buffers. Emitted before a buffer that a send reads is written again, and at the end of a step.
  void wait_sends() { data_.wait_sends(); }
  // The order of what is enqueued on a device (DataPlane).
  void end_group() { data_.end_group(); }
  void mark(Event event, Stream stream, int kept = 1) { data_.mark(event, stream, kept); }
  void wait(Stream stream, Event event, int age = 0) { data_.wait(stream, event, age); }

  // Hand a value to the host (does nothing where nobody asked for it).
  void capture_loss(const Tensor& scalar);
  void capture_grad_norm(const Tensor& scalar);
  void capture_output(const char* tensor, const Tensor& value, int32_t regions, int micro_batch);                // region index regions + micro_batch
  void capture_gradient(const char* parameter, const Tensor& value, int32_t regions, const Tensor& scale = {});  // `scale`: it is of a scaled loss

 private:
  friend class Run;
  struct Captures;
  template <class Call>
  void communicate(const Call& call);
  // Messages and collectives are numbered apart: a message back may have the number of a collective between the same ranks.
  int64_t tag(int32_t transfer, int micro_batch, bool is_collective = false) const {
    return (transfer * program_.micro_batches + micro_batch) * 2 + is_collective;
  }
  void count_collective(std::span<const int32_t> group, int64_t bytes);

  int number_;
  std::byte *arena_, *host_memory_;
  const ProgramInfo& program_;
  const Constants& constants_;
  Processor& processor_;
  DataPlane& data_;
  Trace* trace_ = nullptr;
  int64_t step_ = 1;
  int64_t bytes_sent_ = 0;  // in this step, by the contract's formulas
  const char* segment_ = "";
  const char* origin_ = "";
  int micro_batch_ = 0;
  std::shared_ptr<Captures> captures_;
};

// -- running --------------------------------------------------------------------------------------------------------------------------------------

// The flags of a rank program (PLAN_LANGUAGE section 4).
struct Options {
  std::string data;                               // folder, or "synthetic"
  int64_t steps = 0;                              // 0: as many as the data has; 1 if it is synthetic
  std::string log, outputs, grads, final, trace;  // empty: not wanted
  double timeout_seconds = 300;
  uint64_t seed = 0;
  bool quiet = false;
};

// Parses argv of a rank program; returns an exit status (0: go on; 2: usage, message printed). --help prints and sets `help`. With `silent`
// nothing is printed (all ranks but the first).
int parse_options(int argc, const char* const* argv, Options& options, bool& help, bool silent = false);

// Reads the initial value of a parameter's or constant's region; implemented over weights/*.safetensors by programs, over the ONNX file by
// `sscc run`. Writes the elements of the region in row-major order. Throws DataError. May be called by several threads at once.
using WeightReader = std::function<void(const std::string& tensor, const Region& region, void* destination)>;
// Over all *.safetensors of a folder, which are opened at the first read; that throws DataError if any tensor of the model is missing or of another
// type or shape. `model` outlives the reader.
WeightReader read_weights_from_folder(const std::string& folder, const ModelInfo& model);

// Runs all steps on this rank. Returns the exit status of the contract: 0, 1 data or weights refused, 3 environment, 4 a peer failed or timed out,
// 70 a bug. Messages go to stderr; progress, a line a step, from rank 0.
// This one is for processors; a GPU's is in src/run_rank.h.
int run_rank(const ModelInfo& model, const ProgramInfo& program, const Constants& constants, Transport& transport, const WeightReader& weights,
             const Options& options);

// What one rank runs.
struct LocalRank {
  const ProgramInfo* program = nullptr;
  const Constants* constants = nullptr;
};
// All ranks as threads of this process. The exit status of the rank that failed first, if one did.
int run_local(const ModelInfo& model, std::span<const LocalRank> ranks, const WeightReader& weights, const Options& options);

}  // namespace sscc::rt
