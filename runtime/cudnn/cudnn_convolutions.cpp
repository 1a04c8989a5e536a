// Plans are made once for each shape and kept. What cuDNN can only overwrite, or only write in the type of its inputs, goes to scratch memory first
// and is added or converted from there.
#include "cudnn_convolutions.h"

#include <map>
#include <utility>

#include "../cuda/convolution_library.h"
#include "../cuda/device.h"
#include "plan.h"

namespace sscc::rt {
namespace {

// The convolution with its result in scratch memory, dense and in the type of its inputs; nothing where it does not fit.
std::optional<Convolution> in_scratch(const Convolution& convolution) {
  Convolution result = convolution;
  Tensor& out = result[result.result];
  out.dtype = convolution.input_type();
  out.data = device().scratch;
  int64_t elements = 1;
  for (int d = out.rank; d-- > 0; elements *= out.dims[d]) out.strides[d] = elements;
  if (elements * static_cast<int64_t>(size_of(out.dtype)) > static_cast<int64_t>(scratch_bytes)) return std::nullopt;
  return result;
}

class CudnnConvolutions : public ConvolutionLibrary {
 public:
  CudnnConvolutions() {
    check(cudnnCreate(&handle_), "start cuDNN");
    check(cudnnSetStream(handle_, compute_stream()), "start cuDNN");
  }
  CudnnConvolutions(const CudnnConvolutions&) = delete;
  ~CudnnConvolutions() override {
    plans_.clear();
    cudaFree(workspace_);
    if (handle_) cudnnDestroy(handle_);
  }

  bool enqueue(const Convolution& convolution, bool accumulate) override {
    if (convolution.out().dtype == DType::f64) return false;
    if (run(convolution, accumulate)) return true;
    if (!accumulate && convolution.out().dtype == convolution.input_type()) return false;
    const std::optional<Convolution> staged = in_scratch(convolution);
    if (!staged || !run(*staged, false)) return false;
    copy(convolution.out(), staged->out(), accumulate);
    return true;
  }
  int64_t bytes() const override { return workspace_bytes_; }

 private:
  bool run(const Convolution& convolution, bool accumulate) {
    std::vector<int64_t> key = key_of(convolution, accumulate);
    key.push_back(device().tf32);
    auto found = plans_.find(key);
    if (found == plans_.end()) {
      found = plans_.emplace(key, make_plan(handle_, convolution, accumulate, device().tf32)).first;
      if (found->second.plan) enlarge_workspace(found->second.workspace_bytes);
    }
    const std::optional<Descriptor>& plan = found->second.plan;
    if (!plan) return false;
    int64_t ids[3];
    void* memory[3];
    for (const ConvolutionOperand o : all_operands) {
      ids[static_cast<size_t>(o)] = static_cast<int64_t>(o);
      memory[static_cast<size_t>(o)] = convolution[o].data;
    }
    const Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, std::span<const int64_t>(ids));
    pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, std::span<void* const>(memory));
    pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, workspace_);
    check(pack.finalize(), "describe a convolution to cuDNN");
    check(cudnnBackendExecute(handle_, plan->get(), pack.get()), "convolve by cuDNN");
    return true;
  }

  // The first time that a convolution is called: the program's first step.
  void enlarge_workspace(int64_t bytes) {
    if (bytes <= workspace_bytes_) return;
    check(cudaStreamSynchronize(compute_stream()), "wait for kernels");
    check(cudaFree(std::exchange(workspace_, nullptr)), "free the workspace of cuDNN");
    check(cudaMalloc(&workspace_, static_cast<size_t>(bytes)), "allocate the workspace of cuDNN");
    workspace_bytes_ = bytes;
  }

  cudnnHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  int64_t workspace_bytes_ = 0;
  // Kept while the device is: a program has few convolutions, and calls them again and again.
  std::map<std::vector<int64_t>, Plan> plans_;
};

}  // namespace

void use_cudnn() { device().convolutions = std::make_unique<CudnnConvolutions>(); }

}  // namespace sscc::rt
