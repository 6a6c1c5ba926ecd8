// The splits' states of a row become its output.
#pragma once

#include "cuda/tree_attention_state.cuh"

namespace vispec::cuda {

constexpr int kMergeThreads = 128;  // a thread a split, then some splits a group of D / 4 threads
constexpr int kMergeBlocks = 8;     // on a multiprocessor; for more nvcc spilled
static_assert(kMaxSplits <= kMergeThreads);

struct MergeShared {
  float weights[kMaxSplits];
  float largest[kMergeThreads / 32], total[kMergeThreads / 32];
  float4 sums[kMergeThreads];
};

template <class T>
__device__ __forceinline__ void store_4(char* out, float4 x) {
  *reinterpret_cast<uint2*>(out) = {pack2<T>(x.x, x.y), pack2<T>(x.z, x.w)};
}
template <>
__device__ __forceinline__ void store_4<float>(char* out, float4 x) {
  *reinterpret_cast<float4*>(out) = x;
}

// The block's splits' weights relative to the largest score, and 1 / the total.
__device__ __forceinline__ float load_weights(const TreeAttentionLaunch& launch, int64_t row, int used,
                                              MergeShared& shared) {
  const int split = threadIdx.x, warp = threadIdx.x / 32;
  const int64_t rows = tree_attention_states(launch.p, launch.plan).rows;
  const float2 state = split < used ? launch.states[split * rows + row] : float2{kMinusInf, 0};
  float largest = state.x;
  for (int distance = 16; distance > 0; distance /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(kWarp, largest, distance));
  }
  if (threadIdx.x % 32 == 0) shared.largest[warp] = largest;
  __syncthreads();  // each warp's largest is there
  for (const float other : shared.largest) largest = fmaxf(largest, other);
  const float weight = exp2f(state.x - weight_base(largest));
  if (split < used) shared.weights[split] = weight;
  float total = weight * state.y;
  for (int distance = 16; distance > 0; distance /= 2) total += __shfl_xor_sync(kWarp, total, distance);
  if (threadIdx.x % 32 == 0) shared.total[warp] = total;
  __syncthreads();  // the weights and each warp's total are there
  total = 0;
  for (const float part : shared.total) total += part;
  return total == 0 ? 0 : 1 / total;  // a row that sees nothing: 0
}

// Grid: a block an output row, [B, M, Hq].
template <class T>
__global__ void __launch_bounds__(kMergeThreads, kMergeBlocks)
    tree_attention_merge_kernel(const __grid_constant__ TreeAttentionLaunch launch) {
  const TreeAttentionParams& p = launch.p;
  const int64_t row = blockIdx.x, rows = tree_attention_states(p, launch.plan).rows;
  const int keys = p.dtype == DType::kFloat32 ? kFloatKeys : tile_keys(tile_dim(p.head_dim), launch.plan.rows);
  const int seq = blockIdx.x / (p.num_heads * p.num_queries);
  const int used = cut_span(key_span(p, seq), keys, launch.plan.splits).used;
  if (used <= 1) return;  // the one split has written the output

  auto& shared = *reinterpret_cast<MergeShared*>(dynamic_shared());
  const float inverse = load_weights(launch, row, used, shared);
  const int width = p.head_dim / 4, groups = kMergeThreads / width;
  const int column = threadIdx.x % width, group = threadIdx.x / width;
  float4 sum = {0, 0, 0, 0};
#pragma unroll 4
  for (int split = group < groups ? group : used; split < used; split += groups) {
    const float weight = shared.weights[split];
    const float4 x = *reinterpret_cast<const float4*>(launch.sums + (split * rows + row) * p.head_dim + 4 * column);
    sum = {sum.x + weight * x.x, sum.y + weight * x.y, sum.z + weight * x.z, sum.w + weight * x.w};
  }
  shared.sums[threadIdx.x] = sum;
  __syncthreads();  // all groups' sums are there
  if (group > 0) return;
  for (int other = 1; other < groups; ++other) {
    const float4 x = shared.sums[other * width + column];
    sum = {sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w};
  }
  store_4<T>(p.out + (row * p.head_dim + 4 * column) * static_cast<int64_t>(sizeof(T)),
             {sum.x * inverse, sum.y * inverse, sum.z * inverse, sum.w * inverse});
}

inline cudaError_t launch_merge(const TreeAttentionLaunch& arguments, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(tree_attention_states(arguments.p, arguments.plan).rows));
  const DType dtype = arguments.p.dtype;
  const auto kernel = dtype == DType::kFloat32   ? tree_attention_merge_kernel<float>
                      : dtype == DType::kFloat16 ? tree_attention_merge_kernel<__half>
                                                 : tree_attention_merge_kernel<__nv_bfloat16>;
  return launch(kernel, grid, kMergeThreads, sizeof(MergeShared), stream, arguments);
}

}  // namespace vispec::cuda
