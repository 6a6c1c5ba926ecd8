#pragma once

#include "common/layout.h"

namespace vispec {

constexpr int kMaxHeadDim = 256;

struct TreeAttentionParams {
  const char* q;                  // [B, Hq, M, D], any strides
  const char *k_cache, *v_cache;  // [B, Hkv, S, D]
  char* out;                      // [B, M, Hq, D], contiguous
  const int32_t* cache_len;       // [B] rows of the prefix; the tree's rows follow
  const int32_t* kv_start;        // [B] first row of the prefix, or null: 0
  const int64_t* ancestors;       // [B, M, W]
  Strides q_strides;              // in bytes
  int64_t q_element;              // bytes between two elements of a row of q
  Strides cache;                  // in bytes; K and V share them, D is contiguous
  int batch, num_heads, num_kv_heads, num_queries, capacity, head_dim, mask_words;
  float scale;
  float softcap;           // 0: none
  int64_t sliding_window;  // 0: none
  DType dtype;
};

namespace cpu {

// How the work on each KV head is cut: its query rows (M of each of its query heads) into blocks, the keys into splits.
struct TreeAttentionCut {
  int row_blocks, rows_per_block, splits;
};

constexpr int kMaxTaskRows = 48;  // three AVX-512 registers: with eight keys they make 24 accumulators of 32 registers

// A function of sizes alone, never of the number of threads: equal calls give equal bits on any machine.
constexpr TreeAttentionCut cut_tree_attention(int64_t kv_heads, int rows, int64_t keys) {
  constexpr int64_t kTasks = 32;         // enough for the threads of most machines, few enough to merge at no cost
  constexpr int64_t kKeysOfSplit = 256;  // at least: a merge then costs about 1%
  const int blocks = (rows + kMaxTaskRows - 1) / kMaxTaskRows;
  if (blocks == 0 || kv_heads == 0) return {0, 0, 0};
  const int64_t wanted = (kTasks + kv_heads * blocks - 1) / (kv_heads * blocks);
  const int64_t most = keys < kKeysOfSplit ? 1 : keys / kKeysOfSplit;
  return {blocks, (rows + blocks - 1) / blocks, static_cast<int>(wanted < most ? wanted : most)};
}

void tree_attention(const TreeAttentionParams& p);

}  // namespace cpu
}  // namespace vispec
