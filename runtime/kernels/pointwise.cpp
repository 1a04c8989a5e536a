// Pointwise expressions that are not known when this is compiled: every step runs over a tile that stays in the first-level cache. (Emitted programs
// compile theirs: pointwise_loop.h.)
#include <algorithm>
#include <vector>

#include "dispatch.h"
#include "sscc_rt/kernels.h"
#include "sscc_rt/scalar_functions.h"
#include "sscc_rt/strided_loop.h"

namespace sscc::rt {
namespace {

constexpr int64_t tile = 512;
constexpr int64_t value_bytes = tile * 8;

// -- a step over contiguous tiles -----------------------------------------------------------------------------------------------------------------

// T: the result's type; arguments are of the types that operand_type() says.
using StepFunction = void (*)(void* out, const void* const* args, const ScalarStep& step, int64_t n);

template <class T, class A, Scalar function>
void run_step(void* out, const void* const* args, const ScalarStep& step, int64_t n) {
  T* to = static_cast<T*>(out);
  [[maybe_unused]] const double alpha = step.alpha, beta = step.beta;
  using namespace scalar;
#define SSCC_LOOP(...) \
  { _Pragma("omp simd") for (int64_t i = 0; i < n; ++i) to[i] = __VA_ARGS__; }
#define SSCC_A(k, type) static_cast<const type*>(args[k])[i]
#define SSCC_STEP_1(name)                             \
  if constexpr (constants_of(Scalar::name) == 0)      \
    SSCC_LOOP(name<T>(SSCC_A(0, A)))                  \
  else if constexpr (constants_of(Scalar::name) == 1) \
    SSCC_LOOP(name<T>(SSCC_A(0, A), alpha))           \
  else                                                \
    SSCC_LOOP(name<T>(SSCC_A(0, A), alpha, beta))
#define SSCC_STEP_2(name)                                 \
  if constexpr (constants_of(Scalar::name) == 0)          \
    SSCC_LOOP(name<T>(SSCC_A(0, A), SSCC_A(1, A)))        \
  else if constexpr (constants_of(Scalar::name) == 1)     \
    SSCC_LOOP(name<T>(SSCC_A(0, A), SSCC_A(1, A), alpha)) \
  else                                                    \
    SSCC_LOOP(name<T>(SSCC_A(0, A), SSCC_A(1, A), alpha, beta))
#define SSCC_STEP_3(name)                                                     \
  if constexpr (Scalar::name == Scalar::where)                                \
    SSCC_LOOP(name<T>(SSCC_A(0, bool), SSCC_A(1, T), SSCC_A(2, T)))           \
  else if constexpr (Scalar::name == Scalar::token_loss)                      \
    SSCC_LOOP(name<T>(SSCC_A(0, T), SSCC_A(1, T), SSCC_A(2, int64_t), alpha)) \
  else                                                                        \
    SSCC_LOOP(name<T>(SSCC_A(0, T), SSCC_A(1, T), SSCC_A(2, T)))
#define SSCC_STEP(name, arity) \
  if constexpr (function == Scalar::name) { SSCC_STEP_##arity(name) }
  // The macro names functions of more operands than the chosen one has; only one branch is compiled.
  SSCC_SCALAR_FUNCTIONS(SSCC_STEP)
#undef SSCC_STEP
#undef SSCC_STEP_1
#undef SSCC_STEP_2
#undef SSCC_STEP_3
#undef SSCC_A
#undef SSCC_LOOP
}

template <Scalar function>
StepFunction step_function(DType result, DType first) {
  StepFunction found = nullptr;
  if constexpr (function == Scalar::identity) {
    for_value_type("pointwise", result,
                   [&](auto t) { for_value_type("pointwise", first, [&](auto a) { found = run_step<decltype(t), decltype(a), function>; }); });
  } else if constexpr (is_logical(function)) {
    found = run_step<bool, bool, function>;
  } else if constexpr (is_comparison(function)) {
    for_value_type("pointwise", first, [&](auto a) { found = run_step<bool, decltype(a), function>; });
  } else if constexpr (is_real(function)) {
    for_float_type("pointwise", result, [&](auto t) { found = run_step<decltype(t), decltype(t), function>; });
  } else if constexpr (function == Scalar::where) {
    for_value_type("pointwise", result, [&](auto t) { found = run_step<decltype(t), decltype(t), function>; });
  } else {
    for_number_type("pointwise", result, [&](auto t) { found = run_step<decltype(t), decltype(t), function>; });
  }
  return found;
}

StepFunction step_function(const ScalarStep& step, DType first) {
  switch (step.function) {
#define SSCC_STEP_CASE(name, arity) \
  case Scalar::name: return step_function<Scalar::name>(step.dtype, first);
    SSCC_SCALAR_FUNCTIONS(SSCC_STEP_CASE)
#undef SSCC_STEP_CASE
  }
  return nullptr;
}

// -- tiles ----------------------------------------------------------------------------------------------------------------------------------------

using Convert = void (*)(void* to, int64_t to_stride, const void* from, int64_t from_stride, int64_t n, bool add);

template <class To, class From>
void convert(void* to, int64_t to_stride, const void* from, int64_t from_stride, int64_t n, bool add) {
  To* out = static_cast<To*>(to);
  const From* in = static_cast<const From*>(from);
  const auto value = [&](int64_t i) { return static_cast<Arithmetic<From>>(in[i * from_stride]); };
  if constexpr (!std::is_same_v<To, bool>) {
    if (add) {
      for (int64_t i = 0; i < n; ++i) {
        To& place = out[i * to_stride];
        place = static_cast<To>(static_cast<Arithmetic<To>>(place) + static_cast<Arithmetic<To>>(value(i)));
      }
      return;
    }
  }
  for (int64_t i = 0; i < n; ++i) out[i * to_stride] = scalar::identity<To>(value(i));
}

Convert converter(DType to, DType from) {
  Convert found = nullptr;
  for_any_type("pointwise", to, [&](auto t) { for_any_type("pointwise", from, [&](auto f) { found = convert<decltype(t), decltype(f)>; }); });
  return found;
}

// What a step does to the tiles: made once a call.
struct Argument {
  int32_t from = 0;           // as in ScalarStep::args
  DType dtype = DType::f32;   // of the value or operand
  Convert convert = nullptr;  // to the type that the step reads; null: it is
};
struct BoundStep {
  const ScalarStep* step = nullptr;
  StepFunction run = nullptr;
  int arity = 0;
  Argument args[3];
};

}  // namespace

void pointwise(std::span<const Tensor> outs, std::span<const Tensor> ins, std::span<const ScalarStep> steps, std::span<const int32_t> results,
               bool accumulate) {
  if (outs.size() + ins.size() > max_operands) throw std::logic_error("pointwise: too many operands");
  std::vector<BroadcastStrides> in_strides;
  in_strides.reserve(ins.size());
  const int64_t* strides[max_operands];
  size_t operands = 0;
  for (const Tensor& out : outs) strides[operands++] = out.strides;
  for (const Tensor& in : ins) strides[operands++] = in_strides.emplace_back(in, outs[0]).values;
  const StridedLoop loop = StridedLoop::make(std::span(outs[0].dims, static_cast<size_t>(outs[0].rank)), std::span(strides, operands));

  const auto type_of = [&](int32_t arg) { return arg >= 0 ? ins[static_cast<size_t>(arg)].dtype : steps[static_cast<size_t>(~arg)].dtype; };
  std::vector<BoundStep> bound;
  for (const ScalarStep& step : steps) {
    BoundStep& b = bound.emplace_back();
    b.step = &step;
    b.arity = arity_of(step.function);
    const DType first = arithmetic_type(type_of(step.args[0]));
    b.run = step_function(step, first);
    for (int i = 0; i < b.arity; ++i) {
      const DType has = type_of(step.args[i]), wants = operand_type(step.function, i, step.dtype, first);
      b.args[i] = {step.args[i], has, has == wants ? nullptr : converter(wants, has)};
    }
  }
  std::vector<Convert> gather, store;  // strided operand -> tile of its type, and value -> strided output
  for (const Tensor& in : ins) gather.push_back(converter(in.dtype, in.dtype));
  for (size_t i = 0; i < outs.size(); ++i) store.push_back(converter(outs[i].dtype, steps[static_cast<size_t>(results[i])].dtype));

  loop.parallel_for_rows(8192, [&](const auto& offsets, int64_t length) {
    thread_local std::vector<std::byte> memory;
    memory.resize(static_cast<size_t>(value_bytes) * (ins.size() + steps.size() + 3));
    const auto input_tile = [&](size_t i) { return memory.data() + i * value_bytes; };
    const auto value_tile = [&](size_t i) { return memory.data() + (ins.size() + i) * value_bytes; };
    const auto argument_tile = [&](size_t i) { return memory.data() + (ins.size() + steps.size() + i) * value_bytes; };
    const void* inputs[max_operands];
    for (int64_t at = 0; at < length; at += tile) {
      const int64_t n = std::min(tile, length - at);
      for (size_t i = 0; i < ins.size(); ++i) {
        const int operand = static_cast<int>(outs.size() + i);
        const int64_t stride = loop.row_stride(operand);
        const auto* from = static_cast<const std::byte*>(ins[i].data) +
                           (offsets[static_cast<size_t>(operand)] + at * stride) * static_cast<int64_t>(size_of(ins[i].dtype));
        inputs[i] = from;
        if (stride == 1) continue;
        if (stride != 0 || at == 0) gather[i](input_tile(i), 1, from, stride, stride == 0 ? std::min(tile, length) : n, false);
        inputs[i] = input_tile(i);
      }
      for (size_t s = 0; s < bound.size(); ++s) {
        const BoundStep& b = bound[s];
        const void* args[3] = {};
        for (int i = 0; i < b.arity; ++i) {
          const Argument& argument = b.args[i];
          args[i] = argument.from >= 0 ? inputs[argument.from] : value_tile(static_cast<size_t>(~argument.from));
          if (!argument.convert) continue;
          argument.convert(argument_tile(static_cast<size_t>(i)), 1, args[i], 1, n, false);
          args[i] = argument_tile(static_cast<size_t>(i));
        }
        b.run(value_tile(s), args, *b.step, n);
      }
      for (size_t i = 0; i < outs.size(); ++i) {
        const int64_t stride = loop.row_stride(static_cast<int>(i));
        auto* to = static_cast<std::byte*>(outs[i].data) + (offsets[i] + at * stride) * static_cast<int64_t>(size_of(outs[i].dtype));
        store[i](to, stride, value_tile(static_cast<size_t>(results[i])), 1, n, accumulate);
      }
    }
  });
}

}  // namespace sscc::rt
