// How the CUDA tree attention cuts its work. Everything here is a function of sizes alone: a plan is made once on the
// host and holds at every length, and each block cuts its share from the lengths that it reads on the device.
#pragma once

#include <algorithm>
#include <cstddef>

#include "common/tree_attention.h"

namespace vispec {

// ---- Tiles: the query rows and keys that a block holds at a time ----

// Rows are the M queries of each query head of one KV head, row = M * head in the group + query. In whole MMA rows.
constexpr int kRowTiles[] = {16, 32, 64, 128};
constexpr int kFloatRows = 4, kFloatKeys = 32;  // fp32: a warp a row, a lane a key

constexpr int tile_dim(int head_dim) {
  return head_dim <= 64 ? 64 : head_dim <= 80 ? 80 : head_dim <= 96 ? 96 : head_dim <= 128 ? 128 : 256;
}

// K and V of one tile take 32 KiB at D = 128 and 256: two blocks or three with two stages each keep 64 KiB or more
// under way on a multiprocessor, where latency times its share of the bandwidth of an H100 is some 25. The tallest
// tile has more keys, so that each of its warps loads its queries less often; with 128 of them at D = 128 or 96 it
// spilled.
constexpr int tile_keys(int dim, int rows) { return dim == 256 ? 32 : rows < 128 ? 64 : dim >= 96 ? 96 : 128; }

// Bytes of a row in shared memory, so laid out that eight rows at one column lie in different banks: powers of two
// are swizzled, the others padded to an odd number of 16 bytes.
constexpr int tile_row_bytes(int dim) { return (dim & (dim - 1)) == 0 ? 2 * dim : 2 * dim + 16; }

// What a block's rows see lies before its tiles, their paths behind; see tree_attention_sight.cuh.
constexpr int tile_sight_bytes(int rows) { return (128 + 4 * rows + 127) / 128 * 128; }

constexpr int tree_attention_shared(int dim, int rows, int stages, int mask_words) {
  return tile_sight_bytes(rows) + (rows + 2 * stages * tile_keys(dim, rows)) * tile_row_bytes(dim) +
         8 * rows * mask_words;
}

// Blocks that share a multiprocessor: 8 to 12 warps, as many as their registers allow.
constexpr int tile_blocks(int dim, int rows) {
  return rows == 16 ? 3 : dim == 256 ? (rows == 32 ? 2 : 1) : rows == 32 ? 3 : rows == 64 ? 2 : 1;
}

// ---- Lengths ----

// The rows of a sequence that any query can see, [begin, end): the prefix up to `len`, then the tree. Lengths outside
// of the cache are cut to it.
struct KeySpan {
  int start, begin, len, end;
};

// std::clamp returns a reference, which on a device would put the numbers into memory.
constexpr int between(int low, int x, int high) { return x < low ? low : x > high ? high : x; }

constexpr KeySpan key_span(const TreeAttentionParams& p, int cache_len, int kv_start) {
  const int len = between(0, cache_len, p.capacity), start = between(0, kv_start, len);
  const int window = p.sliding_window > 0 && p.sliding_window < len ? static_cast<int>(p.sliding_window) : len;
  const int room = p.capacity - len, tree = 64 * p.mask_words;
  return {start, start > len - window ? start : len - window, len, len + (tree < room ? tree : room)};
}

// Split s has the tiles [s * tiles, (s + 1) * tiles) of a span; splits from `used` on have none.
struct SplitCut {
  int tiles, used;
};

constexpr SplitCut cut_span(const KeySpan& span, int keys, int splits) {
  const int total = (span.end - span.begin + keys - 1) / keys;
  const int tiles = total > splits ? (total + splits - 1) / splits : 1;
  return {tiles, (total + tiles - 1) / tiles};
}

// ---- The plan ----

struct TreeAttentionPlan {
  int rows, row_blocks;  // of a tile; tiles for the rows of a KV head
  int splits, stages;
};

constexpr int kMaxSplits = 128;  // the merge has a thread for each
constexpr int kMaxStages = 4;    // more only help where a tile is small, and then more blocks do too

// The system keeps 1 KiB of shared memory a block: a multiprocessor has that much more than one block can ask for.
constexpr int kReservedShared = 1024;

// Stages with which `blocks` blocks fit on a multiprocessor, at least two; 0 if one block cannot have two.
// `shared_bytes`: the most that a block can ask for.
constexpr int tile_stages(int dim, int rows, int mask_words, int shared_bytes, int blocks) {
  if (tree_attention_shared(dim, rows, 2, mask_words) > shared_bytes) return 0;
  const int share = (shared_bytes + kReservedShared) / blocks - kReservedShared;
  int stages = kMaxStages;
  while (stages > 2 && tree_attention_shared(dim, rows, stages, mask_words) > share) --stages;
  return stages;
}

// The tallest tile that is useful and fits, with two stages.
constexpr int choose_rows(const TreeAttentionParams& p, int rows, int shared_bytes) {
  const int dim = tile_dim(p.head_dim);
  int chosen = kRowTiles[0];
  for (const int tile : kRowTiles) {
    if ((tile == 128 && dim == 256) || tile_stages(dim, tile, p.mask_words, shared_bytes, 1) == 0) break;
    chosen = tile;
    if (tile >= rows) break;
  }
  return chosen;
}

// Nanoseconds of a launch: a prediction, see benchmarks/NOTES.md. `slots`: blocks that a multiprocessor can hold.
constexpr double predicted_time(const TreeAttentionParams& p, const TreeAttentionPlan& plan, int keys, int num_sms,
                                int slots) {
  constexpr double kBytes = 23;    // a nanosecond from memory, a multiprocessor's share; twice that from L2
  constexpr double kMost = 28;     // what a multiprocessor takes where others are idle
  constexpr double kFlops = 3000;  // a nanosecond on a multiprocessor
  constexpr double kTile = 400;    // latency of the products and the softmax of a tile
  constexpr double kLoad = 1200;   // latency of a tile's loads, under load
  constexpr double kBlock = 1500;  // loading lengths, masks, queries and the first tiles
  constexpr double kMerge = 2000;  // the second kernel
  const int64_t heads = int64_t{p.batch} * p.num_kv_heads, rows = p.num_heads / p.num_kv_heads * p.num_queries;
  const int64_t blocks = heads * plan.row_blocks * plan.splits, at_a_time = int64_t{slots} * num_sms;
  // Blocks on a multiprocessor, in the mean and on the busiest one, for which the others wait.
  const int64_t most = std::min(blocks, at_a_time);
  const double running = static_cast<double>(most) / num_sms;
  const auto busiest = static_cast<double>((most + num_sms - 1) / num_sms);
  const double dim = tile_dim(p.head_dim), load = 4 * keys * dim * std::max(running / kBytes, busiest / kMost);
  const double product = 4 * plan.rows * keys * dim * busiest / kFlops;
  const int tiles = ((p.capacity + keys - 1) / keys + plan.splits - 1) / plan.splits;
  const double waiting = kLoad * std::max(tiles - plan.stages, 0) / std::max(plan.stages - 1, 1);
  const double pass = kBlock + std::max(tiles * std::max(load, product), tiles * kTile + waiting);
  const double states = 8.0 * static_cast<double>(heads * rows * plan.splits) * dim / (2 * kBytes * num_sms);
  return static_cast<double>((blocks + at_a_time - 1) / at_a_time) * pass + (plan.splits > 1 ? kMerge + states : 0);
}

// `shared_bytes`: of shared memory, the most that a block can ask for.
constexpr TreeAttentionPlan plan_tree_attention(const TreeAttentionParams& p, int num_sms, int shared_bytes) {
  const int rows = p.num_heads / p.num_kv_heads * p.num_queries, dim = tile_dim(p.head_dim);
  const bool half = p.dtype != DType::kFloat32;
  const int tile = half ? choose_rows(p, rows, shared_bytes) : kFloatRows,
            keys = half ? tile_keys(dim, tile) : kFloatKeys;
  const int64_t blocks = int64_t{p.batch} * p.num_kv_heads * ((rows + tile - 1) / tile);
  int most = 4;  // blocks on a multiprocessor
  if (half) {
    const int shared = tree_attention_shared(dim, tile, 2, p.mask_words) + kReservedShared;
    most = std::clamp((shared_bytes + kReservedShared) / shared, 1, tile_blocks(dim, tile));
  }
  TreeAttentionPlan best{};
  double best_time = 0;
  for (int splits = 1; splits <= std::clamp((p.capacity + keys - 1) / keys, 1, kMaxSplits); ++splits) {
    const int running = static_cast<int>(std::clamp<int64_t>((blocks * splits + num_sms - 1) / num_sms, 1, most));
    const int stages = half ? tile_stages(dim, tile, p.mask_words, shared_bytes, running) : 0;
    const TreeAttentionPlan plan{tile, (rows + tile - 1) / tile, splits, stages};
    const double time = predicted_time(p, plan, keys, num_sms, running);
    if (splits == 1 || time < best_time) best = plan, best_time = time;
  }
  return best;
}

// ---- Workspace: the splits' softmax states ----

struct TreeAttentionStates {
  int64_t rows;          // of all KV heads together
  size_t sums_at, size;  // bytes
};

// First float2 [splits, rows]: each row's largest score in units of log2, and the total of its weights. From sums_at
// on float [splits, rows, D]: its weighted sum of V rows.
constexpr TreeAttentionStates tree_attention_states(const TreeAttentionParams& p, const TreeAttentionPlan& plan) {
  const int64_t rows = int64_t{p.batch} * p.num_heads * p.num_queries, states = rows * plan.splits;
  const size_t sums_at = static_cast<size_t>(states * 8 + 15) / 16 * 16;
  return {rows, sums_at, sums_at + static_cast<size_t>(states * p.head_dim) * 4};
}

// Bytes, aligned to 16, that a launch needs; none if a block's result is the output.
constexpr size_t tree_attention_workspace(const TreeAttentionParams& p, const TreeAttentionPlan& plan) {
  return plan.splits == 1 ? 0 : tree_attention_states(p, plan).size;
}

}  // namespace vispec
