// expand_frontier for more than 32 best tokens, up to the whole vocabulary: a block a row selects them by digits and
// sorts them in memory. Right, not fast: milliseconds at 152k tokens.
#pragma once

#include <cmath>

#include "common/expand_frontier.h"
#include "cuda/launch.cuh"
#include "cuda/logits.cuh"
#include "cuda/radix_select.cuh"

namespace vispec::cuda {
namespace {

constexpr int kLongThreads = 256;

struct LongShared {
  RadixSelectShared select;
  double warp[kLongThreads / 32];
  unsigned num_kept;
};

// op over all threads' x, in one order. All threads of the block.
template <class Op>
__device__ double reduce_in_block(double x, LongShared& shared, const Op& op) {
  for (int step = 16; step > 0; step /= 2) x = op(x, __shfl_xor_sync(0xffffffffu, x, step));
  __syncthreads();  // the last reduction's values have been read
  if (threadIdx.x % 32 == 0) shared.warp[threadIdx.x / 32] = x;
  __syncthreads();  // every warp's value is there
  x = shared.warp[0];
  for (int warp = 1; warp < kLongThreads / 32; ++warp) x = op(x, shared.warp[warp]);
  return x;
}

// A bitonic network over `size` keys, a power of two: descending.
__device__ void sort_in_block(uint64_t* keys, int size) {
  for (int run = 2; run <= size; run *= 2) {
    for (int stride = run / 2; stride > 0; stride /= 2) {
      for (int pair = threadIdx.x; pair < size / 2; pair += kLongThreads) {
        const int low = pair / stride * 2 * stride + pair % stride, high = low + stride;
        const uint64_t a = keys[low], b = keys[high];
        if ((a < b) == ((low & run) == 0)) keys[low] = b, keys[high] = a;
      }
      __syncthreads();  // the next step compares across threads
    }
  }
}

// The `count` best of n keys, sorted, to the front of `best`, which has room for `size` keys.
template <class KeyOf>
__device__ void sort_best(int n, int count, const KeyOf& key_of, uint64_t* best, int size, LongShared& shared) {
  const uint64_t bound = bound_of_best<kLongThreads>(n, count, key_of, shared.select);
  if (threadIdx.x == 0) shared.num_kept = 0;
  for (int i = count + threadIdx.x; i < size; i += kLongThreads) best[i] = 0;
  __syncthreads();  // the count starts from zero
  for (int i = threadIdx.x; i < n; i += kLongThreads) {
    const uint64_t key = key_of(i);
    if (key >= bound) best[atomicAdd(&shared.num_kept, 1u)] = key;
  }
  __syncthreads();  // all of them are there
  sort_in_block(best, size);
}

// Grid (F, B).
template <class T>
__global__ void __launch_bounds__(kLongThreads, 1)
    expand_frontier_sort_kernel(const ExpandFrontierParams p, uint64_t* lists, int size) {
  LongShared& shared = *reinterpret_cast<LongShared*>(dynamic_shared());
  const int node = blockIdx.x, seq = blockIdx.y;
  const T* logits = logits_row<T>(p, seq, node, false).logits;
  const auto value_of = [&](int token) {
    const float x = to_float(logits[token]);
    return x > kMinusInfinity ? x : kMinusInfinity;  // NaN
  };

  float max = kMinusInfinity;
  for (int token = threadIdx.x; token < p.vocab_size; token += kLongThreads) max = fmaxf(max, value_of(token));
  max = static_cast<float>(reduce_in_block(max, shared, [](double a, double b) { return fmax(a, b); }));
  double sum = 0;
  for (int token = threadIdx.x; token < p.vocab_size; token += kLongThreads) sum += expf(value_of(token) - max);
  sum = reduce_in_block(sum, shared, [](double a, double b) { return a + b; });
  const double lse = max + log(sum);

  const int64_t row = int64_t{seq} * p.num_nodes + node;
  const auto key_of = [&](int token) { return rank_key(value_of(token), token); };
  uint64_t* best = lists + row * size;
  sort_best(p.vocab_size, p.top_k, key_of, best, size, shared);
  for (int i = threadIdx.x; i < p.top_k; i += kLongThreads) {
    const bool finite = isfinite(lse);
    p.tokens[row * p.top_k + i] = finite ? index_of(best[i]) : i;
    p.candidate_scores[row * p.top_k + i] =
        finite ? child_score(p.scores[row], score_of(best[i]), lse) : kMinusInfinity;
  }
}

// Grid (B).
__global__ void __launch_bounds__(kLongThreads, 1)
    expand_frontier_choose_kernel(const ExpandFrontierParams p, uint64_t* lists, int size) {
  LongShared& shared = *reinterpret_cast<LongShared*>(dynamic_shared());
  const int seq = blockIdx.x, num_candidates = p.num_nodes * p.top_k;
  const float* scores = p.candidate_scores + int64_t{seq} * num_candidates;
  uint64_t* best = lists + int64_t{seq} * size;
  sort_best(num_candidates, p.top_k, [&](int c) { return rank_key(scores[c], c); }, best, size, shared);
  for (int i = threadIdx.x; i < p.top_k; i += kLongThreads) {
    const uint32_t candidate = index_of(best[i]);
    const int64_t out = int64_t{seq} * p.top_k + i;
    p.frontier[out] = static_cast<int32_t>(candidate);
    p.frontier_tokens[out] = p.tokens[int64_t{seq} * num_candidates + candidate];
    p.frontier_scores[out] = scores[candidate];
  }
}

cudaError_t expand_frontier_long(const ExpandFrontierParams& p, void* workspace, cudaStream_t stream) {
  auto* lists = static_cast<uint64_t*>(workspace);
  const int size = frontier_list(p);
  const cudaError_t error = dispatch_dtype(p.dtype, [&]<class T>() {
    return launch(expand_frontier_sort_kernel<T>, dim3(p.num_nodes, p.batch), kLongThreads, sizeof(LongShared), stream,
                  p, lists, size);
  });
  if (error != cudaSuccess) return error;
  return launch(expand_frontier_choose_kernel, p.batch, kLongThreads, sizeof(LongShared), stream, p, lists, size);
}

}  // namespace
}  // namespace vispec::cuda
