// What top_k and top_p keep of a row, as the value from which on they keep: found by partial selection, without a sort.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "common/order.h"
#include "cpu/clones.h"
#include "cpu/vector_math.h"

namespace vispec::cpu {

constexpr int kValueBlock = 64;  // values under one maximum: one vector of 16 Philox counters

struct Values {
  const float* x;          // whole blocks, without NaN; minus infinity behind the last value
  const float* block_max;  // of each block
  int count;
  float max;  // of all, above minus infinity
  int num_blocks() const { return (count + kValueBlock - 1) / kValueBlock; }
};

// Every value from `bound` on, in order.
inline void collect(const Values& values, float bound, std::vector<float>& kept) {
  kept.clear();
  for (int block = 0; block < values.num_blocks(); ++block) {
    if (values.block_max[block] < bound) continue;
    const int first = block * kValueBlock, last = std::min(values.count, first + kValueBlock);
    std::copy_if(values.x + first, values.x + last, std::back_inserter(kept), [&](float x) { return x >= bound; });
  }
}

// Orders a part of `kept` so that kept[k - 1] is the k-th largest, and returns that.
inline float select_kth(std::vector<float>& kept, int k) {
  std::nth_element(kept.begin(), kept.begin() + (k - 1), kept.end(), std::greater<>());
  return kept[k - 1];
}

// k blocks hold k values that reach the k-th largest block maximum: no lower value is among the k largest.
inline float kth_largest(const Values& values, int k, std::vector<float>& kept) {
  float bound = kMinusInfinity;
  if (k <= values.num_blocks()) {
    kept.assign(values.block_max, values.block_max + values.num_blocks());
    bound = select_kth(kept, k);
  }
  collect(values, bound, kept);
  return select_kth(kept, k);
}

// Sum of exp(x - max).
static VISPEC_CLONES double mass(const float* x, int64_t count, float max) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += exp_nonpositive(x[i] - max);
  return sum;
}

// The smallest value with less than `wanted` mass strictly above it: halves the range that holds it until one is left.
inline float mass_boundary(std::vector<float>& kept, double wanted, float max) {
  size_t low = 0, high = kept.size();
  double above = 0;
  while (high - low > 1) {
    const size_t middle = (low + high) / 2;
    std::nth_element(kept.begin() + low, kept.begin() + middle, kept.begin() + high, std::greater<>());
    const double upper = mass(&kept[low], middle - low, max);
    if (above + upper >= wanted) {
      high = middle;
    } else {
      above += upper;
      low = middle;
    }
  }
  return kept[low];
}

// Of the values from `bound` on: the smallest with less than `top_p` of their mass strictly above it.
inline float top_p_boundary(const Values& values, float bound, double top_p, std::vector<float>& kept) {
  double total;
  if (bound > kMinusInfinity) {
    collect(values, bound, kept);
    total = mass(kept.data(), kept.size(), values.max);
  } else {
    total = mass(values.x, values.count, values.max);
    for (float depth = 4;; depth *= 2) {  // most often a few values near the top hold enough
      collect(values, depth < 128 ? values.max - depth : kMinusInfinity, kept);
      if (depth >= 128 || mass(kept.data(), kept.size(), values.max) >= top_p * total) break;
    }
  }
  return mass_boundary(kept, top_p * total, values.max);
}

}  // namespace vispec::cpu
