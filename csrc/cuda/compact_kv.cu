// Floor: reads and writes at most 2 * L * B * Hkv * P * D elements, 560 KiB in all at L = 28, Hkv = 4, D = 128, bf16
// and five accepted rows: the two launches are the cost.
#include <algorithm>

#include "common/compact_kv.h"
#include "cuda/launch.cuh"
#include "cuda/operators.h"
#include "cuda/vectors.cuh"

namespace vispec::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kLayersPerLaunch = 64;  // 3,584 of the 4,096 bytes that a kernel's arguments may take
constexpr int kRowsAtOnce = 8;        // loads under way in a thread; a path rarely has more rows

struct Layer {
  char *k_cache, *v_cache;
  Strides strides;
  int capacity, row_bytes, num_vectors, vector_bytes;  // num_vectors: of all heads' rows of one node
};

struct Layers {  // by value: a captured graph keeps its copy
  Layer layer[kLayersPerLaunch];
};

struct Paths {
  int32_t* cache_len;
  const int32_t *nodes, *num_accepted;
  int batch, width;
};

__device__ __forceinline__ int path_length(const Paths& paths, int seq) {
  return min(paths.num_accepted[seq], paths.width - 1) + 1;
}

// Moves one vector of each accepted row. Sources ascend and never lie before their targets, so that a row is read
// before it is overwritten: within a batch by loading all of it first, from batch to batch since later sources lie
// behind.
template <class Vec>
__device__ __forceinline__ void move_vectors(char* first_row, int64_t stride, const int32_t* nodes, int length,
                                             int num_rows) {
  for (int first = 0; first < length; first += kRowsAtOnce) {
    Vec moved[kRowsAtOnce];
    bool moves[kRowsAtOnce];
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      const int target = first + i, source = target < length ? nodes[target] : target;
      moves[i] = source != target && 0 <= source && source < num_rows && target < num_rows;
      if (moves[i]) moved[i] = *reinterpret_cast<const Vec*>(first_row + source * stride);
    }
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i) {
      if (moves[i]) *reinterpret_cast<Vec*>(first_row + (first + i) * stride) = moved[i];
    }
  }
}

// Grid (vectors of a node / kThreads, 2 * layers, B). A thread owns one vector's place in all rows of a sequence: its
// own order is all that an in-place move needs.
__global__ void __launch_bounds__(kThreads)
    compact_kv_kernel(const __grid_constant__ Layers layers, const __grid_constant__ Paths paths) {
  const Layer& layer = layers.layer[blockIdx.y / 2];
  const int vector = blockIdx.x * kThreads + threadIdx.x, seq = blockIdx.z;
  const int length = path_length(paths, seq), start = paths.cache_len[seq];
  if (vector >= layer.num_vectors || length <= 0 || start < 0) return;
  const int in_row = layer.row_bytes / layer.vector_bytes, head = vector / in_row;
  char* cache = blockIdx.y % 2 == 0 ? layer.k_cache : layer.v_cache;
  char* first_row = cache + offset(layer.strides, seq, head, start) + vector % in_row * layer.vector_bytes;
  dispatch_vector(layer.vector_bytes, [&]<class Vec>() {
    move_vectors<Vec>(first_row, layer.strides.row, paths.nodes + int64_t{seq} * paths.width, length,
                      layer.capacity - start);
  });
}

// A kernel of its own: every block of the one before reads the lengths.
__global__ void __launch_bounds__(kThreads) compact_kv_advance_kernel(const Paths paths) {
  const int seq = blockIdx.x * kThreads + threadIdx.x;
  if (seq >= paths.batch) return;
  const int length = max(path_length(paths, seq), 0);
  paths.cache_len[seq] = min(paths.cache_len[seq], INT32_MAX - length) + length;  // cannot overflow
}

Layer layer_of(const CompactKvLayer& l) {
  const int bytes = vector_bytes(address_bits(l.k_cache, l.strides) | address_bits(l.v_cache, l.strides) | l.row_bytes);
  return {.k_cache = l.k_cache,
          .v_cache = l.v_cache,
          .strides = l.strides,
          .capacity = l.capacity,
          .row_bytes = l.row_bytes,
          .num_vectors = l.num_kv_heads * (l.row_bytes / bytes),
          .vector_bytes = bytes};
}

}  // namespace

cudaError_t compact_kv(const CompactKvParams& p, cudaStream_t stream) {
  if (p.batch == 0 || p.width == 0) return cudaSuccess;
  const Paths paths{p.cache_len, p.nodes, p.num_accepted, p.batch, p.width};
  for (int first = 0; first < p.num_layers; first += kLayersPerLaunch) {
    const int count = std::min(kLayersPerLaunch, p.num_layers - first);
    Layers layers{};
    int most_vectors = 0;
    for (int i = 0; i < count; ++i) {
      layers.layer[i] = layer_of(p.layers[first + i]);
      most_vectors = std::max(most_vectors, layers.layer[i].num_vectors);
    }
    if (most_vectors == 0) continue;
    const dim3 grid((most_vectors + kThreads - 1) / kThreads, 2 * count, p.batch);
    const cudaError_t error = launch(compact_kv_kernel, grid, kThreads, 0, stream, layers, paths);
    if (error != cudaSuccess) return error;
  }
  const dim3 grid((p.batch + kThreads - 1) / kThreads);
  return launch(compact_kv_advance_kernel, grid, kThreads, 0, stream, paths);
}

}  // namespace vispec::cuda
