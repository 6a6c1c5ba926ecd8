// Floor: reads and writes 2 * B * Hkv * N * D elements once.
#include "common/append_kv.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "cpu/parallel.h"

namespace vispec::cpu {
namespace {

constexpr int64_t kGrainBytes = 256 << 10;  // below this much a thread, waking it costs more than the copy

// Rows that lie side by side on both sides are one copy.
void copy_rows(char* dst, int64_t dst_stride, const char* src, int64_t src_stride, int64_t rows, int64_t row_bytes) {
  if (dst_stride == row_bytes && src_stride == row_bytes) {
    std::memcpy(dst, src, rows * row_bytes);
    return;
  }
  for (int64_t row = 0; row < rows; ++row) std::memcpy(dst + row * dst_stride, src + row * src_stride, row_bytes);
}

}  // namespace

void append_kv(const AppendKvParams& p) {
  for (int seq = 0; seq < p.batch; ++seq) {
    const int64_t start = p.cache_len[seq], end = start + p.num_nodes;
    VISPEC_CHECK(start >= 0 && end <= p.capacity, "cache_len: expected rows within the capacity ", p.capacity,
                 ", got rows [", start, ", ", end, ") of sequence ", seq);
  }
  const int64_t slab_bytes = 2ll * p.num_nodes * p.row_bytes;
  if (slab_bytes == 0) return;
  const int64_t grain = std::max<int64_t>(1, kGrainBytes / slab_bytes);
  parallel_for(int64_t{p.batch} * p.num_kv_heads, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t seq = i / p.num_kv_heads, head = i % p.num_kv_heads;
      const int64_t dst = offset(p.cache, seq, head, p.cache_len[seq]);
      const char *k = p.k + offset(p.k_strides, seq, head, 0), *v = p.v + offset(p.v_strides, seq, head, 0);
      copy_rows(p.k_cache + dst, p.cache.row, k, p.k_strides.row, p.num_nodes, p.row_bytes);
      copy_rows(p.v_cache + dst, p.cache.row, v, p.v_strides.row, p.num_nodes, p.row_bytes);
    }
  });
}

}  // namespace vispec::cpu
