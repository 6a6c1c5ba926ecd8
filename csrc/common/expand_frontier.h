#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "common/layout.h"
#include "common/order.h"

namespace vispec {

constexpr int64_t kMaxCandidates = 65536;  // F * K of one sequence

struct ExpandFrontierParams {
  const char* logits;                       // [B, F, V]
  int64_t logits_seq, logits_node;          // strides in bytes; V is contiguous
  const float* scores;                      // [B, F]
  int64_t* tokens;                          // [B, F, K]
  float* candidate_scores;                  // [B, F, K]
  int32_t* frontier;                        // [B, K] flat candidate indices f * K + rank
  int64_t* frontier_tokens;                 // [B, K]
  float* frontier_scores;                   // [B, K]
  int batch, num_nodes, vocab_size, top_k;  // num_nodes: F
  DType dtype;
};

// A child's score: never above its parent's, and minus infinity where the row has no finite log-sum-exp.
VISPEC_HOST_DEVICE float child_score(float score, float logit, double log_sum_exp) {
  const float log_prob = static_cast<float>(logit - log_sum_exp);
  const float sum = score + (log_prob < 0 ? log_prob : 0.0f);
  return sum > kMinusInfinity ? sum : kMinusInfinity;  // NaN compares false
}

namespace cpu {
void expand_frontier(const ExpandFrontierParams& p);
}

// How the CUDA back end cuts the work, by sizes alone: equal calls give equal bits on any device.
constexpr int kFrontierChunk = 8192;  // tokens a block: ten rows of 152k make 190 blocks, an H100 has 132 processors
constexpr int kShortList = 32;        // up to that many best tokens are a list in a warp's registers

constexpr int frontier_chunks(const ExpandFrontierParams& p) {
  return (p.vocab_size + kFrontierChunk - 1) / kFrontierChunk;
}

// Keys in a longer list, which is sorted in memory.
constexpr int frontier_list(const ExpandFrontierParams& p) {
  return static_cast<int>(std::bit_ceil(static_cast<unsigned>(p.top_k)));
}

// Bytes of scratch memory on CUDA: the best keys, the maximum and the sum of each chunk, or whole lists of keys.
constexpr size_t expand_frontier_workspace(const ExpandFrontierParams& p) {
  const size_t rows = static_cast<size_t>(p.batch) * p.num_nodes;
  if (p.top_k > kShortList) return rows * frontier_list(p) * sizeof(uint64_t);
  return rows * frontier_chunks(p) * (p.top_k * sizeof(uint64_t) + 2 * sizeof(float));
}

}  // namespace vispec
