// From a DType to a C++ type: call `work` with a value of the type.
#pragma once

#include <initializer_list>
#include <stdexcept>
#include <string>

#include "sscc_rt/small_floats.h"
#include "sscc_rt/types.h"

namespace sscc::rt {

[[noreturn]] inline void no_kernel(const char* kernel, DType type) {
  throw std::logic_error(std::string(kernel) + ": no kernel for " + name_of(type));
}

// Operands of one DType: throws std::logic_error otherwise.
inline void expect_type(const char* kernel, DType type, std::initializer_list<Tensor> operands) {
  for (const Tensor& operand : operands) {
    if (operand.data && operand.dtype != type)
      throw std::logic_error(std::string(kernel) + ": no kernel for " + name_of(type) + " with " + name_of(operand.dtype));
  }
}

template <class Work>
void for_float_type(const char* kernel, DType type, const Work& work) {
  switch (type) {
    case DType::f32: return work(float());
    case DType::f64: return work(double());
    default: no_kernel(kernel, type);
  }
}

template <class Work>
void for_small_float(const char* kernel, DType type, const Work& work) {
  switch (type) {
    case DType::bf16: return work(bf16());
    case DType::f16: return work(f16());
    default: no_kernel(kernel, type);
  }
}

// Floats as memory may hold them.
template <class Work>
void for_any_float_type(const char* kernel, DType type, const Work& work) {
  if (is_small(type)) return for_small_float(kernel, type, work);
  for_float_type(kernel, type, work);
}

// Floats up to f32 as memory may hold them.
template <class Work>
void for_float_memory(const char* kernel, DType type, const Work& work) {
  if (type == DType::f32) return work(float());
  for_small_float(kernel, type, work);
}

// Types that arithmetic is done in.
template <class Work>
void for_number_type(const char* kernel, DType type, const Work& work) {
  switch (type) {
    case DType::f32: return work(float());
    case DType::f64: return work(double());
    case DType::i64: return work(int64_t());
    case DType::i32: return work(int32_t());
    default: no_kernel(kernel, type);
  }
}

// Types that values may have here: also those that are only moved, compared and converted.
template <class Work>
void for_value_type(const char* kernel, DType type, const Work& work) {
  switch (type) {
    case DType::i8: return work(int8_t());
    case DType::u8: return work(uint8_t());
    case DType::b1: return work(bool());
    default: for_number_type(kernel, type, work);
  }
}

// Types that memory may hold.
template <class Work>
void for_any_type(const char* kernel, DType type, const Work& work) {
  if (is_small(type)) return for_small_float(kernel, type, work);
  for_value_type(kernel, type, work);
}

template <class Work>
void for_index_type(const char* kernel, DType type, const Work& work) {
  switch (type) {
    case DType::i64: return work(int64_t());
    case DType::i32: return work(int32_t());
    default: no_kernel(kernel, type);
  }
}

}  // namespace sscc::rt
