// A descriptor is a list of attributes. Those that make up a convolution are put together when its operation is finalised, and checked there.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cudnn.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "emulated_gpu/gpu.h"
#include "memory.h"

using namespace emulated_gpu;

struct cudnnContext {
  cudaStream_t stream = nullptr;
};

namespace {

struct TensorDescription {
  cudnnDataType_t type;
  int64_t id, alignment;
  std::vector<int64_t> dims, strides;

  size_t element_bytes() const { return type == CUDNN_DATA_DOUBLE ? 8 : type == CUDNN_DATA_FLOAT ? 4 : 2; }
  int64_t last_element() const {
    int64_t last = 0;
    for (size_t d = 0; d < dims.size(); ++d) last += (dims[d] - 1) * strides[d];
    return last;
  }
  // In some order of the dimensions it has no gaps.
  bool is_dense() const {
    int64_t elements = 1;
    for (const int64_t length : dims) elements *= length;
    return last_element() == elements - 1;
  }
};

// x [n, g c, ..], w [g m, c, ..], y [n, g m, ..]; one of them is the result.
struct Convolution {
  cudnnBackendDescriptorType_t kind;
  TensorDescription x, w, y;
  std::vector<int64_t> stride, dilation, before, behind;
  float alpha, beta;

  const TensorDescription& result() const {
    if (kind == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR) return y;
    return kind == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR ? x : w;
  }
};

// What heuristics recommend, in this order. The first two are not for programs that want the same bits each time, and all bits of a float; the third
// wants more memory than there is.
enum class Engine { adds_in_any_order, tensor_cores, large_workspace, good };

struct Attribute {
  cudnnBackendAttributeType_t type;
  int64_t count;
  std::vector<std::byte> bytes;
};

struct State {
  cudnnBackendDescriptorType_t type;
  bool is_final = false;
  std::map<cudnnBackendAttributeName_t, Attribute> attributes = {};
  std::map<cudnnBackendAttributeName_t, std::shared_ptr<State>> parts = {};
  std::shared_ptr<Convolution> convolution = {};  // of an operation, and of what is made from it
  Engine engine = Engine::good;

  template <class Value>
  std::vector<Value> list(cudnnBackendAttributeName_t name) const {
    const Attribute& attribute = attributes.at(name);
    std::vector<Value> values(static_cast<size_t>(attribute.count));
    std::memcpy(values.data(), attribute.bytes.data(), attribute.bytes.size());
    return values;
  }
  template <class Value>
  Value one(cudnnBackendAttributeName_t name) const {
    return list<Value>(name).at(0);
  }
};
struct Descriptor {
  std::shared_ptr<State> state;
};
State& state_of(cudnnBackendDescriptor_t descriptor) { return *static_cast<Descriptor*>(descriptor)->state; }

cudnnStatus_t refuse(cudnnStatus_t status, const std::string& why) {
  std::fprintf(stderr, "emulated GPU: cuDNN: %s\n", why.c_str());
  return status;
}

size_t bytes_of(cudnnBackendAttributeType_t type) {
  switch (type) {
    case CUDNN_TYPE_DATA_TYPE:
    case CUDNN_TYPE_FLOAT:
    case CUDNN_TYPE_CONVOLUTION_MODE:
    case CUDNN_TYPE_HEUR_MODE:
    case CUDNN_TYPE_NUMERICAL_NOTE: return 4;
    default: return 8;
  }
}

// -- what descriptors need ------------------------------------------------------------------------------------------------------------------------

struct Rule {
  cudnnBackendAttributeName_t name;
  cudnnBackendAttributeType_t type;
};
using Rules = std::vector<Rule>;

// x, w, y, windows, alpha, beta.
Rules rules_of_operation(cudnnBackendDescriptorType_t type) {
  const auto rules = [](std::initializer_list<cudnnBackendAttributeName_t> names) {
    Rules list;
    for (const cudnnBackendAttributeName_t name : names) list.push_back({name, list.size() < 4 ? CUDNN_TYPE_BACKEND_DESCRIPTOR : CUDNN_TYPE_FLOAT});
    return list;
  };
  switch (type) {
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
      return rules({CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA});
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
      return rules({CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA});
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
      return rules({CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA});
    default: return {};
  }
}

Rules rules_of(cudnnBackendDescriptorType_t type) {
  switch (type) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR:
      return {{CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE},
              {CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64},
              {CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64},
              {CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64},
              {CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64}};
    case CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR:
      return {{CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE},  {CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE},
              {CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64},   {CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64},
              {CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64}, {CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64},
              {CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64}};
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR:
      return {{CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR}, {CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE}};
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR:
      return {{CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR}, {CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE}};
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR:
      return {{CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR}, {CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE}};
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
      return {{CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64},
              {CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR},
              {CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR}};
    default: return rules_of_operation(type);
  }
}

TensorDescription tensor_of(const State& state) {
  return {state.one<cudnnDataType_t>(CUDNN_ATTR_TENSOR_DATA_TYPE), state.one<int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID),
          state.one<int64_t>(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT), state.list<int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS),
          state.list<int64_t>(CUDNN_ATTR_TENSOR_STRIDES)};
}

cudnnStatus_t finish_tensor(const State& state) {
  const TensorDescription tensor = tensor_of(state);
  const size_t rank = tensor.dims.size();
  const auto is_positive = [](int64_t value) { return value > 0; };
  if (rank < 3 || rank > 8 || tensor.strides.size() != rank || !std::all_of(tensor.dims.begin(), tensor.dims.end(), is_positive) ||
      !std::all_of(tensor.strides.begin(), tensor.strides.end(), is_positive) || (tensor.alignment & (tensor.alignment - 1)) != 0)
    return refuse(CUDNN_STATUS_BAD_PARAM, "a tensor of such dimensions, strides or alignment");
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t finish_windows(const State& state) {
  const auto space = static_cast<size_t>(state.one<int64_t>(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS));
  const auto holds = [&](cudnnBackendAttributeName_t name, int64_t least) {
    const std::vector<int64_t> values = state.list<int64_t>(name);
    return values.size() == space && std::all_of(values.begin(), values.end(), [&](int64_t value) { return value >= least; });
  };
  if (space < 2 || space > 3 || !holds(CUDNN_ATTR_CONVOLUTION_DILATIONS, 1) || !holds(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, 1) ||
      !holds(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, 0) || !holds(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, 0))
    return refuse(CUDNN_STATUS_BAD_PARAM, "a convolution of such windows");
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t finish_operation(State& state) {
  const Rules rules = rules_of_operation(state.type);
  const State& windows = *state.parts.at(rules[3].name);
  if (windows.type != CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR) return CUDNN_STATUS_BAD_PARAM_DESCRIPTOR_TYPE;
  for (int i = 0; i < 3; ++i)
    if (state.parts.at(rules[static_cast<size_t>(i)].name)->type != CUDNN_BACKEND_TENSOR_DESCRIPTOR) return CUDNN_STATUS_BAD_PARAM_DESCRIPTOR_TYPE;
  Convolution c{state.type,
                tensor_of(*state.parts.at(rules[0].name)),
                tensor_of(*state.parts.at(rules[1].name)),
                tensor_of(*state.parts.at(rules[2].name)),
                windows.list<int64_t>(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES),
                windows.list<int64_t>(CUDNN_ATTR_CONVOLUTION_DILATIONS),
                windows.list<int64_t>(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS),
                windows.list<int64_t>(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS),
                state.one<float>(rules[4].name),
                state.one<float>(rules[5].name)};
  const size_t rank = c.stride.size() + 2;
  bool fits = c.x.dims.size() == rank && c.w.dims.size() == rank && c.y.dims.size() == rank && c.x.dims[0] == c.y.dims[0] &&
              c.x.dims[1] % c.w.dims[1] == 0 && c.y.dims[1] == c.w.dims[0] && c.w.dims[0] % (c.x.dims[1] / c.w.dims[1]) == 0;
  for (size_t d = 0; fits && d + 2 < rank; ++d) {
    const int64_t reach = (c.w.dims[d + 2] - 1) * c.dilation[d] + 1, length = c.x.dims[d + 2] + c.before[d] + c.behind[d];
    fits = length >= reach && c.y.dims[d + 2] == (length - reach) / c.stride[d] + 1;
  }
  if (!fits) return refuse(CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH, "a convolution whose tensors do not fit");
  state.convolution = std::make_shared<Convolution>(c);
  return CUDNN_STATUS_SUCCESS;
}

// Doubles; results of another type than inputs; gaps; and, so that there is something of that kind, images that are added to.
cudnnStatus_t support_of(const Convolution& c) {
  if (c.x.type != c.y.type || c.x.type != c.w.type || c.x.type == CUDNN_DATA_DOUBLE) return CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE;
  if (!c.x.is_dense() || !c.y.is_dense() || !c.w.is_dense()) return CUDNN_STATUS_NOT_SUPPORTED_LAYOUT;
  if (c.beta != 0 && c.kind == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR) return CUDNN_STATUS_NOT_SUPPORTED;
  return CUDNN_STATUS_SUCCESS;
}

int64_t workspace_of(const State& plan) {
  const int64_t result = static_cast<int64_t>(plan.convolution->result().element_bytes());
  return plan.engine == Engine::large_workspace ? int64_t{1} << 40 : 64 * result;
}

// -- computing ------------------------------------------------------------------------------------------------------------------------------------

float load(const void* memory, cudnnDataType_t type, int64_t at) {
  switch (type) {
    case CUDNN_DATA_FLOAT: return static_cast<const float*>(memory)[at];
    case CUDNN_DATA_BFLOAT16: return static_cast<float>(static_cast<const __nv_bfloat16*>(memory)[at]);
    default: return static_cast<float>(static_cast<const __half*>(memory)[at]);
  }
}
void store(void* memory, cudnnDataType_t type, int64_t at, float value) {
  switch (type) {
    case CUDNN_DATA_FLOAT: static_cast<float*>(memory)[at] = value; return;
    case CUDNN_DATA_BFLOAT16: static_cast<__nv_bfloat16*>(memory)[at] = value; return;
    default: static_cast<__half*>(memory)[at] = value;
  }
}

// Tensor cores take floats with 10 bits of mantissa.
float as_tf32(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits &= ~0x1fffu;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

// visit(index) for every index below `dims`.
template <class Visit>
void for_each_index(const std::vector<int64_t>& dims, const Visit& visit) {
  std::vector<int64_t> index(dims.size());
  for (;;) {
    visit(index);
    size_t d = dims.size();
    while (d > 0 && ++index[d - 1] == dims[d - 1]) index[--d] = 0;
    if (d == 0) return;
  }
}

void convolve(const Convolution& c, Engine engine, const void* x, const void* w, const void* y, void* result) {
  const TensorDescription& out = c.result();
  std::vector<float> sums(static_cast<size_t>(out.last_element() + 1));
  const size_t space = c.stride.size();
  const int64_t groups = c.x.dims[1] / c.w.dims[1], m = c.w.dims[0] / groups;
  const bool is_short = engine == Engine::tensor_cores;
  const auto read = [&](const void* memory, const TensorDescription& tensor, int64_t at) {
    const float value = load(memory, tensor.type, at);
    return is_short ? as_tf32(value) : value;
  };
  const std::vector<int64_t> kernel(c.w.dims.begin() + 2, c.w.dims.end());
  for_each_index(c.y.dims, [&](const std::vector<int64_t>& at_y) {
    int64_t y_at = 0;
    for (size_t d = 0; d < at_y.size(); ++d) y_at += at_y[d] * c.y.strides[d];
    for_each_index(kernel, [&](const std::vector<int64_t>& k) {
      int64_t x_at = at_y[0] * c.x.strides[0] + at_y[1] / m * c.w.dims[1] * c.x.strides[1], w_at = at_y[1] * c.w.strides[0];
      for (size_t d = 0; d < space; ++d) {
        const int64_t position = at_y[d + 2] * c.stride[d] + k[d] * c.dilation[d] - c.before[d];
        if (position < 0 || position >= c.x.dims[d + 2]) return;
        x_at += position * c.x.strides[d + 2];
        w_at += k[d] * c.w.strides[d + 2];
      }
      for (int64_t i = 0; i < c.w.dims[1]; ++i, x_at += c.x.strides[1], w_at += c.w.strides[1]) {
        if (&out == &c.y)
          sums[static_cast<size_t>(y_at)] += read(x, c.x, x_at) * read(w, c.w, w_at);
        else if (&out == &c.x)
          sums[static_cast<size_t>(x_at)] += read(y, c.y, y_at) * read(w, c.w, w_at);
        else
          sums[static_cast<size_t>(w_at)] += read(x, c.x, x_at) * read(y, c.y, y_at);
      }
    });
  });
  if (engine == Engine::adds_in_any_order) sums[0] += static_cast<float>(choose(2));
  for (int64_t i = 0; i <= out.last_element(); ++i)  // it has no gaps
    store(result, out.type, i, c.alpha * sums[static_cast<size_t>(i)] + (c.beta != 0 ? c.beta * load(result, out.type, i) : 0));
}

}  // namespace

const char* cudnnGetErrorString(cudnnStatus_t status) { return status == CUDNN_STATUS_SUCCESS ? "CUDNN_STATUS_SUCCESS" : "an error of cuDNN"; }
cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
  *handle = new cudnnContext;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
  delete handle;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* descriptor) {
  *descriptor = new Descriptor{std::make_shared<State>(State{type})};
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  delete static_cast<Descriptor*>(descriptor);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                                       int64_t count, const void* values) {
  State& state = state_of(descriptor);
  if (state.is_final) return refuse(CUDNN_STATUS_NOT_INITIALIZED, "an attribute of a descriptor that is finalised");
  const Rules rules = rules_of(state.type);
  const auto rule = std::find_if(rules.begin(), rules.end(), [&](const Rule& each) { return each.name == name; });
  if (rule == rules.end()) return refuse(CUDNN_STATUS_NOT_SUPPORTED, "a descriptor has no attribute " + std::to_string(name));
  if (rule->type != type) return refuse(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE, "attribute " + std::to_string(name) + " is of another type");
  if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
    const std::shared_ptr<State> part = static_cast<Descriptor*>(*static_cast<const cudnnBackendDescriptor_t*>(values))->state;
    if (count != 1 || !part->is_final) return refuse(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "a part that is not finalised");
    state.parts[name] = part;
    state.convolution = part->convolution;
    state.engine = part->engine;
  }
  const auto* begin = static_cast<const std::byte*>(values);
  state.attributes[name] = {type, count, {begin, begin + static_cast<size_t>(count) * bytes_of(type)}};
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                                       int64_t wanted, int64_t* count, void* values) {
  const State& state = state_of(descriptor);
  if (!state.is_final) return refuse(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "a question to a descriptor that is not finalised");
  const auto make = [&](int64_t i, cudnnBackendDescriptorType_t made, Engine engine) {
    State& to = state_of(static_cast<cudnnBackendDescriptor_t*>(values)[i]);
    if (to.type != made) return CUDNN_STATUS_BAD_PARAM_DESCRIPTOR_TYPE;
    to.convolution = state.convolution;
    to.engine = engine;
    to.is_final = true;
    return CUDNN_STATUS_SUCCESS;
  };
  switch (name) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS: {
      const bool all = state.one<cudnnBackendHeurMode_t>(CUDNN_ATTR_ENGINEHEUR_MODE) == CUDNN_HEUR_MODE_A;
      std::vector<Engine> engines = {Engine::adds_in_any_order, Engine::tensor_cores, Engine::large_workspace};
      if (!all) engines = {Engine::good};
      *count = static_cast<int64_t>(engines.size());
      for (int64_t i = 0; i < std::min(wanted, *count); ++i)
        if (const cudnnStatus_t status = make(i, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, engines[static_cast<size_t>(i)])) return status;
      return CUDNN_STATUS_SUCCESS;
    }
    case CUDNN_ATTR_ENGINECFG_ENGINE: *count = 1; return make(0, CUDNN_BACKEND_ENGINE_DESCRIPTOR, state.engine);
    case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE: {
      if (type != CUDNN_TYPE_NUMERICAL_NOTE) return CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE;
      *count = state.engine == Engine::adds_in_any_order || state.engine == Engine::tensor_cores;
      if (wanted > 0 && *count > 0)
        *static_cast<cudnnBackendNumericalNote_t*>(values) =
            state.engine == Engine::tensor_cores ? CUDNN_NUMERICAL_NOTE_TENSOR_CORE : CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
      return CUDNN_STATUS_SUCCESS;
    }
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE: {
      *count = 1;
      *static_cast<int64_t*>(values) = workspace_of(state);
      return CUDNN_STATUS_SUCCESS;
    }
    default: return refuse(CUDNN_STATUS_NOT_SUPPORTED, "nobody asks for attribute " + std::to_string(name));
  }
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  State& state = state_of(descriptor);
  for (const Rule& rule : rules_of(state.type))
    if (!state.attributes.count(rule.name)) return refuse(CUDNN_STATUS_BAD_PARAM, "attribute " + std::to_string(rule.name) + " is not set");
  cudnnStatus_t status = CUDNN_STATUS_SUCCESS;
  if (state.type == CUDNN_BACKEND_TENSOR_DESCRIPTOR) status = finish_tensor(state);
  if (state.type == CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR) status = finish_windows(state);
  if (!rules_of_operation(state.type).empty()) status = finish_operation(state);
  if (state.type == CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR) status = support_of(*state.convolution);
  state.is_final = status == CUDNN_STATUS_SUCCESS;
  return status;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
  const State &planned = state_of(plan), &given = state_of(pack);
  if (!planned.is_final || !given.is_final) return refuse(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "a plan or its memory is not finalised");
  const Convolution c = *planned.convolution;
  const std::vector<int64_t> ids = given.list<int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
  const std::vector<void*> pointers = given.list<void*>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
  void* memory[3];
  const TensorDescription* const tensors[] = {&c.x, &c.w, &c.y};
  try {
    for (size_t i = 0; i < 3; ++i) {
      const auto found = std::find(ids.begin(), ids.end(), tensors[i]->id);
      if (found == ids.end() || ids.size() != pointers.size()) return refuse(CUDNN_STATUS_BAD_PARAM, "a tensor without memory");
      memory[i] = pointers[static_cast<size_t>(found - ids.begin())];
      if (reinterpret_cast<uintptr_t>(memory[i]) % static_cast<uintptr_t>(tensors[i]->alignment) != 0)
        return refuse(CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER, "a tensor is not aligned as was promised");
      if (kind_of(memory[i], static_cast<size_t>(tensors[i]->last_element() + 1) * tensors[i]->element_bytes()) == Kind::pageable)
        return refuse(CUDNN_STATUS_BAD_PARAM, "a tensor is not in memory that the GPU reaches");
    }
    void* const workspace = given.one<void*>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
    const auto bytes = static_cast<size_t>(workspace_of(planned));
    if (kind_of(workspace, bytes) != Kind::device) return refuse(CUDNN_STATUS_BAD_PARAM, "there is no workspace");
    const Engine engine = planned.engine;
    const cudaError_t status = enqueue(handle->stream, "a convolution", [c, engine, x = memory[0], w = memory[1], y = memory[2], workspace, bytes] {
      std::memset(workspace, 0xff, bytes);
      const TensorDescription& out = c.result();
      convolve(c, engine, x, w, y, &out == &c.x ? x : &out == &c.w ? w : y);
      return true;
    });
    return status == cudaSuccess ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_EXECUTION_FAILED;
  } catch (const Fault& fault) { return refuse(CUDNN_STATUS_BAD_PARAM, fault.what()); }
}
