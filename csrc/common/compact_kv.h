#pragma once

#include "common/layout.h"

namespace vispec {

struct CompactKvLayer {
  char *k_cache, *v_cache;  // [B, Hkv, S, D]
  Strides strides;          // in bytes; K and V share them, D is contiguous
  int num_kv_heads, capacity, row_bytes;
};

struct CompactKvParams {
  const CompactKvLayer* layers;  // [L]
  int32_t* cache_len;            // [B] rows of the prefix, advanced
  const int32_t* nodes;          // [B, P] accepted node indices, ascending over the first num_accepted + 1
  const int32_t* num_accepted;   // [B] -1: a finished sequence
  int num_layers, batch, width;  // width: P
};

namespace cpu {
void compact_kv(const CompactKvParams& p);
}

}  // namespace vispec
