// Floor: reads and writes 2 * B * Hkv * N * D elements, 256 KiB in all at Hkv = 4, N = 64, D = 128 in bf16: the launch
// is the cost.
#include "common/append_kv.h"
#include "cuda/launch.cuh"
#include "cuda/operators.h"
#include "cuda/vectors.cuh"

namespace vispec::cuda {
namespace {

constexpr int kThreads = 32;  // one warp a row: 512 bytes a step, D = 256 in bf16

template <class Vec>
__device__ __forceinline__ void copy_row(char* dst, const char* src, int bytes) {
  for (int i = threadIdx.x * sizeof(Vec); i < bytes; i += kThreads * sizeof(Vec)) {
    *reinterpret_cast<Vec*>(dst + i) = *reinterpret_cast<const Vec*>(src + i);
  }
}

// Grid (N, Hkv, B): a block writes the K row and the V row of one node and head.
template <class Vec>
__global__ void __launch_bounds__(kThreads) append_kv_kernel(const AppendKvParams p) {
  const int node = blockIdx.x, head = blockIdx.y, seq = blockIdx.z;
  const int64_t row = int64_t{p.cache_len[seq]} + node;
  if (row < 0 || row >= p.capacity) return;  // the host grows the cache in time; here only never write outside it
  const int64_t dst = offset(p.cache, seq, head, row);
  copy_row<Vec>(p.k_cache + dst, p.k + offset(p.k_strides, seq, head, node), p.row_bytes);
  copy_row<Vec>(p.v_cache + dst, p.v + offset(p.v_strides, seq, head, node), p.row_bytes);
}

}  // namespace

cudaError_t append_kv(const AppendKvParams& p, cudaStream_t stream) {
  if (p.batch == 0 || p.num_kv_heads == 0 || p.num_nodes == 0) return cudaSuccess;  // CUDA refuses an empty grid
  const uint64_t bits = address_bits(p.k, p.k_strides) | address_bits(p.v, p.v_strides) |
                        address_bits(p.k_cache, p.cache) | address_bits(p.v_cache, p.cache) | p.row_bytes;
  const dim3 grid(p.num_nodes, p.num_kv_heads, p.batch);
  return dispatch_vector(vector_bytes(bits),
                         [&]<class Vec>() { return launch(append_kv_kernel<Vec>, grid, kThreads, 0, stream, p); });
}

}  // namespace vispec::cuda
