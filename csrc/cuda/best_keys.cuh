// Lists of the best keys in the registers of a warp: 32 of them, one a lane, descending; 0 where there is none.
#pragma once

#include <cstdint>

#include "cuda/launch.cuh"

namespace vispec::cuda {

constexpr int kListSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// One step of a bitonic network: of two lanes `stride` apart the one for which `keeps_larger` keeps the larger key.
__device__ __forceinline__ uint64_t exchange(uint64_t key, int stride, bool keeps_larger) {
  const uint64_t other = __shfl_xor_sync(kAllLanes, key, stride);
  return (key > other) == keeps_larger ? key : other;
}

// 32 keys in any order to a list.
__device__ __forceinline__ uint64_t sort_keys(uint64_t key) {
  const int lane = threadIdx.x % kListSize;
#pragma unroll
  for (int size = 2; size <= kListSize; size *= 2) {
#pragma unroll
    for (int stride = size / 2; stride > 0; stride /= 2) {
      key = exchange(key, stride, ((lane & size) == 0) == ((lane & stride) == 0));
    }
  }
  return key;
}

// The best 32 of two lists.
__device__ __forceinline__ uint64_t merge_lists(uint64_t list, uint64_t other) {
  const int lane = threadIdx.x % kListSize;
  const uint64_t reversed = __shfl_sync(kAllLanes, other, kListSize - 1 - lane);
  uint64_t key = list > reversed ? list : reversed;  // bitonic, and no key that is left out is better
#pragma unroll
  for (int stride = kListSize / 2; stride > 0; stride /= 2) key = exchange(key, stride, (lane & stride) == 0);
  return key;
}

// The best 32 of all warps' lists, in the first warp. `shared`: kWarps lists. All threads of the block.
template <int kWarps>
__device__ __forceinline__ uint64_t merge_in_block(uint64_t list, uint64_t* shared) {
  static_assert((kWarps & (kWarps - 1)) == 0);
  const int lane = threadIdx.x % kListSize, warp = threadIdx.x / kListSize;
#pragma unroll
  for (int half = kWarps / 2; half > 0; half /= 2) {
    if (half <= warp && warp < 2 * half) shared[warp * kListSize + lane] = list;
    __syncthreads();  // the lower half takes over what the upper half has written
    if (warp < half) list = merge_lists(list, shared[(warp + half) * kListSize + lane]);
  }
  return list;
}

}  // namespace vispec::cuda
