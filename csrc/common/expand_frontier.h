#pragma once

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

}  // namespace vispec
