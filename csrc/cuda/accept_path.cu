// Floor: 20 * B * N bytes are read, 5 KiB a sequence at most. Time is latency: one trip to memory, then a step of the
// walk is two or three votes of a warp.
#include "common/accept_path.h"
#include "common/layout.h"
#include "cuda/launch.cuh"
#include "cuda/operators.h"

namespace vispec::cuda {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

struct SharedTree {
  int64_t tokens[kMaxNodes], target_tokens[kMaxNodes];
  int32_t parents[kMaxNodes];
};

// child_with_token of tree_walk.h, 32 nodes at a time.
__device__ __forceinline__ int child_in_warp(const SharedTree& tree, int num_nodes, int node) {
  const int lane = threadIdx.x;
  const int64_t token = tree.target_tokens[node];
  for (int first = (node + 1) / kWarp * kWarp; first < num_nodes; first += kWarp) {
    const int child = first + lane;
    const bool fits = node < child && child < num_nodes && tree.parents[child] == node && tree.tokens[child] == token;
    const unsigned votes = __ballot_sync(kAllLanes, fits);
    if (votes != 0) return first + __ffs(votes) - 1;
  }
  return -1;
}

// Grid (B): a warp walks one tree.
__global__ void __launch_bounds__(kWarp) accept_path_kernel(const AcceptPathParams p) {
  SharedTree& tree = *reinterpret_cast<SharedTree*>(dynamic_shared());
  const int seq = blockIdx.x, lane = threadIdx.x;
  const int64_t in = int64_t{seq} * p.num_nodes;
  for (int node = lane; node < p.num_nodes; node += kWarp) {
    tree.tokens[node] = p.tokens[in + node];
    tree.target_tokens[node] = p.target_tokens[in + node];
    tree.parents[node] = p.parents[in + node];
  }
  __syncwarp();  // every lane reads what the others have brought

  int32_t* nodes = p.nodes + int64_t{seq} * (p.max_depth + 1);
  int node = 0, length = 0;
  while (length < p.max_depth) {
    const int child = child_in_warp(tree, p.num_nodes, node);
    if (child < 0) break;
    if (lane == 0) nodes[length] = node;
    node = child;
    ++length;
  }
  for (int i = length + lane; i <= p.max_depth; i += kWarp) nodes[i] = node;
  if (lane == 0) {
    p.num_accepted[seq] = length;
    p.bonus[seq] = tree.target_tokens[node];
  }
}

}  // namespace

cudaError_t accept_path(const AcceptPathParams& p, cudaStream_t stream) {
  if (p.batch == 0) return cudaSuccess;
  return launch(accept_path_kernel, p.batch, kWarp, sizeof(SharedTree), stream, p);
}

}  // namespace vispec::cuda
