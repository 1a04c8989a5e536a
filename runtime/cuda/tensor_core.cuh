// Instructions for tiles of bf16 and f16 (PTX ISA, "Warp-level Matrix Instructions", "Asynchronous copy"), for compute capability 8.0 and later. Those
// of a warp are called by all its lanes. On the emulated GPU lanes exchange what they hold, by the layouts that the PTX ISA gives.
//
// In a 16 x 8 tile of results lane l holds, with g = l / 4 and t = l % 4: {(g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)}.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "sscc_rt/small_floats.h"

#ifdef SSCC_EMULATED_GPU
#include <array>
#include <deque>
#include <utility>
#include <vector>
#endif

namespace sscc::rt {

// Two neighbouring elements as one register, the first in the lower half.
template <class T>
__device__ inline uint32_t packed(float first, float second) {
  uint32_t word;
  if constexpr (std::is_same_v<T, bf16>) {
    const auto pair = __floats2bfloat162_rn(first, second);
    memcpy(&word, &pair, sizeof word);
  } else {
    const auto pair = __floats2half2_rn(first, second);
    memcpy(&word, &pair, sizeof word);
  }
  return word;
}

#ifdef SSCC_EMULATED_GPU

inline float exp2_approximate(float x) { return exp2f(x); }

namespace emulated {

template <class T>
float element_of(uint32_t word, int half) {
  T pair[2];
  memcpy(pair, &word, sizeof word);
  return static_cast<float>(pair[half]);
}

// Bytes are not there before they are waited for.
struct AsyncCopy {
  void* to;
  std::array<std::byte, 16> bytes;
};
struct AsyncCopies {
  std::vector<AsyncCopy> open;
  std::deque<std::vector<AsyncCopy>> committed;
};
inline AsyncCopies& async_copies() {
  static AsyncCopies of_thread[1024];  // blocks run one after the other
  return of_thread[threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)];
}

}  // namespace emulated

template <class T>
void multiply_accumulate(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Held {
    uint32_t a[4], b[2];
  };
  const auto all = emulated_gpu::all_lanes(Held{{a[0], a[1], a[2], a[3]}, {b0, b1}});
  const int g = emulated_gpu::lane() / 4, t = emulated_gpu::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + i / 2 * 8, column = 2 * t + i % 2;
    for (int k = 0; k < 16; ++k) {
      const uint32_t left = all[static_cast<size_t>(row % 8 * 4 + k % 8 / 2)].a[row / 8 + k / 8 * 2];
      const uint32_t right = all[static_cast<size_t>(column * 4 + k % 8 / 2)].b[k / 8];
      c[i] += emulated::element_of<T>(left, k % 2) * emulated::element_of<T>(right, k % 2);
    }
  }
}

template <bool transposed>
void load_matrices(uint32_t (&result)[4], const void* row) {
  const auto rows = emulated_gpu::all_lanes(row);
  const int g = emulated_gpu::lane() / 4, t = emulated_gpu::lane() % 4;
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t pair[2];
    for (int i = 0; i < 2; ++i) {
      const int at_row = transposed ? 2 * t + i : g, column = transposed ? g : 2 * t + i;
      memcpy(&pair[i], static_cast<const std::byte*>(rows[static_cast<size_t>(matrix * 8 + at_row)]) + 2 * column, 2);
    }
    memcpy(&result[matrix], pair, sizeof pair);
  }
}

inline void copy_async(void* to, const void* from, bool is_there) {
  emulated::AsyncCopy copy{to, {}};
  if (is_there) memcpy(copy.bytes.data(), from, 16);
  memset(to, 0xff, 16);
  emulated::async_copies().open.push_back(copy);
}
inline void commit_copies() {
  emulated::AsyncCopies& copies = emulated::async_copies();
  copies.committed.push_back(std::move(copies.open));
  copies.open.clear();
}
template <int pending>
void wait_for_copies() {
  emulated::AsyncCopies& copies = emulated::async_copies();
  for (; copies.committed.size() > pending; copies.committed.pop_front())
    for (const emulated::AsyncCopy& copy : copies.committed.front()) memcpy(copy.to, copy.bytes.data(), 16);
}

#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800

// 2^x; results below 2^-126 are 0.
__device__ inline float exp2_approximate(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// c (16 x 8) += a (16 x 16) b (16 x 8). a: {(g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8)} and the next column of each; b: {(2t, g), (2t + 8, g)}
// and the next row of each.
template <class T>
__device__ inline void multiply_accumulate(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, bf16>) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

__device__ inline uint32_t shared_address(const void* memory) { return static_cast<uint32_t>(__cvta_generic_to_shared(memory)); }

// Four 8 x 8 matrices of 16-bit elements in shared memory. Lane l gives row l % 8 of matrix l / 8, 16 bytes; it gets of matrix i, as result[i], the
// elements (g, 2t) and (g, 2t + 1), or with `transposed` (2t, g) and (2t + 1, g).
template <bool transposed>
__device__ inline void load_matrices(uint32_t (&result)[4], const void* row) {
  if constexpr (transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
                 : "r"(shared_address(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(result[0]), "=r"(result[1]), "=r"(result[2]), "=r"(result[3])
                 : "r"(shared_address(row))
                 : "memory");
  }
}

// 16 bytes from global to shared memory, both aligned to 16, or zeros (`from` is then not read). They are there for this thread when the group that
// they were committed in was waited for, for others after a barrier behind that.
__device__ inline void copy_async(void* to, const void* from, bool is_there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(is_there ? 16 : 0)
               : "memory");
}
// Closes a group of copies; it may be empty.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most the last `pending` groups are under way.
template <int pending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

#else  // older GPUs, which the host never sends here

__device__ inline float exp2_approximate(float) { __trap(); }
template <class T>
__device__ inline void multiply_accumulate(float (&)[4], const uint32_t (&)[4], uint32_t, uint32_t) {
  __trap();
}
template <bool transposed>
__device__ inline void load_matrices(uint32_t (&)[4], const void*) {
  __trap();
}
__device__ inline void copy_async(void*, const void*, bool) { __trap(); }
__device__ inline void commit_copies() { __trap(); }
template <int pending>
__device__ inline void wait_for_copies() {
  __trap();
}

#endif

}  // namespace sscc::rt
