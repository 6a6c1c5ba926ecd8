// Floor: reads and writes at most 2 * L * B * Hkv * P * D elements; accepted rows that already are in place cost
// nothing.
#include "common/compact_kv.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "cpu/parallel.h"

namespace vispec::cpu {
namespace {

constexpr int64_t kGrainBytes = 256 << 10;  // below this much a thread, waking it costs more than the copy

void check(const CompactKvParams& p) {
  int capacity = INT32_MAX;
  for (int layer = 0; layer < p.num_layers; ++layer) capacity = std::min(capacity, p.layers[layer].capacity);
  for (int seq = 0; seq < p.batch; ++seq) {
    const int32_t accepted = p.num_accepted[seq], *nodes = p.nodes + int64_t{seq} * p.width;
    VISPEC_CHECK(-1 <= accepted && accepted < p.width, "num_accepted: expected from -1 to ", p.width - 1, ", got ",
                 accepted, " for sequence ", seq);
    VISPEC_CHECK(p.cache_len[seq] >= 0, "cache_len: expected at least 0, got ", p.cache_len[seq], " for sequence ",
                 seq);
    for (int32_t i = 0; i <= accepted; ++i) {
      VISPEC_CHECK(nodes[i] > (i == 0 ? -1 : nodes[i - 1]), "nodes: expected ascending indices from 0 on, got ",
                   nodes[i], " at position ", i, " of sequence ", seq);
      VISPEC_CHECK(int64_t{p.cache_len[seq]} + nodes[i] < capacity, "nodes: expected rows below the capacity ",
                   capacity, ", got row ", int64_t{p.cache_len[seq]} + nodes[i], " of sequence ", seq);
    }
  }
}

// Sources ascend and never lie before their targets, so no row is overwritten before it has been read.
void compact_head(char* rows, int64_t stride, int64_t row_bytes, const int32_t* nodes, int32_t accepted) {
  for (int32_t i = 0; i <= accepted; ++i) {
    if (nodes[i] != i) std::memcpy(rows + i * stride, rows + nodes[i] * stride, row_bytes);
  }
}

}  // namespace

void compact_kv(const CompactKvParams& p) {
  check(p);
  int64_t bytes = 0;
  for (int layer = 0; layer < p.num_layers; ++layer) {
    bytes += 2ll * p.layers[layer].num_kv_heads * p.width * p.layers[layer].row_bytes;
  }
  const int64_t tasks = int64_t{p.num_layers} * p.batch;
  const int64_t task_bytes = p.num_layers == 0 ? 1 : std::max<int64_t>(1, bytes / p.num_layers);
  parallel_for(tasks, std::max<int64_t>(1, kGrainBytes / task_bytes), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const CompactKvLayer& layer = p.layers[i / p.batch];
      const int64_t seq = i % p.batch;
      const int32_t* nodes = p.nodes + seq * p.width;
      for (int head = 0; head < layer.num_kv_heads; ++head) {
        const int64_t first = offset(layer.strides, seq, head, p.cache_len[seq]);
        compact_head(layer.k_cache + first, layer.strides.row, layer.row_bytes, nodes, p.num_accepted[seq]);
        compact_head(layer.v_cache + first, layer.strides.row, layer.row_bytes, nodes, p.num_accepted[seq]);
      }
    }
  });
  for (int seq = 0; seq < p.batch; ++seq) p.cache_len[seq] += p.num_accepted[seq] + 1;
}

}  // namespace vispec::cpu
