// Floor: the logits are read once, 3.0 MB at F = 10, V = 151,936 in bf16, 0.9 us at 3.35 TB/s and less from L2; each
// chunk leaves K keys. Two launches and their latencies are the cost. More than 32 best tokens, which no tree asks for,
// take the kernels of expand_frontier_long.cuh.
#include "common/expand_frontier.h"
#include "cuda/best_keys.cuh"
#include "cuda/expand_frontier_long.cuh"
#include "cuda/launch.cuh"
#include "cuda/logits.cuh"
#include "cuda/operators.h"
#include "cuda/ptx.cuh"

namespace vispec::cuda {
namespace {

constexpr int kThreads = 512;  // 16 tokens each: all loads of a chunk are under way at once
constexpr int kWarps = kThreads / 32;
constexpr int kTokensPerThread = kFrontierChunk / kThreads;
constexpr int kCandidates = kShortList * kTokensPerThread;
constexpr float kLog2E = 1.44269504f;

// Scratch memory, per row: best keys [K, chunks] (so that the best of all chunks lie side by side), max and sum
// [chunks].
struct Parts {
  uint64_t* keys;
  float *max, *sum;
  int num_chunks;
};

Parts parts_of(const ExpandFrontierParams& p, void* workspace) {
  const int chunks = frontier_chunks(p);
  const int64_t all = int64_t{p.batch} * p.num_nodes * chunks;
  auto* keys = static_cast<uint64_t*>(workspace);
  auto* max = reinterpret_cast<float*>(keys + all * p.top_k);
  return {keys, max, max + all, chunks};
}

struct ScanShared {
  uint64_t lists[kWarps * kListSize];
  uint64_t candidates[kCandidates];
  uint64_t bound;
  unsigned num_candidates;
  float max[kWarps], sum[kWarps];
};

// ---- A chunk's log-sum-exp ----

// The same in every thread; minus infinity counts as nothing. All threads of the block.
__device__ __forceinline__ float max_of_block(float x, float* shared) {
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();  // every warp's maximum is there
  for (int warp = 0; warp < kWarps; ++warp) x = fmaxf(x, shared[warp]);
  return x;
}

// The sum over a warp in one order, whatever runs first.
__device__ __forceinline__ float sum_of_warp(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

// ---- A chunk's best tokens ----

// k threads' best keys reach the k-th best of all threads' best: only these threads hold any of the k best tokens, so
// that few candidates are left to rank, k * kTokensPerThread at most.
template <int kLoads, int kWidth>
__device__ __forceinline__ void push_candidates(const float (&x)[kLoads][kWidth], int first, int vocab_size,
                                                uint64_t own_best, ScanShared& shared) {
  const uint64_t bound = shared.bound;
  if (own_best < bound) return;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const int token = first + i * kThreads * kWidth + j;
      const uint64_t key = rank_key(x[i][j], token);
      if (token < vocab_size && key >= bound) shared.candidates[atomicAdd(&shared.num_candidates, 1u)] = key;
    }
  }
}

// Grid (chunks, F, B).
template <class T>
__global__ void __launch_bounds__(kThreads)
    expand_frontier_kernel(const ExpandFrontierParams p, const Parts parts, bool whole) {
  constexpr int kWidth = kPerLoad<T>, kLoads = kTokensPerThread / kWidth;
  ScanShared& shared = *reinterpret_cast<ScanShared*>(dynamic_shared());
  const int chunk = blockIdx.x, node = blockIdx.y, seq = blockIdx.z;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first = chunk * kFrontierChunk + threadIdx.x * kWidth;
  float x[kLoads][kWidth];
  logits_row<T>(p, seq, node, whole).template load<kLoads>(first, kThreads * kWidth, x);

  float best = kMinusInfinity;
  int best_token = first;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      x[i][j] = x[i][j] > kMinusInfinity ? x[i][j] : kMinusInfinity;  // NaN
      if (x[i][j] > best) best = x[i][j], best_token = first + i * kThreads * kWidth + j;
    }
  }
  const float max = max_of_block(best, shared.max);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum += exp2_approx((x[i][j] - max) * kLog2E);
  }
  sum = sum_of_warp(sum);
  if (lane == 0) shared.sum[warp] = sum;
  if (threadIdx.x == 0) shared.num_candidates = 0;

  const uint64_t own_best = first < p.vocab_size ? rank_key(best, best_token) : 0;
  const uint64_t bests = merge_in_block<kWarps>(sort_keys(own_best), shared.lists);
  if (threadIdx.x == p.top_k - 1) shared.bound = bests;
  __syncthreads();  // the bound and the empty list are there, and every warp's sum
  push_candidates(x, first, p.vocab_size, own_best, shared);
  __syncthreads();  // all candidates are there
  if (warp != 0) return;

  const int num_candidates = shared.num_candidates;
  uint64_t list = 0;
  for (int i = lane; i - lane < num_candidates; i += kListSize) {
    list = merge_lists(list, sort_keys(i < num_candidates ? shared.candidates[i] : 0));
  }
  const int64_t row = int64_t{seq} * p.num_nodes + node;
  if (lane < p.top_k) parts.keys[(row * p.top_k + lane) * parts.num_chunks + chunk] = list;
  if (lane == 0) {
    float total = 0;
    for (int w = 0; w < kWarps; ++w) total += shared.sum[w];
    parts.max[row * parts.num_chunks + chunk] = max;
    parts.sum[row * parts.num_chunks + chunk] = total;
  }
}

// ---- The merge ----

// The best of n keys, which are ordered by their rank in their chunk: most improvements come first.
__device__ __forceinline__ uint64_t best_keys(const uint64_t* keys, int n, int top_k) {
  constexpr int kAtOnce = 4;  // loads under way in a lane
  uint64_t list = 0;
  for (int first = threadIdx.x % 32; first - static_cast<int>(threadIdx.x % 32) < n; first += 32 * kAtOnce) {
    uint64_t key[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) key[i] = first + 32 * i < n ? keys[first + 32 * i] : 0;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const uint64_t worst = __shfl_sync(kAllLanes, list, top_k - 1);
      if (__any_sync(kAllLanes, key[i] > worst)) list = merge_lists(list, sort_keys(key[i]));
    }
  }
  return list;
}

// Of the chunks' maxima and sums, in fp64 and one order; not finite where the row's is not.
__device__ __forceinline__ double log_sum_exp(const float* max, const float* sum, int num_chunks) {
  const int lane = threadIdx.x % 32;
  float row_max = kMinusInfinity;
  for (int i = lane; i < num_chunks; i += 32) row_max = fmaxf(row_max, max[i]);
  for (int step = 16; step > 0; step /= 2) row_max = fmaxf(row_max, __shfl_xor_sync(kAllLanes, row_max, step));
  double total = 0;
  for (int i = lane; i < num_chunks; i += 32) {
    if (max[i] > kMinusInfinity) total += sum[i] * exp(static_cast<double>(max[i]) - row_max);
  }
  for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(kAllLanes, total, step);
  return row_max + log(total);
}

// Grid (B): a warp merges one node after the other and keeps the best of its nodes' children.
__global__ void __launch_bounds__(kThreads)
    expand_frontier_merge_kernel(const ExpandFrontierParams p, const Parts parts) {
  auto* lists = reinterpret_cast<uint64_t*>(dynamic_shared());
  const int seq = blockIdx.x, lane = threadIdx.x % 32;
  uint64_t frontier = 0;
  for (int node = threadIdx.x / 32; node < p.num_nodes; node += kWarps) {
    const int64_t row = int64_t{seq} * p.num_nodes + node, part = row * parts.num_chunks;
    const uint64_t key = best_keys(parts.keys + part * p.top_k, parts.num_chunks * p.top_k, p.top_k);
    const double lse = log_sum_exp(parts.max + part, parts.sum + part, parts.num_chunks);
    uint64_t candidate = 0;
    if (lane < p.top_k) {
      const bool finite = isfinite(lse);
      const float score = finite ? child_score(p.scores[row], score_of(key), lse) : kMinusInfinity;
      p.tokens[row * p.top_k + lane] = finite ? index_of(key) : lane;
      p.candidate_scores[row * p.top_k + lane] = score;
      candidate = rank_key(score, node * p.top_k + lane);  // a list: children's scores descend
    }
    frontier = merge_lists(frontier, candidate);
  }
  frontier = merge_in_block<kWarps>(frontier, lists);  // its barriers show all warps' candidates to the first one
  if (threadIdx.x < p.top_k) {
    const int64_t in = int64_t{seq} * p.num_nodes * p.top_k, out = int64_t{seq} * p.top_k + lane;
    const uint32_t candidate = index_of(frontier);
    p.frontier[out] = static_cast<int32_t>(candidate);
    p.frontier_tokens[out] = p.tokens[in + candidate];
    p.frontier_scores[out] = p.candidate_scores[in + candidate];
  }
}

}  // namespace

cudaError_t expand_frontier(const ExpandFrontierParams& p, void* workspace, cudaStream_t stream) {
  if (p.batch == 0) return cudaSuccess;
  if (p.top_k > kShortList) return expand_frontier_long(p, workspace, stream);
  const Parts parts = parts_of(p, workspace);
  const dim3 grid(parts.num_chunks, p.num_nodes, p.batch);
  const cudaError_t error = dispatch_dtype(p.dtype, [&]<class T>() {
    return launch(expand_frontier_kernel<T>, grid, kThreads, sizeof(ScanShared), stream, p, parts, rows_are_whole(p));
  });
  if (error != cudaSuccess) return error;
  return launch(expand_frontier_merge_kernel, p.batch, kThreads, kWarps * kListSize * sizeof(uint64_t), stream, p,
                parts);
}

}  // namespace vispec::cuda
