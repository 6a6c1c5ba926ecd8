// Tree attention in fp32, for tests and small models: a warp a row, a lane a key, plain multiply-adds. No row is read
// that its query does not see.
#pragma once

#include "cuda/tree_attention_state.cuh"

namespace vispec::cuda {

constexpr int kFloatBlocks = 4;  // on a multiprocessor; for more nvcc spilled

// The queries, then the paths, a row a warp.
constexpr int float_shared(const TreeAttentionParams& p) {
  return kFloatRows * 4 * kMaxHeadDim + kFloatRows * 8 * p.mask_words;
}

__device__ __forceinline__ float dot(const float* q, const float* k, int head_dim) {
  float4 sum = {0, 0, 0, 0};  // four chains: less rounding, and the next addition need not wait
  for (int d = 0; d < head_dim; d += 4) {
    const float4 x = *reinterpret_cast<const float4*>(q + d), y = *reinterpret_cast<const float4*>(k + d);
    sum = {sum.x + x.x * y.x, sum.y + x.y * y.y, sum.z + x.z * y.z, sum.w + x.w * y.w};
  }
  return (sum.x + sum.y) + (sum.z + sum.w);
}

// A warp's row: lane l has columns l, l + 32, ...
struct FloatState {
  float out[kMaxHeadDim / 32] = {};
  float largest = kMinusInf, total = 0;
};

// Keys [begin, begin + 32), of which the row sees `seen`; `score` is lane l's of key begin + l.
__device__ __forceinline__ void attend_keys(const TreeAttentionParams& p, const char* values, unsigned seen,
                                            float score, FloatState& state) {
  const int lane = threadIdx.x % 32;
  float largest = fmaxf(state.largest, score);
  for (int distance = 16; distance > 0; distance /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(kWarp, largest, distance));
  }
  const float base = weight_base(largest), factor = exp2f(state.largest - base), weight = exp2f(score - base);
  float total = weight;
  for (int distance = 16; distance > 0; distance /= 2) total += __shfl_xor_sync(kWarp, total, distance);
  state.total = state.total * factor + total;
  state.largest = largest;
  float sum[kMaxHeadDim / 32] = {};  // of these keys alone: parts of 32 round less than one long sum
  for (unsigned left = seen; left != 0; left &= left - 1) {
    const int key = __ffs(left) - 1;
    const float w = __shfl_sync(kWarp, weight, key);
    const float* row = reinterpret_cast<const float*>(values + key * p.cache.row);
#pragma unroll
    for (int i = 0; i < kMaxHeadDim / 32; ++i) {
      if (lane + 32 * i < p.head_dim) sum[i] += w * row[lane + 32 * i];
    }
  }
#pragma unroll
  for (int i = 0; i < kMaxHeadDim / 32; ++i) state.out[i] = state.out[i] * factor + sum[i];
}

// Grid as tree_attention_kernel's, with kFloatRows rows a block.
static __global__ void __launch_bounds__(32 * kFloatRows, kFloatBlocks)
    tree_attention_float_kernel(const __grid_constant__ TreeAttentionLaunch launch) {
  const TreeAttentionParams& p = launch.p;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, split = blockIdx.y;
  const int block = blockIdx.x % launch.plan.row_blocks, head = blockIdx.x / launch.plan.row_blocks;
  const int seq = head / p.num_kv_heads, kv_head = head % p.num_kv_heads, row = block * kFloatRows + warp;
  if (row >= p.num_heads / p.num_kv_heads * p.num_queries) return;
  const KeySpan span = key_span(p, seq);
  const SplitCut cut = cut_span(span, kFloatKeys, launch.plan.splits);
  if (split > 0 && split >= cut.used) return;

  const RowIndex index = row_index(p, kv_head, row);
  float* q = reinterpret_cast<float*>(dynamic_shared()) + warp * kMaxHeadDim;
  auto* path = reinterpret_cast<uint64_t*>(dynamic_shared() + kFloatRows * 4 * kMaxHeadDim) + warp * p.mask_words;
  const char* from = p.q + offset(p.q_strides, seq, index.head, index.query);
  for (int d = lane; d < p.head_dim; d += 32) q[d] = *reinterpret_cast<const float*>(from + d * p.q_element);
  int first = 0;
  if (lane == 0) first = load_path(p, seq, index.query, span, path);
  first = __shfl_sync(kWarp, first, 0);
  __syncwarp();  // the lanes' parts of the query and lane 0's path are there

  FloatState state;
  const int end = min(span.end, span.begin + (split + 1) * cut.tiles * kFloatKeys);
  for (int begin = span.begin + split * cut.tiles * kFloatKeys; begin < end; begin += kFloatKeys) {
    const auto seen = static_cast<unsigned>(seen_keys(span, p.mask_words, path, first, begin));
    if (seen == 0) continue;
    const int64_t at = offset(p.cache, seq, kv_head, begin);
    float score = kMinusInf;
    if ((seen >> lane & 1) != 0) {
      score = launch.factor * dot(q, reinterpret_cast<const float*>(p.k_cache + at + lane * p.cache.row), p.head_dim);
      if (launch.cap > 0) score = launch.cap * tanhf(score);
    }
    attend_keys(p, p.v_cache + at, seen, score, state);
  }

  const int64_t out_row = (int64_t{seq} * p.num_queries + index.query) * p.num_heads + index.head;
  const bool direct = cut.used <= 1;
  const int64_t part = split * tree_attention_states(p, launch.plan).rows + out_row;
  const float inverse = !direct ? 1 : state.total == 0 ? 0 : 1 / state.total;
  float* out = direct ? reinterpret_cast<float*>(p.out) + out_row * p.head_dim : launch.sums + part * p.head_dim;
  if (!direct && lane == 0) launch.states[part] = {state.largest, state.total};
#pragma unroll
  for (int i = 0; i < kMaxHeadDim / 32; ++i) {
    if (lane + 32 * i < p.head_dim) out[lane + 32 * i] = state.out[i] * inverse;
  }
}

}  // namespace vispec::cuda
