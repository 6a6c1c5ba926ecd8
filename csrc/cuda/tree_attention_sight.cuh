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

// What all rows of a block see together, in shared memory.
struct SightTotals {
  unsigned tree[kMaxNodes / 32];  // tree rows that some row sees
  int minus_lowest, highest;      // prefix rows: some row sees them from here on, negative; from here on every row does
  unsigned overflowed[2][4];      // keys of an even and of an odd tile whose V row is not finite
};
static_assert(sizeof(SightTotals) <= kSightBytes);

// The sight of a block's rows, in shared memory.
struct Sight {
  KeySpan span;
  int mask_words;
  SightTotals* totals;
  uint64_t* paths;  // [rows, W]
  int* first;       // [rows]

  __device__ __forceinline__ Sight(const KeySpan& span, int mask_words, int rows, unsigned char* shared)
      : span(span), mask_words(mask_words) {
    totals = reinterpret_cast<SightTotals*>(shared);
    paths = reinterpret_cast<uint64_t*>(shared + kSightBytes);
    first = reinterpret_cast<int*>(paths + rows * mask_words);
  }

  __device__ __forceinline__ int lowest() const { return -totals->minus_lowest; }
  // Tiles of keys before this row, and up to the prefix's end, need no mask.
  __device__ __forceinline__ int common() const { return totals->highest; }
  __device__ __forceinline__ int end() const {
    for (int w = kMaxNodes / 32 - 1; w >= 0; --w) {
      if (totals->tree[w] != 0) return span.len + 32 * w + 32 - __clz(totals->tree[w]);
    }
    return span.len;
  }
  __device__ __forceinline__ bool anyone_sees(int key) const {
    if (key < span.len) return key >= lowest();
    const int bit = key - span.len;
    return bit < 64 * mask_words && (totals->tree[bit / 32] >> (bit % 32) & 1) != 0;
  }
  __device__ __forceinline__ uint64_t keys(int row, int begin) const {
    return seen_keys(span, mask_words, paths + row * mask_words, first[row], begin);
  }

  // Fills it: rows [first_row, first_row + num_rows) of a KV head, the rest of the block's `rows` sees nothing. Ends
  // with a barrier.
  __device__ __forceinline__ void load(const TreeAttentionParams& p, int seq, int first_row, int num_rows, int rows) {
    if (threadIdx.x < sizeof(SightTotals) / sizeof(int)) reinterpret_cast<int*>(totals)[threadIdx.x] = 0;
    if (threadIdx.x == 0) totals->minus_lowest = -span.len;
    __syncthreads();  // the totals are added to
    for (int base = threadIdx.x / 32 * 32; base < rows; base += blockDim.x) {
      const int row = base + threadIdx.x % 32;
      uint64_t* path = paths + row * mask_words;
      int first_seen = span.len;
      if (row < num_rows) {
        first_seen = load_path(p, seq, (first_row + row) % p.num_queries, span, path);
      } else if (row < rows) {
        for (int w = 0; w < mask_words; ++w) path[w] = 0;
      }
      if (row < rows) first[row] = first_seen;
      add_first(row < num_rows ? -first_seen : -span.len, row < num_rows ? first_seen : 0);
      for (int w = 0; w < mask_words; ++w) add_word(w, row < rows ? path[w] : 0);
    }
    __syncthreads();  // everyone reads all of it
  }

 private:
  // One atomic a warp: on one address they would queue.
  __device__ __forceinline__ void add_first(int minus_lowest, int highest) {
    for (int distance = 16; distance > 0; distance /= 2) {
      minus_lowest = max(minus_lowest, __shfl_xor_sync(kWarp, minus_lowest, distance));
      highest = max(highest, __shfl_xor_sync(kWarp, highest, distance));
    }
    if (threadIdx.x % 32 == 0) {
      atomicMax(&totals->minus_lowest, minus_lowest);
      atomicMax(&totals->highest, highest);
    }
  }
  __device__ __forceinline__ void add_word(int w, uint64_t word) {
    unsigned low = static_cast<unsigned>(word), high = static_cast<unsigned>(word >> 32);
    for (int distance = 16; distance > 0; distance /= 2) {
      low |= __shfl_xor_sync(kWarp, low, distance);
      high |= __shfl_xor_sync(kWarp, high, distance);
    }
    if (threadIdx.x % 32 == 0) {
      atomicOr(&totals->tree[2 * w], low);
      atomicOr(&totals->tree[2 * w + 1], high);
    }
  }
};

}  // namespace vispec::cuda
