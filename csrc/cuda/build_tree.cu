// Floor: 16 * B * C bytes are read, 3.2 KiB a sequence at C = 200: latency is the cost, of two to four digits of the
// selection (four barriers each) and of one step a level of the tree.
#include "common/build_tree.h"
#include "common/layout.h"
#include "cuda/launch.cuh"
#include "cuda/operators.h"
#include "cuda/radix_select.cuh"

namespace vispec::cuda {
namespace {

constexpr int kThreads = kMaxNodes;  // a thread a node
constexpr int kWarps = kThreads / 32;
constexpr int kMaxWords = kMaxNodes / 64;

struct TreeShared {
  int64_t ancestors[kMaxNodes * kMaxWords];
  RadixSelectShared select;
  int32_t kept[kMaxNodes];
  int32_t parents[kMaxNodes];
  int kept_in_warp[kWarps];
};

// The candidates whose rank reaches `bound`, ascending: N - 1 of them.
__device__ __forceinline__ void collect_kept(const float* scores, int num_candidates, uint64_t bound,
                                             TreeShared& shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int before = 0;
  for (int first = 0; first < num_candidates; first += kThreads) {
    const int c = first + threadIdx.x;
    const bool keep = c < num_candidates && rank_key(scores[c], c) >= bound;
    const unsigned votes = __ballot_sync(0xffffffffu, keep);
    if (lane == 0) shared.kept_in_warp[warp] = __popc(votes);
    __syncthreads();  // all warps have counted
    int place = before + __popc(votes & ((1u << lane) - 1));
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) place += shared.kept_in_warp[w];
      before += shared.kept_in_warp[w];
    }
    if (keep) shared.kept[place] = c;
    __syncthreads();  // the counts are read before the next are written; at the end: all places are filled
  }
}

// Grid (B): a block builds one tree. A node whose parent is missing, which the CPU refuses, has parent -1 and is out of
// reach.
__global__ void __launch_bounds__(kThreads) build_tree_kernel(const BuildTreeParams p) {
  TreeShared& shared = *reinterpret_cast<TreeShared*>(dynamic_shared());
  const int seq = blockIdx.x, node = threadIdx.x;
  const int64_t in = int64_t{seq} * p.num_candidates, out = int64_t{seq} * p.num_nodes;
  const float* scores = p.candidate_scores + in;
  if (p.num_nodes > 1) {
    const auto rank_of = [&](int c) { return rank_key(scores[c], c); };
    const uint64_t bound = bound_of_best<kThreads>(p.num_candidates, p.num_nodes - 1, rank_of, shared.select);
    collect_kept(scores, p.num_candidates, bound, shared);
  }

  const int candidate = node == 0 || node >= p.num_nodes ? -1 : shared.kept[node - 1];
  const int parent = candidate < 0 ? -1 : parent_node(shared.kept, node, p.candidate_parents[in + candidate]);
  int64_t* words = shared.ancestors + node * p.num_words;
  if (node < p.num_nodes) {
    shared.parents[node] = parent;
    for (int word = 0; word < p.num_words; ++word) words[word] = 0;
  }
  __syncthreads();  // walks upwards read all parents
  if (node < p.num_nodes) {
    p.tokens[out + node] = node == 0 ? p.root_tokens[seq] : p.candidate_tokens[in + candidate];
    p.parents[out + node] = parent;
    p.depths[out + node] = mark_ancestors(shared.parents, node, words);
    for (int word = 0; word < p.num_words; ++word) p.ancestors[(out + node) * p.num_words + word] = words[word];
  }
}

}  // namespace

cudaError_t build_tree(const BuildTreeParams& p, cudaStream_t stream) {
  if (p.batch == 0) return cudaSuccess;
  return launch(build_tree_kernel, p.batch, kThreads, sizeof(TreeShared), stream, p);
}

}  // namespace vispec::cuda
