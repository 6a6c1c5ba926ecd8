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
void tree_attention(const TreeAttentionParams& p);
}

}  // namespace vispec
