// One query row at a time: scores, softmax, sum.
#include "common/tree_attention.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "common/check.h"
#include "common/half.h"
#include "cpu/parallel.h"

namespace vispec::cpu {
namespace {

void check(const TreeAttentionParams& p) {
  for (int seq = 0; seq < p.batch; ++seq) {
    const int32_t len = p.cache_len[seq], start = p.kv_start ? p.kv_start[seq] : 0;
    VISPEC_CHECK(0 <= len && len <= p.capacity, "cache_len: expected from 0 to the capacity ", p.capacity, ", got ",
                 len, " for sequence ", seq);
    VISPEC_CHECK(0 <= start && start <= len, "kv_start: expected from 0 to cache_len ", len, ", got ", start,
                 " for sequence ", seq);
    for (int row = 0; row < p.num_queries; ++row) {
      const int64_t* bits = p.ancestors + (int64_t{seq} * p.num_queries + row) * p.mask_words;
      int last = -1;
      for (int word = 0; word < p.mask_words; ++word) {
        if (bits[word] != 0) last = 64 * word + 63 - std::countl_zero(static_cast<uint64_t>(bits[word]));
      }
      VISPEC_CHECK(last < p.capacity - len, "ancestors: expected bits below ", p.capacity - len,
                   " (capacity - cache_len), got bit ", last, " in row ", row, " of sequence ", seq);
    }
  }
}

template <class T>
void attend(const TreeAttentionParams& p, int seq, int head, int query) {
  const int kv_head = head / (p.num_heads / p.num_kv_heads);
  const int len = p.cache_len[seq], start = p.kv_start ? p.kv_start[seq] : 0;
  const int64_t* bits = p.ancestors + (int64_t{seq} * p.num_queries + query) * p.mask_words;
  std::vector<int> rows;
  for (int row = start; row < len; ++row) rows.push_back(row);
  for (int j = 0; j < 64 * p.mask_words; ++j) {
    if (bits[j / 64] >> (j % 64) & 1) rows.push_back(len + j);
  }
  if (p.sliding_window > 0 && static_cast<int64_t>(rows.size()) > p.sliding_window) {
    rows.erase(rows.begin(), rows.end() - p.sliding_window);
  }
  const char* q = p.q + offset(p.q_strides, seq, head, query);
  std::vector<float> scores, sum(p.head_dim);
  float largest = -INFINITY, total = 0;
  for (int row : rows) {
    const T* k = reinterpret_cast<const T*>(p.k_cache + offset(p.cache, seq, kv_head, row));
    float score = 0;
    for (int d = 0; d < p.head_dim; ++d) {
      score += to_float(*reinterpret_cast<const T*>(q + d * p.q_element)) * to_float(k[d]);
    }
    score *= p.scale;
    if (p.softcap > 0) score = p.softcap * std::tanh(score / p.softcap);
    scores.push_back(score);
    largest = std::max(largest, score);
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    const T* v = reinterpret_cast<const T*>(p.v_cache + offset(p.cache, seq, kv_head, rows[i]));
    const float weight = std::exp(scores[i] - largest);
    total += weight;
    for (int d = 0; d < p.head_dim; ++d) sum[d] += weight * to_float(v[d]);
  }
  T* out = reinterpret_cast<T*>(p.out) + ((int64_t{seq} * p.num_queries + query) * p.num_heads + head) * p.head_dim;
  for (int d = 0; d < p.head_dim; ++d) out[d] = from_float<T>(rows.empty() ? 0 : sum[d] / total);
}

}  // namespace

void tree_attention(const TreeAttentionParams& p) {
  check(p);
  const auto attend_row = p.dtype == DType::kFloat32   ? &attend<float>
                          : p.dtype == DType::kFloat16 ? &attend<Half>
                                                       : &attend<BFloat16>;
  parallel_for(int64_t{p.batch} * p.num_heads * p.num_queries, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int query = i % p.num_queries, head = i / p.num_queries % p.num_heads;
      attend_row(p, i / p.num_queries / p.num_heads, head, query);
    }
  });
}

}  // namespace vispec::cpu
