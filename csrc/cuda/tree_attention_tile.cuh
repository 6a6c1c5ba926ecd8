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
  static constexpr int kQueryBytes = kRows * kRowBytes, kStageBytes = 2 * kKeys * kRowBytes;

  // Where 16 bytes of a row lie.
  static __device__ __forceinline__ int at(int row, int chunk) {
    if constexpr (kRowBytes == 2 * kDim) return row * kRowBytes + ((chunk ^ (row & 7)) << 4);
    return row * kRowBytes + (chunk << 4);
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
  return threadIdx.x / 32 / S::kRowWarps * S::kWarpKeys;
}
template <class S>
__device__ __forceinline__ int warp_row() {
  return threadIdx.x / 32 % S::kRowWarps * 16 * S::kMmaRows;
}
// The first of a thread's two rows of an MMA, the other is 8 below; the first of its two columns of every 8.
template <class S>
__device__ __forceinline__ int thread_row(int mma) {
  return warp_row<S>() + 16 * mma + threadIdx.x % 32 / 4;
}
__device__ __forceinline__ int thread_column() { return threadIdx.x % 4 * 2; }

// Where a row of a KV head, or of q, begins.
struct RowIndex {
  int head, query;  // query head
};
__device__ __forceinline__ RowIndex row_index(const TreeAttentionParams& p, int kv_head, int row) {
  return {kv_head * (p.num_heads / p.num_kv_heads) + row / p.num_queries, row % p.num_queries};
}

// Starts loading rows [first_row, first_row + num_rows) of a KV head's queries; zeros in the rest of the tile.
template <class S>
__device__ __forceinline__ void load_queries(const TreeAttentionParams& p, int seq, int kv_head, int first_row,
                                             int num_rows, bool aligned, unsigned char* tile) {
  for (int i = threadIdx.x; i < S::kRows * S::kChunks; i += S::kThreads) {
    const int row = i / S::kChunks, chunk = i % S::kChunks;
    const bool valid = row < num_rows && 8 * chunk < p.head_dim;
    const RowIndex index = row_index(p, kv_head, first_row + row);
    const char* from = p.q + (valid ? offset(p.q_strides, seq, index.head, index.query) + 8 * chunk * p.q_element : 0);
    if (aligned) {
      cp_async_16(tile + S::at(row, chunk), from, valid);
      continue;
    }
    auto* to = reinterpret_cast<uint16_t*>(tile + S::at(row, chunk));
    for (int d = 0; d < 8; ++d) to[d] = valid ? *reinterpret_cast<const uint16_t*>(from + d * p.q_element) : 0;
  }
}

// Starts loading keys [begin, begin + kKeys) of a KV head into a stage, K then V. Masked: rows that nobody sees, which
// may lie outside of the cache or hold anything, become zeros.
template <class S>
__device__ __forceinline__ void load_keys(const TreeAttentionParams& p, int64_t head, const Sight& sight, int begin,
                                          bool masked, unsigned char* stage) {
  for (int i = threadIdx.x; i < S::kKeys * S::kChunks; i += S::kThreads) {
    const int key = i / S::kChunks, chunk = i % S::kChunks;
    const bool valid = 8 * chunk < p.head_dim && (!masked || sight.anyone_sees(begin + key));
    const int64_t from = valid ? head + int64_t{begin + key} * p.cache.row + 16 * chunk : 0;
    unsigned char* to = stage + S::at(key, chunk);
    cp_async_16(to, p.k_cache + from, valid);
    cp_async_16(to + S::kStageBytes / 2, p.v_cache + from, valid);
  }
}

// scores = the warp's rows of Q times its keys of K.
template <class T, class S>
__device__ __forceinline__ void multiply_keys(const unsigned char* queries, const unsigned char* keys,
                                              Scores<S>& scores) {
  const int lane = threadIdx.x % 32;
  const int q_row = warp_row<S>() + lane % 16, q_chunk = lane / 16;
  const int key = warp_key<S>() + lane % 8 + lane / 16 * 8, k_chunk = lane / 8 % 2;
#pragma unroll
  for (int m = 0; m < S::kMmaRows; ++m) {
#pragma unroll
    for (int n = 0; n < S::kWarpKeys / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[m][n][i] = 0;
    }
  }
#pragma unroll
  for (int step = 0; step < S::kDim / 16; ++step) {
    uint32_t a[S::kMmaRows][4];
#pragma unroll
    for (int m = 0; m < S::kMmaRows; ++m) ldmatrix_x4(a[m], queries + S::at(q_row + 16 * m, 2 * step + q_chunk));
#pragma unroll
    for (int n = 0; n < S::kWarpKeys / 8; n += 2) {
      uint32_t b[4];
      ldmatrix_x4(b, keys + S::at(key + 8 * n, 2 * step + k_chunk));
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
__device__ __forceinline__ void multiply_values(const Scores<S>& weights, const unsigned char* values,
                                                RowStates<S>& state) {
  const int lane = threadIdx.x % 32;
  const int key = warp_key<S>() + lane % 16, chunk = lane / 16;
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
      ldmatrix_x4_trans(b, values + S::at(key + 16 * step, d + chunk));
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
