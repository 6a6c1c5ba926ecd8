#pragma once

#include "common/layout.h"

namespace vispec {

struct AppendKvParams {
  const char *k, *v;         // [B, Hkv, N, D]; char: the copy counts bytes and knows no dtype
  char *k_cache, *v_cache;   // [B, Hkv, S, D]
  const int32_t* cache_len;  // [B] where a sequence's first row goes
  Strides nodes, cache;      // in bytes; K and V share them, D is contiguous
  int batch, num_kv_heads, num_nodes, capacity, row_bytes;
};

namespace cpu {
void append_kv(const AppendKvParams& p);
}

}  // namespace vispec
