#include <iterator>

#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"
#include "wrong_kernels.h"

namespace vispec::cuda {
namespace {

constexpr unsigned kAll = ~0u;
constexpr int kThreads = 64;        // two warps
constexpr int kSharedBytes = 1000;  // not a multiple of 16

__device__ float* shared_floats() { return reinterpret_cast<float*>(dynamic_shared()); }

// ---- Reported in every build ----

__global__ void lane_not_in_mask(WrongKernelsParams p) {
  p.out[threadIdx.x] = __shfl_sync(0xffff0000u, p.x[threadIdx.x], 20);
}

__global__ void different_operations(WrongKernelsParams p) {
  const int lane = threadIdx.x % 32;
  p.out[threadIdx.x] = lane < 16 ? __shfl_sync(kAll, p.x[lane], 3) : __shfl_xor_sync(kAll, p.x[lane], 1);
}

__global__ void different_masks(WrongKernelsParams p) {
  const int lane = threadIdx.x % 32;
  p.out[threadIdx.x] = __shfl_sync(lane < 16 ? 0x0001ffffu : kAll, p.x[lane], 3);
}

__global__ void source_outside_mask(WrongKernelsParams p) {
  if (threadIdx.x % 32 < 16) p.out[threadIdx.x] = __shfl_sync(0xffffu, p.x[threadIdx.x], 20);
}

__global__ void source_has_ended(WrongKernelsParams p) {
  if (threadIdx.x % 32 >= 30) return;
  p.out[threadIdx.x] = __shfl_down_sync(kAll, p.x[threadIdx.x], 1);
}

__global__ void barriers_at_different_lines(WrongKernelsParams) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void deadlock(WrongKernelsParams) {
  if (threadIdx.x % 32 == 5) {
    __syncthreads();
  } else {
    __syncwarp();
  }
}

__global__ void misaligned_vector(WrongKernelsParams p) {
  p.out[threadIdx.x] = reinterpret_cast<const uint4*>(p.x + 1)->y;
}

__global__ void misaligned_copy(WrongKernelsParams p) {
  cp_async_16(dynamic_shared() + 16 * threadIdx.x, p.x + threadIdx.x % 32, true);
}

__global__ void misaligned_row(WrongKernelsParams) {
  uint32_t r[4];
  ldmatrix_x4(r, dynamic_shared() + 8 * threadIdx.x);
}

__global__ void row_outside_shared_memory(WrongKernelsParams) {
  uint32_t r[4];
  ldmatrix_x4(r, dynamic_shared() + 16 * threadIdx.x);  // the last one has 8 bytes too few
}

__global__ void not_shared(WrongKernelsParams p) { cp_async_16(p.out, p.x, true); }

// ---- Seen in the answers: NaN, or unequal in different schedules ----

__global__ void missing_wait(WrongKernelsParams p) {
  const int lane = threadIdx.x % 32;
  if (threadIdx.x < 32) cp_async_16(dynamic_shared() + 16 * lane, p.x + 4 * (lane % 16), true);
  cp_async_commit();
  __syncthreads();
  p.out[threadIdx.x] = shared_floats()[threadIdx.x];
}

__global__ void early_overwrite(WrongKernelsParams p) {
  unsigned char* row = dynamic_shared() + 16 * (threadIdx.x % 32);
  p.out[threadIdx.x] = 1;
  if (threadIdx.x >= 32) return;
  cp_async_16(row, p.x, true);
  cp_async_commit();
  cp_async_wait<0>();
  cp_async_16(row, p.x + 32, true);
  cp_async_commit();
  p.out[threadIdx.x] = *reinterpret_cast<float*>(row);
  cp_async_wait<0>();
}

__global__ void missing_barrier(WrongKernelsParams p) {
  const int thread = threadIdx.x;
  shared_floats()[thread] = p.x[thread];
  p.out[thread] = shared_floats()[thread ^ 32];
}

__global__ void not_initialised(WrongKernelsParams p) { p.out[threadIdx.x] = shared_floats()[threadIdx.x]; }

// ---- Seen by ThreadSanitizer alone ----

// The lanes' order is right by luck: a shuffle orders no memory.
__global__ void shuffle_for_a_barrier(WrongKernelsParams p) {
  const int thread = threadIdx.x, lane = thread % 32;
  shared_floats()[thread] = p.x[thread];
  __shfl_sync(kAll, lane, 0);
  p.out[thread] = shared_floats()[thread ^ 1];
}

__global__ void both_write(WrongKernelsParams p) {
  if (threadIdx.x % 32 == 0) shared_floats()[0] = 1;
  __syncthreads();
  p.out[threadIdx.x] = shared_floats()[0];
}

// ---- Seen by AddressSanitizer ----

__global__ void over_shared_memory(WrongKernelsParams p) {
  p.out[threadIdx.x] = 0;
  if (threadIdx.x == 40) shared_floats()[250] = 1;
}

__global__ void over_global_memory(WrongKernelsParams p) { p.out[threadIdx.x + 1] = p.x[threadIdx.x]; }

constexpr void (*kKernels[])(WrongKernelsParams) = {
    lane_not_in_mask,   different_operations,
    different_masks,    source_outside_mask,
    source_has_ended,   barriers_at_different_lines,
    deadlock,           misaligned_vector,
    misaligned_copy,    misaligned_row,
    not_shared,         row_outside_shared_memory,
    missing_wait,       early_overwrite,
    missing_barrier,    not_initialised,
    both_write,         shuffle_for_a_barrier,
    over_shared_memory, over_global_memory,
};

}  // namespace

cudaError_t wrong_kernels(const WrongKernelsParams& p, cudaStream_t stream) {
  if (p.kernel >= static_cast<int>(std::size(kKernels))) return cudaErrorInvalidValue;
  return launch(kKernels[p.kernel], dim3(2), kThreads, kSharedBytes, stream, p);
}

}  // namespace vispec::cuda
