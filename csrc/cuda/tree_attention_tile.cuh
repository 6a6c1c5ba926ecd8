// A block's tile in shared memory, and the two products on it: scores = Q K^T and out += P V.
#pragma once

#include "common/tree_attention_plan.h"
#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"
#include "cuda/tree_attention_sight.cuh"

namespace vispec::cuda {

constexpr float kMinusInf = -__builtin_huge_valf();

// How a block's warps share a tile. A few rows are shared by all warps, which split the keys and merge at the end; many
// rows are split, with two warps of keys left so that one multiplies while the other weighs.
template <int kHeadDim, int kRowTile>
struct Shape {
  static constexpr int kDim = kHeadDim, kRows = kRowTile;
  static constexpr int kKeys = tile_keys(kDim, kRows), kRowBytes = tile_row_bytes(kDim), kChunks = kDim / 8;
  static constexpr int kMmaRows =
      kRows == 128 ? 2 : 1;  // of 16 rows, a warp: two halve the reads of K and V per product
  static constexpr int kRowWarps = kRows / (16 * kMmaRows), kKeyWarps = kRows == 16 ? kKeys / 16 : 2;
  static constexpr int kWarpKeys = kKeys / kKeyWarps, kThreads = 32 * kRowWarps * kKeyWarps;
  static constexpr int kBlocks = tile_blocks(kDim, kRows);
  static constexpr int kLoadRows = kThreads / kChunks;  // rows that the block loads at a time, a thread 16 bytes

  // Shared memory: what the rows see, the queries, a ring of stages with K and V of a tile each, the rows' paths.
  static constexpr int kQueries = tile_sight_bytes(kRows), kRing = kQueries + kRows * kRowBytes;
  static constexpr int kValues = kKeys * kRowBytes, kStageBytes = 2 * kValues;
  static_assert(sizeof(Sight<kRows>) <= kQueries);
  static __device__ __forceinline__ Sight<kRows>& sight() { return *reinterpret_cast<Sight<kRows>*>(dynamic_shared()); }

  // Where a row's 16 bytes number `chunk` lie in a tile. In powers of two a row's number is mixed into the chunk's.
  static __device__ __forceinline__ int at(int row, int chunk) {
    if constexpr (kRowBytes != 2 * kDim) return row * kRowBytes + 16 * chunk;
    return row * kRowBytes + chunk / 8 * 128 + 16 * ((chunk ^ row) & 7);
  }
  // From the place of an even or odd chunk to that of the chunk 2 * `steps` on: a constant, whatever the row.
  static __device__ __forceinline__ int along(int at, int steps) {
    if constexpr (kRowBytes != 2 * kDim) return at + 32 * steps;
    return (at ^ 32 * (steps % 4)) + 128 * (steps / 4);
  }
};

// A thread's part of what its warp holds: rows lane / 4 and lane / 4 + 8 of each MMA.
template <class S>
struct RowStates {
  float out[S::kMmaRows][S::kDim / 8][4];
  float largest[S::kMmaRows][2], total[S::kMmaRows][2];
};
template <class S>
using Scores = float[S::kMmaRows][S::kWarpKeys / 8][4];

// The first of a warp's keys, and of its rows.
template <class S>
__device__ __forceinline__ int warp_key() {
  return reread_thread() / 32 / S::kRowWarps * S::kWarpKeys;
}
template <class S>
__device__ __forceinline__ int warp_row() {
  return reread_thread() / 32 % S::kRowWarps * 16 * S::kMmaRows;
}
// The first of a thread's two rows of an MMA, the other is 8 below; the first of its two columns of every 8.
template <class S>
__device__ __forceinline__ int thread_row(int mma) {
  return warp_row<S>() + 16 * mma + reread_thread() % 32 / 4;
}
__device__ __forceinline__ int thread_column() { return reread_thread() % 4 * 2; }

// Where a row of a KV head, or of q, begins.
struct RowIndex {
  int head, query;  // query head
};
__device__ __forceinline__ RowIndex row_index(const TreeAttentionParams& p, int kv_head, int row) {
  return {kv_head * (p.num_heads / p.num_kv_heads) + row / p.num_queries, row % p.num_queries};
}

// Starts loading the block's queries; zeros in the rest of the tile. `aligned`: rows of q are contiguous and lie on 16
// bytes.
template <class S>
__device__ __forceinline__ void load_queries(const TreeAttentionParams& p, bool aligned) {
  const auto& sight = S::sight();
  const int chunk = threadIdx.x % S::kChunks;
  for (int row = threadIdx.x / S::kChunks; row < S::kRows; row += S::kLoadRows) {
    if (threadIdx.x >= S::kLoadRows * S::kChunks) break;  // left over where 16 bytes do not divide the block
    const bool valid = row < sight.num_rows && 8 * chunk < p.head_dim;
    const RowIndex index = row_index(p, sight.kv_head, sight.first_row + row);
    const int64_t at = offset(p.q_strides, sight.seq, index.head, index.query) + 8 * chunk * p.q_element;
    unsigned char* to = dynamic_shared() + S::kQueries + S::at(row, chunk);
    if (aligned) {
      cp_async_16(to, p.q + at, valid);
      continue;
    }
    for (int d = 0; d < 8; ++d) {
      reinterpret_cast<uint16_t*>(to)[d] = valid ? *reinterpret_cast<const uint16_t*>(p.q + at + d * p.q_element) : 0;
    }
  }
}

// Starts loading keys [begin, begin + kKeys) into the stage at `stage`, K then V. Masked: rows that nobody sees, which
// may lie outside of the cache or hold anything, become zeros.
template <class S, bool kMasked>
__device__ __forceinline__ void load_keys(const TreeAttentionParams& p, int begin, int stage) {
  const auto& sight = S::sight();
  const int first = reread_thread() / S::kChunks, chunk = reread_thread() % S::kChunks;
  if (reread_thread() >= S::kLoadRows * S::kChunks) return;
  int64_t from = sight.head + (begin + first) * p.cache.row + 16 * chunk;
#pragma unroll
  for (int i = 0; i < (S::kKeys + S::kLoadRows - 1) / S::kLoadRows; ++i) {
    const int key = first + i * S::kLoadRows;
    if (S::kKeys % S::kLoadRows != 0 && key >= S::kKeys) break;
    const bool valid = 8 * chunk < p.head_dim && (!kMasked || sight.anyone_sees(begin + key));
    unsigned char* to = dynamic_shared() + stage + S::at(key, chunk);
    cp_async_16(to, p.k_cache + from, valid);
    cp_async_16(to + S::kValues, p.v_cache + from, valid);
    from += S::kLoadRows * p.cache.row;
  }
}

// scores = the warp's rows of Q times its keys of K, which lie at `stage`.
template <class T, class S>
__device__ __forceinline__ void multiply_keys(int stage, Scores<S>& scores) {
  const int lane = reread_thread() % 32;
  const int q_at = S::kQueries + S::at(warp_row<S>() + lane % 16, lane / 16);
  const int k_at = stage + S::at(warp_key<S>() + lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
  for (int m = 0; m < S::kMmaRows; ++m) {
#pragma unroll
    for (int n = 0; n < S::kWarpKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[m][n][i] = 0;
    }
  }
#pragma unroll(S::kDim == 128 ? 4 : S::kDim / 16)  // all eight spilled on sm_100 and sm_120
  for (int step = 0; step < S::kDim / 16; ++step) {
    uint32_t a[S::kMmaRows][4];
#pragma unroll
    for (int m = 0; m < S::kMmaRows; ++m)
      ldmatrix_x4(a[m], dynamic_shared() + S::along(q_at, step) + 16 * m * S::kRowBytes);
#pragma unroll
    for (int n = 0; n < S::kWarpKeys / 8; n += 2) {
      uint32_t b[4];
      ldmatrix_x4(b, dynamic_shared() + S::along(k_at, step) + 8 * n * S::kRowBytes);
      const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
      for (int m = 0; m < S::kMmaRows; ++m) {
        mma_m16n8k16<T>(scores[m][n], a[m], left);
        mma_m16n8k16<T>(scores[m][n + 1], a[m], right);
      }
    }
  }
}

// out += weights, rounded to T, times the warp's keys of V.
template <class T, class S>
__device__ __forceinline__ void multiply_values(const Scores<S>& weights, int stage, RowStates<S>& state) {
  const int lane = reread_thread() % 32;
  const int v_at = stage + S::kValues + S::at(warp_key<S>() + lane % 16, lane / 16);
#pragma unroll
  for (int step = 0; step < S::kWarpKeys / 16; ++step) {
    uint32_t a[S::kMmaRows][4];
#pragma unroll
    for (int m = 0; m < S::kMmaRows; ++m) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* pair = &weights[m][2 * step + i / 2][i % 2 * 2];
        a[m][i] = pack2<T>(pair[0], pair[1]);
      }
    }
#pragma unroll
    for (int d = 0; d < S::kDim / 8; d += 2) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, dynamic_shared() + S::along(v_at, d / 2) + 16 * step * S::kRowBytes);
      const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
      for (int m = 0; m < S::kMmaRows; ++m) {
        mma_m16n8k16<T>(state.out[m][d], a[m], left);
        mma_m16n8k16<T>(state.out[m][d + 1], a[m], right);
      }
    }
  }
}

}  // namespace vispec::cuda
