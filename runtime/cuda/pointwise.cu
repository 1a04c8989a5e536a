// Pointwise expressions that are not known when this is compiled. (Emitted programs compile theirs: cuda_pointwise.cuh.)
//
// One function of floats, the usual case, is a pointwise loop whose function looks up what it is. Everything else is interpreted, a thread for an
// element: values are float (as which bf16 and f16 are read), double, or int64_t (integers and truth values), and are brought to the type of their
// step after it.
#include <algorithm>

#include "dispatch.cuh"
#include "sscc_rt/cuda_launch.cuh"
#include "sscc_rt/cuda_pointwise.cuh"
#include "sscc_rt/kernels.h"
#include "sscc_rt/scalar_functions.h"

namespace sscc::rt {
namespace {

// Functions that take operands of one type T and give a T, or a truth value as a T.
constexpr bool is_plain(Scalar function) {
  return function != Scalar::identity && function != Scalar::where && function != Scalar::token_loss && !is_logical(function);
}

// Not inlined: a kernel would have one copy for each element of a pack.
template <class T>
__device__ __noinline__ T evaluate(Scalar function, T a, [[maybe_unused]] T b, [[maybe_unused]] T c, [[maybe_unused]] double alpha,
                                   [[maybe_unused]] double beta) {
#define SSCC_CALL(name, ...)                                    \
  if constexpr (constants_of(Scalar::name) == 0)                \
    return static_cast<T>(scalar::name<T>(__VA_ARGS__));        \
  else if constexpr (constants_of(Scalar::name) == 1)           \
    return static_cast<T>(scalar::name<T>(__VA_ARGS__, alpha)); \
  else                                                          \
    return static_cast<T>(scalar::name<T>(__VA_ARGS__, alpha, beta));
#define SSCC_CALL_1(name) SSCC_CALL(name, a)
#define SSCC_CALL_2(name) SSCC_CALL(name, a, b)
#define SSCC_CALL_3(name) SSCC_CALL(name, a, b, c)
#define SSCC_CASE(name, arity)                                                                         \
  case Scalar::name:                                                                                   \
    if constexpr (is_plain(Scalar::name) && (std::is_floating_point_v<T> || !is_real(Scalar::name))) { \
      SSCC_CALL_##arity(name)                                                                          \
    } else {                                                                                           \
      return T(0);                                                                                     \
    }
  switch (function) { SSCC_SCALAR_FUNCTIONS(SSCC_CASE) }
#undef SSCC_CASE
#undef SSCC_CALL_3
#undef SSCC_CALL_2
#undef SSCC_CALL_1
#undef SSCC_CALL
  return T(0);
}

// -- one function of floats -----------------------------------------------------------------------------------------------------------------------

struct OneFunction {
  Scalar function;
  double alpha, beta;
  __device__ void operator()(float& out, float a) const { out = evaluate<float>(function, a, 0, 0, alpha, beta); }
  __device__ void operator()(float& out, float a, float b) const { out = evaluate<float>(function, a, b, 0, alpha, beta); }
  __device__ void operator()(float& out, float a, float b, float c) const { out = evaluate<float>(function, a, b, c, alpha, beta); }
};

template <class T>
void run_one(const Tensor& out, std::span<const Tensor> ins, const ScalarStep& step, bool accumulate) {
  const OneFunction function{step.function, step.alpha, step.beta};
  const auto in = [&](int i) -> const Tensor& { return ins[static_cast<size_t>(step.args[i])]; };
  switch (arity_of(step.function)) {
    case 1: return pointwise_loop(Types<T>(), Types<T>(), {out}, {in(0)}, accumulate, function);
    case 2: return pointwise_loop(Types<T>(), Types<T, T>(), {out}, {in(0), in(1)}, accumulate, function);
    default: return pointwise_loop(Types<T>(), Types<T, T, T>(), {out}, {in(0), in(1), in(2)}, accumulate, function);
  }
}

bool is_one_function(std::span<const Tensor> outs, std::span<const Tensor> ins, std::span<const ScalarStep> steps) {
  if (outs.size() != 1 || steps.size() != 1 || !is_plain(steps[0].function) || is_comparison(steps[0].function)) return false;
  const DType type = outs[0].dtype;
  if (type != DType::f32 && type != DType::bf16 && type != DType::f16) return false;
  return steps[0].dtype == arithmetic_type(type) && std::all_of(ins.begin(), ins.end(), [&](const Tensor& in) { return in.dtype == type; });
}

// -- interpretation -------------------------------------------------------------------------------------------------------------------------------

constexpr int max_steps = 64;

enum class Kind : uint8_t { real32, real64, integer };
SSCC_HOST_DEVICE constexpr Kind kind_of(DType type) { return type == DType::f64 ? Kind::real64 : is_float(type) ? Kind::real32 : Kind::integer; }
union Value {
  float real32;
  double real64;
  int64_t integer;
};

struct BoundStep {
  Scalar function;
  int8_t arity;
  DType dtype;
  DType has[3], wants[3];  // types of arguments
  int8_t args[3];          // as in ScalarStep
  double alpha, beta;
};

template <int operands>
struct Expression {
  StridedWalk<operands> walk;  // outs, then ins
  void* memory[operands];
  DType dtypes[operands];
  int8_t results[operands];
  int out_count, step_count;
  bool accumulate;
  BoundStep steps[max_steps];
};

__device__ __noinline__ Value load(const void* memory, DType type, int64_t at) {
  Value value{};
  switch (type) {
    case DType::f32: value.real32 = static_cast<const float*>(memory)[at]; break;
    case DType::bf16: value.real32 = static_cast<float>(static_cast<const bf16*>(memory)[at]); break;
    case DType::f16: value.real32 = static_cast<float>(static_cast<const f16*>(memory)[at]); break;
    case DType::f64: value.real64 = static_cast<const double*>(memory)[at]; break;
    case DType::i64: value.integer = static_cast<const int64_t*>(memory)[at]; break;
    case DType::i32: value.integer = static_cast<const int32_t*>(memory)[at]; break;
    case DType::i8: value.integer = static_cast<const int8_t*>(memory)[at]; break;
    case DType::u8:
    case DType::b1: value.integer = static_cast<const uint8_t*>(memory)[at]; break;
  }
  return value;
}

// As a value of `to`, which is kept in its kind.
template <class T>
__device__ Value value_of(T from, DType to) {
  Value value{};
  switch (to) {
    case DType::f32: value.real32 = static_cast<float>(from); break;
    case DType::bf16: value.real32 = static_cast<float>(static_cast<bf16>(static_cast<float>(from))); break;
    case DType::f16: value.real32 = static_cast<float>(static_cast<f16>(static_cast<float>(from))); break;
    case DType::f64: value.real64 = static_cast<double>(from); break;
    case DType::i64: value.integer = static_cast<int64_t>(from); break;
    case DType::i32: value.integer = static_cast<int32_t>(from); break;
    case DType::i8: value.integer = static_cast<int8_t>(static_cast<int64_t>(from)); break;
    case DType::u8: value.integer = static_cast<uint8_t>(static_cast<int64_t>(from)); break;
    case DType::b1: value.integer = from != T(0); break;
  }
  return value;
}
__device__ __noinline__ Value converted(Value value, DType from, DType to) {
  switch (kind_of(from)) {
    case Kind::real32: return value_of(value.real32, to);
    case Kind::real64: return value_of(value.real64, to);
    case Kind::integer: return value_of(value.integer, to);
  }
  return value;
}

template <class T, class Stored = T>
__device__ void put(void* memory, int64_t at, T value, bool add) {
  Stored& to = static_cast<Stored*>(memory)[at];
  to = static_cast<Stored>(add ? static_cast<T>(to) + value : value);
}
// A truth value is not added to.
__device__ void store(void* memory, DType type, int64_t at, Value value, bool add) {
  switch (type) {
    case DType::f32: return put<float>(memory, at, value.real32, add);
    case DType::bf16: return put<float, bf16>(memory, at, value.real32, add);
    case DType::f16: return put<float, f16>(memory, at, value.real32, add);
    case DType::f64: return put<double>(memory, at, value.real64, add);
    case DType::i64: return put<int64_t>(memory, at, value.integer, add);
    case DType::i32: return put<int64_t, int32_t>(memory, at, value.integer, add);
    case DType::i8: return put<int64_t, int8_t>(memory, at, value.integer, add);
    case DType::u8: return put<int64_t, uint8_t>(memory, at, value.integer, add);
    case DType::b1: return put<int64_t, uint8_t>(memory, at, value.integer, false);
  }
}

template <class T>
__device__ Value plain_step(const BoundStep& step, T a, T b, T c) {
  return value_of(evaluate<T>(step.function, a, b, c, step.alpha, step.beta), step.dtype);
}

__device__ Value run_step(const BoundStep& step, const Value (&args)[3]) {
  Value result{};
  switch (step.function) {
    case Scalar::identity: return converted(args[0], step.has[0], step.dtype);
    case Scalar::where: return args[0].integer ? args[1] : args[2];
    case Scalar::logical_not: result.integer = !args[0].integer; return result;
    case Scalar::logical_and: result.integer = args[0].integer && args[1].integer; return result;
    case Scalar::logical_or: result.integer = args[0].integer || args[1].integer; return result;
    case Scalar::token_loss:
      if (kind_of(step.dtype) == Kind::real64)
        result.real64 = scalar::token_loss<double>(args[0].real64, args[1].real64, args[2].integer, step.alpha);
      else
        result.real32 = scalar::token_loss<float>(args[0].real32, args[1].real32, args[2].integer, step.alpha);
      return result;
    default: break;
  }
  switch (kind_of(step.wants[0])) {
    case Kind::real32: return plain_step(step, args[0].real32, args[1].real32, args[2].real32);
    case Kind::real64: return plain_step(step, args[0].real64, args[1].real64, args[2].real64);
    case Kind::integer: return plain_step(step, args[0].integer, args[1].integer, args[2].integer);
  }
  return result;
}

template <int operands>
__global__ void __launch_bounds__(threads_per_block) interpret_kernel(const __grid_constant__ Expression<operands> expression) {
  const uint32_t element = blockIdx.x * threads_per_block + threadIdx.x;
  if (element >= expression.walk.count) return;
  int64_t at[operands] = {};
  expression.walk.advance(element, at);
  Value values[max_steps];
  for (int s = 0; s < expression.step_count; ++s) {
    const BoundStep& step = expression.steps[s];
    Value args[3] = {};
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      if (i >= step.arity) break;
      const int arg = step.args[i], operand = expression.out_count + arg;
      args[i] = arg >= 0 ? load(expression.memory[operand], step.has[i], at[operand]) : values[~arg];
      if (step.has[i] != step.wants[i]) args[i] = converted(args[i], step.has[i], step.wants[i]);
    }
    values[s] = run_step(step, args);
  }
  for (int o = 0; o < expression.out_count; ++o) {
    const int result = expression.results[o];
    // Small floats are rounded once, by what stores them.
    const Value value = converted(values[result], expression.steps[result].dtype, arithmetic_type(expression.dtypes[o]));
    store(expression.memory[o], expression.dtypes[o], at[o], value, expression.accumulate);
  }
}

// Whether there is such a function: what the processor's kernels refuse is refused here.
void check_step(const ScalarStep& step) {
  const auto refuse_unless = [&](bool is_right) {
    if (!is_right) no_kernel("pointwise", step.dtype);
  };
  if (is_comparison(step.function) || is_logical(step.function))
    refuse_unless(step.dtype == DType::b1);
  else if (is_real(step.function))
    refuse_unless(is_float(step.dtype));
  else if (step.function != Scalar::identity && step.function != Scalar::where)
    refuse_unless(is_float(step.dtype) || step.dtype == DType::i64 || step.dtype == DType::i32);
}

template <int operands>
void interpret(std::span<const Tensor> outs, std::span<const Tensor> ins, std::span<const ScalarStep> steps, std::span<const int32_t> results,
               bool accumulate) {
  int64_t broadcast[operands][max_rank];
  const int64_t* strides[operands];
  size_t count = 0;
  Expression<operands> expression{};
  const auto enter = [&](const Tensor& tensor, const int64_t* of) {
    strides[count] = of;
    expression.memory[count] = tensor.data;
    expression.dtypes[count++] = tensor.dtype;
  };
  for (const Tensor& out : outs) enter(out, out.strides);
  for (const Tensor& in : ins) {
    std::copy_n(BroadcastStrides(in, outs[0]).values, max_rank, broadcast[count]);
    enter(in, broadcast[count]);
  }
  const auto type_of = [&](int32_t arg) { return arg >= 0 ? ins[static_cast<size_t>(arg)].dtype : steps[static_cast<size_t>(~arg)].dtype; };
  for (const ScalarStep& step : steps) {
    const DType first = type_of(step.args[0]);
    check_step(step);
    BoundStep& bound = expression.steps[expression.step_count++];
    bound = {step.function, static_cast<int8_t>(arity_of(step.function)), step.dtype, {}, {}, {}, step.alpha, step.beta};
    // The processor compares a truth value with the constant as a truth value.
    if (first == DType::b1 && (step.function == Scalar::equal_scalar || step.function == Scalar::not_equal_scalar)) bound.alpha = step.alpha != 0;
    for (int i = 0; i < bound.arity; ++i) {
      bound.args[i] = static_cast<int8_t>(step.args[i]);
      bound.has[i] = type_of(step.args[i]);
      bound.wants[i] = operand_type(step.function, i, step.dtype, first);
    }
  }
  for (size_t o = 0; o < outs.size(); ++o) expression.results[o] = static_cast<int8_t>(results[o]);
  expression.out_count = static_cast<int>(outs.size());
  expression.accumulate = accumulate;
  const StridedLoop whole = StridedLoop::make(std::span(outs[0].dims, static_cast<size_t>(outs[0].rank)), std::span(strides, count));
  for_each_piece(whole, [&](const StridedLoop& loop, const StridedLoop::Offsets& base) {
    Expression<operands> piece = expression;
    piece.walk = StridedWalk<operands>(loop);
    for (size_t o = 0; o < count; ++o)
      piece.memory[o] = static_cast<std::byte*>(expression.memory[o]) + base[o] * static_cast<int64_t>(size_of(expression.dtypes[o]));
    launch(interpret_kernel<operands>, blocks_for(piece.walk.count), threads_per_block, 0, piece);
  });
}

}  // namespace

void pointwise(std::span<const Tensor> outs, std::span<const Tensor> ins, std::span<const ScalarStep> steps, std::span<const int32_t> results,
               bool accumulate) {
  if (outs.size() + ins.size() > max_operands) throw std::logic_error("pointwise: too many operands");
  if (steps.size() > max_steps) throw std::logic_error("pointwise: more than " + std::to_string(max_steps) + " steps are interpreted at once");
  if (is_one_function(outs, ins, steps)) {
    switch (outs[0].dtype) {
      case DType::f32: return run_one<float>(outs[0], ins, steps[0], accumulate);
      case DType::bf16: return run_one<bf16>(outs[0], ins, steps[0], accumulate);
      default: return run_one<f16>(outs[0], ins, steps[0], accumulate);
    }
  }
  if (outs.size() + ins.size() <= 4) return interpret<4>(outs, ins, steps, results, accumulate);
  interpret<max_operands>(outs, ins, steps, results, accumulate);
}

}  // namespace sscc::rt
