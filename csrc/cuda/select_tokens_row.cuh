// What select_tokens' kernels share: one row's values, penalised and cooled, as every pass over the logits reads them.
#pragma once

#include <cmath>

#include "common/select_tokens.h"
#include "cuda/launch.cuh"
#include "cuda/logits.cuh"

namespace vispec::cuda {

struct SelectArgs {
  SelectTokensParams p;
  SelectTokensScratch scratch;
  int num_chunks, num_groups, num_words;
  bool whole;  // rows as logits.cuh has them
};

// As argmax ranks: NaN is the largest, of equal values the lower token.
__device__ __forceinline__ uint64_t argmax_key(float x, int token) {
  return x == x ? rank_key(x, token) : uint64_t{0xffffffffu} << 32 | static_cast<uint32_t>(~token);
}

__device__ __forceinline__ uint64_t max_of_warp(uint64_t key) {
  for (int step = 16; step > 0; step /= 2) {
    const uint64_t other = __shfl_xor_sync(0xffffffffu, key, step);
    key = other > key ? other : key;
  }
  return key;
}

// The key of a row's largest value, from its chunks'. Every warp for itself.
__device__ __forceinline__ uint64_t best_of_row(const SelectArgs& a, int64_t row) {
  uint64_t best = 0;
  for (int chunk = threadIdx.x % 32; chunk < a.num_chunks; chunk += 32) {
    const uint64_t key = a.scratch.best[row * a.num_chunks + chunk];
    best = key > best ? key : best;
  }
  return max_of_warp(best);
}

// The values of one row. Without a temperature or at 0 they are not cooled.
template <class T>
struct SelectRow {
  LogitsRow<T> logits;
  const uint32_t* used;  // null: no penalty
  float penalty, temperature;

  __device__ SelectRow(const SelectArgs& a, int seq, int node)
      : logits(logits_row<T>(a.p, seq, node, a.whole)), used(nullptr), penalty(1), temperature(a.p.temperature[seq]) {
    if (a.p.repetition_penalty == nullptr || a.p.repetition_penalty[seq] == 1) return;
    penalty = a.p.repetition_penalty[seq];
    used = a.scratch.used + (int64_t{seq} * a.p.num_nodes + node) * a.num_words;
  }

  // Logits at tokens from `first` on to values; `first` is a multiple of kPerLoad, so that one word has all bits.
  __device__ __forceinline__ void prepare(int first, float (&x)[kPerLoad<T>]) const {
    const uint32_t bits = used != nullptr && first < logits.vocab_size ? used[first / 32] >> (first % 32) : 0;
#pragma unroll
    for (int i = 0; i < kPerLoad<T>; ++i) {
      if (bits >> i & 1) x[i] = penalise(x[i], penalty);
      if (temperature != 0) x[i] = cool(x[i], temperature);
    }
  }

  __device__ __forceinline__ void values(int first, float (&x)[kPerLoad<T>]) const {
    logits.load(first, x);
    prepare(first, x);
  }
};

}  // namespace vispec::cuda
