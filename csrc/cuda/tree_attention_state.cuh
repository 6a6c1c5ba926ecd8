// Online softmax: a tile's scores become weights, states of a block's warps become one, and a state leaves the block.
#pragma once

#include "cuda/tree_attention_tile.cuh"

namespace vispec::cuda {

// What a launch hands to its kernels.
struct TreeAttentionLaunch {
  TreeAttentionParams p;
  TreeAttentionPlan plan;
  float factor, cap;  // scores in units of log2: cap * tanh(factor * x) or, without a cap, factor * x
  bool aligned;       // rows of q are contiguous and lie on 16 bytes
  float2* states;     // see TreeAttentionStates
  float* sums;
};

// The weight of a state or a score is exp2(its maximum - base): finite also where nothing has been seen.
__device__ __forceinline__ float weight_base(float largest) { return largest == kMinusInf ? 0 : largest; }

template <class S>
__device__ __forceinline__ void clear(RowStates<S>& state) {
#pragma unroll
  for (int m = 0; m < S::kMmaRows; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) state.largest[m][half] = kMinusInf, state.total[m][half] = 0;
#pragma unroll
    for (int d = 0; d < S::kDim / 8; ++d) {
#pragma unroll
      for (int i = 0; i < 4; ++i) state.out[m][d][i] = 0;
    }
  }
}

// Within 4e-6 of it, relatively: far less than a rounding of weights to halves, and with fewer registers than tanhf.
__device__ __forceinline__ float tanh_approx(float x) {
  if (fabsf(x) < 0.04f) return x - x * x * x * (1.0f / 3);  // there the other form would cancel
  return 1 - __fdividef(2, exp2_approx(x * 2.88539008f) + 1);
}

template <class S, bool kCapped>
__device__ __forceinline__ void scale_scores(float factor, float cap, Scores<S>& scores) {
#pragma unroll
  for (int m = 0; m < S::kMmaRows; ++m) {
#pragma unroll
    for (int n = 0; n < S::kWarpKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float x = scores[m][n][i] * factor;
        scores[m][n][i] = kCapped ? cap * tanh_approx(x) : x;
      }
    }
  }
}

// Scores of keys that a row does not see become -inf, NaN too. `begin`: the warp's first key.
template <class S>
__device__ __forceinline__ void mask_scores(int begin, Scores<S>& scores) {
#pragma unroll
  for (int m = 0; m < S::kMmaRows; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint64_t seen = S::sight().keys(thread_row<S>(m) + 8 * half, begin) >> thread_column();
#pragma unroll
      for (int n = 0; n < S::kWarpKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if ((seen >> (8 * n + i) & 1) == 0) scores[m][n][2 * half + i] = kMinusInf;
        }
      }
    }
  }
}

// Scores to weights; the state's largest and total are brought up to date and its sums scaled to them.
template <class S>
__device__ __forceinline__ void weigh(Scores<S>& scores, RowStates<S>& state) {
#pragma unroll
  for (int m = 0; m < S::kMmaRows; ++m) {
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = state.largest[m][half];
#pragma unroll
      for (int n = 0; n < S::kWarpKeys / 8; ++n) {
        largest = fmaxf(largest, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
      }
      largest = fmaxf(largest, __shfl_xor_sync(kWarp, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(kWarp, largest, 2));
      const float base = weight_base(largest);
      float total = 0;
#pragma unroll
      for (int n = 0; n < S::kWarpKeys / 8; ++n) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          scores[m][n][i] = exp2_approx(scores[m][n][i] - base);
          total += scores[m][n][i];
        }
      }
      factor[half] = exp2_approx(state.largest[m][half] - base);
      state.total[m][half] = state.total[m][half] * factor[half] + total;
      state.largest[m][half] = largest;
    }
    // Mostly no row has a new largest score: then the factors are 1.
    if (__any_sync(kWarp, factor[0] != 1 || factor[1] != 1)) {
#pragma unroll
      for (int d = 0; d < S::kDim / 8; ++d) {
#pragma unroll
        for (int i = 0; i < 4; ++i) state.out[m][d][i] *= factor[i / 2];
      }
    }
  }
}

// ---- Nodes that overflowed ----
// Drafted tokens may be absurd, and their K and V infinite or NaN. They may reach only rows that see them; the others'
// weight is 0, but 0 * inf is NaN. So what is not finite stays out of the product and is added to those that see it.

template <class T>
__device__ __forceinline__ uint32_t overflowed_halves(uint32_t pair) {
  constexpr uint32_t kExponent = std::is_same_v<T, __half> ? 0x7c00u : 0x7f80u;
  const uint32_t low = (pair & kExponent) == kExponent ? 0xffffu : 0;
  return (pair >> 16 & kExponent) == kExponent ? low | 0xffff0000u : low;
}

// Zeroes what is not finite in the stage's V and notes the keys.
template <class T, class S>
__device__ __forceinline__ void take_out_overflowed(int stage, unsigned* overflowed) {
#pragma unroll 1  // the accumulators leave no registers for more
  for (unsigned i = threadIdx.x; i < S::kKeys * S::kChunks; i += S::kThreads) {
    const unsigned key = i / S::kChunks;
    auto* chunk = reinterpret_cast<uint4*>(dynamic_shared() + stage + S::kValues + S::at(key, i % S::kChunks));
    const uint4 x = *chunk, bad = {overflowed_halves<T>(x.x), overflowed_halves<T>(x.y), overflowed_halves<T>(x.z),
                                   overflowed_halves<T>(x.w)};
    if ((bad.x | bad.y | bad.z | bad.w) == 0) continue;
    *chunk = {x.x & ~bad.x, x.y & ~bad.y, x.z & ~bad.z, x.w & ~bad.w};
    atomicOr(&overflowed[key / 32], 1u << (key % 32));
  }
}

// Any weight times infinity or NaN is as good as that itself. `begin`: the tile's first key.
template <class T, class S>
__device__ __forceinline__ void add_overflowed(const TreeAttentionParams& p, int begin, const unsigned* overflowed,
                                               RowStates<S>& state) {
  const auto& sight = S::sight();
  for (int key = warp_key<S>(); key < warp_key<S>() + S::kWarpKeys; ++key) {
    if ((overflowed[key / 32] >> (key % 32) & 1) == 0) continue;
    const char* row = p.v_cache + sight.head + (begin + key) * p.cache.row + 2 * thread_column();
#pragma unroll
    for (int m = 0; m < S::kMmaRows; ++m) {
      const bool upper = sight.keys(thread_row<S>(m), begin + key) & 1;
      const bool lower = sight.keys(thread_row<S>(m) + 8, begin + key) & 1;
#pragma unroll
      for (int d = 0; d < S::kDim / 8; ++d) {
        if (8 * d >= p.head_dim) continue;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float x = static_cast<float>(reinterpret_cast<const T*>(row + 16 * d)[i]);
          const float added = x - x == 0 ? 0 : x;
          if (upper) state.out[m][d][i] += added;
          if (lower) state.out[m][d][2 + i] += added;
        }
      }
    }
  }
}

// ---- The end of a block ----

// The other warps of keys leave their states in shared memory, over the tiles; each thread's parts as it will read
// them, side by side within a warp.
template <class S>
struct StateBoard {
  static constexpr int kParts = S::kMmaRows * S::kDim / 8;
  static constexpr int kBytes = (S::kKeyWarps - 1) * S::kRowWarps * (kParts + S::kMmaRows) * 32 * 16;
  static_assert(kBytes <= S::kRing + 2 * S::kStageBytes - S::kQueries);

  static __device__ __forceinline__ float4& part(int key_warp, int i) {
    const int warp = (key_warp - 1) * S::kRowWarps + threadIdx.x / 32 % S::kRowWarps;
    auto* board = reinterpret_cast<float4*>(dynamic_shared() + S::kQueries);
    return board[(warp * (kParts + S::kMmaRows) + i) * 32 + threadIdx.x % 32];
  }
  static __device__ __forceinline__ void leave(int key_warp, const RowStates<S>& state) {
#pragma unroll
    for (int m = 0; m < S::kMmaRows; ++m) {
      part(key_warp, kParts + m) = {state.largest[m][0], state.largest[m][1], state.total[m][0], state.total[m][1]};
#pragma unroll
      for (int d = 0; d < S::kDim / 8; ++d) {
        const float (&out)[4] = state.out[m][d];
        part(key_warp, m * (S::kDim / 8) + d) = {out[0], out[1], out[2], out[3]};
      }
    }
  }
  static __device__ __forceinline__ void take(int key_warp, RowStates<S>& state) {
#pragma unroll
    for (int m = 0; m < S::kMmaRows; ++m) {
      const float4 x = part(key_warp, kParts + m);
      float ours[2], theirs[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float other = half == 0 ? x.x : x.y, largest = fmaxf(state.largest[m][half], other);
        ours[half] = exp2_approx(state.largest[m][half] - weight_base(largest));
        theirs[half] = exp2_approx(other - weight_base(largest));
        state.total[m][half] = state.total[m][half] * ours[half] + (half == 0 ? x.z : x.w) * theirs[half];
        state.largest[m][half] = largest;
      }
#pragma unroll
      for (int d = 0; d < S::kDim / 8; ++d) {
        const float4 y = part(key_warp, m * (S::kDim / 8) + d);
        float (&out)[4] = state.out[m][d];
        out[0] = out[0] * ours[0] + y.x * theirs[0];
        out[1] = out[1] * ours[0] + y.y * theirs[0];
        out[2] = out[2] * ours[1] + y.z * theirs[1];
        out[3] = out[3] * ours[1] + y.w * theirs[1];
      }
    }
  }
};

// One state of the block, held by its first warps of keys.
template <class S>
__device__ __forceinline__ void merge_key_warps(RowStates<S>& state) {
  // A thread's totals are of its own columns.
#pragma unroll
  for (int m = 0; m < S::kMmaRows; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      state.total[m][half] += __shfl_xor_sync(kWarp, state.total[m][half], 1);
      state.total[m][half] += __shfl_xor_sync(kWarp, state.total[m][half], 2);
    }
  }
  const int key_warp = threadIdx.x / 32 / S::kRowWarps;
  __syncthreads();  // the board lies over tiles that slow warps still read
  if (key_warp > 0) StateBoard<S>::leave(key_warp, state);
  __syncthreads();  // all states are there
  if (key_warp > 0) return;
#pragma unroll
  for (int other = 1; other < S::kKeyWarps; ++other) StateBoard<S>::take(other, state);
}

// Writes a row of the block to the output, or as the split's state to the workspace.
template <class T, class S>
__device__ __forceinline__ void store_row(const TreeAttentionLaunch& launch, int m, int half,
                                          const RowStates<S>& state) {
  const TreeAttentionParams& p = launch.p;
  const auto& sight = S::sight();
  const int row = thread_row<S>(m) + 8 * half;
  if (row >= sight.num_rows) return;
  const RowIndex index = row_index(p, sight.kv_head, sight.first_row + row);
  const int64_t at = (int64_t{sight.seq} * p.num_queries + index.query) * p.num_heads + index.head;
  const float total = state.total[m][half];
  if (sight.direct) {
    const float inverse = total == 0 ? 0 : 1 / total;  // a row that sees nothing: 0
    auto* out = reinterpret_cast<uint32_t*>(p.out + (at * p.head_dim + thread_column()) * sizeof(T));
#pragma unroll
    for (int d = 0; d < S::kDim / 8; ++d) {
      const float* pair = &state.out[m][d][2 * half];
      if (8 * d < p.head_dim) out[4 * d] = pack2<T>(pair[0] * inverse, pair[1] * inverse);
    }
    return;
  }
  const int64_t part = blockIdx.y * tree_attention_states(p, launch.plan).rows + at;
  if (threadIdx.x % 4 == 0) launch.states[part] = {state.largest[m][half], total};
  auto* sums = reinterpret_cast<float2*>(launch.sums + part * p.head_dim + thread_column());
#pragma unroll
  for (int d = 0; d < S::kDim / 8; ++d) {
    const float* pair = &state.out[m][d][2 * half];
    if (8 * d < p.head_dim) sums[4 * d] = {pair[0], pair[1]};
  }
}

}  // namespace vispec::cuda
