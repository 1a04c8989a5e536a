#include "captures.h"

#include <cstring>

#include "sscc_rt/small_floats.h"
#include "sscc_rt/tensor_files.h"

namespace sscc::rt {
namespace {

template <class T>
T first_element(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

// Files hold no small floats.
template <class T>
std::vector<std::byte> as_floats(const std::vector<std::byte>& small) {
  std::vector<std::byte> floats(small.size() / sizeof(T) * sizeof(float));
  for (size_t i = 0; i * sizeof(T) < small.size(); ++i) {
    const float value = first_element<T>(small.data() + i * sizeof(T));
    std::memcpy(floats.data() + i * sizeof value, &value, sizeof value);
  }
  return floats;
}

}  // namespace

std::optional<double> FetchedView::scalar() const {
  if (!bytes) return std::nullopt;
  if (view.elements() == 1 && view.dtype == DType::f32) return static_cast<double>(first_element<float>(bytes));
  if (view.elements() == 1 && view.dtype == DType::f64) return first_element<double>(bytes);
  throw std::logic_error(std::string("a captured scalar is ") + name_of(view.dtype) + " with " + std::to_string(view.elements()) + " elements");
}

std::vector<std::byte> FetchedView::dense() const {
  StoredTensor stored;
  stored.dtype = view.dtype;
  stored.dims.assign(view.dims, view.dims + view.rank);
  stored.strides.assign(view.strides, view.strides + view.rank);
  stored.data = bytes;
  std::vector<std::byte> data(static_cast<size_t>(view.elements()) * size_of(view.dtype));
  if (!data.empty()) copy_region(stored, whole_region(stored.dims), data.data());
  switch (view.dtype) {
    case DType::bf16: return as_floats<bf16>(data);
    case DType::f16: return as_floats<f16>(data);
    default: return data;
  }
}

void CapturedBlock::finish() {
  data = value.dense();
  const std::optional<double> divisor = scale.scalar();
  if (!divisor) return;
  for (size_t at = 0; at < data.size(); at += sizeof(float)) {
    const float element = static_cast<float>(first_element<float>(data.data() + at) / *divisor);
    std::memcpy(data.data() + at, &element, sizeof element);
  }
}

}  // namespace sscc::rt
