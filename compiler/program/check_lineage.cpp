// Lineage: an abstract interpretation of all programs together. Every view of every buffer holds *fragments* of a logical tensor: regions, each with
// a share of the join and the micro-batches summed into it. Kernels make fragments, copies move them, sums and collectives put disjoint ones together
// (a fragment twice is a doubled contribution). Whoever reads must find, at exactly the addresses that it reads, fragments of the tensor that its
// operator needs that make up the region whole: every share, every micro-batch, once. (What is known of a value: fragments.h; values read through layout
// operators: layouts.h. Over 600 lines, for it is one class: every rule reads and changes what lies in the buffers.)
#include <algorithm>
#include <map>
#include <set>

#include "compiler/ops/ops.h"
#include "compiler/program/check.h"
#include "compiler/program/claims.h"
#include "compiler/program/fragments.h"
#include "compiler/program/layouts.h"
#include "compiler/program/traffic.h"
#include "compiler/program/walk.h"
#include "compiler/support/strings.h"

namespace sscc {
namespace {

// What lies in a buffer.
struct Content {
  Placed held;
  Fragments fragments;
  bool is_log_sums = false;  // not the elements: what attention's gradient makes them again from
};

class Lineage {
 public:
  // `period`: after so many micro-batches the next ones do the same again; two periods are looked at.
  Lineage(const Module& module, const Programs& programs, int64_t period, Diagnostics& diagnostics)
      : module_(module),
        layouts_(module),
        programs_(programs),
        diagnostics_(diagnostics),
        // What the later micro-batches do is what those of the second period do: they run the same segments in the same order, and that no buffer is
        // used again while an earlier micro-batch needs it is for check_memory.
        period_(period),
        walked_(std::min(module.cut.count, 2 * period_)) {
    for (const Body& each : programs.bodies) {
      std::vector<size_t>& first = first_copy_.emplace_back();
      size_t copies = 0;
      for (const Buffer& buffer : each.buffers) {
        first.push_back(copies);
        copies += static_cast<size_t>(buffer.copies);
        if (buffer.source != Buffer::Source::none) named_[{static_cast<int32_t>(first_copy_.size() - 1), buffer.tensor}].push_back(first.size() - 1);
      }
      first.push_back(copies);
    }
    for (const RankProgram& rank : programs.ranks) memory_.emplace_back(first_copy_[static_cast<size_t>(rank.body)].back());
    refused_.resize(programs.ranks.size());
  }

  bool run() {
    load_homes();
    Visitor visitor;
    visitor.instruction = [&](const Step& step) {
      visit(step);
      return !refused_[static_cast<size_t>(step.rank)];
    };
    visitor.collective = [&](const std::vector<Step>& members) {
      visit_collective(members);
      return llvm::none_of(members, [&](const Step& member) { return refused_[static_cast<size_t>(member.rank)].has_value(); });
    };
    visitor.side_by_side = true;
    if (good_) {
      const Walked walked = walk(programs_, wiring_of(programs_), visitor, walked_);
      if (!walked.stuck.empty() && walked_ < module_.cut.count) return is_stuck_ = true, false;
      if (!walked.stuck.empty()) refuse(walked.stuck[0].step, "is where the step ends: " + walked.stuck[0].reason);
      report_refusal();
    }
    if (good_) check_homes();
    if (good_) check_captures();
    return good_;
  }
  // Without the other micro-batches the step does not run through: messages may have been ordered between theirs.
  bool is_stuck() const { return is_stuck_; }

 private:
  using Contents = std::vector<Content>;
  const Body& body(int32_t rank) const { return programs_.bodies[static_cast<size_t>(programs_.ranks[static_cast<size_t>(rank)].body)]; }
  const Claim& claim(const Step& step, int32_t index) const {
    return programs_.ranks[static_cast<size_t>(step.rank)].claims[static_cast<size_t>(index)];
  }
  Contents& contents(int32_t rank, BufferId buffer, int32_t micro_batch) {
    const auto b = static_cast<size_t>(programs_.ranks[static_cast<size_t>(rank)].body);
    const int64_t copy = micro_batch % programs_.bodies[b].buffers[buffer].copies;
    return memory_[static_cast<size_t>(rank)][first_copy_[b][static_cast<size_t>(buffer.index)] + static_cast<size_t>(copy)];
  }
  // The rank's buffers that the host fills with a tensor.
  llvm::ArrayRef<size_t> buffers_of(int32_t rank, const std::string& tensor) const {
    const auto it = named_.find({programs_.ranks[static_cast<size_t>(rank)].body, tensor});
    if (it == named_.end()) return {};
    return it->second;
  }
  bool of_step(TensorId id) const { return module_.tensors[id].scope == Scope::step; }
  Intervals whole_step() const { return Intervals(0, walked_); }
  static Intervals one(int64_t micro_batch) { return Intervals(micro_batch, micro_batch + 1); }
  const Segment& segment_of(const Step& step) const {
    return module_.segments[static_cast<size_t>(body(step.rank).segments[static_cast<size_t>(step.segment)].module_segment)];
  }
  static bool runs_once(const Segment& segment) { return segment.kind == SegmentKind::prologue || segment.kind == SegmentKind::epilogue; }
  // The micro-batches in a share of a sum that one of them makes. Each variant has a share of its own, to which the others add nothing: that of
  // micro-batch m is complete up to the next one that runs the variant.
  Intervals added_by(const Step& step) const {
    const int64_t m = step.micro_batch;
    if (runs_once(segment_of(step))) return one(m);
    int64_t next = m + 1;
    while (next < walked_ && module_.cut.variant_at(next) != module_.cut.variant_at(m)) ++next;
    return Intervals(module_.cut.is_first(m) ? 0 : m, next);
  }
  // The micro-batches in a value that an instruction makes: what runs once a step makes values of the whole step.
  Intervals micro_batches_of(const Step& step, TensorId id) const {
    if (!of_step(id)) return one(step.micro_batch);
    return runs_once(segment_of(step)) ? whole_step() : added_by(step);
  }

  bool is_its_turn(const Step& step) {
    const Segment& segment = segment_of(step);
    if (runs_once(segment) || module_.cut.variant_at(step.micro_batch) == segment.variant) return true;
    refuse(step, "runs for a micro-batch that another variant of the segment is for");
    return false;
  }

  // Memory holds values in the types of their tensors; a copy may convert what a kernel takes in another (claims.cpp looks at kernels).
  bool has_right_types(const Step& step) {
    const Instruction& i = *step.what;
    if ((i.op.valid() && i.piece >= 0) || i.opcode == Opcode::attention || i.opcode == Opcode::attention_grad ||
        i.opcode == Opcode::contract_epilogue || !module_.cut.is_first(step.micro_batch))
      return true;
    const auto are_right = [&](llvm::ArrayRef<View> views, llvm::ArrayRef<int32_t> claims) {
      for (size_t k = 0; k < views.size() && !claims.empty(); ++k) {
        const TensorId held = claim(step, claims[claims.size() == views.size() ? k : 0]).tensor;
        if (body(step.rank).buffers[views[k].buffer].dtype != module_.tensors[held].dtype) return false;
      }
      return true;
    };
    const auto type_of = [&](const View& view) { return body(step.rank).buffers[view.buffer].dtype; };
    const bool is_copy = i.opcode == Opcode::copy, moves = is_copy && type_of(i.ins[0]) == type_of(i.outs[0]);  // what was converted, to the host
    const bool reads = moves || are_right(i.ins, i.reads), writes = is_copy || are_right(i.outs, i.writes);
    if (!reads || !writes) refuse(step, "takes memory to hold a value in another type than it has");
    return reads && writes;
  }

  // What lies in the arena before the step: homes, and nothing but them.
  void load_homes() {
    std::vector<std::vector<bool>> is_home;  // by rank and buffer
    for (const RankProgram& rank : programs_.ranks) is_home.emplace_back(static_cast<size_t>(body(rank.rank).buffers.size()));
    for (const auto& [id, homes] : module_.homes)
      for (const Home& home : homes) {
        const Body& b = body(home.device);
        const Tensor& t = module_.tensors[id];
        for (const size_t i : buffers_of(home.device, t.micro_batch_of.valid() ? module_.tensors[t.micro_batch_of].name : t.name)) {
          const BufferId buffer(static_cast<int32_t>(i));
          if (b.buffers[buffer].elements != home.region.elements()) continue;
          if (!loads(programs_.ranks[static_cast<size_t>(home.device)], b.buffers[buffer], id, home.region)) continue;
          is_home[static_cast<size_t>(home.device)][i] = true;
          for (const int64_t k : of_step(id) ? std::vector<int64_t>{0} : module_.cut.micro_batches_of(t.variant))
            contents(home.device, buffer, static_cast<int32_t>(k))
                .push_back(
                    {id, home.region, whole_buffer(buffer, home.region.local_shape()), {{home.region, Part(), of_step(id) ? whole_step() : one(k)}}});
        }
      }
    for (const RankProgram& rank : programs_.ranks)
      for (int64_t i = 0; i < body(rank.rank).buffers.size() && good_; ++i) {
        const Buffer& buffer = body(rank.rank).buffers[BufferId(i)];
        if (buffer.source == Buffer::Source::none || is_home[static_cast<size_t>(rank.rank)][static_cast<size_t>(i)]) continue;
        good_ = false;
        diagnostics_.error(Code::not_equivalent, {},
                           "rank " + std::to_string(rank.rank) + " begins with a part of '" + buffer.tensor + "' in buffer '" + buffer.name +
                               "' that is not at home there");
      }
  }

  // Is what the host loads into the buffer's copies this region of the tensor's micro-batches?
  bool loads(const RankProgram& rank, const Buffer& buffer, TensorId id, const Region& region) const {
    if (buffer.source == Buffer::Source::state && buffer.regions < 0) return true;
    if (of_step(id)) return buffer.copies == 1 && is_region(rank, buffer.regions, region);
    return llvm::all_of(module_.cut.micro_batches_of(module_.tensors[id].variant),
                        [&](int64_t m) { return is_region(rank, buffer.regions + m % buffer.copies, to_whole(module_, id, region, m)); });
  }

  static bool is_region(const RankProgram& rank, int64_t index, const Region& region) {
    const std::vector<Region>& regions = rank.constants.regions;
    return index >= 0 && index < static_cast<int64_t>(regions.size()) && regions[static_cast<size_t>(index)] == region;
  }

  // -- reading ------------------------------------------------------------------------------------------------------------------------------------

  // What `view` holds of `region` of `tensor`: a content, and, if it holds the tensor as the source of a layout operator, that operator's share of
  // the tensor.
  struct Found {
    const Content* content = nullptr;
    Part share;
  };

  // Null and a refusal if there is none.
  Found find(const Step& step, const View& place, TensorId tensor, const Region& region, const Part& share = Part(), bool as_log_sums = false) {
    const View view = as_wide_as(place, region);
    for (const Content& content : contents(step.rank, view.buffer, step.micro_batch))
      if (content.is_log_sums == as_log_sums)
        if (const std::optional<Part> found = layouts_.share_of(step.rank, content.held, view, tensor, region, share)) return {&content, *found};
    std::string there;
    for (const Content& content : contents(step.rank, view.buffer, step.micro_batch))
      there += (there.empty() ? "" : ", ") + module_.tensors[content.held.tensor].name + content.held.region.to_string();
    refuse(step, "expects " + region.to_string() + " of '" + module_.tensors[tensor].name + "' in buffer '" +
                     body(step.rank).buffers[view.buffer].name + "', and there is " + (there.empty() ? "nothing" : there));
    return {};
  }

  // The fragments must make up the region: whole joins, all micro-batches. As no two overlap, their sizes tell.
  bool complete(const Step& step, const Content& content, const Region& wanted, TensorId tensor) {
    const Region& region = content.held.tensor == tensor ? wanted : content.held.region;
    for (const Fragment& fragment : content.fragments)
      if (!right_micro_batches(step, content.held.tensor, fragment)) return false;
    if (content.fragments.size() == 1 && content.fragments[0].part.whole() && content.fragments[0].region.contains(region)) return true;
    Rational there = 0;
    for (const Fragment& fragment : content.fragments)
      there = there + Rational(intersect(fragment.region, region).elements()) * fragment.part.measure();
    if (there == Rational(region.elements())) return true;
    const auto missing = missing_of(content.fragments, region);
    refuse(step, "reads '" + module_.tensors[content.held.tensor].name + "', of which " + missing[0].first.to_string() +
                     missing[0].second.to_string() + " has not been added");
    return false;
  }

  bool right_micro_batches(const Step& step, TensorId tensor, const Fragment& fragment) {
    if (!of_step(tensor)) {
      if (fragment.micro_batches == one(step.micro_batch)) return true;
      refuse(step, "reads '" + module_.tensors[tensor].name + "' of micro-batch " +
                       (fragment.micro_batches.empty() ? "?" : std::to_string(fragment.micro_batches.begin_position())));
      return false;
    }
    const int64_t count = fragment.micro_batches.length();
    if (count == walked_) return true;
    refuse(step, "reads '" + module_.tensors[tensor].name + "' after " + std::to_string(count) + " of " + std::to_string(walked_) + " micro-batches" +
                     (walked_ < module_.cut.count ? " (of those looked at)" : ""));
    return false;
  }

  // -- writing ------------------------------------------------------------------------------------------------------------------------------------

  void write(const Step& step, const View& place, Content content) {
    const View view = as_wide_as(place, content.held.region);
    if (overwrite_part(step, view, content)) return;
    const Buffer& buffer = body(step.rank).buffers[view.buffer];
    const bool outlives_micro_batch = buffer.life == Buffer::Life::step || buffer.life == Buffer::Life::persistent;
    if (!of_step(content.held.tensor) && outlives_micro_batch && walked_ > 1)
      return refuse(step, "writes '" + module_.tensors[content.held.tensor].name +
                              "', which belongs to a micro-batch, to a buffer that is not cleared for each");
    Contents& list = contents(step.rank, view.buffer, step.micro_batch);
    std::erase_if(list, [&](const Content& old) { return !are_apart(old.held.view, view); });
    content.held.view = view;
    list.push_back(std::move(content));
  }

  // A box within a value that is there already, at its place: what the box held is gone, the rest stays.
  bool overwrite_part(const Step& step, const View& view, const Content& content) {
    for (Content& old : contents(step.rank, view.buffer, step.micro_batch)) {
      if (old.held.tensor != content.held.tensor || old.held.region == content.held.region || !old.held.region.contains(content.held.region))
        continue;
      const std::optional<View> part = subview(old.held.view, old.held.region, content.held.region);
      if (!part || !same_place(*part, view)) continue;
      Fragments kept;
      for (const Fragment& fragment : old.fragments)
        for (Region& rest : subtract(fragment.region, content.held.region)) kept.push_back({std::move(rest), fragment.part, fragment.micro_batches});
      kept.insert(kept.end(), content.fragments.begin(), content.fragments.end());
      old.fragments = std::move(kept);
      return true;
    }
    return false;
  }

  // Put fragments into what a view holds already; a fragment that is there is a doubled contribution.
  bool add(const Step& step, const View& place, TensorId tensor, const Region& region, const Fragments& fragments) {
    if (module_.tensors[tensor].join != Join::sum) {
      refuse(step, "adds to '" + module_.tensors[tensor].name + "', whose parts are joined otherwise");
      return false;
    }
    const View view = as_wide_as(place, region);
    for (Content& content : contents(step.rank, view.buffer, step.micro_batch)) {
      if (content.is_log_sums || content.held.tensor != tensor || !content.held.region.contains(region)) continue;
      const std::optional<View> part = subview(content.held.view, content.held.region, region);
      if (!part || !same_place(*part, view)) continue;
      const Fragment* again = merge(content.fragments, fragments);
      if (again) refuse_doubled(step, tensor, *again);
      return !again;
    }
    refuse(step, "adds to '" + module_.tensors[tensor].name + "' where nothing of it is");
    return false;
  }

  void refuse_doubled(const Step& step, TensorId tensor, const Fragment& again) {
    refuse(step, "adds " + again.region.to_string() + again.part.to_string() + " of '" + module_.tensors[tensor].name + "' a second time");
  }

  // -- instructions -------------------------------------------------------------------------------------------------------------------------------

  void visit(const Step& step) {
    const Instruction& i = *step.what;
    if (!is_its_turn(step) || is_signal(i) || !has_right_types(step)) return;
    switch (i.opcode) {
      case Opcode::fill: {
        const Claim& c = claim(step, i.writes[0]);
        if (std::get<FillValue>(i.expression).value != neutral_value(module_.tensors[c.tensor].join))
          return refuse(step, "begins a join with a value that adds to it");
        write(step, i.outs[0], {{c.tensor, c.region, {}}, {}});
        return;
      }
      case Opcode::copy: return visit_copy(step);
      case Opcode::send: {
        const Claim& c = claim(step, i.reads[0]);
        if (auto given = fragments(step, i.ins[0], c)) messages_[step.message] = {{c.tensor, c.region, {}}, std::move(*given)};
        return;
      }
      case Opcode::receive: {
        const Claim& c = claim(step, i.writes[0]);
        Content content = std::move(messages_[step.message]);
        messages_.erase(step.message);
        if (content.held.tensor != c.tensor || !(content.held.region == c.region))
          return refuse(step, "expects " + c.region.to_string() + " of '" + module_.tensors[c.tensor].name + "' and is sent " +
                                  content.held.region.to_string() + " of '" +
                                  (content.held.tensor.valid() ? module_.tensors[content.held.tensor].name : std::string("nothing")) + "'");
        return write(step, i.outs[0], std::move(content));
      }
      case Opcode::capture: return visit_capture(step);
      case Opcode::reduce:
        if (!i.op.valid()) return visit_join(step);
        [[fallthrough]];
      default: return visit_kernel(step);
    }
  }

  // What a view gives of the claimed region. What is held as a layout's source must be whole, and is then that operator's share.
  std::optional<Fragments> fragments(const Step& step, const View& view, const Claim& c) {
    const Found found = find(step, view, c.tensor, c.region, c.part);
    if (!found.content) return std::nullopt;
    if (found.content->held.tensor == c.tensor) return restricted(found.content->fragments, c.region);
    if (!complete(step, *found.content, c.region, c.tensor)) return std::nullopt;
    // Whole in all its micro-batches, or in this one: that is what the layout's result is made of.
    const bool is_whole = of_step(c.tensor) && of_step(found.content->held.tensor);
    return Fragments{{c.region, found.share, is_whole ? whole_step() : of_step(c.tensor) ? added_by(step) : one(step.micro_batch)}};
  }

  void visit_copy(const Step& step) {
    const Instruction& i = *step.what;
    if (i.op.valid() && i.piece >= 0) return visit_kernel(step);  // concat
    const Claim& from = claim(step, i.reads[0]);
    const Claim& to = claim(step, i.writes[0]);
    const auto moved = fragments(step, i.ins[0], from);
    if (!moved) return;
    if (i.accumulate) {
      add(step, i.outs[0], to.tensor, to.region, *moved);
      return;
    }
    if (i.writes.size() > 1) make_room(step, i.outs[0], to, claim(step, i.writes[1]));
    write(step, i.outs[0], {{to.tensor, to.region, {}}, *moved});
  }

  // Before a part of a value is written that several copies put together: the whole, of which nothing is known yet, unless it is there.
  void make_room(const Step& step, const View& part, const Claim& to, const Claim& all) {
    if (part.dims.size() != all.region.rank()) return;
    View whole = part;
    for (size_t d = 0; d < part.dims.size(); ++d) {
      whole.dims[d] = all.region.dim(d).length();
      whole.offset -= all.region.dim(d).count_below(to.region.dim(d).begin_position()) * part.strides[d];
    }
    for (const Content& content : contents(step.rank, part.buffer, step.micro_batch))
      if (content.held.tensor == all.tensor && content.held.region == all.region && same_place(content.held.view, whole)) return;
    write(step, whole, {{all.tensor, all.region, {}}, {}});
  }

  // Partial values side by side, joined by one reduction.
  void visit_join(const Step& step) {
    const Instruction& i = *step.what;
    const Claim& c = claim(step, i.writes[0]);
    const auto& e = std::get<ReduceExpression>(i.expression);
    if (e.reduced != 1 || e.scale != 1 || e.join != module_.tensors[c.tensor].join) return refuse(step, "does not join the rows that it reads");
    std::vector<Fragments> rows;
    for (size_t r = 0; r < i.reads.size(); ++r) {
      const Claim& row = claim(step, i.reads[r]);
      if (row.tensor != c.tensor || !(row.region == c.region)) return refuse(step, "does not join the rows that it reads");
      auto held = fragments(step, block_of(i.ins[0], static_cast<int64_t>(r), row.region), row);
      if (!held) return;
      rows.push_back(std::move(*held));
    }
    std::vector<const Fragments*> all;
    for (const Fragments& row : rows) all.push_back(&row);
    std::optional<Fragment> doubled;
    Fragments whole = put_together(all, doubled);
    if (doubled) return refuse_doubled(step, c.tensor, *doubled);
    write(step, i.outs[0], {{c.tensor, c.region, {}}, std::move(whole)});
  }

  // The host is given what it is told it is given.
  void visit_capture(const Step& step) {
    visit_kernel(step);
    const auto& capture = std::get<Capture>(step.what->expression);
    const Claim& c = claim(step, step.what->reads[0]);
    const Tensor& tensor = module_.tensors[in_first_variant(module_, c.tensor)];
    const std::string& name =
        tensor.gradient_of.valid() && capture.what == Capture::What::gradient ? module_.tensors[tensor.gradient_of].name : tensor.name;
    const bool is_scalar = capture.what == Capture::What::loss ? c.tensor == module_.loss : c.tensor == module_.grad_norm;
    if (capture.what == Capture::What::loss || capture.what == Capture::What::grad_norm ? !is_scalar : capture.tensor != name)
      return refuse(step, "hands over '" + tensor.name + "' as something else");
    std::vector<Region>& given = given_[{capture.what, is_scalar ? "" : capture.tensor}];
    if (capture.regions < 0) return given.emplace_back(), void();
    const std::vector<Region>& regions = programs_.ranks[static_cast<size_t>(step.rank)].constants.regions;
    const bool is_of_step = of_step(c.tensor);
    for (int64_t m = 0; m < (is_of_step ? 1 : module_.cut.count); ++m) {
      const bool is_stood_for = m >= walked_ && step.micro_batch >= walked_ - period_ && (m - step.micro_batch) % period_ == 0;
      if (!is_of_step && m != step.micro_batch && !is_stood_for) continue;  // those of the last period that is walked stand for the rest
      const auto index = static_cast<size_t>(capture.regions + m);
      if (index >= regions.size() || !(regions[index] == to_whole(module_, c.tensor, c.region, m)))
        return refuse(step, "hands over " + c.region.to_string() + " of '" + tensor.name + "' as another region");
      given.push_back(regions[index]);
    }
  }

  // At the end the host has the loss, every output and every gradient, whole.
  void check_captures() {
    if (module_.loss.valid()) check_given(Capture::What::loss, "", Region());
    if (module_.grad_norm.valid()) check_given(Capture::What::grad_norm, "", Region());
    for (const FileTensor& output : programs_.outputs) check_given(Capture::What::output, output.name, Region(output.shape));
    for (const OpId id : module_.order) {
      if (module_.ops[id].kind != Kind::update) continue;
      const Tensor& parameter = module_.tensors[module_.ops[id].inputs[0]];
      if (parameter.trainable) check_given(Capture::What::gradient, parameter.name, Region(parameter.shape));
    }
  }

  void check_given(Capture::What what, const std::string& name, const Region& whole) {
    const std::vector<Region>& given = given_[{what, name}];
    if (!good_ || cover(given, whole)) return;
    llvm::SmallVector<Region, 4> missing = {whole};
    for (const Region& region : given) {
      llvm::SmallVector<Region, 4> rest;
      for (const Region& each : missing) llvm::append_range(rest, subtract(each, region));
      missing = std::move(rest);
    }
    static const char* const names[] = {"the loss", "the gradient norm", "output", "the gradient of"};
    good_ = false;
    diagnostics_.error(Code::not_equivalent, {},
                       std::string("the host is not given ") + names[static_cast<int>(what)] + (name.empty() ? "" : " " + quoted(name)) +
                           (whole.rank() > 0 ? missing[0].to_string() : ""));
  }

  void visit_kernel(const Step& step) {
    const Instruction& i = *step.what;
    if (i.reads.size() != i.ins.size() || i.writes.size() < i.outs.size()) return refuse(step, "does not say what it reads and writes");
    for (size_t k = 0; k < i.reads.size(); ++k) {
      const Claim& c = claim(step, i.reads[k]);
      const Content* content = find(step, i.ins[k], c.tensor, c.region, Part(), reads_log_sums(i, k)).content;
      if (!content || !complete(step, *content, c.region, c.tensor)) return;
    }
    // What an instruction is said to do does not depend on the micro-batch.
    if (module_.cut.is_first(step.micro_batch)) {
      const std::string difference = difference_from_claims(module_, layouts_, programs_.ranks[static_cast<size_t>(step.rank)], body(step.rank), i);
      if (!difference.empty()) return refuse(step, difference);
    }
    for (size_t k = 0; k < i.outs.size(); ++k) {
      const Claim& c = claim(step, i.writes[k]);
      const Fragment made{c.region, c.part, micro_batches_of(step, c.tensor)};
      if (i.accumulate) {
        if (!add(step, i.outs[k], c.tensor, c.region, {made})) return;
      } else {
        if (i.opcode == Opcode::copy && i.writes.size() > 1) make_room(step, i.outs[k], c, claim(step, i.writes[1]));
        write(step, i.outs[k], {{c.tensor, c.region, {}}, {made}, writes_log_sums(i, k)});
      }
    }
  }

  void visit_collective(const std::vector<Step>& members) {
    const Opcode opcode = members[0].what->opcode;
    if (opcode == Opcode::broadcast) return visit_broadcast(members);
    for (const Step& member : members) {
      if (!is_its_turn(member) || !has_right_types(member)) return;
      if (!is_collective(*member.what, members.size())) return refuse(member, "does not read and write what a call of its kind does");
      const TensorId id = claim(member, member.what->reads[0]).tensor;
      const bool is_join = opcode == Opcode::all_reduce || opcode == Opcode::reduce_scatter;
      if (is_join && std::get<Communication>(member.what->expression).join != module_.tensors[id].join)
        return refuse(member, "joins '" + module_.tensors[id].name + "' otherwise than its parts are to be joined");
    }
    std::vector<Content> given;  // by member (where it gives a block to each: by member and block)
    for (const Step& member : members)
      for (size_t r = 0; r < member.what->reads.size(); ++r) {
        const Claim& c = claim(member, member.what->reads[r]);
        const View& all = member.what->ins[0];
        auto held = fragments(member, gives_blocks(opcode) ? block_of(all, static_cast<int64_t>(r), c.region) : all, c);
        if (!held) return;
        given.push_back({{c.tensor, c.region, {}}, std::move(*held)});
        if (given.back().held.tensor != given[0].held.tensor)
          return refuse(member, "meets a call for another tensor, '" + module_.tensors[given[0].held.tensor].name + "'");
        if (given.back().held.region.elements() != given[0].held.region.elements())
          return refuse(member, "meets a call whose blocks have another length, " + given[0].held.region.to_string());
      }
    receive_collective(members, given);
  }

  // One member gives, all others get what it gives.
  void visit_broadcast(const std::vector<Step>& members) {
    const int32_t root = std::get<Communication>(members[0].what->expression).root;
    for (size_t m = 0; m < members.size(); ++m) {
      const Instruction& i = *members[m].what;
      if (!is_its_turn(members[m]) || !has_right_types(members[m])) return;
      const bool gives = static_cast<int32_t>(m) == root;
      const llvm::ArrayRef<View> views = gives ? llvm::ArrayRef<View>(i.ins) : llvm::ArrayRef<View>(i.outs);
      const bool is_sound = i.ins.size() == gives && i.outs.size() == !gives && i.reads.size() == gives && i.writes.size() == !gives;
      if (!is_sound || !views[0].is_contiguous()) return refuse(members[m], "does not read and write what a call of its kind does");
      if (std::get<Communication>(i.expression).root != root) return refuse(members[m], "expects its value from another member than the others");
    }
    if (root < 0 || root >= static_cast<int32_t>(members.size())) return refuse(members[0], "expects its value from nobody");
    const Step& giver = members[static_cast<size_t>(root)];
    const Claim& given = claim(giver, giver.what->reads[0]);
    const auto held = fragments(giver, giver.what->ins[0], given);
    for (const Step& member : members) {
      if (!held || member.rank == giver.rank) continue;
      const Claim& c = claim(member, member.what->writes[0]);
      if (c.tensor != given.tensor || !(c.region == given.region))
        return refuse(member, "expects " + c.region.to_string() + " of '" + module_.tensors[c.tensor].name + "' and is given " +
                                  given.region.to_string() + " of '" + module_.tensors[given.tensor].name + "'");
      write(member, member.what->outs[0], {{given.tensor, given.region, {}}, *held});
    }
  }

  // Does a member give a block to each?
  static bool gives_blocks(Opcode opcode) { return opcode == Opcode::reduce_scatter || opcode == Opcode::all_to_all; }

  // Has it the views and claims of a collective of n members, all contiguous?
  static bool is_collective(const Instruction& i, size_t n) {
    if (i.ins.size() != 1 || i.outs.size() != 1 || !i.ins[0].is_contiguous() || !i.outs[0].is_contiguous()) return false;
    if (i.opcode == Opcode::all_reduce && !same_place(i.ins[0], i.outs[0])) return false;
    if (i.opcode == Opcode::all_to_all && i.ins[0].buffer == i.outs[0].buffer) return false;  // blocks would be overwritten before they are sent
    if (i.reads.size() != (gives_blocks(i.opcode) ? n : 1)) return false;
    const bool receives_blocks = i.opcode == Opcode::all_gather || i.opcode == Opcode::all_to_all;
    return (receives_blocks && i.writes.size() == n) || (i.opcode != Opcode::all_to_all && i.writes.size() == 1);
  }

  // The blocks of an all_gather, apart or as its region has them one after the other; those of an all_to_all; what a sum joins.
  void receive_collective(const std::vector<Step>& members, const std::vector<Content>& given) {
    const size_t n = members.size();
    const Opcode opcode = members[0].what->opcode;
    const Claim* joined_as = nullptr;
    Fragments whole;  // of all_reduce and all_gather: the same for every member that claims the same
    for (size_t m = 0; m < n; ++m) {
      const Step& member = members[m];
      const Instruction& i = *member.what;
      if (i.writes.size() > 1) {
        std::vector<const Content*> blocks;
        for (size_t k = 0; k < n; ++k) blocks.push_back(&given[opcode == Opcode::all_to_all ? k * n + m : k]);
        receive_blocks(member, blocks);
        continue;
      }
      const Claim& c = claim(member, i.writes[0]);
      if (opcode == Opcode::reduce_scatter || !joined_as || joined_as->tensor != c.tensor || !(joined_as->region == c.region)) {
        std::vector<const Fragments*> all;
        for (size_t k = 0; k < n; ++k) {
          const Content& from = opcode == Opcode::reduce_scatter ? given[k * n + m] : given[k];
          const Region& block = from.held.region;
          const bool is_due = opcode == Opcode::all_gather ? is_block(c.region, static_cast<int64_t>(k), block) : block == c.region;
          if (from.held.tensor != c.tensor || !is_due)
            return refuse(member, "expects " + std::string(opcode == Opcode::all_gather ? "blocks of " : "") + c.region.to_string() +
                                      " from every member and gets " + block.to_string());
          all.push_back(&from.fragments);
        }
        std::optional<Fragment> doubled;
        whole = put_together(all, doubled);
        if (doubled) return refuse_doubled(member, c.tensor, *doubled);
        joined_as = &c;
      }
      write(member, opcode == Opcode::all_gather ? block_of(i.outs[0], 0, c.region) : i.outs[0], {{c.tensor, c.region, {}}, whole});
    }
  }

  void receive_blocks(const Step& member, const std::vector<const Content*>& given) {
    const Instruction& i = *member.what;
    for (size_t k = 0; k < given.size(); ++k) {
      const Claim& c = claim(member, i.writes[k]);
      if (c.tensor != given[k]->held.tensor || !(given[k]->held.region == c.region))
        return refuse(member, "expects block " + c.region.to_string() + " and gets " + given[k]->held.region.to_string());
      write(member, block_of(i.outs[0], static_cast<int64_t>(k), c.region), *given[k]);
    }
  }

  // Does a region lie in `all` as the block of this index?
  static bool is_block(const Region& all, int64_t index, const Region& region) {
    if (!all.contains(region)) return false;
    const View whole = whole_buffer(BufferId(0), all.local_shape());
    const std::optional<View> place = subview(whole, all, region);
    return place && same_place(as_wide_as(*place, region), block_of(whole, index, region));
  }

  // Does the buffer hold all of the home's region of a tensor, whole and in its place?
  bool holds(BufferId buffer, TensorId id, const Home& home) {
    std::vector<Region> missing = {home.region};
    for (const Content& content : contents(home.device, buffer, 0)) {
      if (content.held.tensor != id || !home.region.contains(content.held.region)) continue;
      const std::optional<View> place = subview(whole_buffer(buffer, home.region.local_shape()), home.region, content.held.region);
      if (!place || !same_place(*place, content.held.view)) continue;
      for (const Fragment& fragment : content.fragments) {
        if (!fragment.part.whole()) continue;
        std::vector<Region> rest;
        for (const Region& each : missing) llvm::append_range(rest, subtract(each, fragment.region));
        missing = std::move(rest);
      }
    }
    return missing.empty();
  }

  // At the end every home of every trainable parameter, and of all state, holds its new version; each has one.
  void check_homes() {
    for (int64_t t = 0; t < module_.tensors.size(); ++t) {
      const TensorId id(t), old = module_.tensors[id].next_version_of;
      if (!old.valid()) continue;
      auto it = module_.homes.find(old);
      const bool has_home = it != module_.homes.end() && !it->second.empty();
      if (!has_home) {
        good_ = false;
        diagnostics_.error(Code::not_equivalent, {}, "nobody keeps the new version of '" + module_.tensors[old].name + "'");
        return;
      }
      for (const Home& home : it->second) {
        bool found = false;
        for (const size_t i : buffers_of(home.device, module_.tensors[old].name)) {
          const BufferId buffer(static_cast<int32_t>(i));
          const Buffer& b = body(home.device).buffers[buffer];
          found |= b.elements == home.region.elements() && loads(programs_.ranks[static_cast<size_t>(home.device)], b, old, home.region) &&
                   holds(buffer, id, home);
        }
        if (!found) {
          good_ = false;
          diagnostics_.error(Code::not_equivalent, {},
                             "rank " + std::to_string(home.device) + " ends the step without the new version of '" + module_.tensors[old].name + "'");
          return;
        }
      }
    }
  }

  // Ranks are visited at the same time: each keeps its own refusal.
  void refuse(const Step& step, std::string why) {
    std::optional<Refusal>& refused = refused_[static_cast<size_t>(step.rank)];
    if (!refused) refused = {step, std::move(why)};
  }

  void report_refusal() {
    const auto it = llvm::find_if(refused_, [](const auto& refused) { return refused.has_value(); });
    if (it == refused_.end()) return;
    good_ = false;
    const Step& step = (*it)->step;
    const Body& b = body(step.rank);
    diagnostics_.error(Code::not_equivalent, {},
                       "rank " + std::to_string(step.rank) + ", instruction " + std::to_string(step.instruction) + " of segment " +
                           b.segments[static_cast<size_t>(step.segment)].name + ", micro-batch " + std::to_string(step.micro_batch) + ": " +
                           name_of(step.what->opcode) + " " + (*it)->why,
                       "", step.what->origin);
  }

  struct Refusal {
    Step step;
    std::string why;
  };

  const Module& module_;
  const Layouts layouts_;
  const Programs& programs_;
  Diagnostics& diagnostics_;
  std::vector<std::vector<Contents>> memory_;                             // by rank, buffer and copy
  std::vector<std::vector<size_t>> first_copy_;                           // by body and buffer: where its copies are in memory_
  std::map<std::pair<int32_t, std::string>, std::vector<size_t>> named_;  // by body and name: the buffers that the host fills with it
  std::map<int64_t, Content> messages_;
  int64_t period_;                                                              // after which micro-batches do the same again
  int64_t walked_;                                                              // micro-batches of the step that are looked at
  std::map<std::pair<Capture::What, std::string>, std::vector<Region>> given_;  // to the host: regions of the whole tensors; scalars have no name
  std::vector<std::optional<Refusal>> refused_;                                 // by rank
  bool good_ = true, is_stuck_ = false;
};

}  // namespace

bool check_lineage(const Module& module, const Programs& programs, Diagnostics& diagnostics) {
  Lineage some(module, programs, micro_batches_period(programs), diagnostics);
  if (some.run()) return true;
  return some.is_stuck() && Lineage(module, programs, module.cut.count, diagnostics).run();
}

}  // namespace sscc
