#include "small_programs.h"

#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <tuple>

#include "compiler/program/lower.h"

namespace sscc::test {
namespace {

View view_of(BufferId buffer, Shape dims) {
  View view{buffer, 0, dims, {}};
  view.strides.resize(dims.size());
  int64_t stride = 1;
  for (size_t d = dims.size(); d-- > 0;) {
    view.strides[d] = stride;
    stride *= dims[d];
  }
  return view;
}

Region box(llvm::ArrayRef<Interval> intervals) {
  Shape whole;
  for (const Interval& interval : intervals) whole.push_back(interval.end);
  Region region(whole);
  for (size_t d = 0; d < intervals.size(); ++d) region.set_dim(d, Intervals(intervals[d].begin, intervals[d].end));
  return region;
}

Weight weight_of(const std::vector<float>& values) {
  std::string bytes(values.size() * sizeof(float), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return {"", 0, static_cast<int64_t>(bytes.size()), std::make_shared<const std::string>(std::move(bytes))};
}

// Adds buffers one after another, 64-byte aligned.
class Arena {
 public:
  explicit Arena(Body& body) : body_(body) {}
  BufferId add(const std::string& name, int64_t elements, Buffer::Life life, DType dtype = DType::f32) {
    Buffer buffer;
    buffer.name = name;
    buffer.dtype = dtype;
    buffer.elements = elements;
    buffer.life = life;
    buffer.offset = body_.arena_bytes;
    buffer.stride = (elements * static_cast<int64_t>(rt::size_of(dtype)) + 63) / 64 * 64;
    body_.arena_bytes += buffer.stride;
    return body_.buffers.add(buffer);
  }
  BufferId add_file(const std::string& name, int64_t elements, Buffer::Source source, const std::string& tensor, int32_t regions,
                    int64_t copies = 1) {
    const BufferId id = add(name, elements, Buffer::Life::persistent);
    Buffer& buffer = body_.buffers[id];
    buffer.source = source;
    buffer.tensor = tensor;
    buffer.regions = regions;
    buffer.copies = copies;
    body_.arena_bytes += (copies - 1) * buffer.stride;
    return id;
  }

 private:
  Body& body_;
};

Instruction instruction(Opcode opcode, const std::string& origin, const std::string& type, llvm::ArrayRef<View> outs, llvm::ArrayRef<View> ins) {
  Instruction result;
  result.opcode = opcode;
  result.origin = origin;
  result.type = type;
  result.outs.assign(outs.begin(), outs.end());
  result.ins.assign(ins.begin(), ins.end());
  return result;
}

template <class Expression>
Instruction with(Instruction base, Expression expression, bool accumulate = false) {
  base.expression = std::move(expression);
  base.accumulate = accumulate;
  return base;
}

Instruction with_next(Instruction base) {
  base.with_next = true;
  return base;
}

rt::ScalarStep step(Scalar function, std::array<int32_t, 3> args, double alpha = 0) {
  return {function, {args[0], args[1], args[2]}, alpha, 0, DType::f32};
}

}  // namespace

Programs linear_on_two_ranks() {
  using Life = Buffer::Life;
  Body body;
  body.micro_batches = 2;
  Arena arena(body);
  const BufferId w = arena.add_file("w:fc.weight", 6, Buffer::Source::parameter, "fc.weight", 0);
  const BufferId b = arena.add_file("w:fc.bias", 2, Buffer::Source::parameter, "fc.bias", 1);
  const BufferId x = arena.add_file("i:x", 3, Buffer::Source::input, "x", 2, 2);
  const BufferId t = arena.add_file("i:target", 2, Buffer::Source::input, "target", 4, 2);
  const BufferId gw = arena.add("g:fc.weight", 6, Life::step);
  const BufferId gb = arena.add("g:fc.bias", 2, Life::step);
  const BufferId loss = arena.add("t:loss", 1, Life::step);
  const BufferId y = arena.add("t:/fc/Gemm_output_0", 2, Life::segment);
  const BufferId error = arena.add("t:loss/error", 2, Life::micro_batch);
  const BufferId square = arena.add("t:loss/square", 2, Life::segment);
  const BufferId gy = arena.add("g:/fc/Gemm_output_0", 2, Life::segment);

  ProgramSegment prologue{"prologue", 0, {}};
  for (const auto& [buffer, n] : {std::pair(gw, 6), std::pair(gb, 2), std::pair(loss, 1)}) {
    prologue.instructions.push_back(with(instruction(Opcode::fill, "loss", "", {view_of(buffer, {n})}, {}), FillValue{0}));
  }

  ProgramSegment forward{"0F", 1, {}};
  forward.instructions.push_back(
      with(instruction(Opcode::contract, "/fc/Gemm", "Gemm", {view_of(y, {1, 2})}, {view_of(x, {1, 3}), view_of(w, {3, 2})}),
           ContractExpression{"mk,kn->mn", 1}));
  forward.instructions.push_back(with(instruction(Opcode::pointwise, "/fc/Gemm", "Gemm", {view_of(y, {1, 2})}, {view_of(y, {1, 2}), view_of(b, {2})}),
                                      PointwiseExpression{{step(Scalar::add, {0, 1, 0})}, {0}, {}}));
  forward.instructions.push_back(
      with(instruction(Opcode::pointwise, "loss", "mse", {view_of(error, {1, 2}), view_of(square, {1, 2})}, {view_of(y, {1, 2}), view_of(t, {1, 2})}),
           PointwiseExpression{{step(Scalar::sub, {0, 1, 0}), step(Scalar::square, {~0, 0, 0})}, {0, 1}, {}}));
  forward.instructions.push_back(
      with(instruction(Opcode::reduce, "loss", "mse", {view_of(loss, {})}, {view_of(square, {1, 2})}), ReduceExpression{3, Join::sum, 0.125}, true));

  ProgramSegment backward{"0B", 2, {}};
  backward.instructions.push_back(with(instruction(Opcode::pointwise, "grad of loss", "", {view_of(gy, {1, 2})}, {view_of(error, {1, 2})}),
                                       PointwiseExpression{{step(Scalar::scale_shift, {0, 0, 0}, 0.25)}, {0}, {}}));
  backward.instructions.push_back(
      with(instruction(Opcode::contract, "grad of /fc/Gemm", "", {view_of(gw, {3, 2})}, {view_of(x, {1, 3}), view_of(gy, {1, 2})}),
           ContractExpression{"mk,mn->kn", 1}, true));
  backward.instructions.push_back(
      with(instruction(Opcode::reduce, "grad of /fc/Gemm", "", {view_of(gb, {2})}, {view_of(gy, {1, 2})}), ReduceExpression{1, Join::sum, 1}, true));

  ProgramSegment epilogue{"epilogue", 3, {}};
  rt::UpdateRule rule;
  rule.lr = 0.1;
  int32_t transfer = 0;
  epilogue.instructions.push_back(
      with(instruction(Opcode::all_reduce, "loss", "", {view_of(loss, {1})}, {}), Communication{-1, 0, transfer++, Join::sum}));
  epilogue.instructions.push_back(with(instruction(Opcode::capture, "loss", "", {}, {view_of(loss, {})}), Capture{Capture::What::loss, "", -1}));
  for (const auto& [name, parameter, gradient, n] : {std::tuple("fc.weight", w, gw, 6), std::tuple("fc.bias", b, gb, 2)}) {
    epilogue.instructions.push_back(with(instruction(Opcode::all_reduce, std::string("grad of ") + name, "", {view_of(gradient, {n})}, {}),
                                         Communication{-1, 0, transfer++, Join::sum}));
    epilogue.instructions.push_back(
        with(instruction(Opcode::update, name, "Update", {view_of(parameter, {n})}, {view_of(parameter, {n}), view_of(gradient, {n})}),
             UpdateExpression{rule}));
  }
  body.segments = {prologue, forward, backward, epilogue};
  body.schedule = {{0, 0}, {1, 0}, {2, 0}, {1, 1}, {2, 1}, {3, 0}};

  Programs programs;
  programs.model = "linear";
  programs.training = true;
  programs.bodies = {body};
  for (int64_t r = 0; r < 2; ++r) {
    RankProgram rank{static_cast<int32_t>(r), 0, 0, {}, {}, {}};
    rank.constants.groups = {{0, 1}};
    rank.constants.regions = {box({{0, 3}, {0, 2}}),     box({{0, 2}}),
                              box({{r, r + 1}, {0, 3}}), box({{2 + r, 3 + r}, {0, 3}}),
                              box({{r, r + 1}, {0, 2}}), box({{2 + r, 3 + r}, {0, 2}})};
    programs.ranks.push_back(rank);
  }
  programs.parameters = {{"fc.weight", DType::f32, {3, 2}, true, weight_of({1, 2, 3, 4, 5, 6})},
                         {"fc.bias", DType::f32, {2}, true, weight_of({-1, 1})}};
  programs.inputs = {{"x", DType::f32, {4, 3}, false, std::nullopt}};
  programs.labels = {{"target", DType::f32, {4, 2}, false, std::nullopt}};
  return programs;
}

Programs every_opcode() {
  Body body;
  Arena arena(body);
  const auto life = Buffer::Life::segment;
  const BufferId a = arena.add("t:/a \"quoted\"\\", 64, life);
  const BufferId b = arena.add("t:/b", 64, life);
  const BufferId c = arena.add("t:/b.", 64, life);  // the same identifier as /b
  const BufferId labels = arena.add("i:labels", 8, life, DType::i64);
  const BufferId mask = arena.add("t:mask", 64, life, DType::b1);
  const View matrix = view_of(a, {8, 8});
  const View other = view_of(b, {8, 8});
  const View result = view_of(c, {8, 8});
  const View vector = view_of(c, {8});
  const View ids = view_of(labels, {8});
  View transposed = matrix;
  transposed.strides = {1, 8};
  View row = vector;
  row.offset = 8;
  const auto plain = [](Opcode opcode, llvm::ArrayRef<View> outs, llvm::ArrayRef<View> ins) {
    return instruction(opcode, "/node", "Type", outs, ins);
  };

  ProgramSegment all{"0F", 0, {}};
  const auto add = [&](Instruction one) { all.instructions.push_back(std::move(one)); };
  add(with(plain(Opcode::contract, {result}, {transposed, other}), ContractExpression{"mk,kn->mn", 0.35355339059327379}, true));
  add(with(plain(Opcode::pointwise, {view_of(mask, {8, 8})}, {matrix, row}), PointwiseExpression{{step(Scalar::less, {0, 1, 0})}, {0}, {}}));
  add(with(plain(Opcode::pointwise, {result}, {matrix, row}), PointwiseExpression{{step(Scalar::sub, {1, 0, 0})}, {0}, {}}));
  add(with(plain(Opcode::pointwise, {result}, {matrix, row, view_of(mask, {8, 8})}),
           PointwiseExpression{{step(Scalar::mul_add, {0, 1, 0}), step(Scalar::tanh, {~0, 0, 0}), step(Scalar::scale_shift, {~1, 0, 0}, -INFINITY),
                                step(Scalar::where, {2, ~1, ~2})},
                               {3},
                               {}},
           true));
  add(with(plain(Opcode::reduce, {vector}, {matrix}), ReduceExpression{2, Join::logsumexp, 1}));
  add(plain(Opcode::copy, {result}, {transposed}));
  add(with(plain(Opcode::fill, {result}, {}), FillValue{-INFINITY}));
  add(with(plain(Opcode::gather, {result}, {matrix, ids}), IndexExpression{0, 0, 16, INT64_MIN}));
  add(with(plain(Opcode::scatter_add, {result}, {ids, matrix}), IndexExpression{0, -1, 16, INT64_MIN}));
  add(with(plain(Opcode::softmax, {result}, {matrix}), DimExpression{1}));
  add(with(plain(Opcode::softmax_grad, {result}, {matrix, other}), DimExpression{1}));
  EpilogueExpression epilogue{"mk,kn->mn", 1, rt::Scalar::gelu_tanh, false, true, {}};
  add(with(plain(Opcode::contract_epilogue, {result, other}, {transposed, other, row}), epilogue));
  epilogue = {"mk,kn->mn", 0.5, rt::Scalar::gelu_tanh_grad, true, false, {}};
  add(with(plain(Opcode::contract_epilogue, {result}, {transposed, other, matrix, other}), epilogue));
  rt::AttentionRule masked;
  masked.scale = 0.125;
  masked.mask = rt::AttentionMask::replace;
  masked.low = -65504;
  View sums = matrix;
  sums.strides = {1, 0};
  const std::string equation = "qz,kz,kw,qk->qw";
  add(with(plain(Opcode::attention, {result}, {matrix, matrix, matrix}), AttentionExpression{equation, {}, {}}));
  add(with(plain(Opcode::attention, {result, sums}, {matrix, matrix, matrix, view_of(mask, {8, 8}), view_of(b, {})}),
           AttentionExpression{equation, masked, {}}));
  add(with(
      plain(Opcode::attention_grad, {result, other, result}, {matrix, matrix, matrix, result, sums, other, view_of(mask, {8, 8}), view_of(b, {})}),
      AttentionExpression{equation, masked, {}}));
  const NormExpression of_rows{0b10, 0b10, true, 1e-5}, by_root_mean_square{0b10, 0b10, false, 1e-5};
  add(with(plain(Opcode::norm, {result, vector, row}, {matrix, row, row}), of_rows));
  add(with(plain(Opcode::norm, {result, vector, row}, {matrix, row}), of_rows));
  add(with(plain(Opcode::norm, {result, vector}, {matrix}), by_root_mean_square));
  add(with(plain(Opcode::norm_grad, {result}, {matrix, other, row, row, row}), of_rows));
  add(with(plain(Opcode::norm_grad, {result}, {matrix, other, row, row}), by_root_mean_square));
  add(with(plain(Opcode::norm_grad_scale, {vector, row}, {matrix, other, row, row}), of_rows, true));
  add(with(plain(Opcode::norm_grad_scale, {vector}, {matrix, other, row}), by_root_mean_square));
  add(with(plain(Opcode::pick, {vector}, {matrix, ids}), IndexExpression{1, 0, 8, -100}));
  add(with(plain(Opcode::cross_entropy_grad, {result}, {matrix, row, ids, row}), IndexExpression{1, -1, 8, INT64_MIN}));
  add(with(plain(Opcode::pad, {result}, {view_of(a, {4, 8})}), PadExpression{{2, 0}, {1, 1}}));
  add(with(plain(Opcode::pad, {vector}, {view_of(a, {4})}), PadExpression{{0}, {2}}, true));
  rt::UpdateRule adam;
  adam.optimizer = rt::Optimizer::adamw;
  adam.lr = 2e-3;
  adam.beta1 = 0.9;
  adam.beta2 = 0.999;
  adam.eps = 1e-8;
  Instruction update = with(plain(Opcode::update, {vector, vector, vector}, {vector, row, vector, vector, view_of(b, {})}), UpdateExpression{adam});
  update.origin = "w";
  add(with_next(update));
  update.origin = "b";
  add(update);
  const auto squares = [&](const View& of, const char* equation, bool accumulate) {
    return with(plain(Opcode::contract, {view_of(b, {})}, {of, of}), ContractExpression{equation, 1}, accumulate);
  };
  add(with_next(squares(matrix, "ab,ab->", false)));
  add(squares(row, "a,a->", true));
  add(with(plain(Opcode::send, {}, {matrix}), Communication{0, -1, 7, Join::sum}));
  add(with(plain(Opcode::receive, {other}, {}), Communication{0, -1, 8, Join::sum}));
  Instruction overwriting = plain(Opcode::copy, {matrix}, {other});
  overwriting.waits = {static_cast<int32_t>(all.instructions.size()) - 2};
  add(overwriting);
  add(with(plain(Opcode::all_reduce, {matrix}, {}), Communication{-1, 0, 9, Join::max}));
  add(with(plain(Opcode::all_gather, {matrix}, {row}), Communication{-1, 0, 10, Join::sum}));
  add(with_next(with(plain(Opcode::all_reduce, {matrix}, {}), Communication{-1, 0, 15, Join::sum})));
  add(with(plain(Opcode::all_reduce, {row}, {}), Communication{-1, 0, 16, Join::sum}));
  add(with(plain(Opcode::reduce_scatter, {row}, {matrix}), Communication{-1, 0, 11, Join::sum}));
  add(with(plain(Opcode::broadcast, {}, {matrix}), Communication{-1, 0, 13, Join::sum, 1}));
  add(with(plain(Opcode::broadcast, {matrix}, {}), Communication{-1, 0, 14, Join::sum, 0}));
  add(with(plain(Opcode::all_to_all, {other}, {matrix}), Communication{-1, 0, 12, Join::sum}));
  add(with(plain(Opcode::capture, {}, {view_of(b, {})}), Capture{Capture::What::loss, "", -1}));
  add(with(plain(Opcode::capture, {}, {view_of(b, {})}), Capture{Capture::What::grad_norm, "", -1}));
  add(with(plain(Opcode::capture, {}, {matrix}), Capture{Capture::What::output, "logits", 0}));
  add(with(plain(Opcode::capture, {}, {matrix}), Capture{Capture::What::gradient, "w", 0}));
  body.segments = {all, {"0B", 1, {}}};
  body.schedule = {{0, 0}, {1, 0}};

  Programs programs;
  programs.model = "every opcode";
  programs.bodies = {body};
  RankProgram rank;
  rank.constants.peers = {3};
  rank.constants.groups = {{0, 1, 2, 3}};
  rank.constants.offsets = {8};
  rank.constants.regions = {box({{0, 8}, {0, 8}})};
  programs.ranks = {rank};
  programs.outputs = {{"logits", DType::f32, {8, 8}, false, std::nullopt}};
  return programs;
}

Programs messages_between_kernels() {
  Body body;
  Arena arena(body);
  const auto life = Buffer::Life::step;
  const BufferId made = arena.add("t:made", 8, life), received = arena.add("t:received", 8, life), sum = arena.add("t:sum", 8, life);
  const View out = view_of(made, {8}), in = view_of(received, {8}), total = view_of(sum, {8});
  const auto fill = [](const View& view, double value) { return with(instruction(Opcode::fill, "/fill", "Fill", {view}, {}), FillValue{value}); };
  const auto send = [](const View& view, int32_t transfer) {
    return with(instruction(Opcode::send, "/send", "", {}, {view}), Communication{0, -1, transfer, Join::sum});
  };
  const auto receive = [](const View& view, int32_t transfer) {
    return with(instruction(Opcode::receive, "/receive", "", {view}, {}), Communication{0, -1, transfer, Join::sum});
  };

  ProgramSegment forward{"0F", 0, {}};
  forward.instructions = {
      fill(out, 1),
      fill(total, 2),
      send(out, 0),  // waits for the first fill only, which the second does not end
      receive(in, 1),
      with(instruction(Opcode::all_reduce, "/join", "", {total}, {}), Communication{-1, 0, 2, Join::sum}),
      with(instruction(Opcode::pointwise, "/add", "Add", {out}, {in, total}), PointwiseExpression{{step(Scalar::add, {0, 1, 0})}, {0}, {}}),
      send(out, 3),
  };
  ProgramSegment more{"0F", 0, {}};
  more.instructions = {receive(in, 4)};
  more.continues_group = true;
  body.segments = {forward, more};
  body.schedule = {{0, 0}, {1, 0}, {0, 1}, {1, 1}};
  body.micro_batches = 2;

  Programs programs;
  programs.model = "messages";
  programs.bodies.push_back(std::move(body));
  for (const int32_t rank : {0, 1}) {
    RankProgram one;
    one.rank = rank;
    one.constants.peers = {1 - rank};
    one.constants.groups = {{0, 1}};
    programs.ranks.push_back(one);
  }
  assign_streams(programs);
  return programs;
}

}  // namespace sscc::test
