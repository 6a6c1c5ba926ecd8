#pragma once

#include "common/layout.h"

namespace vispec {

struct AppendKvParams {
  const char *k, *v;             // [B, Hkv, N, D]; char: the copy counts bytes and knows no dtype
  char *k_cache, *v_cache;       // [B, Hkv, S, D]
  const int32_t* cache_len;      // [B] where a sequence's first row goes
  Strides k_strides, v_strides;  // in bytes, D is contiguous; models rotate K and not V, so they may differ
  Strides cache;                 // of both caches
  int batch, num_kv_heads, num_nodes, capacity, row_bytes;
};

namespace cpu {
void append_kv(const AppendKvParams& p);
}

}  // namespace vispec
