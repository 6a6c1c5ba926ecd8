// Which keys the rows of a block see. A row sees the prefix from its first visible row on and, of the tree, its path;
// a sliding window moves the first and shortens the second.
#pragma once

#include <climits>

#include "common/tree_attention_plan.h"
#include "cuda/launch.cuh"

namespace vispec::cuda {

constexpr unsigned kWarp = 0xffffffffu;

// The lowest n of 64 bits.
__device__ __forceinline__ uint64_t low_bits(int n) { return n <= 0 ? 0 : n >= 64 ? ~0ull : (1ull << n) - 1; }

__device__ __forceinline__ KeySpan key_span(const TreeAttentionParams& p, int seq) {
  return key_span(p, p.cache_len[seq], p.kv_start ? p.kv_start[seq] : 0);
}

// Writes a query's path, cut to the window and to the cache; its first visible row of the prefix.
__device__ __forceinline__ int load_path(const TreeAttentionParams& p, int seq, int query, const KeySpan& span,
                                         uint64_t* path) {
  const int64_t* bits = p.ancestors + (int64_t{seq} * p.num_queries + query) * p.mask_words;
  int64_t count = 0;
  for (int w = 0; w < p.mask_words; ++w) {
    path[w] = static_cast<uint64_t>(bits[w]);
    count += __popcll(path[w]);
  }
  if (p.sliding_window > 0) {
    int64_t surplus = count - p.sliding_window;
    for (int w = 0; w < p.mask_words; ++w) {
      for (; path[w] != 0 && surplus > 0; --surplus) path[w] &= path[w] - 1;
    }
  }
  for (int w = 0; w < p.mask_words; ++w) path[w] &= low_bits(span.end - span.len - 64 * w);
  if (p.sliding_window == 0) return span.start;
  const int64_t first = span.len + count - p.sliding_window;
  return static_cast<int>(first < span.start ? span.start : first > span.len ? span.len : first);
}

// Of 64 keys from row `begin` on, those that a row sees which sees the prefix from `first` on.
__device__ __forceinline__ uint64_t seen_keys(const KeySpan& span, int mask_words, const uint64_t* path, int first,
                                              int begin) {
  const int ahead = span.len - begin;  // of these keys so many belong to the prefix
  const uint64_t prefix = low_bits(ahead) & ~low_bits(first - begin);
  if (ahead >= 64) return prefix;
  if (ahead > 0) return prefix | path[0] << ahead;
  const int word = -ahead / 64, bit = -ahead % 64;
  uint64_t seen = word < mask_words ? path[word] >> bit : 0;
  if (bit > 0 && word + 1 < mask_words) seen |= path[word + 1] << (64 - bit);
  return seen;
}

// What a block works on and what its rows see, at the front of its shared memory: there it takes no registers from the
// products. The rows' paths, [rows, W], lie at `paths_at`.
template <int kRows>
struct Sight {
  KeySpan span;
  int64_t head;  // bytes to the KV head in the caches
  int seq, kv_head, first_row, num_rows;
  int mask_words, paths_at;
  int end_key;                    // where the block's last tile ends
  int direct;                     // whether the block's result is the output, not a state
  int minus_lowest, highest;      // prefix rows: some row sees them from here on, negative; from here on every row does
  unsigned tree[kMaxNodes / 32];  // tree rows that some row sees
  unsigned overflowed[2][4];      // keys of an even and of an odd tile whose V row is not finite
  int first[kRows];               // first visible row of the prefix

  __device__ __forceinline__ uint64_t* path(int row) const {
    return reinterpret_cast<uint64_t*>(dynamic_shared() + paths_at) + row * mask_words;
  }
  __device__ __forceinline__ int lowest() const { return -minus_lowest; }
  __device__ __forceinline__ int end() const {
    for (int w = kMaxNodes / 32 - 1; w >= 0; --w) {
      if (tree[w] != 0) return span.len + 32 * w + 32 - __clz(static_cast<int>(tree[w]));
    }
    return span.len;
  }
  // Whether not every row sees all of `count` keys from row `begin` on.
  __device__ __forceinline__ bool masks(int begin, int count) const {
    return begin < highest || begin + count > span.len;
  }
  __device__ __forceinline__ bool anyone_sees(int key) const {
    if (key < span.len) return key >= lowest();
    const int bit = key - span.len;
    return bit < 64 * mask_words && (tree[bit / 32] >> (bit % 32) & 1) != 0;
  }
  __device__ __forceinline__ uint64_t keys(int row, int begin) const {
    return seen_keys(span, mask_words, path(row), first[row], begin);
  }

  // Fills it for one split and row tile of a KV head; rows of the tile beyond `num_rows` see nothing. Ends with a
  // barrier.
  __device__ __forceinline__ void load(const TreeAttentionParams& p, const KeySpan& its_span, int block, int kv_block,
                                       int paths, bool its_direct) {
    if (threadIdx.x == 0) {
      span = its_span;
      seq = kv_block / p.num_kv_heads, kv_head = kv_block % p.num_kv_heads;
      head = offset(p.cache, seq, kv_head, 0);
      first_row = block * kRows;
      num_rows = min(kRows, p.num_heads / p.num_kv_heads * p.num_queries - first_row);
      mask_words = p.mask_words, paths_at = paths, direct = its_direct;
      minus_lowest = -span.len, highest = 0;
    }
    if (threadIdx.x < kMaxNodes / 32) tree[threadIdx.x] = 0;
    if (threadIdx.x < 8) overflowed[threadIdx.x / 4][threadIdx.x % 4] = 0;
    __syncthreads();  // all threads read the task and add to the rest
    for (int base = threadIdx.x / 32 * 32; base < kRows; base += blockDim.x) {
      const int row = base + threadIdx.x % 32;
      const bool queries = row < num_rows;
      const int seen = queries ? load_path(p, seq, (first_row + row) % p.num_queries, span, path(row)) : span.len;
      for (int w = 0; w < mask_words; ++w) {
        if (row < kRows && !queries) path(row)[w] = 0;
        add_word(w, queries ? path(row)[w] : 0);
      }
      if (row < kRows) first[row] = seen;
      add_first(queries ? -seen : -span.len, queries ? seen : 0);
    }
    __syncthreads();  // everyone reads all of it
  }

 private:
  // One atomic a warp: on one address they would queue.
  __device__ __forceinline__ void add_first(int its_minus_lowest, int its_highest) {
    for (int distance = 16; distance > 0; distance /= 2) {
      its_minus_lowest = max(its_minus_lowest, __shfl_xor_sync(kWarp, its_minus_lowest, distance));
      its_highest = max(its_highest, __shfl_xor_sync(kWarp, its_highest, distance));
    }
    if (threadIdx.x % 32 == 0) {
      atomicMax(&minus_lowest, its_minus_lowest);
      atomicMax(&highest, its_highest);
    }
  }
  __device__ __forceinline__ void add_word(int w, uint64_t word) {
    unsigned low = static_cast<unsigned>(word), high = static_cast<unsigned>(word >> 32);
    for (int distance = 16; distance > 0; distance /= 2) {
      low |= __shfl_xor_sync(kWarp, low, distance);
      high |= __shfl_xor_sync(kWarp, high, distance);
    }
    if (threadIdx.x % 32 == 0) {
      atomicOr(&tree[2 * w], low);
      atomicOr(&tree[2 * w + 1], high);
    }
  }
};

}  // namespace vispec::cuda
