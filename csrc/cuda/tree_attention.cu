// Floor: K and V of the rows in sight read once, 2 * B * Hkv * (cache_len + T) * D elements, and the products' flops,
// 4 * B * Hq * M * (cache_len + T) * D. On an H100 (3.0 TB/s, some 600 TFLOP/s of mma.sync) the first is the larger up
// to about 200 rows a KV head. What the splits write and read again, 8 * splits * B * Hq * M * D bytes in L2, is
// weighed against them by the plan.
#include "cuda/operators.h"
#include "cuda/tree_attention_float.cuh"
#include "cuda/tree_attention_merge.cuh"
#include "cuda/tree_attention_state.cuh"

namespace vispec::cuda {
namespace {

// Until at most `pending` of the thread's groups of copies are under way; the instruction wants a constant.
__device__ __forceinline__ void wait_for_copies(int pending) {
  if (pending >= 2) {
    cp_async_wait<2>();
  } else if (pending == 1) {
    cp_async_wait<1>();
  } else {
    cp_async_wait<0>();
  }
}

// What a block works on: one split of the keys of a KV head, one tile of its rows.
struct BlockTask {
  int seq, kv_head, split, first_row, num_rows;
  int64_t head;  // bytes to the KV head in the caches

  __device__ __forceinline__ explicit BlockTask(const TreeAttentionLaunch& launch) {
    const TreeAttentionParams& p = launch.p;
    const int block = blockIdx.x % launch.plan.row_blocks, index = blockIdx.x / launch.plan.row_blocks;
    seq = index / p.num_kv_heads, kv_head = index % p.num_kv_heads, split = blockIdx.y;
    first_row = block * launch.plan.rows;
    num_rows = min(launch.plan.rows, p.num_heads / p.num_kv_heads * p.num_queries - first_row);
    head = offset(p.cache, seq, kv_head, 0);
  }
};

// One tile of keys, the first of them row `begin`.
template <class T, class S>
__device__ __forceinline__ void attend_tile(const TreeAttentionLaunch& launch, const BlockTask& task,
                                            const Sight& sight, int begin, bool masked, const unsigned* overflowed,
                                            const unsigned char* queries, const unsigned char* stage,
                                            RowStates<S>& state) {
  Scores<S> scores;
  multiply_keys<T, S>(queries, stage, scores);
  scale_scores<S>(launch.factor, launch.cap, scores);
  if (masked) mask_scores<S>(sight, begin + warp_key<S>(), scores);
  weigh<S>(scores, state);
  multiply_values<T, S>(scores, stage + S::kStageBytes / 2, state);
  if (masked) add_overflowed<T, S>(launch.p, task.head, sight, begin, overflowed, state);
}

// Grid (row blocks * Hkv * B, splits): blocks of the same keys follow each other and find them in L2.
template <class T, int kHeadDim, int kRowTile>
__global__ void __launch_bounds__(Shape<kHeadDim, kRowTile>::kThreads, Shape<kHeadDim, kRowTile>::kBlocks)
    tree_attention_kernel(const __grid_constant__ TreeAttentionLaunch launch) {
  using S = Shape<kHeadDim, kRowTile>;
  const TreeAttentionParams& p = launch.p;
  const BlockTask task(launch);
  const KeySpan span = key_span(p, task.seq);
  const SplitCut cut = cut_span(span, S::kKeys, launch.plan.splits);
  if (task.split > 0 && task.split >= cut.used) return;  // the merge knows which splits have a state

  // Shared memory: the queries, a ring of stages, what the rows see. Places are offsets: pointers take two registers.
  unsigned char* const shared = dynamic_shared();
  const int stages = launch.plan.stages, ring_end = S::kQueryBytes + stages * S::kStageBytes;
  Sight sight(span, p.mask_words, S::kRows, shared + ring_end);
  load_queries<S>(p, task.seq, task.kv_head, task.first_row, task.num_rows, launch.aligned, shared);
  sight.load(p, task.seq, task.first_row, task.num_rows, S::kRows);

  // Of the split's tiles those in which a row of this block sees something.
  const int first = max(task.split * cut.tiles, (sight.lowest() - span.begin) / S::kKeys);
  const int last = min((task.split + 1) * cut.tiles, (sight.end() - span.begin + S::kKeys - 1) / S::kKeys);
  const int end = span.begin + last * S::kKeys;
  const auto is_masked = [&](int begin) { return begin < sight.common() || begin + S::kKeys > span.len; };
  const auto load = [&](int begin, int stage) {
    if (begin < end) load_keys<S>(p, task.head, sight, begin, is_masked(begin), shared + stage);
    cp_async_commit();  // empty groups too: a tile's group is found by counting
  };

  RowStates<S> state;
  clear<S>(state);
  int begin = span.begin + first * S::kKeys, stage = S::kQueryBytes, free_stage = ring_end - S::kStageBytes;
  for (int i = 0; i < stages - 1; ++i) load(begin + i * S::kKeys, stage + i * S::kStageBytes);
  for (int parity = 0; begin < end; begin += S::kKeys, parity ^= 1) {
    wait_for_copies(stages - 2);
    __syncthreads();  // the tile is there for all, and the stage before it has been read
    load(begin + (stages - 1) * S::kKeys, free_stage);
    const bool masked = is_masked(begin);
    unsigned* overflowed = sight.totals->overflowed[parity];
    if (masked) {
      take_out_overflowed<T, S>(shared + stage + S::kStageBytes / 2, overflowed);
      if (threadIdx.x < 4) sight.totals->overflowed[parity ^ 1][threadIdx.x] = 0;  // last read before the barrier
      __syncthreads();                                                             // the values are finite
    }
    if (warp_row<S>() < task.num_rows) {
      attend_tile<T, S>(launch, task, sight, begin, masked, overflowed, shared, shared + stage, state);
    }
    free_stage = stage;
    stage = stage + S::kStageBytes == ring_end ? S::kQueryBytes : stage + S::kStageBytes;
  }
  cp_async_wait<0>();  // the queries' too where there was no tile

  merge_key_warps<S>(shared, state);
  if (threadIdx.x / 32 >= S::kRowWarps) return;
#pragma unroll
  for (int m = 0; m < S::kMmaRows; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = thread_row<S>(m) + 8 * half;
      if (row < task.num_rows) {
        store_row<T, S>(launch, task.seq, task.kv_head, task.first_row + row, task.split, cut.used <= 1, m, half,
                        state);
      }
    }
  }
}

// ---- Launch ----

template <class T, int kHeadDim, class Launch>
cudaError_t dispatch_rows(int rows, const Launch& launch) {
  if (rows == 16) return launch.template operator()<T, kHeadDim, 16>();
  if (rows == 32) return launch.template operator()<T, kHeadDim, 32>();
  if constexpr (kHeadDim != 256) {
    if (rows == 128) return launch.template operator()<T, kHeadDim, 128>();
  }
  return launch.template operator()<T, kHeadDim, 64>();
}

template <class T, class Launch>
cudaError_t dispatch_head_dim(int head_dim, int rows, const Launch& launch) {
  const int dim = tile_dim(head_dim);
  if (dim == 64) return dispatch_rows<T, 64>(rows, launch);
  if (dim == 80) return dispatch_rows<T, 80>(rows, launch);
  if (dim == 96) return dispatch_rows<T, 96>(rows, launch);
  if (dim == 128) return dispatch_rows<T, 128>(rows, launch);
  return dispatch_rows<T, 256>(rows, launch);
}

bool aligned_queries(const TreeAttentionParams& p) {
  const auto address = reinterpret_cast<uintptr_t>(p.q);
  return p.q_element == 2 && (address | p.q_strides.seq | p.q_strides.head | p.q_strides.row) % 16 == 0;
}

TreeAttentionLaunch launch_arguments(const TreeAttentionParams& p, const TreeAttentionPlan& plan, void* workspace) {
  constexpr float kLog2E = 1.44269504f;
  auto* states = static_cast<char*>(workspace);
  return {.p = p,
          .plan = plan,
          .factor = p.softcap > 0 ? p.scale / p.softcap : p.scale * kLog2E,
          .cap = p.softcap * kLog2E,
          .aligned = aligned_queries(p),
          .states = reinterpret_cast<float2*>(states),
          .sums = reinterpret_cast<float*>(states + tree_attention_states(p, plan).sums_at)};
}

}  // namespace

cudaError_t tree_attention(const TreeAttentionParams& p, const TreeAttentionPlan& plan, void* workspace,
                           cudaStream_t stream) {
  const dim3 grid(plan.row_blocks * p.num_kv_heads * p.batch, plan.splits);
  if (grid.x == 0) return cudaSuccess;  // CUDA refuses an empty grid
  const TreeAttentionLaunch arguments = launch_arguments(p, plan, workspace);
  const auto attend = [&]<class T, int kHeadDim, int kRows>() {
    const int shared = tree_attention_shared(kHeadDim, kRows, plan.stages, p.mask_words);
    return launch(tree_attention_kernel<T, kHeadDim, kRows>, grid, Shape<kHeadDim, kRows>::kThreads, shared, stream,
                  arguments);
  };
  cudaError_t error;
  if (p.dtype == DType::kFloat32) {
    error = launch(tree_attention_float_kernel, grid, 32 * kFloatRows, float_shared(p), stream, arguments);
  } else if (p.dtype == DType::kFloat16) {
    error = dispatch_head_dim<__half>(p.head_dim, plan.rows, attend);
  } else {
    error = dispatch_head_dim<__nv_bfloat16>(p.head_dim, plan.rows, attend);
  }
  if (error != cudaSuccess || plan.splits == 1) return error;
  return launch_merge(arguments, stream);
}

}  // namespace vispec::cuda
