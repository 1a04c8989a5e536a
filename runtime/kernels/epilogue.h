// What contract_epilogue does behind a product that has been written: a pass over memory, for products whose own kernel does not do it. Included with
// pointwise_loop.h for the processor and with cuda_pointwise.cuh for a GPU, whose loops are called alike.
#pragma once

#include <stdexcept>

#include "dispatch.h"
#include "sscc_rt/scalar_functions.h"

namespace sscc::rt {

template <Scalar function, class Value>
struct Epilogue {
  Value has_base, has_bias;  // 1 or 0; as bool they would keep the loop from becoming vector code

  SSCC_HOST_DEVICE Value sum(Value product, Value base, Value bias) const {
    return product + (has_base != 0 ? base : Value(0)) + (has_bias != 0 ? bias : Value(0));
  }
  SSCC_HOST_DEVICE void operator()(Value& out, Value product, Value base, Value bias) const {
    Value pre;
    (*this)(out, pre, product, base, bias);
  }
  SSCC_HOST_DEVICE void operator()(Value& out, Value& pre, Value product, Value base, Value bias) const {
    pre = sum(product, base, bias);
    if constexpr (function == Scalar::relu)
      out = scalar::relu(pre);
    else if constexpr (function == Scalar::gelu_tanh)
      out = scalar::gelu_tanh(pre);
    else
      out = pre;
  }
};
template <class Value>
struct EpilogueGradient {
  Epilogue<Scalar::identity, Value> value;
  SSCC_HOST_DEVICE void operator()(Value& out, Value product, Value base, Value bias, Value before) const {
    out = scalar::gelu_tanh_grad(before, value.sum(product, base, bias));
  }
};

// Where the product is written: in the place of the value that the function is of, if that is wanted.
inline const Tensor& place_of_product(const Tensor& out, const Tensor& pre) { return pre.data ? pre : out; }

// `anything`: memory that the loop may read, for operands that are missing.
inline void apply_epilogue(const Tensor& out, const Tensor& pre, const Tensor& base, const Tensor& bias, const Tensor& before, Scalar function,
                           void* anything) {
  const Tensor& product = place_of_product(out, pre);
  for_any_float_type("contract_epilogue", out.dtype, [&](auto t) {
    using T = decltype(t);
    using Value = Arithmetic<T>;
    const auto given = [&](const Tensor& operand, DType type) {
      Tensor missing;
      missing.data = anything;
      missing.dtype = type;
      return operand.data ? operand : missing;
    };
    const Tensor base_read = given(base, out.dtype), bias_read = given(bias, arithmetic_type(out.dtype));
    const Value has_base = base.data != nullptr, has_bias = bias.data != nullptr;
    const Types<T> one;
    const Types<T, T, Value> sum;
    const auto run = [&]<Scalar f>() {
      pointwise_loop(one, sum, {out}, {product, base_read, bias_read}, false, Epilogue<f, Value>{has_base, has_bias});
    };
    switch (function) {
      case Scalar::identity: return run.template operator()<Scalar::identity>();
      case Scalar::relu: return run.template operator()<Scalar::relu>();
      case Scalar::gelu_tanh:
        if (!pre.data) return run.template operator()<Scalar::gelu_tanh>();
        return pointwise_loop(Types<T, T>(), sum, {out, pre}, {product, base_read, bias_read}, false,
                              Epilogue<Scalar::gelu_tanh, Value>{has_base, has_bias});
      case Scalar::gelu_tanh_grad:
        return pointwise_loop(one, Types<T, T, Value, T>(), {out}, {product, base_read, bias_read, before}, false,
                              EpilogueGradient<Value>{{has_base, has_bias}});
      default: throw std::logic_error("contract_epilogue: no such function behind a product");
    }
  });
}

}  // namespace sscc::rt
