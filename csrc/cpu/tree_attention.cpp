// Floor: K and V of the prefix read once, 2 * B * Hkv * cache_len * D elements; from about 16 query rows a KV head on
// the multiplications cost more, 4 * B * Hq * M * (cache_len + T) * D flops.
#include "common/tree_attention.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <vector>

#include "common/check.h"
#include "common/half.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/tree_attention_task.h"

namespace vispec::cpu {

constexpr float kLog2E = 1.44269504f;

}  // namespace vispec::cpu

#define VISPEC_KERNEL "cpu/tree_attention_kernel.h"
#include "cpu/foreach_isa.h"

namespace vispec::cpu {
namespace {

struct Kernel {
  void (*attend)(const AttentionTask&, const AttentionScratch&, const AttentionState&);
  void (*finish)(const AttentionTask&, float*, int64_t, int, int);
};

template <class T>
Kernel kernel_for() {
  if (isa() == Isa::kV4) return {&v4::attend<T>, &v4::finish<T>};
  if (isa() == Isa::kV3) return {&v3::attend<T>, &v3::finish<T>};
  return {&base::attend<T>, &base::finish<T>};
}

Kernel kernel_for(DType dtype) {
  if (dtype == DType::kFloat32) return kernel_for<float>();
  return dtype == DType::kFloat16 ? kernel_for<Half>() : kernel_for<BFloat16>();
}

// Drops all but the last `window` bits of a path; how many it had.
int cut_path(uint32_t* path, int64_t window) {
  int count = 0;
  for (int w = 0; w < kMaskWords; ++w) count += std::popcount(path[w]);
  int64_t surplus = window > 0 ? count - window : 0;
  for (int w = 0; w < kMaskWords && surplus > 0; ++w) {
    for (; path[w] != 0 && surplus > 0; --surplus) path[w] &= path[w] - 1;
  }
  return count;
}

Visibility visibility(const TreeAttentionParams& p, int seq) {
  const int32_t len = p.cache_len[seq], start = p.kv_start ? p.kv_start[seq] : 0;
  VISPEC_CHECK(0 <= len && len <= p.capacity, "cache_len: expected from 0 to the capacity ", p.capacity, ", got ", len,
               " for sequence ", seq);
  VISPEC_CHECK(0 <= start && start <= len, "kv_start: expected from 0 to cache_len ", len, ", got ", start,
               " for sequence ", seq);
  Visibility seen;
  seen.first_row = seen.end_row = len;
  seen.common_row = start;
  seen.first_visible.resize(p.num_queries);
  seen.paths.resize(int64_t{p.num_queries} * kMaskWords);
  uint32_t any[kMaskWords] = {};
  for (int query = 0; query < p.num_queries; ++query) {
    uint32_t* path = &seen.paths[int64_t{query} * kMaskWords];
    for (int w = 0; w < 2 * p.mask_words; ++w) {
      const int64_t row = int64_t{seq} * p.num_queries + query;
      path[w] = static_cast<uint32_t>(p.ancestors[row * p.mask_words + w / 2] >> (w % 2 * 32));
      const int last = 32 * w + 31 - std::countl_zero(path[w]);
      VISPEC_CHECK(path[w] == 0 || last < p.capacity - len,
                   "ancestors: expected bits below capacity - cache_len = ", p.capacity - len, ", got bit ", last,
                   " in row ", query, " of sequence ", seq);
    }
    const int64_t count = cut_path(path, p.sliding_window);
    const int64_t first = p.sliding_window > 0 ? len + count - p.sliding_window : start;
    seen.first_visible[query] = static_cast<int32_t>(std::clamp<int64_t>(first, start, len));
    seen.first_row = std::min(seen.first_row, seen.first_visible[query]);
    seen.common_row = std::max(seen.common_row, seen.first_visible[query]);
    for (int w = 0; w < kMaskWords; ++w) any[w] |= path[w];
  }
  for (int j = 0; j < kMaxNodes; ++j) {
    if (any[j / 32] >> (j % 32) & 1) seen.tree_rows.push_back(j);
  }
  return seen;
}

// The whole call, cut into tasks.
struct Plan {
  const TreeAttentionParams& p;
  std::vector<Visibility> seen;  // [B]
  int rows = 0;                  // of queries a KV head
  TreeAttentionCut cut{};
  int64_t heads = 0, keys = 0;  // KV heads in all; keys of the longest sequence

  explicit Plan(const TreeAttentionParams& params) : p(params) {
    int64_t prefix = 0;
    for (int seq = 0; seq < p.batch; ++seq) {
      seen.push_back(visibility(p, seq));
      const int64_t length = seen[seq].end_row - seen[seq].first_row;
      prefix = std::max(prefix, length);
      keys = std::max<int64_t>(keys, length + seen[seq].tree_rows.size());
    }
    rows = p.num_heads / p.num_kv_heads * p.num_queries;
    heads = int64_t{p.batch} * p.num_kv_heads;
    cut = cut_tree_attention(heads, rows, prefix);
  }

  int64_t blocks() const { return heads * cut.row_blocks; }
  int64_t tasks() const { return blocks() * cut.splits; }
  int stride() const { return (cut.rows_per_block + 15) / 16 * 16; }  // whole vectors of every instruction set

  // Blocks of rows with the same keys follow each other: the keys are then in a cache.
  AttentionTask task(int64_t head, int split, int block) const {
    const Visibility& visible = seen[head / p.num_kv_heads];
    const int32_t length = visible.end_row - visible.first_row;
    const int32_t part = ((length + cut.splits - 1) / cut.splits + kBlockKeys - 1) / kBlockKeys * kBlockKeys;
    const int first_row = block * cut.rows_per_block;
    return {.params = &p,
            .visibility = &visible,
            .seq = static_cast<int>(head / p.num_kv_heads),
            .kv_head = static_cast<int>(head % p.num_kv_heads),
            .first_row = first_row,
            .num_rows = std::min(cut.rows_per_block, rows - first_row),
            .begin = visible.first_row + std::min(length, split * part),
            .end = visible.first_row + std::min(length, (split + 1) * part),
            .with_tree = split == cut.splits - 1};
  }
  AttentionTask task(int64_t index) const {
    const int64_t head_and_split = index / cut.row_blocks;
    return task(head_and_split / cut.splits, head_and_split % cut.splits, index % cut.row_blocks);
  }

  // Threads that are worth waking.
  int64_t workers() const {
    constexpr int64_t kWorthAThread = 400'000;  // multiplications and additions, some 10 us
    const int64_t work = 2 * blocks() * stride() * keys * p.head_dim;
    return std::clamp<int64_t>(std::min<int64_t>(num_threads(), work / kWorthAThread), 1, tasks());
  }
};

}  // namespace

void tree_attention(const TreeAttentionParams& p) {
  const Plan plan(p);
  if (plan.tasks() == 0) return;
  const Kernel kernel = kernel_for(p.dtype);
  const int splits = plan.cut.splits, row_blocks = plan.cut.row_blocks, stride = plan.stride();
  const int64_t tasks = plan.tasks(), workers = plan.workers();
  const int64_t scratch_size = AttentionScratch::size(stride, p.head_dim);
  const int64_t state_size = AttentionState::size(stride, p.head_dim);
  // With one split a worker finishes a state before it begins the next.
  const int64_t num_states = splits == 1 ? workers : tasks;
  const auto memory = std::make_unique_for_overwrite<float[]>(workers * scratch_size + num_states * state_size);
  float* states = memory.get() + workers * scratch_size;

  parallel_for(workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      const auto scratch = AttentionScratch::at(memory.get() + worker * scratch_size, stride, p.head_dim);
      for (int64_t i = worker * tasks / workers; i < (worker + 1) * tasks / workers; ++i) {
        float* state = states + (splits == 1 ? worker : i) * state_size;
        kernel.attend(plan.task(i), scratch, AttentionState::at(state, stride));
        if (splits == 1) kernel.finish(plan.task(i), state, 0, 1, stride);
      }
    }
  });
  if (splits == 1) return;
  constexpr int64_t kMergedAThread = 100'000;  // floats of states: below this, waking a thread costs more
  const int64_t grain = std::max<int64_t>(1, kMergedAThread / (splits * state_size));
  parallel_for(plan.blocks(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i / row_blocks * splits * row_blocks + i % row_blocks;
      kernel.finish(plan.task(first), states + first * state_size, row_blocks * state_size, splits, stride);
    }
  });
}

}  // namespace vispec::cpu
