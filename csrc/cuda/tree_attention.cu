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
  if (pending >= 3) {
    cp_async_wait<3>();
  } else if (pending == 2) {
    cp_async_wait<2>();
  } else if (pending == 1) {
    cp_async_wait<1>();
  } else {
    cp_async_wait<0>();
  }
}

// One tile of keys, the first of them row `begin`.
template <class T, class S>
__device__ __forceinline__ void attend_tile(const TreeAttentionLaunch& launch, int begin, int stage,
                                            const unsigned* overflowed, RowStates<S>& state) {
  const bool masked = S::sight().masks(begin, S::kKeys);
  Scores<S> scores;
  multiply_keys<T, S>(stage, scores);
  if (launch.cap > 0) {
    scale_scores<S, true>(launch.factor, launch.cap, scores);
  } else {
    scale_scores<S, false>(launch.factor, launch.cap, scores);
  }
  if (masked) mask_scores<S>(begin + warp_key<S>(), scores);
  weigh<S>(scores, state);
  multiply_values<T, S>(scores, stage, state);
  if (masked) add_overflowed<T, S>(launch.p, begin, overflowed, state);
}

// The split's tiles from row `begin` on.
template <class T, class S>
__device__ __forceinline__ void attend(const TreeAttentionLaunch& launch, int begin, RowStates<S>& state) {
  auto& sight = S::sight();
  const int stages = launch.plan.stages, ring_end = S::kRing + stages * S::kStageBytes;
  const auto load = [&](int begin, int stage) {
    if (begin < sight.end_key && sight.masks(begin, S::kKeys)) {
      load_keys<S, true>(launch.p, begin, stage);
    } else if (begin < sight.end_key) {
      load_keys<S, false>(launch.p, begin, stage);
    }
    cp_async_commit();  // empty groups too: a tile's group is found by counting
  };
  for (int i = 0; i < stages; ++i) load(begin + i * S::kKeys, S::kRing + i * S::kStageBytes);
  int stage = S::kRing;
  for (int tile = 0; begin < sight.end_key; begin += S::kKeys, ++tile) {
    // The stage before, whose tile has been read; at first all are under way.
    const int free_stage = tile == 0 ? -1 : (stage == S::kRing ? ring_end : stage) - S::kStageBytes;
    wait_for_copies(free_stage < 0 ? stages - 1 : stages - 2);
    __syncthreads();  // the tile is there for all, and the one before it has been read
    if (free_stage >= 0) load(begin + (stages - 1) * S::kKeys, free_stage);
    if (threadIdx.x < 4) sight.overflowed[(tile + 1) % 2][threadIdx.x] = 0;  // last read before the barrier
    if (sight.masks(begin, S::kKeys)) {
      take_out_overflowed<T, S>(stage, sight.overflowed[tile % 2]);
      __syncthreads();  // the values are finite
    }
    if (warp_row<S>() < sight.num_rows) attend_tile<T, S>(launch, begin, stage, sight.overflowed[tile % 2], state);
    stage = stage + S::kStageBytes == ring_end ? S::kRing : stage + S::kStageBytes;
  }
  cp_async_wait<0>();  // the queries' too where there was no tile
}

// Grid (row blocks * Hkv * B, splits): blocks of the same keys follow each other and find them in L2.
template <class T, int kHeadDim, int kRowTile>
__global__ void __launch_bounds__(Shape<kHeadDim, kRowTile>::kThreads, Shape<kHeadDim, kRowTile>::kBlocks)
    tree_attention_kernel(const __grid_constant__ TreeAttentionLaunch launch) {
  using S = Shape<kHeadDim, kRowTile>;
  const int block = blockIdx.x % launch.plan.row_blocks, kv_block = blockIdx.x / launch.plan.row_blocks;
  const KeySpan span = key_span(launch.p, kv_block / launch.p.num_kv_heads);
  const SplitCut cut = cut_span(span, S::kKeys, launch.plan.splits);
  const int split = blockIdx.y;
  if (split > 0 && split >= cut.used) return;  // the merge knows which splits have a state

  auto& sight = S::sight();
  sight.load(launch.p, span, block, kv_block, S::kRing + launch.plan.stages * S::kStageBytes, cut.used <= 1);
  load_queries<S>(launch.p, launch.aligned);
  // Of the split's tiles those in which a row of this block sees something.
  const int first = max(split * cut.tiles, (sight.lowest() - span.begin) / S::kKeys);
  const int last = min((split + 1) * cut.tiles, (sight.end() - span.begin + S::kKeys - 1) / S::kKeys);
  if (threadIdx.x == 0) sight.end_key = span.begin + last * S::kKeys;
  __syncthreads();  // all threads read where to stop
  RowStates<S> state;
  clear<S>(state);
  attend<T, S>(launch, span.begin + first * S::kKeys, state);

  merge_key_warps<S>(state);
  if (threadIdx.x / 32 >= S::kRowWarps) return;
#pragma unroll
  for (int m = 0; m < S::kMmaRows; ++m) {
    store_row<T, S>(launch, m, 0, state);
    store_row<T, S>(launch, m, 1, state);
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
