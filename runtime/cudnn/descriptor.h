// Descriptors of cuDNN's graph API.
#pragma once

#include <cudnn.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

namespace sscc::rt {

static_assert(CUDNN_MAJOR >= 9, "cuDNN 9 or later is needed");

// Throws unless the call succeeded: EnvironmentFailure; std::logic_error where the call was wrong.
void check(cudnnStatus_t status, const char* what);

// Does cuDNN say that it does not support what it was asked?
bool is_refusal(cudnnStatus_t status);

class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t type) {
    cudnnBackendDescriptor_t made = nullptr;
    check(cudnnBackendCreateDescriptor(type, &made), "describe a convolution to cuDNN");
    handle_.reset(made);
  }
  cudnnBackendDescriptor_t get() const { return handle_.get(); }

  template <class Value>
  void set(cudnnBackendAttributeName_t attribute, cudnnBackendAttributeType_t type, std::span<const Value> values) const {
    check(cudnnBackendSetAttribute(get(), attribute, type, static_cast<int64_t>(values.size()), values.data()), "describe a convolution to cuDNN");
  }
  template <class Value>
  void set(cudnnBackendAttributeName_t attribute, cudnnBackendAttributeType_t type, const Value& value) const {
    set(attribute, type, std::span<const Value>(&value, 1));
  }
  void set(cudnnBackendAttributeName_t attribute, const Descriptor& value) const { set(attribute, CUDNN_TYPE_BACKEND_DESCRIPTOR, value.get()); }

  // Not CUDNN_STATUS_SUCCESS: cuDNN does not support what the descriptor says.
  cudnnStatus_t finalize() const { return cudnnBackendFinalize(get()); }

  // At most `most` values.
  template <class Value>
  std::vector<Value> get(cudnnBackendAttributeName_t attribute, cudnnBackendAttributeType_t type, int64_t most) const {
    std::vector<Value> values(static_cast<size_t>(most));
    int64_t count = 0;
    check(cudnnBackendGetAttribute(get(), attribute, type, most, &count, values.data()), "ask cuDNN");
    values.resize(static_cast<size_t>(std::min(most, count)));
    return values;
  }
  // As many descriptors as the attribute has, but at most `most`.
  std::vector<Descriptor> get_descriptors(cudnnBackendAttributeName_t attribute, cudnnBackendDescriptorType_t type, int64_t most) const {
    std::vector<Descriptor> list;
    std::vector<cudnnBackendDescriptor_t> handles;
    for (int64_t i = 0; i < most; ++i) handles.push_back(list.emplace_back(type).get());
    int64_t count = 0;
    check(cudnnBackendGetAttribute(get(), attribute, CUDNN_TYPE_BACKEND_DESCRIPTOR, most, &count, handles.data()), "ask cuDNN");
    list.erase(list.begin() + std::min(most, count), list.end());
    return list;
  }

 private:
  struct Destroy {
    void operator()(cudnnBackendDescriptor_t descriptor) const { cudnnBackendDestroyDescriptor(descriptor); }
  };
  std::unique_ptr<std::remove_pointer_t<cudnnBackendDescriptor_t>, Destroy> handle_;
};

}  // namespace sscc::rt
