// What top_k and top_p keep of a row, as the value from which on they keep: found by partial selection, without a sort.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <iterator>
#include <vector>

#include "common/order.h"

namespace vispec::cpu {

constexpr int kValueBlock = 64;  // values under one maximum: one vector of 16 Philox counters

using Mass = double (*)(const float* x, int64_t n, float max);  // sum of exp(x - max)

struct Values {
  const float* x;          // whole blocks, without NaN; minus infinity behind the last value
  const float* block_max;  // of each block
  int count;
  float max;  // of all, above minus infinity
  Mass mass_of;

  double mass(const float* some, int64_t n) const { return mass_of(some, n, max); }
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

// The smallest value with less than `wanted` mass strictly above it: halves the range that holds it until one is left.
inline float mass_boundary(const Values& values, std::vector<float>& kept, double wanted) {
  size_t low = 0, high = kept.size();
  double above = 0;
  while (high - low > 1) {
    const size_t middle = (low + high) / 2;
    std::nth_element(kept.begin() + low, kept.begin() + middle, kept.begin() + high, std::greater<>());
    const double upper = values.mass(&kept[low], middle - low);
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
    total = values.mass(kept.data(), kept.size());
  } else {
    total = values.mass(values.x, values.count);
    for (float depth = 4;; depth *= 1.5f) {  // most often a few values near the top hold enough
      collect(values, depth < 128 ? values.max - depth : kMinusInfinity, kept);
      if (depth >= 128 || values.mass(kept.data(), kept.size()) >= top_p * total) break;
    }
  }
  return mass_boundary(values, kept, top_p * total);
}

}  // namespace vispec::cpu
