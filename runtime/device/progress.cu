#include "progress.cuh"
#include "sscc_rt/cuda_launch.cuh"

namespace sscc::rt {
namespace {

__global__ void write_word(volatile uint32_t* word, uint32_t number) { *word = number; }

}  // namespace

void tell_progress(uint32_t* word, uint32_t number, cudaStream_t stream) { launch_on(stream, write_word, 1, 1, 0, word, number); }

}  // namespace sscc::rt
