// Attention as one kernel, which keeps no scores in memory, and its gradient as another.
//
//   s = contract(q, k); m = where(mask, c, scale s); p = softmax(m); o = contract(p, v)    ->    o, log_sums = attention(q, k, v, mask, c)
//   dp = contract(do, v); dv = contract(p, do); dm = softmax_grad(p, dp); ds = ...          ->    dq, dk, dv = attention_grad(q, k, v, o, log_sums, do, ..)
//   dq = contract(ds, k); dk = contract(q, ds)
//
// Between the two lives the logarithm of a softmax's sum, one number for a row of scores, from which the rows are made again. So both are fused or
// neither is: where anybody else reads the softmax's result, all stays as it is. A copy that only lays out what the kernel makes is left out: it writes
// any strides.
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "compiler/program/attention_labels.h"
#include "compiler/program/fusing.h"
#include "compiler/program/lower.h"
#include "compiler/program/views.h"
#include "llvm/ADT/STLExtras.h"

namespace sscc {
namespace {

// An instruction of a body.
struct Place {
  size_t segment = 0, index = 0;
  auto operator<=>(const Place&) const = default;
};

// An operand of an instruction, and what it is said to hold.
struct Operand {
  View view;
  int32_t claim = -1;
};
Operand read_by(const Instruction& i, size_t k) { return {i.ins[k], i.reads[k]}; }

// What becomes one instruction: from the product of queries and keys to the product with values.
struct Attention {
  Place product, softmax, output;
  size_t keys = 0, probabilities = 0;             // which operand they are: of the product, of the output
  std::vector<std::pair<Place, size_t>> between;  // product and softmax, in order; which operand of each the scores are
  Labels labels;
  rt::AttentionRule rule;
  Operand q, k, v;
  std::optional<Operand> mask, value;
  View result;  // where the kernel writes it
};
// And its gradient.
struct Gradient {
  Place scores, softmax;  // the gradient of the softmax's result, and of what it reads
  std::vector<Place> between;
  Place query, key, value;
  Operand q, k, v, out_gradient;
};

class AttentionFusion {
 public:
  // `ranks`: that share the body. `apart`: operators that are not to be fused.
  AttentionFusion(Body& body, const Ranks& ranks, const std::set<OpId>& apart) : body_(body), ranks_(ranks), apart_(apart) {}

  void run() {
    index();
    std::vector<Place> softmaxes;
    for (size_t s = 0; s < body_.segments.size(); ++s)
      for (size_t i = 0; i < body_.segments[s].instructions.size(); ++i)
        if (at({s, i}).opcode == Opcode::softmax) softmaxes.push_back({s, i});
    for (const Place& softmax : softmaxes) fuse(softmax);
    rewrite();
  }

 private:
  const Instruction& at(const Place& place) const { return body_.segments[place.segment].instructions[place.index]; }
  const std::vector<Place>& readers(const View& view) const { return readers_[static_cast<size_t>(view.buffer.index)]; }
  DType type_of(const View& view) const { return body_.buffers[view.buffer].dtype; }

  void index() {
    writers_.resize(static_cast<size_t>(body_.buffers.size()));
    readers_.resize(static_cast<size_t>(body_.buffers.size()));
    for (size_t s = 0; s < body_.segments.size(); ++s)
      for (size_t i = 0; i < body_.segments[s].instructions.size(); ++i) {
        const Instruction& each = at({s, i});
        for (const View& view : each.outs) writers_[static_cast<size_t>(view.buffer.index)].push_back({s, i});
        for (const View& view : each.ins) readers_[static_cast<size_t>(view.buffer.index)].push_back({s, i});
      }
  }

  bool can_fuse(const Instruction& i) const { return !i.accumulate && !i.on_host && i.piece >= 0 && !apart_.contains(i.op); }

  // The kernel in `segment` that alone makes what a view shows, whole.
  std::optional<Place> maker(const View& view, size_t segment) const {
    const std::vector<Place>& writers = writers_[static_cast<size_t>(view.buffer.index)];
    if (writers.size() != 1 || writers[0].segment != segment) return std::nullopt;
    const Instruction& i = at(writers[0]);
    if (!can_fuse(i) || i.outs.size() != 1 || !same_place(i.outs[0], view)) return std::nullopt;
    return writers[0];
  }
  // Does it read the view as its operand, once? Which.
  static std::optional<size_t> operand_of(const Instruction& i, const View& view) {
    const auto reads = [&](const View& in) { return in.buffer == view.buffer; };
    const auto found = llvm::find_if(i.ins, reads);
    if (llvm::count_if(i.ins, reads) != 1 || !same_place(*found, view)) return std::nullopt;
    return static_cast<size_t>(found - i.ins.begin());
  }

  // -- forward ------------------------------------------------------------------------------------------------------------------------------------

  static constexpr int most_steps = 8;  // between a product and a softmax, and back

  // From what the softmax reads up to the product of queries and keys. False if something else is on the way.
  bool climb(const View& view, size_t segment, Attention& found, int steps = 0) const {
    const std::optional<Place> made = maker(view, segment);
    if (!made || readers(view).size() != 1 || steps > most_steps) return false;
    if (at(*made).opcode == Opcode::contract) {
      found.product = *made;
      found.rule.scale = std::get<ContractExpression>(at(*made).expression).scale;
      return true;
    }
    if (at(*made).opcode != Opcode::pointwise) return false;
    for (size_t k = 0; k < at(*made).ins.size(); ++k) {
      Attention tried = found;
      if (!climb(at(*made).ins[k], segment, tried, steps + 1) || !apply(at(*made), k, tried)) continue;
      tried.between.emplace_back(*made, k);
      found = std::move(tried);
      return true;
    }
    return false;
  }

  // One step from the product to what the softmax reads; `spine`: the operand that the scores are. False if the kernel has no such step.
  bool apply(const Instruction& i, size_t spine, Attention& found) const {
    const auto& e = std::get<PointwiseExpression>(i.expression);
    if (e.steps.size() != 1 || i.ins[spine].dims != i.outs[0].dims) return false;  // a mask that makes more scores of them
    const rt::ScalarStep& step = e.steps[0];
    rt::AttentionRule& rule = found.rule;
    const bool is_clipped = std::isfinite(rule.low) || std::isfinite(rule.high), is_masked = rule.mask != rt::AttentionMask::none;
    const auto is_scalar = [](const View& view) { return elements(view.dims) == 1; };
    switch (step.function) {
      case rt::Scalar::scale_shift:
        if (is_masked || is_clipped || step.beta != 0) return false;
        rule.scale *= step.alpha;
        return true;
      case rt::Scalar::where:
        if (is_masked || is_clipped || spine == 0 || !is_scalar(i.ins[3 - spine])) return false;
        rule.mask = spine == 2 ? rt::AttentionMask::replace : rt::AttentionMask::keep;
        found.mask = read_by(i, 0);
        found.value = read_by(i, 3 - spine);
        return rt::is_float(type_of(found.value->view));
      case rt::Scalar::add:
        if (is_masked || is_clipped) return false;
        rule.mask = rt::AttentionMask::add;
        found.mask = read_by(i, 1 - spine);
        return rt::is_float(type_of(found.mask->view));
      case rt::Scalar::clip:
        if (is_clipped) return false;
        rule.low = step.alpha;
        rule.high = step.beta;
        return true;
      default: return false;
    }
  }

  // The product with values: a reader of the softmax's result, in its segment, that sums over the keys.
  bool find_output(const View& probabilities, Attention& found) const {
    const int dim = std::get<DimExpression>(at(found.softmax).expression).dim;
    for (const Place& place : readers(probabilities)) {
      const Instruction& i = at(place);
      const std::optional<size_t> operand = operand_of(i, probabilities);
      if (place.segment != found.softmax.segment || i.opcode != Opcode::contract || !can_fuse(i) || !operand) continue;
      const Equation product(at(found.product)), output(i);
      if (has_label(output.out, output.in[*operand][static_cast<size_t>(dim)])) continue;
      found.output = place;
      found.v = read_by(i, 1 - *operand);
      found.result = i.outs[0];
      // Queries and keys are told apart by the label along which the softmax is.
      const char key = product.out[static_cast<size_t>(dim)];
      const size_t keys = found.keys = has_label(product.in[0], key) ? 0 : 1;
      found.probabilities = *operand;
      found.q = read_by(at(found.product), 1 - keys);
      found.k = read_by(at(found.product), keys);
      Renaming names;
      Labels& labels = found.labels;
      labels = {product.in[1 - keys], product.in[keys], "", product.out, "", key};
      if (!names.bind(output.in[*operand], product.out)) return false;
      labels.v = names.renamed(output.in[1 - *operand], labels.q + labels.k);
      labels.out = names.renamed(output.out, labels.q + labels.k);
      const DType type = type_of(found.result);
      const auto has_type = [&](const View& view) { return type_of(view) == type; };
      return labels.are_of_attention() && std::get<ContractExpression>(i.expression).scale == 1 && rt::is_float(type) &&
             llvm::all_of(llvm::ArrayRef<View>{found.q.view, found.k.view, found.v.view, probabilities}, has_type);
    }
    return false;
  }

  // -- gradient -----------------------------------------------------------------------------------------------------------------------------------

  // From the gradient of what the softmax reads down to those of queries and keys: past the mask and the scale, in whatever order.
  bool descend(View view, const Attention& forward, Gradient& found) const {
    double scale = 1;
    bool is_masked = false;
    for (int steps = 0; steps < most_steps; ++steps) {
      const std::vector<Place>& next = readers(view);
      if (next.empty() || next.size() > 2) return false;
      for (const Place& place : next)
        if (place.segment != found.softmax.segment || at(place).outs.size() != 1 || !maker(at(place).outs[0], place.segment) ||
            !operand_of(at(place), view))
          return false;
      if (next.size() == 2 && at(next[0]).opcode == Opcode::contract && at(next[1]).opcode == Opcode::contract) {
        const bool replaces = forward.rule.mask == rt::AttentionMask::replace || forward.rule.mask == rt::AttentionMask::keep;
        return replaces == is_masked && find_products(view, next, scale, forward, found);
      }
      if (llvm::any_of(next, [&](const Place& place) { return at(place).opcode != Opcode::pointwise; })) return false;
      if (next.size() == 2) {  // zeros made of the view, and what chooses between them and the view
        const auto& zeros = std::get<PointwiseExpression>(at(next[0]).expression).steps[0];
        if (is_masked || zeros.function != rt::Scalar::scale_shift || zeros.alpha != 0 || zeros.beta != 0) return false;
        if (readers(at(next[0]).outs[0]) != std::vector<Place>{next[1]}) return false;
        const Instruction& choice = at(next[1]);
        const size_t zero = forward.rule.mask == rt::AttentionMask::replace ? 1 : 2;
        if (std::get<PointwiseExpression>(choice.expression).steps[0].function != rt::Scalar::where || !forward.value) return false;
        if (!same_place(choice.ins[0], forward.mask->view) || !same_place(choice.ins[zero], at(next[0]).outs[0]) ||
            !same_place(choice.ins[3 - zero], view))
          return false;
        is_masked = true;
        view = choice.outs[0];
      } else {
        const auto& step = std::get<PointwiseExpression>(at(next[0]).expression).steps[0];
        if (step.function != rt::Scalar::scale_shift || step.beta != 0 || step.alpha == 0) return false;
        scale *= step.alpha;
        view = at(next[0]).outs[0];
      }
      found.between.insert(found.between.end(), next.begin(), next.end());
    }
    return false;
  }

  // The gradients of queries and keys.
  bool find_products(const View& scores, const std::vector<Place>& products, double scale, const Attention& forward, Gradient& found) const {
    const Labels& labels = forward.labels;
    for (const size_t query : {0, 1}) {
      const Instruction &to_query = at(products[query]), &to_key = at(products[1 - query]);
      const size_t in_query = *operand_of(to_query, scores), in_key = *operand_of(to_key, scores);
      const Equation of_query(to_query), of_key(to_key);
      Renaming query_names, key_names;
      if (!query_names.bind(of_query.in[in_query], labels.scores) || !query_names.bind(of_query.in[1 - in_query], labels.k) ||
          !query_names.bind(of_query.out, labels.q) || !key_names.bind(of_key.in[in_key], labels.scores) ||
          !key_names.bind(of_key.in[1 - in_key], labels.q) || !key_names.bind(of_key.out, labels.k))
        continue;
      const auto has_right_scale = [&](const Instruction& i) {
        return std::get<ContractExpression>(i.expression).scale * scale == forward.rule.scale;
      };
      if (!has_right_scale(to_query) || !has_right_scale(to_key)) return false;
      found.query = products[query];
      found.key = products[1 - query];
      found.k = read_by(to_query, 1 - in_query);
      found.q = read_by(to_key, 1 - in_key);
      return true;
    }
    return false;
  }

  bool find_gradient(const View& probabilities, const Attention& forward, Gradient& found) const {
    std::vector<Place> others;
    for (const Place& place : readers(probabilities))
      if (place != forward.output) others.push_back(place);
    if (others.size() != 2) return false;
    for (const size_t first : {0, 1}) {
      const Instruction &softmax = at(others[first]), &value = at(others[1 - first]);
      if (softmax.opcode != Opcode::softmax_grad || value.opcode != Opcode::contract || others[0].segment != others[1].segment) continue;
      found.softmax = others[first];
      found.value = others[1 - first];
      const std::optional<size_t> operand = operand_of(value, probabilities);
      const std::optional<Place> made = maker(softmax.ins[1], found.softmax.segment);
      if (!same_place(softmax.ins[0], probabilities) || !operand || !maker(value.outs[0], found.value.segment)) return false;
      if (!maker(softmax.outs[0], found.softmax.segment)) return false;
      if (std::get<DimExpression>(softmax.expression).dim != std::get<DimExpression>(at(forward.softmax).expression).dim) return false;
      if (!made || at(*made).opcode != Opcode::contract || readers(softmax.ins[1]).size() != 1) return false;
      found.scores = *made;
      const Equation of_scores(at(*made)), of_value(value);
      Renaming value_names;
      const Labels& labels = forward.labels;
      if (!value_names.bind(of_value.in[*operand], labels.scores) || !value_names.bind(of_value.in[1 - *operand], labels.out) ||
          !value_names.bind(of_value.out, labels.v))
        return false;
      found.out_gradient = read_by(value, 1 - *operand);
      const std::optional<size_t> given = operand_of(at(*made), found.out_gradient.view);
      Renaming score_names;
      if (!given || !score_names.bind(of_scores.out, labels.scores) || !score_names.bind(of_scores.in[*given], labels.out) ||
          !score_names.bind(of_scores.in[1 - *given], labels.v))
        return false;
      found.v = read_by(at(*made), 1 - *given);
      const auto is_unscaled = [](const Instruction& i) { return std::get<ContractExpression>(i.expression).scale == 1; };
      return is_unscaled(value) && is_unscaled(at(*made)) && descend(softmax.outs[0], forward, found) && reads_the_same(forward, found);
    }
    return false;
  }

  // Does the gradient read as queries, keys, values and gradient of the output what the forward pass reads, wherever that lies?
  bool reads_the_same(const Attention& forward, const Gradient& found) const {
    const auto is_same = [&](const Operand& a, const Operand& b) { return a.view.dims == b.view.dims && are_equal_claims(ranks_, a.claim, b.claim); };
    const Instruction& scores = at(found.scores);
    const Operand other = read_by(scores, same_place(scores.ins[0], found.out_gradient.view) ? 0 : 1);
    return is_same(found.q, forward.q) && is_same(found.k, forward.k) && is_same(found.v, forward.v) && is_same(found.out_gradient, other);
  }

  static std::vector<Place> members_of(const Gradient& gradient) {
    std::vector<Place> members = {gradient.scores, gradient.softmax, gradient.query, gradient.key, gradient.value};
    members.insert(members.end(), gradient.between.begin(), gradient.between.end());
    std::sort(members.begin(), members.end());
    return members;
  }

  // Where the gradient's one instruction can stand: at its last member, unless somebody reads a result before; at its first, if all is there.
  std::optional<Place> place_of(const Gradient& gradient, const std::vector<Place>& members, const Attention& forward) const {
    const Place first = members.front(), last = members.back();
    if (forward.output.segment == first.segment && !(forward.output < first)) return std::nullopt;
    const auto is_inside = [&](const Place& place) {
      return first < place && place < last && !std::binary_search(members.begin(), members.end(), place);
    };
    const bool is_read_inside = llvm::any_of(llvm::ArrayRef<Place>{gradient.query, gradient.key, gradient.value},
                                             [&](const Place& made) { return llvm::any_of(readers(at(made).outs[0]), is_inside); });
    if (!is_read_inside) return last;
    const auto is_late = [&](const View& view) { return llvm::any_of(writers_[static_cast<size_t>(view.buffer.index)], is_inside); };
    for (const Operand* each : {&gradient.q, &gradient.k, &gradient.v, &gradient.out_gradient})
      if (is_late(each->view)) return std::nullopt;
    if (forward.mask && is_late(forward.mask->view)) return std::nullopt;
    return first;
  }

  // -- what becomes of it -------------------------------------------------------------------------------------------------------------------------

  void fuse(const Place& softmax) {
    Attention found;
    found.softmax = softmax;
    const Instruction& i = at(softmax);
    const View probabilities = i.outs[0];
    if (!maker(probabilities, softmax.segment) || !is_whole(probabilities)) return;
    if (!climb(i.ins[0], softmax.segment, found) || !find_output(probabilities, found)) return;
    Gradient gradient;
    const bool has_gradient = readers(probabilities).size() > 1;
    if (has_gradient && !maker(found.result, softmax.segment)) return;  // the gradient reads it again
    if (has_gradient && !find_gradient(probabilities, found, gradient)) return;
    const std::vector<Place> members = has_gradient ? members_of(gradient) : std::vector<Place>();
    const std::optional<Place> place = has_gradient ? place_of(gradient, members, found) : std::nullopt;
    if (has_gradient && !place) return;

    found.result = laid_out(found.result, found.output.segment);
    Instruction forward = fused(found);
    if (has_gradient) {
      forward.outs.push_back(log_sums(probabilities, found));
      forward.writes.push_back(i.writes[0]);
      fused_[*place] = fused(gradient, members, found, forward.outs[1]);
    }
    for (const Place& member : members) left_out_.insert(member);
    left_out_.insert({found.product, found.softmax, found.output});
    for (const auto& [step, scores] : found.between) left_out_.insert(step);
    fused_[found.output] = std::move(forward);
  }

  bool is_whole(const View& view) const {
    return view.offset == 0 && view.is_contiguous() && elements(view.dims) == body_.buffers[view.buffer].elements;
  }

  // The softmax's buffer holds the logarithms of its sums instead: they live as long.
  View log_sums(const View& probabilities, const Attention& found) {
    View view = probabilities;
    const size_t dim = found.labels.scores.find(found.labels.key);
    Shape rows = probabilities.dims;
    rows[dim] = 1;
    view.strides = whole_buffer(view.buffer, rows).strides;
    view.strides[dim] = 0;
    Buffer& buffer = body_.buffers[view.buffer];
    buffer.dtype = rt::arithmetic_type(buffer.dtype);
    buffer.elements = elements(rows);
    if (buffer.name.starts_with("t:")) buffer.name[0] = 'l';
    return view;
  }

  // Where a result is to be written: where the copy, if there is one, and nothing else reads it, would put it.
  View laid_out(const View& made, size_t segment) {
    const std::vector<Place>& next = readers(made);
    if (next.size() != 1 || next[0].segment != segment) return made;
    const Instruction& copy = at(next[0]);
    if (copy.opcode != Opcode::copy || copy.accumulate || copy.on_host || copy.op.valid() || type_of(copy.outs[0]) != type_of(made)) return made;
    if (body_.buffers[copy.outs[0].buffer].on_host) return made;
    if (writers_[static_cast<size_t>(copy.outs[0].buffer.index)].size() != 1 || copy.ins[0].offset != made.offset) return made;
    View view = copy.outs[0];
    view.dims = made.dims;
    view.strides.assign(made.dims.size(), 0);
    std::set<size_t> taken;
    for (size_t d = 0; d < made.dims.size(); ++d) {
      if (made.dims[d] == 1) continue;
      size_t c = 0;
      while (c < copy.ins[0].dims.size() && (taken.contains(c) || copy.ins[0].strides[c] != made.strides[d] || copy.ins[0].dims[c] != made.dims[d]))
        ++c;
      if (c == copy.ins[0].dims.size()) return made;
      taken.insert(c);
      view.strides[d] = copy.outs[0].strides[c];
    }
    if (elements(copy.ins[0].dims) != elements(made.dims)) return made;
    left_out_.insert(next[0]);
    return view;
  }

  // The operators of the forward pass, of which the gradient's kernel computes all again; `mask`: where that stands among its operands.
  void add_forward_ops(const Attention& found, int32_t mask, AttentionExpression& expression) const {
    const auto add = [&](const Place& place, llvm::SmallVector<int32_t, 3> args) {
      expression.ops.push_back({at(place).op, at(place).piece, std::move(args)});
      return ~(static_cast<int32_t>(expression.ops.size()) - 1);
    };
    int32_t made = add(found.product, found.keys == 1 ? llvm::SmallVector<int32_t, 3>{0, 1} : llvm::SmallVector<int32_t, 3>{1, 0});
    for (const auto& [place, scores] : found.between) {
      llvm::SmallVector<int32_t, 3> args;  // the mask stands before the value
      for (size_t k = 0; k < at(place).ins.size(); ++k) args.push_back(k == scores ? made : k == 0 || at(place).ins.size() == 2 ? mask : mask + 1);
      made = add(place, std::move(args));
    }
    made = add(found.softmax, {made});
    add(found.output, found.probabilities == 0 ? llvm::SmallVector<int32_t, 3>{made, 2} : llvm::SmallVector<int32_t, 3>{2, made});
  }

  static void read(Instruction& i, const Operand& operand) {
    i.ins.push_back(operand.view);
    i.reads.push_back(operand.claim);
  }

  Instruction fused(const Attention& found) const {
    Instruction result;
    result.opcode = Opcode::attention;
    result.op = at(found.output).op;
    result.tensor = at(found.output).tensor;
    for (const Operand* each : {&found.q, &found.k, &found.v}) read(result, *each);
    if (found.mask) read(result, *found.mask);
    if (found.value) read(result, *found.value);
    result.outs.push_back(found.result);
    result.writes.push_back(at(found.output).writes[0]);
    AttentionExpression expression{found.labels.equation(), found.rule, {}};
    add_forward_ops(found, 3, expression);
    result.expression = std::move(expression);
    std::vector<Place> members = {found.product, found.softmax, found.output};
    for (const auto& [step, scores] : found.between) members.push_back(step);
    std::sort(members.begin(), members.end());
    result.origin = origins_of(members);
    return result;
  }

  Instruction fused(const Gradient& gradient, const std::vector<Place>& members, const Attention& forward, const View& log_sums) {
    Instruction result;
    result.opcode = Opcode::attention_grad;
    result.op = at(gradient.softmax).op;
    result.tensor = at(gradient.softmax).tensor;
    for (const Operand* each : {&gradient.q, &gradient.k, &gradient.v}) read(result, *each);
    read(result, {forward.result, at(forward.output).writes[0]});
    read(result, {log_sums, at(forward.softmax).writes[0]});
    read(result, gradient.out_gradient);
    if (forward.mask) read(result, *forward.mask);
    if (forward.value) read(result, *forward.value);
    AttentionExpression expression{forward.labels.equation(), forward.rule, {}};
    add_forward_ops(forward, 6, expression);
    const auto softmax = static_cast<int32_t>(expression.ops.size()) - 2;
    std::vector<std::pair<View, int32_t>> made = {{at(forward.softmax).outs[0], ~softmax}};  // and by which operator
    // What a member reads beside that: one operand of the instruction.
    const auto given = [&](const Place& member, const View& view) {
      if (member == gradient.query) return 1;
      if (member == gradient.key) return 0;
      if (member == gradient.scores) return same_place(view, gradient.v.view) ? 2 : 5;
      return member == gradient.value ? 5 : 6;
    };
    for (const Place& member : members) {
      const Instruction& i = at(member);
      FusedOp op{i.op, i.piece, {}};
      for (const View& in : i.ins) {
        const auto it = llvm::find_if(made, [&](const auto& each) { return same_place(each.first, in); });
        op.args.push_back(it != made.end() ? it->second : given(member, in));
      }
      made.emplace_back(i.outs[0], ~static_cast<int32_t>(expression.ops.size()));
      expression.ops.push_back(std::move(op));
    }
    for (const Place& place : {gradient.query, gradient.key, gradient.value}) {
      result.outs.push_back(laid_out(at(place).outs[0], place.segment));
      result.writes.push_back(at(place).writes[0]);
    }
    result.expression = std::move(expression);
    result.origin = origins_of(members);
    return result;
  }

  std::string origins_of(const std::vector<Place>& members) const {
    std::vector<const Instruction*> instructions;
    for (const Place& member : members) instructions.push_back(&at(member));
    return sscc::origins_of(instructions);
  }

  void rewrite() {
    if (fused_.empty()) return;
    for (size_t s = 0; s < body_.segments.size(); ++s) {
      std::vector<Instruction> result;
      for (size_t i = 0; i < body_.segments[s].instructions.size(); ++i) {
        if (const auto it = fused_.find({s, i}); it != fused_.end())
          result.push_back(std::move(it->second));
        else if (!left_out_.contains({s, i}))
          result.push_back(std::move(body_.segments[s].instructions[i]));
      }
      body_.segments[s].instructions = std::move(result);
    }
  }

  Body& body_;
  const Ranks& ranks_;
  const std::set<OpId>& apart_;
  std::vector<std::vector<Place>> writers_, readers_;  // by buffer
  std::map<Place, Instruction> fused_;                 // each in the place of one of its members
  std::set<Place> left_out_;
};

}  // namespace

void fuse_attention(const Module& module, Programs& programs) {
  const std::set<OpId> apart = named_by_precedences(module);
  const std::vector<Ranks> ranks = ranks_by_body(programs);
  for (size_t b = 0; b < programs.bodies.size(); ++b) AttentionFusion(programs.bodies[b], ranks[b], apart).run();
}

}  // namespace sscc
