#pragma once

#include <cstdint>

#include "common/order.h"
#include "common/tree_walk.h"

namespace vispec {

struct BuildTreeParams {
  const int64_t* root_tokens;        // [B]
  const int64_t* candidate_tokens;   // [B, C]
  const float* candidate_scores;     // [B, C]
  const int32_t* candidate_parents;  // [B, C] lower than the candidate's own index, -1 for a child of the root
  int64_t* tokens;                   // [B, N]
  int32_t* parents;                  // [B, N] -1 for the root
  int32_t* depths;                   // [B, N]
  int64_t* ancestors;                // [B, N, num_words]
  int batch, num_candidates, num_nodes, num_words;
};

// The place of `candidate` among the kept ones, which ascend, or -1.
VISPEC_HOST_DEVICE int place_of_candidate(const int32_t* kept, int count, int candidate) {
  int low = 0, high = count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (kept[middle] < candidate) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < count && kept[low] == candidate ? low : -1;
}

// The parent of node `node`, whose candidate is kept[node - 1]: a lower node, or -1 where the candidates are malformed.
VISPEC_HOST_DEVICE int parent_of_kept(const int32_t* kept, int node, int parent_candidate) {
  return parent_candidate == -1 ? 0
                                : place_of_candidate(kept, node - 1, parent_candidate) + 1 -
                                      (place_of_candidate(kept, node - 1, parent_candidate) < 0);
}

}  // namespace vispec
