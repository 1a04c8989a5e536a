#include "compiler/simulate/predict.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "compiler/program/calls.h"
#include "compiler/program/runs.h"
#include "compiler/program/traffic.h"
#include "compiler/program/walk.h"

namespace sscc {
namespace {

// What a view's elements take up: broadcast ones are one.
double bytes_touched(const Body& body, const View& view) {
  auto bytes = static_cast<double>(rt::size_of(body.buffers[view.buffer].dtype));
  for (size_t d = 0; d < view.dims.size(); ++d)
    if (view.strides[d] != 0) bytes *= static_cast<double>(view.dims[d]);
  return bytes;
}

using Lengths = std::map<char, int64_t>;

// Of the labels of an equation's first operands.
Lengths lengths_of(const std::string& equation, llvm::ArrayRef<View> operands) {
  Lengths lengths;
  size_t at = 0;
  for (const View& view : operands) {
    for (const int64_t d : view.dims) lengths[equation[at++]] = d;
    ++at;  // the comma
  }
  return lengths;
}

double product_of(const Lengths& lengths) {
  double product = 1;
  for (const auto& [label, length] : lengths) product *= static_cast<double>(length);
  return product;
}

// Two products, of queries and keys and with values; a gradient makes the first again, and two of each for gradients. Masks are not looked at.
double flops_of(const AttentionExpression& e, const Instruction& i) {
  const llvm::ArrayRef<View> ins = i.ins;
  const Lengths all = lengths_of(e.equation, ins.take_front(3));
  const size_t scores = e.equation.find("->"), begin = e.equation.rfind(',', scores) + 1;
  double pairs = 1, summed = 1, values = 1;
  for (const auto& [label, length] : all) {
    const bool is_pair = e.equation.find(label, begin) < scores, is_summed = e.equation.find(label, begin) == std::string::npos;
    (is_pair ? pairs : is_summed ? summed : values) *= static_cast<double>(length);
  }
  return i.opcode == Opcode::attention ? 2 * pairs * (summed + values) : 2 * pairs * (3 * summed + 2 * values);
}

// Two for each of the products that a position of `small` (sscc_rt/kernels.h) is the sum of, or is in.
double flops_of_convolution(const Instruction& i) {
  const View& small = i.opcode == Opcode::convolve ? i.outs[0] : i.opcode == Opcode::convolve_transposed ? i.ins[0] : i.ins[1];
  const View& weight = i.opcode == Opcode::convolve_grad_weight ? i.outs[0] : i.ins[1];
  return 2 * static_cast<double>(elements(small.dims)) * static_cast<double>(elements(weight.dims) / weight.dims[0]);
}

class Clock {
 public:
  Clock(const Programs& programs, const Cluster& cluster)
      : programs_(programs), cluster_(cluster), runs_(programs.bodies.begin(), programs.bodies.end()), ranks_(programs.ranks.size()) {
    durations_.resize(programs.bodies.size());
    for (size_t b = 0; b < programs.bodies.size(); ++b)
      for (const ProgramSegment& segment : programs.bodies[b].segments) {
        durations_[b].emplace_back();
        for (const Instruction& i : segment.instructions) durations_[b].back().push_back(duration(programs.bodies[b], i));
      }
  }

  Prediction run() {
    Visitor visitor;
    visitor.instruction = [&](const Step& step) {
      visit(step);
      return true;
    };
    visitor.collective = [&](const std::vector<Step>& members) {
      visit_collective(members);
      return true;
    };
    // Ranks that cannot be told apart by what they do can still be by their links.
    const std::optional<Wiring> classes = cluster_.is_flat() ? folded(programs_) : std::nullopt;
    const Wiring wiring = classes ? *classes : wiring_of(programs_);
    walk(programs_, wiring, visitor);
    Prediction result;
    result.device = cluster_.name;
    double busy = 0;
    for (size_t r = 0; r < ranks_.size(); ++r) {
      Rank& rank = ranks_[static_cast<size_t>(wiring.representative[r])];
      unite(rank.worked);
      for (const auto& [begin, end] : rank.worked) busy += end - begin;
      for (const double free : rank.streams) result.makespan_seconds = std::max(result.makespan_seconds, free);
      for (Prediction::Bar bar : rank.bars) {
        if (bar.segment < 0) continue;
        bar.rank = static_cast<int32_t>(r);
        result.bars.push_back(bar);
      }
    }
    if (result.makespan_seconds > 0) result.bubble_fraction = 1 - busy / (static_cast<double>(ranks_.size()) * result.makespan_seconds);
    return result;
  }

 private:
  double duration(const Body& body, const Instruction& i) const {
    double flops = 0, bytes = 0;
    for (const View& view : i.outs) bytes += bytes_touched(body, view);
    for (const View& view : i.ins) bytes += bytes_touched(body, view);
    if (i.opcode == Opcode::capture) return 0;
    if (const auto* e = std::get_if<ContractExpression>(&i.expression)) flops = 2 * product_of(lengths_of(e->equation, i.ins));
    if (const auto* e = std::get_if<EpilogueExpression>(&i.expression))
      flops = 2 * product_of(lengths_of(e->equation, llvm::ArrayRef<View>(i.ins).take_front(2)));
    if (const auto* e = std::get_if<AttentionExpression>(&i.expression)) flops = flops_of(*e, i);
    if (is_convolution(i.opcode)) flops = flops_of_convolution(i);
    const Cluster::Device& device = cluster_.device;
    if (is_communication(i.opcode)) return device.kernel_seconds;
    const DType precision = flops > 0 ? body.buffers[i.ins[0].buffer].dtype : DType::f32;
    return device.kernel_seconds + std::max(flops / device.flops_per_second_in(precision), bytes / device.memory_bytes_per_second);
  }

  // A rank's clocks: every stream goes on by itself, from slot to slot, but for waits.
  struct Rank {
    std::vector<double> streams;                    // when each is free
    std::vector<double> kept;                       // ends of runs that are waited for, by place
    std::vector<std::pair<double, double>> worked;  // when some stream works
    size_t united = 0;                              // of these, how many there were when they were last made few
    std::vector<Prediction::Bar> bars;              // by slot; of those that have come to nothing yet without a segment
  };

  // Intervals that meet become one.
  static void unite(std::vector<std::pair<double, double>>& intervals) {
    std::sort(intervals.begin(), intervals.end());
    size_t count = 0;
    for (const auto& each : intervals) {
      if (count > 0 && each.first <= intervals[count - 1].second)
        intervals[count - 1].second = std::max(intervals[count - 1].second, each.second);
      else
        intervals[count++] = each;
    }
    intervals.resize(count);
  }

  const Runs& runs_of(const Step& step) const { return runs_[static_cast<size_t>(programs_.ranks[static_cast<size_t>(step.rank)].body)]; }

  // When an instruction may begin, as far as its own rank is concerned.
  double earliest(const Step& step) {
    Rank& rank = ranks_[static_cast<size_t>(step.rank)];
    const Runs& runs = runs_of(step);
    rank.kept.resize(static_cast<size_t>(runs.places()));
    const auto stream = static_cast<size_t>(step.what->stream);
    if (rank.streams.size() <= stream) rank.streams.resize(stream + 1);
    double begin = rank.streams[stream];
    runs.for_each_awaited(step.slot, step.instruction, [&](int32_t place) { begin = std::max(begin, rank.kept[static_cast<size_t>(place)]); });
    return begin;
  }

  void spend(const Step& step, double begin, double end) {
    constexpr size_t few = 64;
    Rank& rank = ranks_[static_cast<size_t>(step.rank)];
    rank.streams[static_cast<size_t>(step.what->stream)] = end;
    if (const int32_t place = runs_of(step).place_of(step.slot, step.instruction); place >= 0) rank.kept[static_cast<size_t>(place)] = end;
    if (!rank.worked.empty() && rank.worked.back().second == begin)
      rank.worked.back().second = end;
    else
      rank.worked.emplace_back(begin, end);
    if (rank.worked.size() > 2 * rank.united + few) {
      unite(rank.worked);
      rank.united = rank.worked.size();
    }
    draw(rank.bars, step, begin, end);
  }

  // A slot's bar is that of its kernels; where it has none, of its transfers.
  static void draw(std::vector<Prediction::Bar>& bars, const Step& step, double begin, double end) {
    bars.resize(std::max(bars.size(), static_cast<size_t>(step.slot) + 1), {-1, -1, 0, 0, 0, false});
    Prediction::Bar& bar = bars[static_cast<size_t>(step.slot)];
    const bool is_kernel = step.what->stream == 0;
    if (bar.segment < 0 || (is_kernel && !bar.of_kernels))
      bar = {step.rank, step.segment, step.micro_batch, begin, end, is_kernel};
    else if (is_kernel == bar.of_kernels)
      bar = {step.rank, step.segment, step.micro_batch, std::min(bar.begin, begin), std::max(bar.end, end), is_kernel};
  }

  const std::vector<double>& durations_of(const Step& step) const {
    return durations_[static_cast<size_t>(programs_.ranks[static_cast<size_t>(step.rank)].body)][static_cast<size_t>(step.segment)];
  }

  void visit(const Step& step) {
    const size_t r = static_cast<size_t>(step.rank);
    const Body& body = programs_.bodies[static_cast<size_t>(programs_.ranks[r].body)];
    double begin = earliest(step);
    if (step.what->opcode == Opcode::send) {
      const int32_t peer = programs_.ranks[r].constants.peers[static_cast<size_t>(std::get<Communication>(step.what->expression).peer)];
      arrives_[step.message] = begin + cluster_.link_of({step.rank, peer}).seconds(1, static_cast<double>(bytes_of_call(body, *step.what)));
    }
    if (step.what->opcode == Opcode::receive) begin = std::max(begin, arrives_[step.message]);
    spend(step, begin, begin + durations_of(step)[static_cast<size_t>(step.instruction)]);
  }

  void visit_collective(const std::vector<Step>& members) {
    double begin = 0;
    for (const Step& member : members) begin = std::max(begin, earliest(member));
    const Step& first = members[0];
    const RankProgram& rank = programs_.ranks[static_cast<size_t>(first.rank)];
    const Body& body = programs_.bodies[static_cast<size_t>(rank.body)];
    const std::vector<int32_t>& group = rank.constants.groups[static_cast<size_t>(std::get<Communication>(first.what->expression).group)];
    const bool goes_on = is_with_previous(body.segments[static_cast<size_t>(first.segment)].instructions, static_cast<size_t>(first.instruction));
    const double end = begin + seconds_of_call(first.what->opcode, group, static_cast<double>(bytes_of_call(body, *first.what)), goes_on);
    for (const Step& member : members) spend(member, begin, end);
  }

  // Rings, over the slowest link of the group; a broadcast along a tree. `goes_on`: in one call with what came before.
  double seconds_of_call(Opcode opcode, const std::vector<int32_t>& group, double bytes, bool goes_on) const {
    const auto n = static_cast<double>(group.size());
    Link link = cluster_.link_of(group);
    if (goes_on) link.latency_seconds = 0;
    if (opcode == Opcode::broadcast) return link.seconds(std::ceil(std::log2(n)), bytes);
    return link.seconds((opcode == Opcode::all_reduce ? 2 : 1) * (n - 1), bytes / n);
  }

  const Programs& programs_;
  const Cluster& cluster_;
  const std::vector<Runs> runs_;  // by body
  std::vector<Rank> ranks_;
  std::vector<std::vector<std::vector<double>>> durations_;  // by body, segment, instruction
  std::map<int64_t, double> arrives_;
};

}  // namespace

Prediction predict(const Programs& programs, const Cluster& cluster) { return Clock(programs, cluster).run(); }

}  // namespace sscc
