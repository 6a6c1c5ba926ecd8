// What top_k and top_p keep of a row, as the value from which on they keep: a block a row narrows a range of keys, and
// reads only groups of tokens whose maximum lies in it. Counts and masses are integers, so that no order of adding them
// shows.
#pragma once

#include <cstdint>

#include "cuda/select_tokens_row.cuh"

namespace vispec::cuda {
namespace {

constexpr int kFilterThreads = 1024;
constexpr int kFilterWarps = kFilterThreads / 32;
constexpr int kBinBits = 11, kBins = 1 << kBinBits;  // 32 bits of a key in three steps
constexpr int kBinsPerThread = kBins / kFilterThreads;

struct FilterShared {
  unsigned low[kBins], high[kBins];  // 64-bit sums in two words: shared memory adds no wider ones at once
  uint64_t warp[kFilterWarps];
  uint64_t above;
  int bin;
};

// exp(x - max) in steps of 2^-44: 2^18 of them fit an integer, and what lies 31 below the largest is nothing.
__device__ __forceinline__ uint64_t mass_of(float x, float max) {
  return static_cast<uint64_t>(expf(x - max) * 0x1p44f);
}
constexpr float kDeepest = 31;  // exp(-31) < 2^-44

__device__ __forceinline__ void add_to_bin(FilterShared& shared, int bin, uint64_t weight) {
  const auto low = static_cast<unsigned>(weight);
  auto high = static_cast<unsigned>(weight >> 32);
  const unsigned before = atomicAdd(&shared.low[bin], low);
  high += before + low < before;  // the carry
  if (high != 0) atomicAdd(&shared.high[bin], high);
}

// The sum over all threads up to this one; `total`: over all.
__device__ __forceinline__ uint64_t scan_in_block(uint64_t x, FilterShared& shared, uint64_t& total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int step = 1; step < 32; step *= 2) {
    const uint64_t before = __shfl_up_sync(0xffffffffu, x, step);
    if (lane >= step) x += before;
  }
  __syncthreads();  // the last scan's sums have been read
  if (lane == 31) shared.warp[warp] = x;
  __syncthreads();  // every warp's sum is there
  total = 0;
  for (int w = 0; w < kFilterWarps; ++w) {
    if (w < warp) x += shared.warp[w];
    total += shared.warp[w];
  }
  return x;
}

// Finds the bin at which the weights from the top on reach `wanted`, or all there is if that is less; 1 <= wanted.
__device__ __forceinline__ void choose_bin(FilterShared& shared, uint64_t wanted) {
  uint64_t weight[kBinsPerThread], own = 0, total;
  for (int i = 0; i < kBinsPerThread; ++i) {
    const int bin = threadIdx.x * kBinsPerThread + i;
    weight[i] = uint64_t{shared.high[bin]} << 32 | shared.low[bin];
    own += weight[i];
  }
  uint64_t above = scan_in_block(own, shared, total) - own;
  wanted = wanted < total ? wanted : total;
  for (int i = 0; i < kBinsPerThread; ++i) {
    if (above < wanted && above + weight[i] >= wanted) {
      shared.bin = threadIdx.x * kBinsPerThread + i;
      shared.above = above;
    }
    above += weight[i];
  }
  __syncthreads();  // the choice is known to all
}

// The largest key k in [low, high] such that the values of [k, high] weigh `wanted` or more. for_each(least, visit)
// calls visit(x) for every value whose key is `least` or more, and may for others.
template <class ForEach, class WeightOf>
__device__ uint32_t narrow(uint32_t low, uint32_t high, uint64_t wanted, FilterShared& shared, const ForEach& for_each,
                           const WeightOf& weight_of) {
  while (low < high) {
    const int width = 32 - __clz(high - low), shift = width > kBinBits ? width - kBinBits : 0;
    for (int bin = threadIdx.x; bin < kBins; bin += kFilterThreads) shared.low[bin] = shared.high[bin] = 0;
    __syncthreads();  // sums start from zero
    for_each(low, [&](float x) {
      const uint32_t key = order_key(x);
      if (low <= key && key <= high) add_to_bin(shared, (high - key) >> shift, weight_of(x));
    });
    __syncthreads();  // all values are in
    choose_bin(shared, wanted);
    wanted = wanted > shared.above ? wanted - shared.above : 1;
    high -= static_cast<uint32_t>(shared.bin) << shift;
    const uint32_t span = (1u << shift) - 1;
    low = high - low > span ? high - span : low;
  }
  return low;
}

__device__ __forceinline__ float value_of_key(uint32_t key) { return score_of(uint64_t{key} << 32); }

// One row, as the filters read it.
template <class T>
struct FilterRow {
  const SelectRow<T>& row;
  const float* group_max;
  int vocab_size, num_groups;
  float max;

  // visit(x) for every value of the groups that reach `least`.
  template <class Visit>
  __device__ __forceinline__ void each_value(uint32_t least, const Visit& visit) const {
    constexpr int kWidth = kPerLoad<T>;
    for (int first = threadIdx.x * kWidth; first < vocab_size; first += kFilterThreads * kWidth) {
      if (order_key(group_max[first / kSelectGroup]) < least) continue;
      float x[kWidth];
      row.values(first, x);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        if (first + i < vocab_size) visit(x[i]);
      }
    }
  }

  __device__ uint64_t mass_from(float least, FilterShared& shared) const {
    uint64_t own = 0, total;
    each_value(order_key(least), [&](float x) { own += x >= least ? mass_of(x, max) : 0; });
    scan_in_block(own, shared, total);
    return total;
  }

  // k groups hold k values from the k-th largest maximum on: no lower value is among the k largest.
  __device__ uint32_t kth_largest(int k, FilterShared& shared) const {
    const auto count = [](float) -> uint64_t { return 1; };
    const auto each_max = [&](uint32_t, const auto& visit) {
      for (int group = threadIdx.x; group < num_groups; group += kFilterThreads) visit(group_max[group]);
    };
    const auto each = [&](uint32_t from, const auto& visit) { each_value(from, visit); };
    uint32_t least = order_key(kMinusInfinity);
    if (k <= num_groups) least = narrow(least, order_key(max), k, shared, each_max, count);
    return narrow(least, order_key(max), k, shared, each, count);
  }

  // Of the values from `bound` on, with that total mass: the smallest with less than `top_p` of it strictly above.
  __device__ uint32_t top_p_boundary(uint32_t bound, uint64_t total, double top_p, FilterShared& shared) const {
    const double share = ceil(top_p * static_cast<double>(total));
    const uint64_t wanted = share > 1 ? static_cast<uint64_t>(share) : 1;  // the largest value always stays
    uint32_t least = bound;
    for (float depth = 4; depth <= kDeepest; depth *= 1.5f) {  // most often a few values near the top hold enough
      const uint32_t near = order_key(max - depth);
      if (near <= bound) break;
      if (mass_from(max - depth, shared) >= wanted) {
        least = near;
        break;
      }
    }
    const auto each = [&](uint32_t from, const auto& visit) { each_value(from, visit); };
    return narrow(least, order_key(max), wanted, shared, each, [&](float x) { return mass_of(x, max); });
  }
};

// The mass of a whole row from its chunks', in the steps of mass_of. One warp adds: fp64 is slow on many devices.
__device__ __forceinline__ uint64_t mass_of_row(const SelectArgs& a, int64_t row, float max, FilterShared& shared) {
  if (threadIdx.x < 32) {
    double sum = 0;
    for (int chunk = threadIdx.x; chunk < a.num_chunks; chunk += 32) {
      const int64_t part = row * a.num_chunks + chunk;
      const float chunk_max = score_of(a.scratch.best[part]);
      if (chunk_max > kMinusInfinity) sum += a.scratch.mass[part] * exp(static_cast<double>(chunk_max) - max);
    }
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (threadIdx.x == 0) shared.above = static_cast<uint64_t>(sum * 0x1p44);
  }
  __syncthreads();  // the sum is there
  return shared.above;
}

// Grid (N, B).
template <class T>
__global__ void __launch_bounds__(kFilterThreads) select_tokens_filter_kernel(const SelectArgs a) {
  FilterShared& shared = *reinterpret_cast<FilterShared*>(dynamic_shared());
  const int node = blockIdx.x, seq = blockIdx.y;
  const int64_t row = int64_t{seq} * a.p.num_nodes + node;
  const SelectRow<T> values(a, seq, node);
  const float max = score_of(best_of_row(a, row));
  uint32_t boundary = order_key(kMinusInfinity);
  if (values.temperature != 0 && max > kMinusInfinity) {
    const int top_k = a.p.top_k != nullptr ? a.p.top_k[seq] : 0;
    const float top_p = a.p.top_p != nullptr ? a.p.top_p[seq] : 1;
    const FilterRow<T> filter{values, a.scratch.group_max + row * a.num_groups, a.p.vocab_size, a.num_groups, max};
    const bool cut = 0 < top_k && top_k < a.p.vocab_size;
    if (cut) boundary = filter.kth_largest(top_k, shared);
    if (top_p < 1) {
      const uint64_t total = cut ? filter.mass_from(value_of_key(boundary), shared) : mass_of_row(a, row, max, shared);
      boundary = filter.top_p_boundary(boundary, total, top_p, shared);
    }
  }
  if (threadIdx.x == 0) a.scratch.boundary[row] = value_of_key(boundary);
}

}  // namespace
}  // namespace vispec::cuda
