// The run of one rank. Between two steps all ranks meet once: each tells rank 0 the figures of the step that ended and whether it is ready for the
// next one (its data could be read, ...); rank 0 writes the log and tells all whether to go on. So a file that one rank cannot read ends all ranks,
// with one message and one exit status.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <new>

#include "captures.h"
#include "collector.h"
#include "data_source.h"
#include "message.h"
#include "processor.h"
#include "run_rank.h"
#include "sscc_rt/tensor_files.h"
#include "step_log.h"
#include "trace.h"

namespace sscc::rt {
namespace {

constexpr int data_refused = 1, usage = 2, environment_failed = 3, peer_failed = 4, bug = 70;

// How a rank, or all of them, stand: to go on, or to leave with this status.
struct Outcome {
  int32_t status = 0;
  std::string message;
  bool is_good() const { return status == 0; }
};

// Does something that may fail for reasons outside of the program.
template <class Work>
Outcome attempt(const Work& work) {
  try {
    work();
    return {};
  } catch (const DataError& error) { return {data_refused, error.what()}; } catch (const EnvironmentFailure& error) {
    return {environment_failed, error.what()};
  } catch (const std::filesystem::filesystem_error& error) {
    return {environment_failed, "cannot create '" + error.path1().string() + "': " + error.code().message()};
  } catch (const std::bad_alloc&) { return {environment_failed, "not enough memory"}; }
}

void create_folder_of(const std::string& file) {
  const std::filesystem::path folder = std::filesystem::path(file).parent_path();
  if (!file.empty() && !folder.empty()) std::filesystem::create_directories(folder);
}

}  // namespace

class Run {
 public:
  Run(const ModelInfo& model, const ProgramInfo& program, const Constants& constants, const Platform& platform, const WeightReader& weights,
      const Options& options)
      : model_(model),
        program_(program),
        constants_(constants),
        platform_(platform),
        control_(platform.control),
        weights_(weights),
        options_(options),
        collector_(platform.control) {}

  int run() {
    Outcome ready = open();
    if (ready.is_good()) ready = attempt([&] { load_inputs(0); });
    StepReport report;
    for (int64_t step = 0;; ++step) {
      place_ = step == 0 ? "the start of the run" : "the report of step " + std::to_string(step - 1);
      const Verdict verdict = meet(step - 1, report, ready);
      if (verdict.status != 0) return verdict.status;
      steps_ = verdict.steps;
      if (step == steps_) break;
      if (step == 0 && !options_.trace.empty()) {  // all are there
        trace_ = std::make_unique<Trace>(control_);
        rank_->trace_ = trace_.get();
      }
      give_step(step);
      // A device works on the step meanwhile.
      const Outcome next = step + 1 < steps_ ? attempt([&] { load_inputs(step + 1); }) : Outcome();
      report = finish_step();
      ready = hand_over(step);
      if (ready.is_good()) ready = next;
    }
    if (options_.final.empty() && options_.trace.empty()) return 0;
    ready = Outcome();
    if (!options_.final.empty()) ready = write_final();
    if (trace_) {
      const Outcome written = attempt([&] { trace_->write(options_.trace); });
      if (ready.is_good()) ready = written;
    }
    place_ = "the end of the run";
    return meet(-1, {}, ready).status;
  }

  // Where the program is, for the message of a failure: "'/layers.0/Gather' (segment 0F, micro-batch 2)"; empty between steps.
  std::string place() const {
    if (!rank_ || *rank_->segment_ == '\0') return "";
    return std::string("'") + rank_->origin_ + "' (segment " + rank_->segment_ + ", micro-batch " + std::to_string(rank_->micro_batch_) + "): ";
  }

 private:
  struct Verdict {
    int32_t status = 0;
    int64_t steps = 0;
  };

  bool is_first() const { return control_.rank() == 0; }

  // -- before the first step ----------------------------------------------------------------------------------------------------------------------

  Outcome open() {
    if (!model_.training && !options_.grads.empty()) return {usage, "--grads: this is an inference program, it has no gradients"};
    return attempt([&] {
      data_ = open_data(options_.data, options_.seed, model_);
      steps_ = options_.steps > 0 ? options_.steps : data_->steps();
      processor_ = platform_.make_processor(program_.arena_bytes, program_.host_bytes);
      rank_ = std::make_unique<Rank>(control_.rank(), program_, constants_, *processor_, platform_.data);
      rank_->captures_ = std::make_shared<Rank::Captures>();
      for (const BufferInfo& buffer : program_.buffers) load_once(buffer);
      if (!is_first()) return;
      for (const std::string& file : {options_.log, options_.grads, options_.final, options_.trace}) create_folder_of(file);
      if (!options_.outputs.empty()) std::filesystem::create_directories(options_.outputs);
      log_ = std::make_unique<StepLog>(model_, options_, steps_, platform_.flops_per_second * control_.size());
    });
  }

  std::byte* copy_of(const BufferInfo& buffer, int64_t copy) const { return rank_->memory_at(buffer.offset) + copy * buffer.stride; }
  static size_t bytes_of(const BufferInfo& buffer) { return static_cast<size_t>(buffer.elements) * size_of(buffer.dtype); }

  const Region& region_of(const BufferInfo& buffer, int64_t copy) const {
    const Region& region = constants_.regions.at(static_cast<size_t>(buffer.regions + copy));
    if (elements_of(region) != buffer.elements) throw std::logic_error(std::string("buffer '") + buffer.name + "' is not of the size of its region");
    return region;
  }

  void load_once(const BufferInfo& buffer) const {
    const size_t bytes = bytes_of(buffer);
    if (buffer.source == Source::state) processor_->load(copy_of(buffer, 0), bytes, [&](std::byte* to) { std::fill_n(to, bytes, std::byte{0}); });
    if ((buffer.source != Source::parameter && buffer.source != Source::constant) || buffer.regions < 0) return;
    for (int64_t copy = 0; copy < buffer.copies; ++copy) {
      const Region& region = region_of(buffer, copy);
      processor_->load(copy_of(buffer, copy), bytes, [&](std::byte* to) { weights_(buffer.tensor, region, to); });
    }
  }

  void load_inputs(int64_t step) const {
    for (const BufferInfo& buffer : program_.buffers) {
      if (buffer.source != Source::input || buffer.regions < 0) continue;
      for (int64_t copy = 0; copy < buffer.copies; ++copy) {
        const Region& region = region_of(buffer, copy);
        processor_->stage(copy_of(buffer, copy), bytes_of(buffer), [&](std::byte* to) { data_->read(step, buffer.tensor, region, to); });
      }
    }
  }

  // -- steps --------------------------------------------------------------------------------------------------------------------------------------

  void give_step(int64_t step) {
    if (trace_) trace_->begin_step(step);
    // The first step hands over gradients; a trace marks points of each step.
    processor_->give_step(step > 0 && !trace_, [&] { give_work(step); });
    rank_->segment_ = "";
  }

  void give_work(int64_t step) {
    Rank::Captures& captures = *rank_->captures_;
    captures = {};
    captures.wants_outputs = !options_.outputs.empty();
    captures.wants_gradients = step == 0 && !options_.grads.empty();
    rank_->step_ = processor_->number_for_kernels(step + 1);
    rank_->bytes_sent_ = 0;
    platform_.data.begin_step();
    const std::vector<Slot>& schedule = program_.schedule;
    for (size_t i = 0; i < schedule.size(); ++i) {
      const SegmentInfo& segment = segment_of(schedule[i]);
      rank_->segment_ = segment.name.c_str();
      rank_->at("", schedule[i].micro_batch);
      segment.run(*rank_, schedule[i].micro_batch);
      platform_.data.end_slot(i + 1 < schedule.size() && segment_of(schedule[i + 1]).continues_group);
    }
    rank_->at("", 0);
    rank_->wait_sends();
    platform_.data.end_step();
  }

  const SegmentInfo& segment_of(const Slot& slot) const { return program_.segments[static_cast<size_t>(slot.segment)]; }

  StepReport finish_step() {
    Rank::Captures& captures = *rank_->captures_;
    StepReport report;
    report.seconds = processor_->wait();
    if (trace_) trace_->end_step(*processor_, report.seconds);
    report.loss = captures.loss.scalar();
    report.grad_norm = captures.grad_norm.scalar();
    report.bytes_sent = rank_->bytes_sent_;
    report.peak_memory_bytes = processor_->highest_touched();
    for (std::vector<CapturedBlock>* blocks : {&captures.outputs, &captures.gradients}) {
      for (CapturedBlock& block : *blocks) block.finish();
    }
    return report;
  }

  static std::vector<Block> blocks_of(const std::vector<CapturedBlock>& captured, const std::string& tensor) {
    std::vector<Block> blocks;
    for (const CapturedBlock& block : captured) {
      if (block.tensor == tensor) blocks.push_back({block.region, block.data});
    }
    return blocks;
  }

  // Outputs and gradients of the step, in files. All ranks go through all tensors, also when rank 0 can write no more.
  Outcome hand_over(int64_t step) {
    Outcome outcome;
    const Rank::Captures& captures = *rank_->captures_;
    if (captures.wants_outputs) {
      const std::string folder = options_.outputs + "/step_" + std::to_string(step);
      if (is_first()) outcome = attempt([&] { std::filesystem::create_directories(folder); });
      for (size_t i = 0; i < model_.outputs.size(); ++i) {
        const FileTensor& tensor = model_.outputs[i];
        const Collector::Whole whole = collector_.collect(tensor, blocks_of(captures.outputs, tensor.name));
        if (!whole.is_complete()) throw std::logic_error("no rank has all of output '" + tensor.name + "'");
        const auto write = [&] {
          write_pb(folder + "/output_" + std::to_string(i) + ".pb", tensor.name, tensor.dtype, tensor.dims, whole.data.data());
        };
        if (is_first() && outcome.is_good()) outcome = attempt(write);
      }
    }
    if (captures.wants_gradients) {
      std::vector<FileTensor> trainable;
      std::copy_if(model_.parameters.begin(), model_.parameters.end(), std::back_inserter(trainable),
                   [](const FileTensor& tensor) { return tensor.trainable; });
      const Outcome written = write_whole(options_.grads, trainable, [&](const FileTensor& tensor) {
        Collector::Whole whole = collector_.collect(tensor, blocks_of(captures.gradients, tensor.name));
        if (!whole.is_complete() && !whole.is_empty()) throw std::logic_error("no rank has all of the gradient of '" + tensor.name + "'");
        return std::move(whole.data);  // zeros if nothing depends on the parameter
      });
      if (outcome.is_good()) outcome = written;
    }
    return outcome;
  }

  // -- after the last step ------------------------------------------------------------------------------------------------------------------------

  Outcome write_final() {
    return write_whole(options_.final, model_.parameters, [&](const FileTensor& tensor) {
      std::vector<Block> mine;
      for (const BufferInfo& buffer : program_.buffers) {
        if (buffer.source == Source::parameter && tensor.name == buffer.tensor)
          mine.push_back({&region_of(buffer, 0), {processor_->fetch(copy_of(buffer, 0), bytes_of(buffer)), bytes_of(buffer)}});
      }
      processor_->wait();
      Collector::Whole whole = collector_.collect(tensor, mine);
      if (is_first() && whole.is_empty())
        weights_(tensor.name, whole_region(tensor.dims), whole.data.data());  // no rank needs it
      else if (!whole.is_complete())
        throw std::logic_error("no rank has all of parameter '" + tensor.name + "'");
      return std::move(whole.data);
    });
  }

  // Writes one safetensors file from what `whole_of` gives on rank 0 for each tensor; all ranks call it.
  template <class WholeOf>
  Outcome write_whole(const std::string& path, const std::vector<FileTensor>& tensors, const WholeOf& whole_of) {
    std::unique_ptr<SafetensorsWriter> file;
    Outcome outcome;
    if (is_first()) outcome = attempt([&] { file = std::make_unique<SafetensorsWriter>(path, tensors); });
    for (const FileTensor& tensor : tensors) {
      const std::vector<std::byte> data = whole_of(tensor);
      if (is_first() && outcome.is_good()) outcome = attempt([&] { file->write(data); });
    }
    if (is_first() && outcome.is_good()) outcome = attempt([&] { file->commit(); });
    return outcome;
  }

  // -- the meeting between steps ------------------------------------------------------------------------------------------------------------------

  // `step`: the one that ended, negative for none.
  Verdict meet(int64_t step, const StepReport& report, const Outcome& mine) {
    control_.at("", place_.c_str(), 0);
    if (!is_first()) {
      MessageWriter message;
      message.optional(report.loss);
      message.optional(report.grad_norm);
      message.value(report.seconds);
      message.value(report.peak_memory_bytes);
      message.value(report.bytes_sent);
      message.value(mine.status);
      message.text(mine.message);
      control_.send_message(0, message.take());
      const std::vector<std::byte> answer = control_.receive_message(0);
      return MessageReader(answer).value<Verdict>();
    }
    std::vector<StepReport> reports = {report};
    Outcome worst = mine;
    int failed = 0;
    for (int rank = 1; rank < control_.size(); ++rank) {
      const std::vector<std::byte> received = control_.receive_message(rank);
      MessageReader message(received);
      StepReport& theirs = reports.emplace_back();
      theirs.loss = message.optional();
      theirs.grad_norm = message.optional();
      theirs.seconds = message.value<double>();
      theirs.peak_memory_bytes = message.value<int64_t>();
      theirs.bytes_sent = message.value<int64_t>();
      const auto status = message.value<int32_t>();
      if (!worst.is_good() || status == 0) continue;
      worst = {status, message.text()};
      failed = rank;
    }
    if (step >= 0) {
      const Outcome logged = attempt([&] { log_->write(step, reports); });
      if (worst.is_good()) worst = logged;
    }
    if (!worst.is_good()) std::fprintf(stderr, "sscc: rank %d: %s\n", failed, worst.message.c_str());
    const Verdict verdict{worst.status, steps_};
    for (int rank = 1; rank < control_.size(); ++rank) {
      MessageWriter message;
      message.value(verdict);
      control_.send_message(rank, message.take());
    }
    return verdict;
  }

  const ModelInfo& model_;
  const ProgramInfo& program_;
  const Constants& constants_;
  const Platform& platform_;
  ControlPlane& control_;
  const WeightReader& weights_;
  const Options& options_;
  Collector collector_;

  std::unique_ptr<DataSource> data_;
  std::unique_ptr<Processor> processor_;
  std::unique_ptr<Rank> rank_;
  std::unique_ptr<StepLog> log_;  // rank 0
  std::unique_ptr<Trace> trace_;
  int64_t steps_ = 0;
  std::string place_;
};

int run_rank(const ModelInfo& model, const ProgramInfo& program, const Constants& constants, const Platform& platform, const WeightReader& weights,
             const Options& options) {
  ControlPlane& control = platform.control;
  Run run(model, program, constants, platform, weights, options);
  const auto fail = [&](int status, const std::string& what) {
    std::fprintf(stderr, "sscc: %s\n", what.c_str());
    control.abort(what, status);
    if (platform.leave) platform.leave(status);
    return status;
  };
  const std::string here = "rank " + std::to_string(control.rank()) + ": ";
  try {
    return run.run();
  } catch (const PeerFailure& error) { return fail(peer_failed, error.what()); } catch (const DataError& error) {
    return fail(data_refused, here + run.place() + error.what());
  } catch (const EnvironmentFailure& error) { return fail(environment_failed, here + run.place() + error.what()); } catch (const std::bad_alloc&) {
    return fail(environment_failed, here + run.place() + "not enough memory");
  } catch (const std::exception& error) { return fail(bug, here + "bug: " + run.place() + error.what()); }
}

int run_rank(const ModelInfo& model, const ProgramInfo& program, const Constants& constants, Transport& transport, const WeightReader& weights,
             const Options& options) {
  return run_rank(model, program, constants, Platform{transport, transport, make_host_processor}, weights, options);
}

}  // namespace sscc::rt
